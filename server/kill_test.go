package server_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

var killRounds = flag.Int("kill.rounds", 10, "how often the kill test kills the daemon")

// tickSpout commits a line ten times a second with the pachctl on its PATH, and
// has a grandchild that would outlive a careless daemon.
const tickSpout = `{"pipeline": {"name": "ticks"}, "spout": {},
 "transform": {"cmd": ["sh", "-c", "sleep 1000000 & while :; do date +%s.%N | pachctl put file -a ticks@master:/ticks -f - || sleep 0.1; done"]}}`

// TestKill_NothingAcknowledgedIsLost kills the daemon with SIGKILL at random
// moments of a stream of one-shot commits. After each restart every
// acknowledged commit is there and reads back, none is half there, fsck is
// clean, the spout commits again, and no process of before is alive.
func TestKill_NothingAcknowledgedIsLost(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(*killRounds)*time.Minute)
	defer cancel()
	acked := 0 // lines acknowledged so far: line i holds the number i
	sent := 0
	for round := range *killRounds {
		p := startPachd(t, dir)
		pfs, pps, _ := dial(t, p.addr)
		if round == 0 {
			if _, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("events")}); err != nil {
				t.Fatal(err)
			}
			if _, err := pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: tickSpout}); err != nil {
				t.Fatal(err)
			}
		}
		if round > 0 {
			sent = checkEvents(ctx, t, pfs, acked, sent)
			acked = sent
			checkFsck(ctx, t, pfs)
		}
		waitForTick(ctx, t, pfs)
		var n atomic.Int64
		n.Store(int64(acked))
		writing, stop := context.WithCancel(ctx)
		written := make(chan int, 1)
		go func() {
			i := acked
			for ; writing.Err() == nil; i++ {
				if err := put(writing, pfs, "events", "/lines", line(i)); err != nil {
					break
				}
				n.Store(int64(i + 1))
			}
			written <- i + 1 // that many may have reached the server
		}()
		target := n.Load() + 20 + rand.Int64N(200)
		for n.Load() < target && ctx.Err() == nil {
			time.Sleep(time.Millisecond) // paces the kill only; nothing depends on it
		}
		p.kill()
		stop()
		sent = <-written
		acked = int(n.Load())
		if alive := workersOf(t, dir, p); len(alive) > 0 {
			t.Fatalf("round %d: still alive after the daemon was killed: %v", round, alive)
		}
	}
	p := startPachd(t, dir)
	pfs, _, _ := dial(t, p.addr)
	checkEvents(ctx, t, pfs, acked, sent)
	checkFsck(ctx, t, pfs)
	waitForTick(ctx, t, pfs)
	if err := p.stop(); err != nil {
		t.Errorf("graceful stop: %v\n%s", err, p.log.String())
	}
	if alive := workersOf(t, dir, p); len(alive) > 0 {
		t.Errorf("still alive after a graceful stop: %v", alive)
	}
}

func line(i int) []byte { return fmt.Appendf(nil, "%09d\n", i) }

// checkEvents reads all lines back. At least acked must be there, at most sent,
// and each in its place; it returns how many there are.
func checkEvents(ctx context.Context, t *testing.T, pfs pfspb.APIClient, acked, sent int) int {
	t.Helper()
	got, err := get(ctx, pfs, "events", "/lines")
	if err != nil {
		t.Fatalf("read back: %v", err)
	}
	n := len(got) / 10
	if len(got)%10 != 0 || n < acked || n > sent {
		t.Fatalf("read back %d bytes = %d lines; %d were acknowledged, %d sent", len(got), n, acked, sent)
	}
	for i := range n {
		if string(got[i*10:i*10+10]) != string(line(i)) {
			t.Fatalf("line %d is %q", i, got[i*10:i*10+10])
		}
	}
	commits, err := collect(pfs.ListCommit(ctx, &pfspb.ListCommitRequest{Repo: repo("events")}))
	if err != nil {
		t.Fatal(err)
	}
	if len(commits) != n {
		t.Fatalf("%d commits for %d lines", len(commits), n)
	}
	return n
}

func checkFsck(ctx context.Context, t *testing.T, pfs pfspb.APIClient) {
	t.Helper()
	faults, err := collect(pfs.Fsck(ctx, &pfspb.FsckRequest{}))
	if err != nil {
		t.Fatalf("fsck: %v", err)
	}
	for _, f := range faults {
		t.Errorf("fsck: %v", f)
	}
}

// waitForTick returns when the spout has committed something new.
func waitForTick(ctx context.Context, t *testing.T, pfs pfspb.APIClient) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	info, err := pfs.InspectBranch(ctx, &pfspb.InspectBranchRequest{Branch: branch("ticks")})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := pfs.SubscribeCommit(ctx, &pfspb.SubscribeCommitRequest{
		Repo: repo("ticks"), Branch: "master", From: info.Head, State: pfspb.CommitState_FINISHED,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatalf("the spout does not commit: %v", err)
	}
}

// workersOf waits up to ten seconds for all processes that carry the marker of
// this data directory to be gone and names those that are not.
func workersOf(t *testing.T, dir string, daemon *proc) []string {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		alive := marked(t, dir, daemon.cmd.Process.Pid)
		if len(alive) == 0 || time.Now().After(deadline) {
			return alive
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// marked lists processes, other than this one, whose environment names dir.
func marked(t *testing.T, dir string, except int) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Skip("no /proc to look for processes in")
	}
	var alive []string
	for _, e := range entries {
		if e.Name() == fmt.Sprint(os.Getpid()) || e.Name() == fmt.Sprint(except) || strings.Trim(e.Name(), "0123456789") != "" {
			continue
		}
		env, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err != nil || !strings.Contains(string(env), dir) {
			continue
		}
		cmd, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		alive = append(alive, e.Name()+" "+strings.ReplaceAll(string(cmd), "\x00", " "))
	}
	return alive
}
