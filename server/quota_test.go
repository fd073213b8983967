package server_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminpb "github.com/minipachd/minipachd/proto/admin_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// fillEtcd commits with several clients until all of them are refused, and returns the
// paths of the files that were acknowledged. Each file stays in etcd.
func fillEtcd(ctx context.Context, t *testing.T, pfs pfspb.APIClient) []string {
	t.Helper()
	var mu sync.Mutex
	var acked []string
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			data := noise(20 << 10)
			for i := 0; ; i++ {
				path := fmt.Sprintf("/w%d/%d", w, i)
				err := put(ctx, pfs, "r", path, data)
				if err != nil {
					wantStatus(t, "a put when etcd is full", err, codes.ResourceExhausted, "takes no more data: delete repos or squash old commits")
					return
				}
				mu.Lock()
				acked = append(acked, path)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return acked
}

// wantFiles fails the test unless the head of the repo has exactly these files, and
// the repo as many commits.
func wantFiles(ctx context.Context, t *testing.T, pfs pfspb.APIClient, paths []string, commits int) {
	t.Helper()
	var got []string
	infos, err := collect(pfs.GlobFile(ctx, &pfspb.GlobFileRequest{Commit: head("r"), Pattern: "/*/*"}))
	for _, f := range infos {
		got = append(got, f.File.Path)
	}
	want := slices.Sorted(slices.Values(paths))
	if slices.Sort(got); err != nil || !slices.Equal(got, want) {
		t.Errorf("the head has %d files, %v; want the %d that were acknowledged", len(got), err, len(want))
	}
	list, err := collect(pfs.ListCommit(ctx, &pfspb.ListCommitRequest{Repo: repo("r")}))
	if err != nil || len(list) != commits {
		t.Errorf("the repo has %d commits, %v; want %d", len(list), err, commits)
	}
}

// fullEtcd takes a daemon whose etcd is full through what is left to do then: nothing
// acknowledged is lost, nothing half there, and what frees space works.
func fullEtcd(ctx context.Context, t *testing.T, p *proc, acked []string, makeRoom func()) {
	t.Helper()
	pfs, _, conn := dial(t, p.addr)
	wantFiles(ctx, t, pfs, acked, len(acked))
	_, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("more")})
	wantStatus(t, "a repo when etcd is full", err, codes.ResourceExhausted, "etcd nears its quota (")
	_, err = pfs.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: head("r").Branch})
	wantStatus(t, "a commit when etcd is full", err, codes.ResourceExhausted, "etcd nears its quota (")
	info, err := adminpb.NewAPIClient(conn).InspectCluster(ctx, &adminpb.InspectClusterRequest{})
	if err != nil || !slices.ContainsFunc(info.Warnings, func(w string) bool { return strings.Contains(w, "takes no more data") }) {
		t.Errorf("the cluster's warnings are %q, %v; want one of the quota", info.GetWarnings(), err)
	}
	if !strings.Contains(p.log.String(), "WRITES ARE REFUSED: ") {
		t.Error("the log does not say that writes are refused")
	}

	commits, err := collect(pfs.ListCommit(ctx, &pfspb.ListCommitRequest{Repo: repo("r")}))
	if err != nil {
		t.Fatal(err)
	}
	gone := commits[1:min(21, len(commits))] // newest first: not the head
	for _, c := range gone {
		if _, err := pfs.SquashCommitSet(ctx, &pfspb.SquashCommitSetRequest{CommitSet: &pfspb.CommitSet{Id: c.Commit.Id}}); err != nil {
			t.Fatalf("squash when etcd is full: %v", err)
		}
	}
	wantFiles(ctx, t, pfs, acked, len(acked)-len(gone))
	if _, err := pfs.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repo("r")}); err != nil {
		t.Fatalf("delete a repo when etcd is full: %v", err)
	}
	for {
		makeRoom()
		_, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("r")})
		if err == nil {
			break
		}
		wantStatus(t, "a repo before there is room", err, codes.ResourceExhausted, "quota")
		select {
		case <-ctx.Done():
			t.Fatalf("no room was made: %v", err)
		case <-time.After(50 * time.Millisecond): // paces the tries only
		}
	}
	for {
		err := put(ctx, pfs, "r", "/w0/again", noise(1000))
		if err == nil {
			break
		}
		if status.Code(err) != codes.ResourceExhausted {
			t.Fatal(err)
		}
	}
	wantFiles(ctx, t, pfs, []string{"/w0/again"}, 1)
	checkFsck(ctx, t, pfs)
}

// TestQuota_EmbeddedEtcd fills the embedded etcd, kills the daemon in that state, and
// frees space.
func TestQuota_EmbeddedEtcd(t *testing.T) {
	dir := t.TempDir()
	args := []string{"--etcd-quota", "56MiB", "--gc-interval", "1s", "--gc-grace", "0"}
	p := startPachd(t, dir, args...)
	ctx := within(t)
	pfs, _, _ := dial(t, p.addr)
	if _, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("r")}); err != nil {
		t.Fatal(err)
	}
	acked := fillEtcd(ctx, t, pfs)
	t.Logf("full after %d commits", len(acked))
	p.kill()
	p = startPachd(t, dir, args...)
	fullEtcd(ctx, t, p, acked, func() {})
}

// TestQuota_RemoteEtcd fills an etcd that is not the daemon's own, and does what its
// operator has to.
func TestQuota_RemoteEtcd(t *testing.T) {
	etcd, addr := startEtcd(t, filepath.Join(t.TempDir(), "etcd"), "", func(c *embed.Config) { c.QuotaBackendBytes = 56 << 20 })
	t.Cleanup(func() { etcd.Close() }) // after the daemon's end
	p := startPachd(t, t.TempDir(), "--etcd-endpoints", addr, "--gc-interval", "1s", "--gc-grace", "0")
	ctx := within(t)
	pfs, _, _ := dial(t, p.addr)
	if _, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("r")}); err != nil {
		t.Fatal(err)
	}
	acked := fillEtcd(ctx, t, pfs)
	t.Logf("full after %d commits", len(acked))
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	fullEtcd(ctx, t, p, acked, func() {
		now, err := client.Get(ctx, "x")
		if err == nil {
			_, err = client.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
		}
		if errors.Is(err, rpctypes.ErrCompacted) { // by the time before: nothing has changed since
			err = nil
		}
		if err == nil {
			_, err = client.Defragment(ctx, addr)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}
