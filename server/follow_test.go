package server_test

import (
	"bytes"
	"context"
	"encoding/json"
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

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

var followRounds = flag.Int("follow.rounds", 4, "how often the test of the spout that follows a file kills it, or its daemon")

// TestFollow_EachLineOnce runs the example that follows a file as its spec says, with a
// policy and a retention, and kills its worker or its daemon at random moments while
// the file grows. Each line is committed once, in order.
func TestFollow_EachLineOnce(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(*followRounds+2)*30*time.Second)
	defer cancel()
	binary := filepath.Join(t.TempDir(), "follow")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "../examples/follow").CombinedOutput(); err != nil {
		t.Fatalf("build the spout: %v\n%s", err, out)
	}
	source, err := os.Create(filepath.Join(t.TempDir(), "source"))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	text, err := os.ReadFile("../examples/follow/pipeline.json")
	if err != nil {
		t.Fatal(err)
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		t.Fatal(err)
	}
	spec["transform"] = map[string]any{"cmd": []string{binary}, "env": map[string]string{"FILE": source.Name()}}
	if text, err = json.Marshal(spec); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := func() *proc { return startPachd(t, dir, "--initial-backoff", "50ms", "--max-backoff", "200ms") }
	p := run()
	pfs, pps, _ := dial(t, p.addr)
	if _, err := pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: string(text)}); err != nil {
		t.Fatal(err)
	}
	info, err := pps.InspectPipeline(ctx, &ppspb.InspectPipelineRequest{Pipeline: &ppspb.Pipeline{Name: "follow"}, Details: true})
	if err != nil {
		t.Fatal(err)
	}
	if s := info.Details.Spout; s.Commit.GetBytes() != 8<<20 || s.Retention.GetCommits() != 1000 || s.Retention.GetAge().GetSeconds() != 86400 {
		t.Errorf("the spec of the example became %v", s)
	}

	var want bytes.Buffer
	grow := func(lines int) {
		for range lines {
			line := fmt.Sprintf("%d %s\n", want.Len(), strings.Repeat("x", rand.IntN(100)))
			want.WriteString(line)
			if _, err := source.WriteString(line); err != nil {
				t.Fatal(err)
			}
		}
	}
	// caughtUp waits until so many bytes are committed.
	caughtUp := func(n int) {
		t.Helper()
		for {
			got, err := get(ctx, pfs, "follow", "/lines")
			if len(got) >= n {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("%d bytes of %d are committed: %v\n%s", len(got), n, err, p.log.String())
			}
			time.Sleep(10 * time.Millisecond) // paces the questions only
		}
	}
	for round := range *followRounds {
		grow(50)
		caughtUp(want.Len())
		grow(200)
		for range rand.IntN(20) {
			grow(20)
			time.Sleep(time.Millisecond) // paces the kill only; nothing depends on it
		}
		if round%2 == 0 {
			killed := 0
			for _, line := range marked(t, dir, p.cmd.Process.Pid) {
				pid, cmd, _ := strings.Cut(line, " ")
				if n, err := strconv.Atoi(pid); err == nil && strings.TrimSpace(cmd) == binary {
					if syscall.Kill(n, syscall.SIGKILL) == nil {
						killed++
					}
				}
			}
			t.Logf("round %d: %d workers killed", round, killed)
		} else {
			p.kill()
			grow(100)
			p = run()
			pfs, _, _ = dial(t, p.addr)
		}
	}
	grow(50)
	caughtUp(want.Len())
	got, err := get(ctx, pfs, "follow", "/lines")
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%d bytes are committed (%v), want these %d; they differ from %q on", len(got), err, want.Len(), firstDifference(got, want.Bytes()))
	}
	if cursor, err := get(ctx, pfs, "follow", "/.cursor/0"); err != nil || string(cursor) != strconv.Itoa(want.Len()) {
		t.Errorf("the cursor is %q, %v, want %d", cursor, err, want.Len())
	}
	checkFsck(ctx, t, pfs)
	if err := p.stop(); err != nil {
		t.Errorf("stop: %v\n%s", err, p.log.String())
	}
}

// firstDifference is the beginning of what a has where it is not as b.
func firstDifference(a, b []byte) []byte {
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	return a[i:min(len(a), i+60)]
}
