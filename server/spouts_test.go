package server_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

var manySpouts = flag.Int("spouts", 20, "spouts of the test of many; 1000 for the full one")

// TestSpouts_ManyAtATime starts a daemon with many spouts and reports how long it
// takes until all are up, what the scheduler costs then, and how long a listing takes.
// The figures are logged, not judged: no test fails because a machine is slow.
func TestSpouts_ManyAtATime(t *testing.T) {
	dir := t.TempDir()
	p := startPachd(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	_, pps, _ := dial(t, p.addr)
	start := time.Now()
	for i := range *manySpouts {
		spec := fmt.Sprintf(`{"pipeline": {"name": "s%04d"}, "spout": {}, "transform": {"cmd": ["sleep", "1000000"]}}`, i)
		if _, err := pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: spec}); err != nil {
			t.Fatal(err)
		}
	}
	created := time.Since(start)
	allUp(ctx, t, pps)
	t.Logf("%d spouts created in %v, all up after %v", *manySpouts, created, time.Since(start))
	start = time.Now()
	if err := p.stop(); err != nil {
		t.Errorf("stop: %v\n%s", err, p.log.String())
	}
	state := p.cmd.ProcessState
	t.Logf("stopped in %v; with its workers it has used %v of processor time", time.Since(start), state.UserTime()+state.SystemTime())

	start = time.Now()
	p = startPachd(t, dir)
	serves := time.Since(start)
	_, pps, _ = dial(t, p.addr)
	allUp(ctx, t, pps)
	t.Logf("cold start: serves after %v, all up after %v; the daemon itself has used %v of processor time", serves, time.Since(start), cpuOf(t, p))

	before := cpuOf(t, p)
	start = time.Now()
	for time.Since(start) < 5*time.Second {
		time.Sleep(100 * time.Millisecond) // the daemon is left alone: that is what is measured
	}
	t.Logf("idle: %.1f %% of a processor", 100*(cpuOf(t, p)-before).Seconds()/time.Since(start).Seconds())
	var lists []time.Duration
	for range 11 {
		start = time.Now()
		infos, err := collect(pps.ListPipeline(ctx, &ppspb.ListPipelineRequest{Details: true}))
		if err != nil || len(infos) != *manySpouts {
			t.Fatalf("listed %d: %v", len(infos), err)
		}
		lists = append(lists, time.Since(start))
	}
	slices.Sort(lists)
	t.Logf("list pipeline: %v (median), %v (longest)", lists[len(lists)/2], lists[len(lists)-1])
	t.Logf("peak resident memory of the daemon: %d MiB", peakResident(t, p)>>20)
	if err := p.stop(); err != nil {
		t.Errorf("stop: %v\n%s", err, p.log.String())
	}
	if alive := workersOf(t, dir, p); len(alive) > 0 {
		t.Errorf("still alive after the stop: %v", alive)
	}
}

// allUp returns when every pipeline has its worker.
func allUp(ctx context.Context, t *testing.T, pps ppspb.APIClient) {
	t.Helper()
	for {
		infos, err := collect(pps.ListPipeline(ctx, &ppspb.ListPipelineRequest{Details: true}))
		if err != nil {
			t.Fatal(err)
		}
		up := 0
		for _, p := range infos {
			if p.GetState() == ppspb.PipelineState_PIPELINE_RUNNING && p.GetDetails().GetWorkersAvailable() == 1 {
				up++
			}
		}
		if up == *manySpouts {
			return
		}
		time.Sleep(50 * time.Millisecond) // paces the questions only
	}
}

// cpuOf is the processor time that a daemon has used.
func cpuOf(t *testing.T, p *proc) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Skip("no /proc to read the daemon's processor time from")
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	ticks := 0
	for _, f := range fields[11:13] { // user and system, in hundredths of a second
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
