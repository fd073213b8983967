package server_test

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

var retentionCommits = flag.Int("retention.commits", 0, "how many commits the measurement of spout.retention lets go; 0 leaves it out")

// TestScale_RetentionBesideWriters measures how long it takes to let old commits go,
// and what writers feel of it: one on the branch itself, one in another repo.
func TestScale_RetentionBesideWriters(t *testing.T) {
	if *retentionCommits == 0 {
		t.Skip("without -retention.commits")
	}
	const keep = 100
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	p := startPachd(t, t.TempDir())
	pfs, pps, _ := dial(t, p.addr)
	create := func(retention string, update bool) {
		t.Helper()
		spec := fmt.Sprintf(`{"pipeline": {"name": "s"}, "spout": {%s}, "transform": {"cmd": ["sleep", "100000"]}}`, retention)
		if _, err := pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: spec, Update: update}); err != nil {
			t.Fatal(err)
		}
	}
	create("", false)
	if _, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("other")}); err != nil {
		t.Fatal(err)
	}
	putMany(ctx, t, pfs, "s", *retentionCommits+keep)
	line := lineOf(ctx, t, pfs, "s")
	oldest := &pfspb.Commit{Repo: repo("s"), Id: line[len(line)-2]} // but for the one of the spec's set
	// commit makes commits, in turn in both repos, until done says so.
	commit := func(what string, done func() bool) {
		t.Helper()
		took := map[string][]time.Duration{}
		for i := 0; !done(); i++ {
			for _, name := range []string{"s", "other"} {
				began := time.Now()
				if err := put(ctx, pfs, name, fmt.Sprintf("/w/%d", i%100), []byte("x")); err != nil {
					t.Fatal(err)
				}
				took[name] = append(took[name], time.Since(began))
			}
		}
		for name, all := range took {
			slices.Sort(all)
			t.Logf("%s, commits to %s: %d, p50 %v, p99 %v, longest %v", what, name, len(all), all[len(all)/2], all[len(all)*99/100], all[len(all)-1])
		}
	}
	until := time.Now().Add(10 * time.Second)
	commit("without", func() bool { return time.Now().After(until) })
	create(fmt.Sprintf(`"retention": {"commits": %d}`, keep), true)
	began := time.Now()
	commit("while they go", func() bool {
		_, err := pfs.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: oldest})
		if err != nil && status.Code(err) != codes.NotFound {
			t.Fatal(err)
		}
		return err != nil
	})
	t.Logf("%d commits have gone after %v", *retentionCommits, time.Since(began))
	until = time.Now().Add(10 * time.Second)
	commit("afterwards", func() bool { return time.Now().After(until) })
	checkFsck(ctx, t, pfs)
}
