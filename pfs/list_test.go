package pfs

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

func TestListCommit(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r", "s")
	var a []string // commits of r@a, oldest first
	var every []string
	for i := range 10 {
		a = append(a, m.commit("r@a").Id)
		every = append(every, a[i], m.commit("s@x").Id, m.commit("r@b").Id)
	}
	newest := func(ids []string) []string { r := slices.Clone(ids); slices.Reverse(r); return r }
	var r []string
	for i, id := range every {
		if i%3 != 1 {
			r = append(r, id)
		}
	}
	fifth := m.inspect(commitOf("r@" + a[5])).Started
	for _, tc := range []struct {
		name string
		req  *pfspb.ListCommitRequest
		want []string
	}{
		{"all repos", &pfspb.ListCommitRequest{}, newest(every)},
		{"all repos reversed", &pfspb.ListCommitRequest{Reverse: true}, every},
		{"repo", &pfspb.ListCommitRequest{Repo: repoOf("r")}, newest(r)},
		{"number", &pfspb.ListCommitRequest{Repo: repoOf("r"), Number: 3}, newest(r)[:3]},
		{"number reversed", &pfspb.ListCommitRequest{Repo: repoOf("r"), Number: 3, Reverse: true}, r[:3]},
		{"to", &pfspb.ListCommitRequest{Repo: repoOf("r"), To: commitOf("r@a")}, newest(a)},
		{"to, number", &pfspb.ListCommitRequest{Repo: repoOf("r"), To: commitOf("r@a^"), Number: 2}, newest(a)[1:3]},
		{"from and to", &pfspb.ListCommitRequest{Repo: repoOf("r"), From: commitOf("r@" + a[2]), To: commitOf("r@a^")}, newest(a[3:9])},
		{"from is to", &pfspb.ListCommitRequest{Repo: repoOf("r"), From: commitOf("r@a"), To: commitOf("r@a")}, []string{}},
		{"from elsewhere", &pfspb.ListCommitRequest{Repo: repoOf("r"), From: commitOf("r@b"), To: commitOf("r@a")}, newest(a)},
		{"started before", &pfspb.ListCommitRequest{Repo: repoOf("r"), StartedTime: fifth}, newest(r[:10])},
		{"started after", &pfspb.ListCommitRequest{Repo: repoOf("r"), StartedTime: fifth, Reverse: true}, r[11:]},
		{"line started before", &pfspb.ListCommitRequest{Repo: repoOf("r"), To: commitOf("r@a"), StartedTime: fifth}, newest(a[:5])},
		{"started in the future", &pfspb.ListCommitRequest{Repo: repoOf("r"), StartedTime: timestamppb.New(time.Now().Add(time.Hour)), Reverse: true}, []string{}},
		{"origin", &pfspb.ListCommitRequest{Repo: repoOf("r"), OriginKind: pfspb.OriginKind_AUTO}, []string{}},
		{"any origin", &pfspb.ListCommitRequest{Repo: repoOf("r"), OriginKind: pfspb.OriginKind_AUTO, All: true}, newest(r)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			infos, err := all(m.ListCommit(ctx, tc.req))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, ids(infos)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestListCommitSet(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.must(m.CreateProject(ctx, &pfspb.CreateProjectRequest{Project: &pfspb.Project{Name: "p"}}))
	m.repo("a", "b", "p/c")
	m.branch("b@master", "a@master")
	first := m.inspectBranch("a@master").Head.Id
	c := m.commit("p/c@master").Id
	both := m.commit("a@master").Id
	for project, want := range map[string][]string{"": {both, c, first}, "p": {c}, "default": {both, first}} {
		infos, err := all(m.ListCommitSet(ctx, &pfspb.ListCommitSetRequest{Project: &pfspb.Project{Name: project}}))
		m.must(infos, err)
		var got []string
		for _, info := range infos {
			got = append(got, info.CommitSet.Id)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("project %q (-want +got):\n%s", project, diff)
		}
		if project == "" && len(infos[0].Commits) != 2 {
			t.Errorf("commits of a set: %v", infos[0].Commits)
		}
	}
}

// TestCursor reads commits whose starts lie as they like: bunched, years apart
// and in the future.
func TestCursor(t *testing.T) {
	m := newMeta(t)
	repo := NormalizeRepo(repoOf("r"))
	rng := rand.New(rand.NewPCG(1, 2))
	now := time.Now().UnixNano()
	seen := map[int64]bool{}
	var orders []string
	add := func(ns int64) {
		if ns >= 0 && !seen[ns] {
			seen[ns] = true
			orders = append(orders, orderOf(time.Unix(0, ns), fmt.Sprintf("%08x", rng.Uint32())))
		}
	}
	for range 700 {
		add(now - rng.Int64N(1000)) // a microsecond with hundreds of them
	}
	for range 300 {
		add(now - rng.Int64N(int64(time.Hour)))
		add(rng.Int64N(now))
		add(now + rng.Int64N(int64(time.Hour)))
	}
	add(0)
	slices.Sort(orders)
	for page := range slices.Chunk(orders, 500) {
		m.must(nil, m.svc.Update(limit(t), func(tx *Txn) error {
			for _, order := range page {
				rec := &recordpb.CommitRecord{Order: order, Info: &pfspb.CommitInfo{Commit: &pfspb.Commit{Repo: repo, Id: order}}}
				if err := tx.putCommit(rec); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	read := func(c *cursor) (got []string) {
		for end := false; !end; {
			m.must(nil, m.svc.View(limit(t), func(tx *Txn) error {
				for range 97 {
					rec, err := c.next(tx)
					if err != nil {
						return err
					}
					if end = rec == nil; end {
						break
					}
					got = append(got, rec.Order)
				}
				return nil
			}))
		}
		return got
	}
	back := slices.Clone(orders)
	slices.Reverse(back)
	for _, few := range []int{1, 7, cursorPage} {
		if diff := cmp.Diff(orders, read(newCursor(repo, true, "", few))); diff != "" {
			t.Errorf("forward by %d (-want +got):\n%s", few, diff)
		}
		if diff := cmp.Diff(back, read(newCursor(repo, false, "", few))); diff != "" {
			t.Errorf("back by %d (-want +got):\n%s", few, diff)
		}
	}
	middle := orders[len(orders)/2]
	if diff := cmp.Diff(orders[len(orders)/2:], read(newCursor(repo, true, middle, 10))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(back[len(orders)-len(orders)/2:], read(newCursor(repo, false, middle, 10))); diff != "" {
		t.Error(diff)
	}
	if got := read(newCursor(NormalizeRepo(repoOf("empty")), false, "", 5)); len(got) != 0 {
		t.Errorf("an empty repo has %v", got)
	}
}

// BenchmarkListCommit lists the newest ten of many commits.
func BenchmarkListCommit(b *testing.B) {
	for _, n := range []int{100, 20000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m, stop := openService(b, b.TempDir())
			defer stop()
			repo := NormalizeRepo(repoOf("r"))
			if _, err := m.CreateRepo(b.Context(), &pfspb.CreateRepoRequest{Repo: repo}); err != nil {
				b.Fatal(err)
			}
			now := time.Now().UnixNano()
			for i := 0; i < n; i += 500 {
				err := m.Update(b.Context(), func(tx *Txn) error {
					for j := i; j < min(n, i+500); j++ {
						id := strings.Repeat(fmt.Sprintf("%08x", j), 4)
						order := orderOf(time.Unix(0, now-int64(n-j)*int64(time.Second)), id)
						rec := &recordpb.CommitRecord{Order: order, Info: &pfspb.CommitInfo{Commit: &pfspb.Commit{Repo: repo, Id: id}}}
						if err := tx.putCommit(rec); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				c := newCursor(repo, false, "", 10)
				err := m.View(b.Context(), func(tx *Txn) error {
					for range 10 {
						if _, err := c.next(tx); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
