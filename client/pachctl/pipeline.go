package pachctl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/minipachd/minipachd/client"
	"github.com/minipachd/minipachd/client/specfile"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

func (a *app) createPipelineCmd() *cobra.Command { return a.pipelineSpecCmd(false) }

func (a *app) updatePipelineCmd() *cobra.Command { return a.pipelineSpecCmd(true) }

// pipelineSpecCmd is create pipeline and update pipeline.
func (a *app) pipelineSpecCmd(update bool) *cobra.Command {
	var source string
	var dryRun, reprocess bool
	short := "Make the pipelines of a spec file"
	if update {
		short = "Make new versions of the pipelines of a spec file"
	}
	cmd := &cobra.Command{
		Use: "pipeline -f <spec>", Short: short, Args: nargs(0, 0),
		Long: short + `: JSON or YAML, one spec, several documents
or an array, from a path, a URL or standard input (-). Specs are sent in their
order; those before one that is refused stay.`,
		RunE: a.remote(func(s *session, _ []string) error {
			specs, err := s.readSpecs(source)
			if err != nil {
				return err
			}
			for i, spec := range specs {
				effective, err := s.sendSpec(spec, update, reprocess, dryRun)
				if err != nil {
					if len(specs) > 1 {
						return fmt.Errorf("spec %d of %d: %w", i+1, len(specs), err)
					}
					return err
				}
				if dryRun {
					if err := s.encodeJSON(s.out, []byte(effective), i == 0); err != nil {
						return err
					}
				}
			}
			return nil
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&source, "file", "f", "-", "path or URL of the spec, - for standard input")
	f.BoolVar(&dryRun, "dry-run", false, "only check, and print the spec with its defaults")
	f.StringVarP(&a.output, "output", "o", "", "of --dry-run: json or yaml")
	if update {
		f.BoolVar(&reprocess, "reprocess", false, "process old data again")
	}
	return a.projectFlag(cmd)
}

func (s *session) readSpecs(source string) ([]json.RawMessage, error) {
	r, err := specfile.Open(s.ctx, source, s.in)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if source == "-" {
		source = "standard input"
	}
	specs, err := specfile.Parse(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	if len(specs) == 0 {
		return nil, fmt.Errorf("%s holds no pipeline spec", source)
	}
	return specs, nil
}

// sendSpec creates or updates one pipeline. Flags inside the spec count too.
func (s *session) sendSpec(spec json.RawMessage, update, reprocess, dryRun bool) (string, error) {
	var inside struct {
		Update, Reprocess bool
		DryRun            bool `json:"dry_run"`
		CamelDryRun       bool `json:"dryRun"`
	}
	_ = json.Unmarshal(spec, &inside) // what is not a boolean is for the server to refuse
	if s.Project() != client.DefaultProject {
		spec = withProject(spec, s.Project())
	}
	resp, err := s.PPS.CreatePipelineV2(s.ctx, &ppspb.CreatePipelineV2Request{
		CreatePipelineRequestJson: string(spec),
		Update:                    update || inside.Update,
		Reprocess:                 reprocess || inside.Reprocess,
		DryRun:                    dryRun || inside.DryRun || inside.CamelDryRun,
	})
	return resp.GetEffectiveCreatePipelineRequestJson(), err
}

// withProject puts the project into a spec whose pipeline names none, and leaves
// every other byte as it is: the server keeps specs as they were written.
func withProject(spec json.RawMessage, project string) json.RawMessage {
	var top struct {
		Pipeline map[string]json.RawMessage `json:"pipeline"`
	}
	if json.Unmarshal(spec, &top) != nil || top.Pipeline == nil || top.Pipeline["project"] != nil {
		return spec
	}
	dec := json.NewDecoder(bytes.NewReader(spec))
	depth, key := 0, true // key: the next string at depth 1 is a key
	for {
		tok, err := dec.Token()
		if err != nil {
			return spec
		}
		switch t := tok.(type) {
		case json.Delim:
			if t == '{' || t == '[' {
				depth++
			} else {
				depth--
			}
			key = depth == 1
			continue
		case string:
			if depth == 1 && key && t == "pipeline" {
				return insertProject(spec, int(dec.InputOffset()), project, len(top.Pipeline) > 0)
			}
		}
		if depth == 1 {
			key = !key
		}
	}
}

// insertProject adds project as the first member of the object after offset at.
func insertProject(spec []byte, at int, project string, more bool) []byte {
	brace := at + bytes.IndexByte(spec[at:], '{') + 1
	name, err := json.Marshal(project)
	if err != nil { // strings always encode
		panic(err)
	}
	member := `"project":{"name":` + string(name) + `}`
	if more {
		member += ","
	}
	return bytes.Join([][]byte{spec[:brace], spec[brace:]}, []byte(member))
}

func (a *app) editPipelineCmd() *cobra.Command {
	var editor string
	var reprocess bool
	cmd := &cobra.Command{
		Use: "pipeline <pipeline>", Short: "Change the spec of a pipeline in an editor", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			info, err := s.InspectPipeline(s.ctx, s.pipeline(args[0]))
			if err != nil {
				return err
			}
			var before bytes.Buffer
			if err := s.encodeJSON(&before, []byte(info.GetUserSpecJson()), true); err != nil {
				return fmt.Errorf("the stored spec of %s: %w", pipelineName(info.GetPipeline()), err)
			}
			after, err := s.edit(before.Bytes(), editor)
			if err != nil {
				return err
			}
			if bytes.Equal(before.Bytes(), after) {
				fmt.Fprintln(s.err, "nothing was changed")
				return nil
			}
			if err := s.sendEdited(after, reprocess); err != nil {
				return s.keepEdited(after, err)
			}
			return nil
		}),
	}
	f := cmd.Flags()
	f.StringVar(&editor, "editor", "", "editor to use (default: EDITOR, else vi)")
	f.BoolVar(&reprocess, "reprocess", false, "process old data again")
	f.StringVarP(&a.output, "output", "o", "", "edit as json or yaml")
	return a.projectFlag(cmd)
}

func (s *session) sendEdited(text []byte, reprocess bool) error {
	specs, err := specfile.Parse(bytes.NewReader(text))
	if err != nil {
		return err
	}
	if len(specs) != 1 {
		return fmt.Errorf("one spec is wanted, not %d", len(specs))
	}
	_, err = s.sendSpec(specs[0], true, reprocess, false)
	return err
}

// keepEdited saves what somebody has typed and cannot be used, and adds to the
// error where it is.
func (s *session) keepEdited(text []byte, refused error) error {
	f, err := os.CreateTemp("", "pipeline-*"+s.specSuffix())
	if err != nil {
		return errors.Join(refused, err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(refused, err)
	}
	return fmt.Errorf("%w\nwhat was edited is kept: pachctl update pipeline -f %s", refused, f.Name())
}

func (s *session) specSuffix() string {
	if s.output == "yaml" {
		return ".yaml"
	}
	return ".json"
}

// edit has the user change a text in an editor.
func (s *session) edit(text []byte, editor string) ([]byte, error) {
	if editor == "" {
		editor = os.Getenv("EDITOR")
	}
	if editor == "" {
		editor = "vi"
	}
	f, err := os.CreateTemp("", "pipeline-*"+s.specSuffix())
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	words := append(strings.Fields(editor), f.Name())
	cmd := exec.CommandContext(s.ctx, words[0], words[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.in, s.out, s.err
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("editor %s: %w", editor, err)
	}
	return os.ReadFile(f.Name())
}

func (a *app) startPipelineCmd() *cobra.Command {
	return a.projectFlag(&cobra.Command{
		Use: "pipeline <pipeline>", Short: "Let a stopped pipeline run again", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error { return s.StartPipeline(s.ctx, s.pipeline(args[0])) }),
	})
}

func (a *app) stopPipelineCmd() *cobra.Command {
	return a.projectFlag(&cobra.Command{
		Use: "pipeline <pipeline>", Short: "Stop the workers of a pipeline", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error { return s.StopPipeline(s.ctx, s.pipeline(args[0])) }),
	})
}

func (a *app) rerunPipelineCmd() *cobra.Command {
	var reprocess bool
	cmd := &cobra.Command{
		Use: "pipeline <pipeline>", Short: "Make a new version of a pipeline from its present spec", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			return s.RerunPipeline(s.ctx, s.pipeline(args[0]), reprocess)
		}),
	}
	cmd.Flags().BoolVar(&reprocess, "reprocess", false, "process old data again")
	return a.projectFlag(cmd)
}

func (a *app) deletePipelineCmd() *cobra.Command {
	var force, keepRepo, all bool
	cmd := &cobra.Command{
		Use: "pipeline <pipeline>", Aliases: []string{"pipelines"}, Short: "Delete a pipeline with its output", Args: nargs(0, 1),
		RunE: a.remote(func(s *session, args []string) error {
			if all == (len(args) == 1) {
				return errors.New("name a pipeline, or give --all")
			}
			if !all {
				return s.DeletePipeline(s.ctx, s.pipeline(args[0]), force, keepRepo)
			}
			deleted, err := s.DeletePipelines(s.ctx, s.Project(), force, keepRepo)
			for _, p := range deleted {
				fmt.Fprintln(s.out, pipelineName(p))
			}
			return err
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "delete it although other pipelines read from it")
	f.BoolVar(&keepRepo, "keep-repo", false, "keep its output as an ordinary repo")
	f.BoolVar(&all, "all", false, "every pipeline of the project")
	return a.projectFlag(cmd)
}

func (a *app) listPipelineCmd() *cobra.Command {
	var allProjects, spec bool
	var states []string
	var history int64
	var commitSet string
	cmd := &cobra.Command{
		Use: "pipeline [<pipeline>]", Aliases: []string{"pipelines"}, Short: "List pipelines, newest first", Args: nargs(0, 1),
		RunE: a.remote(func(s *session, args []string) error {
			req := &ppspb.ListPipelineRequest{Details: true, History: history, CommitSet: &pfspb.CommitSet{Id: commitSet}}
			if !allProjects {
				req.Projects = []*pfspb.Project{client.NewProject(s.Project())}
			}
			if len(args) == 1 {
				req.Pipeline = s.pipeline(args[0])
			}
			var filters []string
			for _, name := range states {
				name = "PIPELINE_" + strings.TrimPrefix(strings.ToUpper(name), "PIPELINE_")
				if _, ok := ppspb.PipelineState_value[name]; !ok {
					return fmt.Errorf("there is no state %s", strings.ToLower(strings.TrimPrefix(name, "PIPELINE_")))
				}
				filters = append(filters, fmt.Sprintf(".state == %q", name))
			}
			req.JqFilter = strings.Join(filters, " or ")
			if spec {
				n := 0
				for p, err := range s.ListPipelineBy(s.ctx, req) {
					if err == nil {
						err = s.encodeJSON(s.out, []byte(p.GetEffectiveSpecJson()), n == 0)
					}
					if err != nil {
						return err
					}
					n++
				}
				return nil
			}
			return list(s, s.ListPipelineBy(s.ctx, req), "PROJECT\tNAME\tVERSION\tINPUT\tCREATED\tSTATE\tWORKERS\tRESTARTS\tLAST COMMIT\tDESCRIPTION", func(p *ppspb.PipelineInfo) []string {
				project, name, _ := strings.Cut(pipelineName(p.GetPipeline()), "/")
				d := p.GetDetails()
				return []string{
					project, name, fmt.Sprint(p.GetVersion()), inputText(p), s.when(d.GetCreatedAt()), stateText(p.GetState()),
					fmt.Sprintf("%d/%d", d.GetWorkersAvailable(), d.GetWorkersRequested()),
					restartsText(s, d), s.when(d.GetLastCommit()), d.GetDescription(),
				}
			})
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&allProjects, "all-projects", "A", false, "of every project")
	f.StringSliceVar(&states, "state", nil, "only in these states, for example running or crashing")
	f.Int64Var(&history, "history", 0, "that many older versions too; -1: all")
	f.StringVarP(&commitSet, "commit", "c", "", "as they were at this commit set")
	f.BoolVarP(&spec, "spec", "s", false, "print their specs")
	return a.projectFlag(a.outputFlags(cmd))
}

func stateText(s ppspb.PipelineState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "PIPELINE_"))
}

func inputText(p *ppspb.PipelineInfo) string {
	if p.GetType() == ppspb.PipelineInfo_PIPELINE_TYPE_SPOUT {
		return "none (spout)"
	}
	var text func(in *ppspb.Input) string
	text = func(in *ppspb.Input) string {
		several := func(op string, ins []*ppspb.Input) string {
			var parts []string
			for _, i := range ins {
				parts = append(parts, text(i))
			}
			return "(" + strings.Join(parts, op) + ")"
		}
		switch {
		case in.GetPfs() != nil:
			return in.GetPfs().GetRepo() + ":" + in.GetPfs().GetGlob()
		case in.GetCron() != nil:
			return "cron " + in.GetCron().GetSpec()
		case len(in.GetCross()) > 0:
			return several(" ⨯ ", in.GetCross())
		case len(in.GetUnion()) > 0:
			return several(" ∪ ", in.GetUnion())
		case len(in.GetJoin()) > 0:
			return several(" ⋈ ", in.GetJoin())
		case len(in.GetGroup()) > 0:
			return "group" + several(", ", in.GetGroup())
		}
		return "none"
	}
	return text(p.GetDetails().GetInput())
}

func (a *app) inspectPipelineCmd() *cobra.Command {
	return a.projectFlag(a.outputFlags(&cobra.Command{
		Use: "pipeline <pipeline>[^<n>]", Short: "Show a pipeline", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			p, err := s.InspectPipeline(s.ctx, s.pipeline(args[0]))
			if err != nil {
				return err
			}
			d := p.GetDetails()
			return show(s, p, func(t *table) {
				t.field("Name", pipelineName(p.GetPipeline()))
				t.field("Version", fmt.Sprint(p.GetVersion()))
				t.field("Description", d.GetDescription())
				t.field("Input", inputText(p))
				t.field("Output branch", d.GetOutputBranch())
				t.field("State", stateText(p.GetState()))
				t.field("Reason", p.GetReason())
				if p.GetStopped() {
					t.field("Stopped", "true")
				}
				t.field("Recent error", d.GetRecentError())
				for _, w := range d.GetWarnings() {
					t.field("Warning", w)
				}
				if at := d.GetNextStart(); at != nil {
					t.field("Next start", at.AsTime().Format(time.RFC3339))
				}
				t.field("Workers", fmt.Sprintf("%d of %d running", d.GetWorkersAvailable(), d.GetWorkersRequested()))
				if at := d.GetWorkersStartedAt(); at != nil {
					t.field("Workers started", s.when(at))
				}
				showKeeping(s, t, d)
				t.field("Created", s.when(d.GetCreatedAt()))
				if at := d.GetUpdatedAt(); at != nil {
					t.field("Updated", s.when(at))
				}
				t.field("Created by", d.GetCreatedBy())
				t.field("Spec commit", p.GetSpecCommit().GetId())
				t.field("Command", strings.Join(d.GetTransform().GetCmd(), " "))
				t.field("Image", d.GetTransform().GetImage())
				if sv := d.GetSpout().GetService(); sv != nil {
					t.field("Service", serviceText(sv))
				}
			})
		}),
	}))
}
