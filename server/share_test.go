package server_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

var shareRounds = flag.Int("share.rounds", 2, "how often the test of several daemons harms one of them")

// counterBinary builds the spout that counts.
func counterBinary(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "counter")
	if out, err := exec.Command("go", "build", "-o", name, "./testdata/counter").CombinedOutput(); err != nil {
		t.Fatalf("build the counter: %v\n%s", err, out)
	}
	return name
}

// TestShare_CountersNeitherSkipNorRepeat runs three daemons on one etcd and one
// bucket, and harms one after the other: SIGKILL, SIGTERM, or SIGSTOP for longer than
// its lease, with its workers left running; then SIGCONT, so that they and their
// requests come back to a world that has gone on without them. The spouts count:
// whatever happens, each commit has the number after that of its parent, and
// nothing acknowledged is missing.
func TestShare_CountersNeitherSkipNorRepeat(t *testing.T) {
	t.Parallel() // it waits most of the time
	const lease = 2 * time.Second
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(*shareRounds+2)*time.Minute)
	defer cancel()
	etcd, addr := startEtcd(t, filepath.Join(t.TempDir(), "etcd"), "")
	t.Cleanup(etcd.Close) // after the daemons' end
	shared := t.TempDir()
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	run := func(i int) *proc {
		return startPachd(t, dirs[i], "--etcd-endpoints", addr, "--bucket", "file://"+shared+"/bucket", "--lease-ttl", lease.String(),
			"--initial-backoff", "100ms", "--max-backoff", "500ms", "--grace-period", "1s")
	}
	daemons := []*proc{run(0), run(1), run(2)}
	counter := counterBinary(t)
	spouts := []string{"c0", "c1", "c2", "c3"}
	_, pps, _ := dial(t, daemons[0].addr)
	for _, name := range spouts {
		spec := fmt.Sprintf(`{"pipeline": {"name": %q}, "spout": {}, "transform": {"cmd": [%q], "env": {"ACKS": %q}}}`,
			name, counter, filepath.Join(shared, name))
		if _, err := pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: spec}); err != nil {
			t.Fatal(err)
		}
	}
	goOn := func(p *proc) {
		defer func() { t.Logf("%v went on", time.Since(began)) }()
		pfs, pps, _ := dial(t, p.addr)
		for _, name := range spouts {
			if err := counted(ctx, pfs, name, 5); err != nil {
				info, _ := pps.InspectPipeline(ctx, &ppspb.InspectPipelineRequest{Pipeline: &ppspb.Pipeline{Name: name}, Details: true})
				t.Fatalf("%s does not go on: %v; %v %s; %v\n%s", name, err, info.GetState(), info.GetReason(), info.GetDetails().GetRecentError(), p.log.String())
			}
		}
	}
	goOn(daemons[0])
	for round := range *shareRounds {
		victim := rand.IntN(len(daemons))
		p, other := daemons[victim], daemons[(victim+1)%len(daemons)]
		harm := round % 3
		t.Logf("%v round %d: harm %d to daemon %d", time.Since(began), round, harm, victim)
		switch harm {
		case 0:
			p.kill()
			goOn(other)
			daemons[victim] = run(victim)
		case 1:
			signal(t, p, syscall.SIGSTOP)
			goOn(other)
			signal(t, p, syscall.SIGCONT)
		case 2:
			if err := p.stop(); err != nil {
				t.Errorf("stop: %v", err)
			}
			goOn(other)
			daemons[victim] = run(victim)
		}
		goOn(daemons[victim])
	}
	pfs, pps, _ := dial(t, daemons[0].addr)
	for _, name := range spouts {
		if _, err := pps.StopPipeline(ctx, &ppspb.StopPipelineRequest{Pipeline: &ppspb.Pipeline{Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range spouts {
		awaitPipeline(ctx, t, pps, name, func(p *ppspb.PipelineInfo) bool { return p.GetDetails().GetWorkersAvailable() == 0 })
		checkCounter(ctx, t, pfs, name, "", filepath.Join(shared, name))
	}
	checkFsck(ctx, t, pfs)
	for _, p := range daemons {
		if err := p.stop(); err != nil {
			t.Errorf("stop: %v\n%s", err, p.log.String())
		}
	}
}

func signal(t *testing.T, p *proc, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// counted returns once a spout has counted n further.
func counted(ctx context.Context, pfs pfspb.APIClient, name string, n int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	first := -1
	for {
		text, err := get(ctx, pfs, name, "/n")
		if ctx.Err() != nil {
			return fmt.Errorf("stuck at %q after %d: %w", text, first, err)
		}
		if now, bad := strconv.Atoi(string(text)); err == nil && bad == nil {
			if first < 0 {
				first = now
			}
			if now >= first+n {
				return nil
			}
		}
		time.Sleep(20 * time.Millisecond) // paces the questions only
	}
}

// ack is what a counter says of a commit that pachd has acknowledged.
type ack struct {
	n  int
	by string // its process
	at time.Time
}

// readAcks reads a file of acknowledgements. What was being written when the counter
// was killed does not count.
func readAcks(t *testing.T, file string) []ack {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return parseAcks(string(data))
}

func parseAcks(text string) (all []ack) {
	for line := range strings.Lines(text) {
		var a ack
		var nanos int64
		if n, err := fmt.Sscanln(line, &a.n, &a.by, &nanos); n == 3 && err == nil {
			a.at = time.Unix(0, nanos)
			all = append(all, a)
		}
	}
	return all
}

// checkCounter reads all numbers of a counter back, and the acknowledgements. Its
// worker i has files of its own, of which self is the last part. Who has been
// followed by another process never commits again.
func checkCounter(ctx context.Context, t *testing.T, pfs pfspb.APIClient, name, self, acks string) []ack {
	t.Helper()
	text, err := get(ctx, pfs, name, "/log"+self)
	if err != nil {
		t.Fatal(err)
	}
	var by []string // who made commit i+1
	gone := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		n, who, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n != strconv.Itoa(len(by)+1) {
			t.Fatalf("%s%s: commit %d has the number %s", name, self, len(by)+1, n)
		}
		if gone[who] {
			t.Errorf("%s%s: %s made commit %s after others had followed it", name, self, who, n)
		}
		if len(by) > 0 && by[len(by)-1] != who {
			gone[by[len(by)-1]] = true
		}
		by = append(by, who)
	}
	all := readAcks(t, acks+self)
	acked := map[int]bool{}
	for _, a := range all {
		if acked[a.n] {
			t.Errorf("%s%s: %d was acknowledged twice", name, self, a.n)
		}
		acked[a.n] = true
		if a.n > len(by) || by[a.n-1] != a.by {
			t.Errorf("%s%s: %d of %s was acknowledged, and is not among %d commits", name, self, a.n, a.by, len(by))
		}
	}
	t.Logf("%s%s: %d commits, %d acknowledged, by %d processes", name, self, len(by), len(acked), len(gone)+1)
	return all
}

// awaitPipeline returns once a pipeline is as it should.
func awaitPipeline(ctx context.Context, t *testing.T, pps ppspb.APIClient, name string, ok func(*ppspb.PipelineInfo) bool) *ppspb.PipelineInfo {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var last *ppspb.PipelineInfo
	for {
		info, err := pps.InspectPipeline(ctx, &ppspb.InspectPipelineRequest{Pipeline: &ppspb.Pipeline{Name: name}, Details: true})
		if err != nil {
			t.Fatalf("pipeline %s: %v; last seen: %v", name, err, last)
		}
		if ok(info) {
			return info
		}
		last = info
		time.Sleep(10 * time.Millisecond) // paces the questions only
	}
}
