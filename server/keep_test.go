package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// confess is a spout that opens a commit, leaves half a file in it, and then tells
// its token and process id.
const confess = `pachctl start commit $PPS_PIPELINE_NAME@master && echo half | pachctl put file $PPS_PIPELINE_NAME@master:/half &&
	echo $PACH_TOKEN > $TOLD/token.new && echo $$ > $TOLD/pid && mv $TOLD/token.new $TOLD/token; sleep 100000 & wait`

// create makes a spout that runs a shell script.
func create(ctx context.Context, t *testing.T, pps ppspb.APIClient, name, spout, script, told string) {
	t.Helper()
	spec := fmt.Sprintf(`{"pipeline": {"name": %q}, "spout": %s, "transform": {"cmd": ["sh", "-c", %q], "env": {"TOLD": %q}}}`, name, spout, script, told)
	if _, err := pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: spec}); err != nil {
		t.Fatal(err)
	}
}

// told waits for a worker's token, and forgets what it told.
func told(ctx context.Context, t *testing.T, dir string) (token string, pid int) {
	t.Helper()
	for {
		data, err := os.ReadFile(filepath.Join(dir, "token"))
		if err == nil {
			text, err := os.ReadFile(filepath.Join(dir, "pid"))
			if err != nil {
				t.Fatal(err)
			}
			if pid, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(dir, "token")); err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(string(data)), pid
		}
		if ctx.Err() != nil {
			t.Fatal("the worker does not tell its token")
		}
		time.Sleep(5 * time.Millisecond) // paces the looks at a file
	}
}

// as sends a token with every call.
func as(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authn-token", token)
}

// TestFence_WhoWasGivenUpWritesNothing uses the token of a worker after its end, on
// its own and in a stream that began before.
func TestFence_WhoWasGivenUpWritesNothing(t *testing.T) {
	p := startPachd(t, t.TempDir(), "--initial-backoff", "50ms")
	ctx := within(t)
	pfs, pps, _ := dial(t, p.addr)
	dir := t.TempDir()
	create(ctx, t, pps, "s", `{}`, confess, dir)
	token, pid := told(ctx, t, dir)
	open, err := pfs.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: head("s")})
	if err != nil || open.Finishing != nil {
		t.Fatalf("the worker's commit: %v, %v", open, err)
	}
	stream, err := pfs.ModifyFile(as(ctx, token))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*pfspb.ModifyFileRequest{
		{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: &pfspb.Commit{Repo: repo("s"), Branch: &pfspb.Branch{Repo: repo("s"), Name: "other"}}}},
		{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{Path: "/x", Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes([]byte("x"))}}}},
	} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second, _ := told(ctx, t, dir)
	if second == token || token == "" {
		t.Fatalf("tokens %q and %q", token, second)
	}
	_, err = stream.CloseAndRecv()
	want := `worker 0 of pipeline "default/s", incarnation ` + strings.Split(token, ".")[3] +
		", may no longer write: it was given up; incarnation " + strings.Split(second, ".")[3] + " of version 1 is current"
	refused := func(what string, err error) {
		t.Helper()
		if st := status.Convert(err); st.Code() != codes.PermissionDenied || st.Message() != want {
			t.Errorf("%s: %v\nwant %s", what, err, want)
		}
	}
	refused("a stream that began before", err)
	_, err = pfs.StartCommit(as(ctx, token), &pfspb.StartCommitRequest{Branch: &pfspb.Branch{Repo: repo("s"), Name: "other"}})
	refused("start commit", err)
	_, err = pfs.CreateRepo(as(ctx, token), &pfspb.CreateRepoRequest{Repo: repo("r")})
	refused("create repo", err)
	_, err = pfs.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: open.Commit})
	if status.Code(err) != codes.NotFound {
		t.Errorf("what the first worker left open: %v", err)
	}
	if _, err := pfs.InspectRepo(as(ctx, token), &pfspb.InspectRepoRequest{Repo: repo("s")}); err != nil {
		t.Errorf("reading: %v", err)
	}
	for i, token := range []string{second, "", "something else"} {
		if _, err := pfs.CreateRepo(as(ctx, token), &pfspb.CreateRepoRequest{Repo: repo(fmt.Sprint("r", i))}); err != nil {
			t.Errorf("token %q: %v", token, err)
		}
	}
	// Stop and start: finished commits alone are left, without an error.
	if _, err := pps.StopPipeline(ctx, &ppspb.StopPipelineRequest{Pipeline: &ppspb.Pipeline{Name: "s"}}); err != nil {
		t.Fatal(err)
	}
	awaitPipeline(ctx, t, pps, "s", func(p *ppspb.PipelineInfo) bool {
		return p.GetState() == ppspb.PipelineState_PIPELINE_PAUSED && p.GetDetails().GetWorkersAvailable() == 0
	})
	commits, err := collect(pfs.ListCommit(ctx, &pfspb.ListCommitRequest{Repo: repo("s")}))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range commits {
		if c.Finished == nil || c.Error != "" || c.Details.GetSizeBytes() > 0 {
			t.Errorf("after the stop: %v", c)
		}
	}
	if _, err := pps.StartPipeline(ctx, &ppspb.StartPipelineRequest{Pipeline: &ppspb.Pipeline{Name: "s"}}); err != nil {
		t.Fatal(err)
	}
	third, _ := told(ctx, t, dir)
	checkFsck(ctx, t, pfs)
	// Whoever is deleted is refused at once.
	if _, err := pps.DeletePipeline(ctx, &ppspb.DeletePipelineRequest{Pipeline: &ppspb.Pipeline{Name: "s"}, KeepRepo: true}); err != nil {
		t.Fatal(err)
	}
	if err := put(as(ctx, third), pfs, "r0", "/x", nil); status.Code(err) != codes.PermissionDenied || !strings.HasSuffix(err.Error(), "and no incarnation is current") {
		t.Errorf("after the pipeline's end: %v", err)
	}
}

// TestUpdate_NewStartsWhenOldIsFenced updates a spout that takes its time to end.
func TestUpdate_NewStartsWhenOldIsFenced(t *testing.T) {
	p := startPachd(t, t.TempDir())
	ctx := within(t)
	pfs, pps, _ := dial(t, p.addr)
	dir := t.TempDir()
	slow := `trap "sleep 0.3; exit" TERM; ` + confess
	create(ctx, t, pps, "s", `{"grace_period": "20s"}`, slow, dir)
	first, pid := told(ctx, t, dir)
	spec := fmt.Sprintf(`{"pipeline": {"name": "s"}, "spout": {}, "transform": {"cmd": ["sh", "-c", %q], "env": {"TOLD": %q, "OLD": "%d"}}}`,
		`kill -0 $OLD && exit 1; `+confess, dir, pid)
	if _, err := pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: spec, Update: true}); err != nil {
		t.Fatal(err)
	}
	second, _ := told(ctx, t, dir)
	if _, err := pfs.CreateRepo(as(ctx, first), &pfspb.CreateRepoRequest{Repo: repo("r")}); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "of version 2 is current") {
		t.Errorf("the old version: %v", err)
	}
	if _, err := pfs.CreateRepo(as(ctx, second), &pfspb.CreateRepoRequest{Repo: repo("r")}); err != nil {
		t.Errorf("the new version: %v", err)
	}
	if info := awaitPipeline(ctx, t, pps, "s", func(p *ppspb.PipelineInfo) bool { return p.GetState() == ppspb.PipelineState_PIPELINE_RUNNING }); info.GetDetails().GetRestarts() != 0 {
		t.Errorf("the new version saw the old one: %v", info)
	}
}

// TestUpdate_FailingVersionLosesNothing has a version that leaves half a commit open and
// fails, over and over, between two that work.
func TestUpdate_FailingVersionLosesNothing(t *testing.T) {
	p := startPachd(t, t.TempDir(), "--initial-backoff", "50ms", "--max-backoff", "100ms")
	ctx := within(t)
	pfs, pps, _ := dial(t, p.addr)
	update := func(script string) {
		t.Helper()
		spec := fmt.Sprintf(`{"pipeline": {"name": "s"}, "spout": {}, "transform": {"cmd": ["sh", "-c", %q]}}`, script)
		if _, err := pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: spec, Update: true}); err != nil {
			t.Fatal(err)
		}
	}
	holds := func(want string) {
		t.Helper()
		for {
			data, err := get(ctx, pfs, "s", "/f")
			if err == nil && string(data) == want {
				return
			}
			if ctx.Err() != nil {
				t.Fatalf("/f is %q, %v; want %q", data, err, want)
			}
			time.Sleep(5 * time.Millisecond) // paces the questions
		}
	}
	const put = `pachctl put file -a s@master:/f; `
	update(`echo one | ` + put + `sleep 100000 & wait`)
	holds("one\n")
	update(`pachctl start commit s@master && echo half | ` + put + `exit 3`)
	info := awaitPipeline(ctx, t, pps, "s", func(p *ppspb.PipelineInfo) bool { return p.GetDetails().GetRestarts() > 2 })
	if info.GetDetails().GetLastExit().GetCode() != 3 || info.GetVersion() != 2 {
		t.Errorf("%v", info)
	}
	update(`echo three | ` + put + `sleep 100000 & wait`)
	holds("one\nthree\n")
	commits, err := collect(pfs.ListCommit(ctx, &pfspb.ListCommitRequest{Repo: repo("s"), All: true}))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range commits {
		if c.GetFinished() == nil {
			t.Errorf("%v is open", c)
		}
	}
	checkFsck(ctx, t, pfs)
}

// TestStop_SecondSignalEndsAll has a worker that ends for nobody, with an hour to do so.
func TestStop_SecondSignalEndsAll(t *testing.T) {
	p := startPachd(t, t.TempDir())
	ctx := within(t)
	_, pps, _ := dial(t, p.addr)
	dir := t.TempDir()
	create(ctx, t, pps, "s", `{"grace_period": "3600s"}`, `trap "touch $TOLD/asked" TERM; `+confess+`; while :; do sleep 1000; done`, dir)
	_, pid := told(ctx, t, dir)
	for {
		if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		for _, err := os.Stat(filepath.Join(dir, "asked")); err != nil && ctx.Err() == nil; _, err = os.Stat(filepath.Join(dir, "asked")) {
			time.Sleep(time.Millisecond) // paces the looks at a file
		}
		select {
		case <-p.done:
			for syscall.Kill(pid, 0) == nil && ctx.Err() == nil {
				time.Sleep(time.Millisecond) // paces the looks at a process
			}
			if ctx.Err() != nil {
				t.Error("the worker has outlived its daemon")
			}
			return
		case <-ctx.Done():
			t.Fatal("pachd waits for its worker")
		case <-time.After(50 * time.Millisecond): // paces the signals
		}
	}
}

// TestLiveness_HangingWorkersAreStartedAgain has a spout hang for each kind of check.
func TestLiveness_HangingWorkersAreStartedAgain(t *testing.T) {
	p := startPachd(t, t.TempDir(), "--initial-backoff", "50ms")
	ctx := within(t)
	_, pps, _ := dial(t, p.addr)
	port, external, internal := freePort(t), freePort(t), freePort(t)
	const quick = `"interval": "0.1s", "initial_delay": "0s"`
	for name, c := range map[string]struct{ liveness, reason string }{
		"tcp":  {fmt.Sprintf(`{"tcp": {"port": %d}, %s, "failure_threshold": 2}`, port, quick), fmt.Sprintf("TCP :%d: connect: connection refused (2 times in a row)", port)},
		"http": {fmt.Sprintf(`{"http": {"port": %d, "path": "/health"}, %s, "failure_threshold": 1}`, port, quick), fmt.Sprintf("GET :%d/health: connect: connection refused", port)},
		"told": {fmt.Sprintf(`{"tcp": {}, %s, "failure_threshold": 1}, "service": {"external_port": %d, "internal_port": %d}`, quick, external, internal), fmt.Sprintf("TCP :%d: connect: connection refused", internal)},
		"exec": {fmt.Sprintf(`{"exec": {"command": ["sh", "-c", "test $PPS_PIPELINE_NAME != exec"]}, %s, "failure_threshold": 1}`, quick), "exec sh -c test $PPS_PIPELINE_NAME != exec: exit status 1"},
		"late": {fmt.Sprintf(`{"exec": {"command": ["sleep", "100"]}, %s, "timeout": "0.2s", "failure_threshold": 1}`, quick), "exec sleep 100: nothing within 200ms"},
		"mute": {`{"commit_every": "0.5s", "interval": "0.1s", "initial_delay": "0s"}`, "no commit for 500ms"},
	} {
		create(ctx, t, pps, name, `{"grace_period": "5s", "liveness": `+c.liveness+`}`, "sleep 100000 & wait", "")
		t.Run(name, func(t *testing.T) {
			info := awaitPipeline(ctx, t, pps, name, func(p *ppspb.PipelineInfo) bool { return p.GetDetails().GetRestarts() > 0 })
			d := info.GetDetails()
			if d.GetLastExit().GetReason() != c.reason || !strings.HasPrefix(d.GetRecentError(), c.reason) || d.GetLastExit().GetSignal() != "SIGTERM" || d.LastCommit != nil {
				t.Errorf("last exit %v, recent error %q", d.GetLastExit(), d.GetRecentError())
			}
			if d.GetSpout().GetLiveness().GetCheck() == nil || d.GetSpout().GetGracePeriod().AsDuration() != 5*time.Second {
				t.Errorf("the spec is shown as %v", d.GetSpout())
			}
		})
	}
}

// TestLiveness_WorkersThatCommitAreLeftAlone runs a spout that has to commit, and does.
func TestLiveness_WorkersThatCommitAreLeftAlone(t *testing.T) {
	p := startPachd(t, t.TempDir())
	ctx := within(t)
	pfs, pps, _ := dial(t, p.addr)
	create(ctx, t, pps, "busy", `{"liveness": {"commit_every": "5s", "interval": "0.1s", "initial_delay": "0s"}}`,
		"for i in 1 2 3 4 5; do echo $i | pachctl put file -a busy@master:/n; done; sleep 100000 & wait", "")
	stream, err := pfs.SubscribeCommit(ctx, &pfspb.SubscribeCommitRequest{Repo: repo("busy"), Branch: "master", State: pfspb.CommitState_FINISHED})
	if err != nil {
		t.Fatal(err)
	}
	for range 6 { // and the empty one
		if _, err := stream.Recv(); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	info := awaitPipeline(ctx, t, pps, "busy", func(p *ppspb.PipelineInfo) bool { return p.GetDetails().LastCommit != nil })
	if d := info.GetDetails(); d.GetRestarts() != 0 || info.GetState() != ppspb.PipelineState_PIPELINE_RUNNING {
		t.Errorf("%v", info)
	}
}
