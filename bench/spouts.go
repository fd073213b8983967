package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// spoutSamples is how many starts each round takes times of.
const spoutSamples = 200

// startTimes are those of one round, sorted.
type startTimes struct {
	round int
	ms    []float64
}

// spouts takes times of starts. Workers report through a named pipe.
type spouts struct {
	d       *daemon
	pps     ppspb.APIClient
	made    int
	created startTimes
	again   startTimes
}

func (s *spouts) measurements() []measurement {
	percentile := func(times *startTimes, take func(context.Context) ([]float64, error), p int) func(context.Context) (float64, error) {
		return func(ctx context.Context) (float64, error) {
			if times.round != s.d.round {
				ms, err := take(ctx)
				if err != nil {
					return 0, err
				}
				slices.Sort(ms)
				*times = startTimes{s.d.round, ms}
			}
			return times.ms[len(times.ms)*p/100], nil
		}
	}
	return []measurement{
		{"spout: created until its process runs, p50", "ms", "", percentile(&s.created, s.create, 50)},
		{"spout: created until its process runs, p99", "ms", "", percentile(&s.created, s.create, 99)},
		{"spout: exit until the next start, pause of 10 ms included, p50", "ms", "", percentile(&s.again, s.startAgain, 50)},
		{"spout: exit until the next start, pause of 10 ms included, p99", "ms", "", percentile(&s.again, s.startAgain, 99)},
	}
}

// create makes one spout after the other and deletes it when its process runs.
func (s *spouts) create(ctx context.Context) ([]float64, error) {
	r, err := s.listen()
	if err != nil {
		return nil, err
	}
	defer r.close()
	var ms []float64
	for range spoutSamples {
		start := time.Now()
		drop, err := s.make(ctx, r, "{}", "echo up > $REPORTS; exec sleep 100000")
		if err != nil {
			return nil, err
		}
		at, err := r.next()
		if err != nil {
			return nil, err
		}
		ms = append(ms, float64(at.Sub(start).Microseconds())/1000)
		if err := drop(); err != nil {
			return nil, err
		}
	}
	return ms, nil
}

// startAgain runs a spout that ends at once, and takes the times from one report to
// the next.
func (s *spouts) startAgain(ctx context.Context) ([]float64, error) {
	r, err := s.listen()
	if err != nil {
		return nil, err
	}
	defer r.close()
	drop, err := s.make(ctx, r, `{"restart": {"initial_backoff": "0.01s", "max_backoff": "0.01s"}}`, "echo up > $REPORTS")
	if err != nil {
		return nil, err
	}
	var ms []float64
	last, err := r.next()
	for err == nil && len(ms) < spoutSamples {
		var at time.Time
		if at, err = r.next(); err == nil {
			ms = append(ms, float64(at.Sub(last).Microseconds())/1000)
			last = at
		}
	}
	if err != nil {
		return nil, err
	}
	return ms, drop()
}

// make creates a spout that runs a shell script, and tells how to delete it.
func (s *spouts) make(ctx context.Context, r *reports, spout, script string) (drop func() error, err error) {
	s.made++
	p := &ppspb.Pipeline{Project: &pfspb.Project{Name: "default"}, Name: fmt.Sprintf("s%d", s.made)}
	spec := fmt.Sprintf(`{"pipeline": {"name": %q}, "spout": %s, "transform": {"cmd": ["sh", "-c", %q], "env": {"REPORTS": %q}}}`, p.Name, spout, script, r.name)
	_, err = s.pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: spec})
	return func() error {
		_, err := s.pps.DeletePipeline(ctx, &ppspb.DeletePipelineRequest{Pipeline: p})
		return err
	}, err
}

// reports is a named pipe that workers write a line to.
type reports struct {
	name string
	pipe *os.File
	in   *bufio.Reader
}

func (s *spouts) listen() (*reports, error) {
	dir, err := os.MkdirTemp(s.d.cfg.dir, "pachd-bench-spouts-")
	if err != nil {
		return nil, err
	}
	r := &reports{name: filepath.Join(dir, "reports")}
	if err = syscall.Mkfifo(r.name, 0o600); err == nil {
		r.pipe, err = os.OpenFile(r.name, os.O_RDWR, 0) // never at its end
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("named pipe %s: %w", r.name, err)
	}
	r.in = bufio.NewReader(r.pipe)
	return r, nil
}

// next gives the time at which the next worker reports.
func (r *reports) next() (time.Time, error) {
	if err := r.pipe.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return time.Time{}, err
	}
	_, err := r.in.ReadString('\n')
	return time.Now(), err
}

func (r *reports) close() {
	r.pipe.Close()
	os.RemoveAll(filepath.Dir(r.name))
}
