package pachctl

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/minipachd/minipachd/client"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

func (a *app) createProjectCmd() *cobra.Command {
	var description string
	cmd := &cobra.Command{
		Use: "project <project>", Short: "Make a project", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			return s.CreateProject(s.ctx, args[0], description)
		}),
	}
	cmd.Flags().StringVarP(&description, "description", "d", "", "what the project is for")
	return cmd
}

func (a *app) updateProjectCmd() *cobra.Command {
	var description string
	cmd := &cobra.Command{
		Use: "project <project>", Short: "Change the description of a project", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			return s.UpdateProject(s.ctx, args[0], description)
		}),
	}
	cmd.Flags().StringVarP(&description, "description", "d", "", "what the project is for")
	return cmd
}

func (a *app) inspectProjectCmd() *cobra.Command {
	return a.outputFlags(&cobra.Command{
		Use: "project <project>", Short: "Show a project", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			resp, err := s.InspectProject(s.ctx, args[0])
			if err != nil {
				return err
			}
			info := resp.GetInfo()
			return show(s, resp, func(t *table) {
				t.field("Name", info.GetProject().GetName())
				t.field("Description", info.GetDescription())
				t.field("Created", s.when(info.GetCreatedAt()))
				t.field("Created by", info.GetCreatedBy())
				t.field("Defaults", resp.GetDefaultsJson())
			})
		}),
	})
}

func (a *app) listProjectCmd() *cobra.Command {
	return a.outputFlags(&cobra.Command{
		Use: "project", Aliases: []string{"projects"}, Short: "List projects; * is the one in use", Args: nargs(0, 0),
		RunE: a.remote(func(s *session, _ []string) error {
			return list(s, s.ListProject(s.ctx), "ACTIVE\tPROJECT\tCREATED\tDESCRIPTION", func(p *pfspb.ProjectInfo) []string {
				active := ""
				if p.GetProject().GetName() == s.Project() {
					active = "*"
				}
				return []string{active, p.GetProject().GetName(), s.when(p.GetCreatedAt()), p.GetDescription()}
			})
		}),
	})
}

func (a *app) deleteProjectCmd() *cobra.Command {
	var force, yes bool
	cmd := &cobra.Command{
		Use: "project <project>", Short: "Delete a project, with its pipelines and repos after asking", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			project := args[0]
			if _, err := s.InspectProject(s.ctx, project); err != nil {
				return err
			}
			pipelines, err := client.Collect(s.ListPipeline(s.ctx, project))
			if err != nil {
				return err
			}
			if err := s.confirmPipelines(project, pipelines, yes); err != nil {
				return err
			}
			for _, p := range pipelines {
				if err := s.DeletePipeline(s.ctx, p.GetPipeline(), true, false); err != nil {
					return err
				}
			}
			repos, err := client.Collect(s.ListRepo(s.ctx, project))
			if err != nil {
				return err
			}
			if len(repos) > 0 && !yes {
				for _, r := range repos {
					fmt.Fprintln(s.err, client.RepoName(r.GetRepo()))
				}
				if !s.ask(fmt.Sprintf("Delete these %d repos of project %s with all their data?", len(repos), project)) {
					return errDeclined
				}
			}
			for _, r := range repos {
				if _, err := s.DeleteRepo(s.ctx, r.GetRepo(), true); err != nil {
					return err
				}
			}
			return s.DeleteProject(s.ctx, project, force)
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "delete it whatever the server finds left in it")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func (s *session) confirmPipelines(project string, pipelines []*ppspb.PipelineInfo, yes bool) error {
	if len(pipelines) == 0 || yes {
		return nil
	}
	for _, p := range pipelines {
		fmt.Fprintln(s.err, pipelineName(p.GetPipeline()))
	}
	if !s.ask(fmt.Sprintf("Delete these %d pipelines of project %s with their output?", len(pipelines), project)) {
		return errDeclined
	}
	return nil
}

func pipelineName(p *ppspb.Pipeline) string {
	return client.NewProject(p.GetProject().GetName()).Name + "/" + p.GetName()
}
