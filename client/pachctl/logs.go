package pachctl

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

func (a *app) logsCmd() *cobra.Command {
	var pipeline, job, datum, since string
	var inputs []string
	var follow, master, worker, timestamps bool
	var tail int64
	cmd := &cobra.Command{
		Use:   "logs [-p <pipeline> | -j <pipeline>@<job>]",
		Short: "Print what a pipeline's program or pachd has logged",
		Long: `Prints the lines of a pipeline's program; with --worker those that pachd logs
about its workers; without -p and -j the log of pachd itself. With -f it goes on
until Ctrl-C, also over restarts of the program and of pachd.`,
		Args: nargs(0, 0),
		RunE: a.remote(func(s *session, _ []string) error {
			if tail != 0 {
				return errors.New("tail has been deprecated and removed from Pachyderm, use --since instead")
			}
			if master && worker {
				return errors.New("--master and --worker exclude each other")
			}
			req := &ppspb.GetLogsRequest{Master: master, Follow: follow, DataFilters: inputs}
			if since != "" {
				d, err := time.ParseDuration(since)
				if err != nil || d < 0 {
					return fmt.Errorf("--since %q is not a duration such as 90s, 30m or 24h", since)
				}
				req.Since = durationpb.New(d)
			}
			if pipeline != "" {
				req.Pipeline = s.pipeline(pipeline)
			}
			if job != "" {
				name, id, ok := strings.Cut(job, "@")
				if !ok || id == "" {
					return fmt.Errorf("%q is not a job: want <pipeline>@<job>", job)
				}
				req.Job = &ppspb.Job{Pipeline: s.pipeline(name), Id: id}
				if req.Pipeline == nil {
					req.Pipeline = req.Job.Pipeline
				}
			}
			if datum != "" {
				req.Datum = &ppspb.Datum{Job: req.GetJob(), Id: datum}
			}
			wanted := func(m *ppspb.LogMessage) bool {
				switch {
				case req.Pipeline == nil:
					return true
				case master:
					return m.GetMaster()
				case worker:
					return !m.GetUser() && !m.GetMaster()
				}
				return m.GetUser()
			}
			return s.unlessInterrupted(s.printLogs(req, wanted, timestamps))
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&pipeline, "pipeline", "p", "", "pipeline whose lines to print")
	f.StringVarP(&job, "job", "j", "", "job whose lines to print, as <pipeline>@<id>")
	f.StringVar(&datum, "datum", "", "only lines about this datum")
	f.StringSliceVar(&inputs, "inputs", nil, "only lines about these input files (paths or hashes)")
	f.BoolVarP(&follow, "follow", "f", false, "go on with lines as they come")
	f.StringVar(&since, "since", "", "how far to go back, for example 30m (default: 24h)")
	f.BoolVar(&master, "master", false, "print the lines of the pipeline's master")
	f.BoolVarP(&worker, "worker", "w", false, "print the lines about workers, not those of the program")
	f.BoolVarP(&timestamps, "timestamps", "t", false, "print time and worker in front of each line")
	f.BoolVar(&a.raw, "raw", false, "print every line as JSON, with all that is known of it")
	f.Int64Var(&tail, "tail", 0, "removed; use --since")
	_ = f.MarkHidden("tail") // the flag is there
	return a.projectFlag(cmd)
}

// printLogs prints line by line, so that a follower sees each at once.
func (s *session) printLogs(req *ppspb.GetLogsRequest, wanted func(*ppspb.LogMessage) bool, timestamps bool) error {
	lines := s.GetLogs(s.ctx, req)
	if req.GetFollow() {
		lines = s.FollowLogs(s.ctx, req, func(err error) {
			fmt.Fprintln(s.err, "pachd is away, waiting for it:", err)
		})
	}
	for m, err := range lines {
		if err != nil {
			return err
		}
		var line string
		switch {
		case s.raw:
			raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
			if err != nil {
				return err
			}
			line = string(raw)
		case !wanted(m):
			continue
		default:
			line = strings.TrimSuffix(m.GetMessage(), "\n")
			if timestamps {
				line = m.GetTs().AsTime().Format("2006-01-02T15:04:05.000Z07:00") + " " + m.GetWorkerId() + " " + line
			}
		}
		if _, err := fmt.Fprintln(s.out, line); err != nil {
			return err
		}
	}
	return nil
}
