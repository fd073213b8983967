package pachctl

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/minipachd/minipachd/client"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

func (a *app) versionCmd() *cobra.Command {
	var clientOnly bool
	cmd := &cobra.Command{
		Use: "version", Short: "Print the API versions of pachctl and pachd", Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if clientOnly {
				fmt.Fprintln(cmd.OutOrStdout(), client.APIVersion)
				return nil
			}
			s, err := a.open(cmd)
			if err != nil {
				return err
			}
			defer s.Close()
			t := newTable(s.out, "COMPONENT\tVERSION")
			v, err := s.ServerVersion(s.ctx)
			if s.whole() && err == nil {
				return s.encode(s.out, v, true)
			}
			t.row("pachctl", client.APIVersion)
			if err == nil {
				t.row("pachd", fmt.Sprintf("%d.%d.%d%s", v.GetMajor(), v.GetMinor(), v.GetMicro(), v.GetAdditional()))
			}
			return errors.Join(t.flush(), err)
		},
	}
	cmd.Flags().BoolVar(&clientOnly, "client-only", false, "print only that of pachctl, without asking pachd")
	return a.outputFlags(cmd)
}

func (a *app) inspectClusterCmd() *cobra.Command {
	return a.outputFlags(&cobra.Command{
		Use: "cluster", Short: "Print the id of pachd", Args: nargs(0, 0),
		RunE: a.remote(func(s *session, _ []string) error {
			info, err := s.InspectCluster(s.ctx)
			if err != nil {
				return err
			}
			if s.whole() {
				return s.encode(s.out, info, true)
			}
			_, err = fmt.Fprintln(s.out, info.GetId())
			return err
		}),
	})
}

func (a *app) fsckCmd() *cobra.Command {
	var fix, deep, info, zombieAll bool
	var zombie string
	cmd := &cobra.Command{
		Use: "fsck", Short: "Check the storage of pachd", Args: nargs(0, 0),
		Long: `Checks that everything that is recorded fits together and that all that commits
refer to is there; with --deep it also reads the content and compares its hashes
and sizes. Prints what it finds and fails if that is an error. With --info it
also tells what is no error, and what garbage collection did last.`,
		RunE: a.remote(func(s *session, _ []string) error {
			req := &pfspb.FsckRequest{Fix: fix, Deep: deep || zombieAll, Verbose: info}
			switch {
			case zombie != "":
				commit, err := s.commit(zombie)
				if err != nil {
					return err
				}
				req.ZombieCheck = &pfspb.FsckRequest_ZombieTarget{ZombieTarget: commit}
			case zombieAll:
				req.ZombieCheck = &pfspb.FsckRequest_ZombieAll{ZombieAll: true}
			}
			faults := 0
			for r, err := range s.Fsck(s.ctx, req) {
				if err != nil {
					return err
				}
				if r.GetFix() != "" {
					fmt.Fprintln(s.out, "fixed:", r.GetFix())
				}
				if r.GetInfo() != "" {
					fmt.Fprintln(s.out, r.GetInfo())
				}
				if r.GetError() != "" {
					faults++
					fmt.Fprintln(s.out, "error:", r.GetError())
				}
			}
			if faults > 0 {
				return fmt.Errorf("%d errors found", faults)
			}
			return nil
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&fix, "fix", "f", false, "repair what can be repaired")
	f.BoolVar(&deep, "deep", false, "read all content and compare its hashes")
	f.BoolVar(&info, "info", false, "also tell what is no error, and what garbage collection did last")
	f.BoolVar(&zombieAll, "zombie-all", false, "check the output of every pipeline; includes --deep")
	f.StringVar(&zombie, "zombie", "", "check one output commit")
	return a.projectFlag(cmd)
}

func (a *app) deleteAllCmd() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "all", Short: "Delete every pipeline, repo and project, after asking", Args: nargs(0, 0),
		RunE: a.remote(func(s *session, _ []string) error {
			repos, err := client.Collect(s.ListRepo(s.ctx))
			if err != nil {
				return err
			}
			pipelines, err := client.Collect(s.ListPipeline(s.ctx))
			if err != nil {
				return err
			}
			fmt.Fprintln(s.err, "This deletes everything that pachd at", s.Address(), "has:")
			for _, p := range pipelines {
				fmt.Fprintln(s.err, "  pipeline", pipelineName(p.GetPipeline()))
			}
			for _, r := range repos {
				fmt.Fprintln(s.err, "  repo", client.RepoName(r.GetRepo()))
			}
			if !yes && !s.ask("Are you sure?") {
				return errDeclined
			}
			return s.DeleteAll(s.ctx)
		}),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}
