package pachctl

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/minipachd/minipachd/client"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// noDefaults is the text of defaults that say nothing.
const noDefaults = "{}"

// clusterFlag adds --cluster: without it the defaults of the project are meant.
func (a *app) clusterFlag(cmd *cobra.Command, cluster *bool) *cobra.Command {
	cmd.Flags().BoolVar(cluster, "cluster", false, "those of all projects, not those of one")
	return a.projectFlag(cmd)
}

func (a *app) inspectDefaultsCmd() *cobra.Command {
	var cluster bool
	return a.clusterFlag(&cobra.Command{
		Use: "defaults", Short: "Show what pipeline specs take from their project, or with --cluster from all", Args: nargs(0, 0),
		RunE: a.remote(func(s *session, _ []string) error {
			if cluster {
				resp, err := s.PPS.GetClusterDefaults(s.ctx, &ppspb.GetClusterDefaultsRequest{})
				if err != nil {
					return err
				}
				return s.encodeJSON(s.out, []byte(resp.GetClusterDefaultsJson()), true)
			}
			resp, err := s.PPS.GetProjectDefaults(s.ctx, &ppspb.GetProjectDefaultsRequest{Project: client.NewProject(s.Project())})
			if err != nil {
				return err
			}
			return s.encodeJSON(s.out, []byte(resp.GetProjectDefaultsJson()), true)
		}),
	}, &cluster)
}

func (a *app) createDefaultsCmd() *cobra.Command {
	return a.setDefaultsCmd("Set what pipeline specs take from their project, or with --cluster from all")
}

func (a *app) updateDefaultsCmd() *cobra.Command {
	return a.setDefaultsCmd("Replace what pipeline specs take from their project, or with --cluster from all")
}

// setDefaultsCmd is create defaults and update defaults, which do the same.
func (a *app) setDefaultsCmd(short string) *cobra.Command {
	var source string
	var set defaults
	cmd := &cobra.Command{
		Use: "defaults -f <file>", Short: short, Args: nargs(0, 0),
		Long: short + `. The file is JSON or YAML of the form

    {"create_pipeline_request": {"resource_requests": {"memory": "1Gi"}}}

and is merged below every spec that is created or updated from then on; with
--regenerate also below those of the pipelines that exist.`,
		RunE: a.remote(func(s *session, _ []string) error {
			texts, err := s.readSpecs(source)
			if err != nil {
				return err
			}
			if len(texts) != 1 {
				return fmt.Errorf("%s holds %d documents, want one", source, len(texts))
			}
			set.text = string(texts[0])
			return s.setDefaults(set)
		}),
	}
	cmd.Flags().StringVarP(&source, "file", "f", "-", "path or URL of the defaults, - for standard input")
	return a.defaultsFlags(cmd, &set)
}

func (a *app) deleteDefaultsCmd() *cobra.Command {
	set := defaults{text: noDefaults}
	cmd := &cobra.Command{
		Use: "defaults", Short: "Have pipeline specs take nothing from their project, or with --cluster from all", Args: nargs(0, 0),
		RunE: a.remote(func(s *session, _ []string) error { return s.setDefaults(set) }),
	}
	return a.defaultsFlags(cmd, &set)
}

// defaults are new defaults and what is to come of them.
type defaults struct {
	text                                   string
	cluster, regenerate, reprocess, dryRun bool
}

func (a *app) defaultsFlags(cmd *cobra.Command, d *defaults) *cobra.Command {
	f := cmd.Flags()
	f.BoolVar(&d.regenerate, "regenerate", false, "make new versions of the pipelines that this changes, and list them")
	f.BoolVar(&d.reprocess, "reprocess", false, "have those pipelines process old data again")
	f.BoolVar(&d.dryRun, "dry-run", false, "change nothing, only list the pipelines that --regenerate would change")
	return a.clusterFlag(cmd, &d.cluster)
}

// setDefaults prints the pipelines that have a new version.
func (s *session) setDefaults(d defaults) error {
	var affected []*ppspb.Pipeline
	if d.cluster {
		resp, err := s.PPS.SetClusterDefaults(s.ctx, &ppspb.SetClusterDefaultsRequest{
			ClusterDefaultsJson: d.text, Regenerate: d.regenerate, Reprocess: d.reprocess, DryRun: d.dryRun,
		})
		if err != nil {
			return err
		}
		affected = resp.GetAffectedPipelines()
	} else {
		resp, err := s.PPS.SetProjectDefaults(s.ctx, &ppspb.SetProjectDefaultsRequest{
			Project: client.NewProject(s.Project()), ProjectDefaultsJson: d.text, Regenerate: d.regenerate, Reprocess: d.reprocess, DryRun: d.dryRun,
		})
		if err != nil {
			return err
		}
		affected = resp.GetAffectedPipelines()
	}
	for _, p := range affected {
		if _, err := fmt.Fprintln(s.out, pipelineName(p)); err != nil {
			return err
		}
	}
	return nil
}
