package pachctl

import (
	"fmt"
	"io"
	"iter"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/minipachd/minipachd/client"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

func (a *app) listJobCmd() *cobra.Command {
	var pipeline string
	var number int64
	var allProjects bool
	cmd := &cobra.Command{
		Use: "job [<job-set-id>]", Aliases: []string{"jobs"}, Short: "List jobs, newest first; spouts have none", Args: nargs(0, 1),
		RunE: a.remote(func(s *session, args []string) error {
			projects := []*pfspb.Project{client.NewProject(s.Project())}
			if allProjects {
				projects = nil
			}
			if len(args) == 1 {
				return s.listJobs(s.InspectJobSet(s.ctx, args[0], false))
			}
			if pipeline != "" {
				return s.listJobs(s.ListJob(s.ctx, &ppspb.ListJobRequest{Projects: projects, Pipeline: s.pipeline(pipeline), Details: true, Number: number}))
			}
			seq := s.ListJobSet(s.ctx, &ppspb.ListJobSetRequest{Projects: projects, Details: true, Number: number})
			return list(s, seq, "ID\tSUBJOBS\tCREATED", func(set *ppspb.JobSetInfo) []string {
				created := "-"
				if jobs := set.GetJobs(); len(jobs) > 0 {
					created = s.when(jobs[0].GetCreated())
				}
				return []string{set.GetJobSet().GetId(), fmt.Sprint(len(set.GetJobs())), created}
			})
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&pipeline, "pipeline", "p", "", "only of this pipeline")
	f.Int64VarP(&number, "number", "n", 0, "at most that many (0: all)")
	f.BoolVarP(&allProjects, "all-projects", "A", false, "of every project")
	return a.projectFlag(a.outputFlags(cmd))
}

func (s *session) listJobs(seq iter.Seq2[*ppspb.JobInfo, error]) error {
	return list(s, seq, "PROJECT\tPIPELINE\tID\tSTARTED\tSTATE\tREASON", func(j *ppspb.JobInfo) []string {
		project, name, _ := strings.Cut(pipelineName(j.GetJob().GetPipeline()), "/")
		state := strings.ToLower(strings.TrimPrefix(j.GetState().String(), "JOB_"))
		return []string{project, name, j.GetJob().GetId(), s.when(j.GetStarted()), state, j.GetReason()}
	})
}

func (a *app) createSecretCmd() *cobra.Command {
	var source string
	cmd := &cobra.Command{
		Use: "secret -f <file>", Short: "Store a secret, given as the JSON of a Kubernetes Secret", Args: nargs(0, 0),
		RunE: a.remote(func(s *session, _ []string) error {
			var data []byte
			var err error
			if source == "-" {
				data, err = io.ReadAll(s.in)
			} else {
				data, err = os.ReadFile(source)
			}
			if err != nil {
				return err
			}
			_, err = s.PPS.CreateSecret(s.ctx, &ppspb.CreateSecretRequest{File: data})
			return err
		}),
	}
	cmd.Flags().StringVarP(&source, "file", "f", "-", "path of the file, - for standard input")
	return cmd
}

func (a *app) inspectSecretCmd() *cobra.Command {
	return a.outputFlags(&cobra.Command{
		Use: "secret <secret>", Short: "Show a secret, without its values", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			info, err := s.PPS.InspectSecret(s.ctx, &ppspb.InspectSecretRequest{Secret: &ppspb.Secret{Name: args[0]}})
			if err != nil {
				return err
			}
			return show(s, info, func(t *table) {
				t.field("Name", info.GetSecret().GetName())
				t.field("Type", info.GetType())
				t.field("Created", s.when(info.GetCreationTimestamp()))
			})
		}),
	})
}

func (a *app) listSecretCmd() *cobra.Command {
	return a.outputFlags(&cobra.Command{
		Use: "secret", Aliases: []string{"secrets"}, Short: "List secrets", Args: nargs(0, 0),
		RunE: a.remote(func(s *session, _ []string) error {
			infos, err := s.PPS.ListSecret(s.ctx, &emptypb.Empty{})
			if err != nil {
				return err
			}
			seq := func(yield func(*ppspb.SecretInfo, error) bool) {
				for _, i := range infos.GetSecretInfo() {
					if !yield(i, nil) {
						return
					}
				}
			}
			return list(s, seq, "NAME\tTYPE\tCREATED", func(i *ppspb.SecretInfo) []string {
				return []string{i.GetSecret().GetName(), i.GetType(), s.when(i.GetCreationTimestamp())}
			})
		}),
	})
}

func (a *app) deleteSecretCmd() *cobra.Command {
	return &cobra.Command{
		Use: "secret <secret>", Short: "Delete a secret", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			_, err := s.PPS.DeleteSecret(s.ctx, &ppspb.DeleteSecretRequest{Secret: &ppspb.Secret{Name: args[0]}})
			return err
		}),
	}
}
