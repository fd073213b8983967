package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// printed is a line of the spout of this file: who ran it, and its number.
type printed struct {
	at string
	n  int
}

func printedBy(m *ppspb.LogMessage) (p printed, ok bool) {
	n, err := fmt.Sscanf(m.GetMessage(), "grpc://%s %d", &p.at, &p.n)
	return p, n == 2 && err == nil
}

// TestLogs_AnyDaemonAnswers asks daemons for the log of a spout that another one runs, or
// has run: while that lives, over a handover, and after its death.
func TestLogs_AnyDaemonAnswers(t *testing.T) {
	t.Parallel() // it waits most of the time
	ctx := within(t)
	etcd, addr := startEtcd(t, filepath.Join(t.TempDir(), "etcd"), "")
	t.Cleanup(etcd.Close) // after the daemons' end
	shared := t.TempDir()
	dirs := map[*proc]string{}
	run := func(dir string) *proc {
		p := startPachd(t, dir, "--etcd-endpoints", addr, "--bucket", "file://"+shared+"/bucket", "--lease-ttl", "2s")
		dirs[p] = dir
		return p
	}
	daemons := []*proc{run(t.TempDir()), run(t.TempDir())}
	_, pps, _ := dial(t, daemons[0].addr)
	service := freePort(t)
	spec := fmt.Sprintf(`{"pipeline": {"name": "s"}, "spout": {"service": {"internal_port": %d, "external_port": %d}}, "transform": {"cmd": ["sh"], "stdin": [
	  "n=0; while :; do n=$((n+1)); echo \"$PACHD_ADDRESS $n\"; sleep 0.02; done"]}}`, freePort(t), service)
	if _, err := pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: spec}); err != nil {
		t.Fatal(err)
	}
	logs := func(p *proc, follow bool, tail int64) ppspb.API_GetLogsClient {
		_, pps, _ := dial(t, p.addr)
		stream, err := pps.GetLogs(ctx, &ppspb.GetLogsRequest{Pipeline: &ppspb.Pipeline{Name: "s"}, Follow: follow, Tail: tail})
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	next := func(s ppspb.API_GetLogsClient) *ppspb.LogMessage {
		t.Helper()
		m, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	nextPrinted := func(s ppspb.API_GetLogsClient) printed {
		t.Helper()
		for {
			if p, ok := printedBy(next(s)); ok {
				return p
			}
		}
	}
	followers := []ppspb.API_GetLogsClient{logs(daemons[0], true, 0), logs(daemons[1], true, 0)}
	var first []printed
	for _, f := range followers {
		for n := 1; n <= 20; n++ {
			p := nextPrinted(f)
			if p.n != n {
				t.Fatalf("line %v, want number %d", p, n)
			}
			first = append(first, p)
		}
	}
	owner, other := daemons[0], daemons[1]
	follower := followers[1]
	if first[0].at != owner.addr {
		owner, other = other, owner
		follower = followers[0]
	}
	if first[0].at != owner.addr || first[20].at != owner.addr {
		t.Fatalf("run at %v, %v; the daemons are %v, %v", first[0], first[20], owner.addr, other.addr)
	}
	info, err := pps.InspectPipeline(ctx, &ppspb.InspectPipelineRequest{Pipeline: &ppspb.Pipeline{Name: "s"}, Details: true})
	if ip := info.GetDetails().GetSpout().GetService().GetIp(); err != nil || ip != "127.0.0.1" {
		t.Errorf("the service is at %q, %v", ip, err)
	}
	lastThree := func(p *proc, at string) {
		t.Helper()
		all, err := collect(logs(p, false, 3), nil)
		if err != nil {
			t.Fatal(err)
		}
		all = slices.DeleteFunc(all, func(m *ppspb.LogMessage) bool { return m.GetWorkerId() == "" }) // pachd's own
		var seen []printed
		for _, m := range all {
			p, _ := printedBy(m)
			seen = append(seen, p)
		}
		if n := seen[0].n; !slices.Equal(seen, []printed{{at, n}, {at, n + 1}, {at, n + 2}}) {
			t.Errorf("the last three lines: %v", all)
		}
	}
	lastThree(owner, owner.addr)
	lastThree(other, owner.addr)

	// A handover: the follower goes on with what the new one prints.
	if err := owner.stop(); err != nil {
		t.Fatal(err)
	}
	said := false
	for last := first[len(first)-1]; last.at == owner.addr || !said; {
		m := next(follower)
		said = said || m.GetUser() && strings.Contains(m.GetMessage(), owner.addr+" ") && strings.Contains(m.GetMessage(), "missing")
		if p, ok := printedBy(m); ok {
			if p.at == last.at && p.n != last.n+1 || p.at != last.at && p.n != 1 {
				t.Fatalf("%v after %v", p, last)
			}
			last = p
		}
	}
	past := func(p *proc) (seen []printed, notes []string) {
		t.Helper()
		all, err := collect(logs(p, false, 0), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if p, ok := printedBy(m); ok {
				seen = append(seen, p)
			} else if m.GetUser() {
				notes = append(notes, m.GetMessage())
			}
		}
		return seen, notes
	}
	if seen, notes := past(other); len(seen) == 0 || seen[0].at != other.addr || len(notes) != 1 || !strings.Contains(notes[0], owner.addr) {
		t.Errorf("while the first one is gone: %v, %q", seen, notes)
	}

	// When it is back, at another port, both know all lines.
	back := run(dirs[owner])
	for _, p := range []*proc{back, other} {
		seen, notes := past(p)
		moved := 0
		for i, now := range seen {
			want := printed{owner.addr, 1}
			if i > 0 {
				want = printed{seen[i-1].at, seen[i-1].n + 1}
			}
			if i > 0 && now.at != want.at {
				moved++
				want = printed{other.addr, 1}
			}
			if now != want {
				t.Fatalf("at %s: line %d is %v, want %v", p.addr, i, now, want)
			}
		}
		if moved != 1 || len(notes) != 0 {
			t.Errorf("at %s: %d lines, of %d daemons; said: %q", p.addr, len(seen), moved+1, notes)
		}
		lastThree(p, other.addr)
	}

	// The end of the pipeline ends those who follow, and no log is left anywhere.
	back.kill()
	if _, err := dialPPS(t, other).DeletePipeline(ctx, &ppspb.DeletePipelineRequest{Pipeline: &ppspb.Pipeline{Name: "s"}}); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := follower.Recv(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the follower of a deleted pipeline: %v", err)
		}
	}
	back = run(dirs[owner])
	for p, dir := range map[*proc]string{other: dirs[other], back: dirs[owner]} {
		awaitNone(ctx, t, filepath.Join(dir, "logs", "default", "s"))
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	}
}

// TestLogs_DaemonsKnowEachOther has two daemons ask each other over TLS, though none has
// the other's CA, and with the tokens of those who ask.
func TestLogs_DaemonsKnowEachOther(t *testing.T) {
	t.Parallel() // it waits most of the time
	ctx := within(t)
	etcd, addr := startEtcd(t, filepath.Join(t.TempDir(), "etcd"), "")
	t.Cleanup(etcd.Close) // after the daemons' end
	bucket := "file://" + t.TempDir() + "/bucket"
	var all []ppspb.APIClient
	var auth authpb.APIClient
	for range 2 {
		dir := t.TempDir()
		p := startPachd(t, dir, "--etcd-endpoints", addr, "--bucket", bucket, "--tls-auto")
		conn := dialTLS(t, p.addr, trusting(t, filepath.Join(dir, "tls", "ca.pem")))
		all, auth = append(all, ppspb.NewAPIClient(conn)), authpb.NewAPIClient(conn)
	}
	on, err := auth.Activate(ctx, &authpb.ActivateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	robot, err := auth.GetRobotToken(withToken(ctx, on.GetPachToken()), &authpb.GetRobotTokenRequest{Robot: "r"})
	if err != nil {
		t.Fatal(err)
	}
	root := withToken(ctx, on.GetPachToken())
	if _, err := all[0].CreatePipelineV2(root, &ppspb.CreatePipelineV2Request{
		CreatePipelineRequestJson: `{"pipeline": {"name": "s"}, "spout": {}, "transform": {"cmd": ["sh", "-c", "echo hello; exec sleep 1000"]}}`,
	}); err != nil {
		t.Fatal(err)
	}
	req := &ppspb.GetLogsRequest{Pipeline: &ppspb.Pipeline{Name: "s"}, Follow: true}
	for _, pps := range all {
		stream, err := pps.GetLogs(root, req)
		for err == nil {
			var m *ppspb.LogMessage
			if m, err = stream.Recv(); err == nil && m.GetUser() {
				if m.GetMessage() != "hello" {
					t.Errorf("line %q", m.GetMessage())
				}
				break
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := collect(pps.GetLogs(withToken(ctx, robot.GetToken()), req)); status.Code(err) != codes.PermissionDenied {
			t.Errorf("a caller who may not read: %v", err)
		}
		// Somebody who pretends to be a daemon is asked for permission too.
		asked := metadata.AppendToOutgoingContext(withToken(ctx, robot.GetToken()), "pachd-peer", "x")
		if _, err := collect(pps.GetLogs(asked, req)); status.Code(err) != codes.PermissionDenied {
			t.Errorf("a caller who may not read and names a daemon: %v", err)
		}
	}
}

func dialPPS(t *testing.T, p *proc) ppspb.APIClient {
	_, pps, _ := dial(t, p.addr)
	return pps
}

// awaitNone returns once there is no such file.
func awaitNone(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	for ctx.Err() == nil {
		if _, err := os.Stat(name); errors.Is(err, os.ErrNotExist) {
			return
		}
		time.Sleep(10 * time.Millisecond) // paces the questions only
	}
	t.Errorf("%s is still there", name)
}
