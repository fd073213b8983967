package server_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// lineOf gives the ids of the commits of master, newest first.
func lineOf(ctx context.Context, t *testing.T, pfs pfspb.APIClient, name string) []string {
	t.Helper()
	infos, err := collect(pfs.ListCommit(ctx, &pfspb.ListCommitRequest{Repo: repo(name), To: head(name)}))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, info := range infos {
		ids = append(ids, info.Commit.Id)
	}
	return ids
}

// putMany makes n commits, some clients at a time.
func putMany(ctx context.Context, t *testing.T, pfs pfspb.APIClient, name string, n int) {
	t.Helper()
	const clients = 16
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := c; i < n; i += clients {
				if err := put(ctx, pfs, name, "/log", fmt.Appendf(nil, "%06d\n", i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestRetention_GoesOnWhenADaemonIsKilled in the middle of it: another one takes over,
// the newest commits are those that stay, and the branch holds what it held.
func TestRetention_GoesOnWhenADaemonIsKilled(t *testing.T) {
	t.Parallel()
	const keep, commits = 40, 1500
	ctx := within(t)
	etcd, addr := startEtcd(t, filepath.Join(t.TempDir(), "etcd"), "")
	t.Cleanup(etcd.Close)
	shared := t.TempDir()
	run := func() *proc {
		return startPachd(t, t.TempDir(), "--etcd-endpoints", addr, "--bucket", "file://"+shared+"/bucket", "--lease-ttl", "2s")
	}
	one := run()
	pfs, pps, _ := dial(t, one.addr)
	spec := func(retention string) string {
		return fmt.Sprintf(`{"pipeline": {"name": "s"}, "spout": {%s}, "transform": {"cmd": ["sleep", "1000"]}}`, retention)
	}
	create := func(retention string, update bool) {
		t.Helper()
		_, err := pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: spec(retention), Update: update})
		if err != nil {
			t.Fatal(err)
		}
	}
	create("", false)
	putMany(ctx, t, pfs, "s", commits)
	before := lineOf(ctx, t, pfs, "s")
	content, err := get(ctx, pfs, "s", "/log")
	if err != nil {
		t.Fatal(err)
	}
	two := run() // which has the pipeline when one is gone
	middle := &pfspb.Commit{Repo: repo("s"), Id: before[keep+200]}
	create(fmt.Sprintf(`"retention": {"commits": %d}`, keep), true)
	if _, err := pfs.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: middle}); err != nil {
		t.Logf("it was fast: %v", err)
	}
	for {
		_, err := pfs.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: middle})
		if status.Code(err) == codes.NotFound {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // paces the questions only
	}
	one.kill()
	pfs, pps, _ = dial(t, two.addr)
	left := lineOf(ctx, t, pfs, "s")
	t.Logf("killed with %d of %d commits left", len(left), len(before))
	const own = 1 // the first, in one set with the spec's
	for len(left) > keep+own {
		time.Sleep(50 * time.Millisecond) // paces the questions only
		left = lineOf(ctx, t, pfs, "s")
	}
	if !slices.Equal(left[:keep], before[:keep]) {
		t.Errorf("there are\n%q, want\n%q", left[:keep], before[:keep])
	}
	if now, err := get(ctx, pfs, "s", "/log"); err != nil || string(now) != string(content) {
		t.Errorf("the branch holds %d bytes, %v; it held %d", len(now), err, len(content))
	}
	putMany(ctx, t, pfs, "s", 300)
	newest := lineOf(ctx, t, pfs, "s")[:keep]
	for left = newest; len(left) > keep+own || !slices.Equal(left[:keep], newest); {
		time.Sleep(50 * time.Millisecond)
		left = lineOf(ctx, t, pfs, "s")
	}
	checkFsck(ctx, t, pfs)
	if err := two.stop(); err != nil {
		t.Errorf("stop: %v\n%s", err, two.log.String())
	}
}
