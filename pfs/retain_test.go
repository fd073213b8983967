package pfs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	"github.com/minipachd/minipachd/clock/clocktest"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	"github.com/minipachd/minipachd/store"
)

// agree lets a Retainer write.
func agree(*store.Txn) error { return nil }

// retain lets a Retainer work until it has nothing more to do for now.
func (m *metaServer) retain(r *Retainer, guard func(*store.Txn) error) {
	m.t.Helper()
	for more := true; more; {
		_, err := r.Step(limit(m.t), guard)
		m.must(nil, err)
		more = r.pass != nil
	}
}

// small is a Retainer for which a few commits are many.
func (m *metaServer) small(name string, keep Retention) *Retainer {
	r := m.svc.Retainer(branchOf(name), keep)
	r.page, r.batch, r.markEvery = 5, 2, 2
	return r
}

// puts makes n commits on a branch, the i-th of which adds the file /i.
func (m *metaServer) puts(name string, n int) (made []string) {
	m.t.Helper()
	for i := range n {
		made = append(made, m.put(name, fmt.Sprintf("/%02d", i), "x").Id)
	}
	return made
}

func (m *metaServer) wantList(name string, want []string) {
	m.t.Helper()
	if got := m.list(name); !slices.Equal(got, want) {
		m.t.Errorf("the line of %s is\n%q, want\n%q", name, got, want)
	}
}

func TestRetain_KeepsTheNewest(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	ids := m.puts("r@master", 30)
	content := m.files(commitOf("r@master"))
	r := m.small("r@master", Retention{Commits: 7})
	m.retain(r, agree)
	m.wantList("r@master", ids[23:])
	m.retain(r, agree)
	m.wantList("r@master", ids[23:])
	m.wantFiles("r@master", content)
	// With what it remembers, and without.
	for range 9 {
		ids = append(ids, m.puts("r@master", 3)...)
		m.retain(r, agree)
		m.wantList("r@master", ids[len(ids)-7:])
	}
	m.retain(m.svc.Retainer(branchOf("r@master"), Retention{Commits: 5}), agree)
	m.wantList("r@master", ids[len(ids)-5:])
	m.retain(r, agree)
	m.wantList("r@master", ids[len(ids)-5:])
	m.sound()
}

func TestRetain_Age(t *testing.T) {
	clock := clocktest.New(time.Now())
	m, _ := startMeta(t, t.TempDir(), withClock(clock))
	m.repo("r")
	ids := m.puts("r@master", 10)
	both, old := m.small("r@master", Retention{Commits: 4, Age: time.Hour}), m.small("r@master", Retention{Age: time.Hour})
	m.retain(both, agree)
	m.wantList("r@master", ids)
	clock.Advance(time.Hour - time.Minute)
	m.retain(both, agree)
	m.wantList("r@master", ids)
	clock.Advance(2 * time.Minute)
	m.retain(both, agree)
	m.wantList("r@master", ids[6:])
	m.retain(old, agree) // the head stays
	m.wantList("r@master", ids[9:])
	m.sound()
}

// TestRetain_OpenCommits neither go nor count.
func TestRetain_OpenCommits(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	ids := m.puts("r@master", 6)
	open := m.start("r@master")
	r := m.small("r@master", Retention{Commits: 2})
	m.retain(r, agree)
	m.wantList("r@master", append(ids[4:], open.Id))
	m.finish(open)
	m.retain(r, agree)
	m.wantList("r@master", []string{ids[5], open.Id})
}

// TestRetain_LeavesWhatSquashRefuses, says so once, and takes it when it is free.
func TestRetain_LeavesWhatSquashRefuses(t *testing.T) {
	clock := clocktest.New(time.Now())
	core, logs := observer.New(zap.InfoLevel)
	m, _ := startMeta(t, t.TempDir(), withClock(clock), func(c *Config) { c.Logger = zap.New(core) })
	m.repo("r", "s")
	ids := m.puts("r@master", 20)
	at := func(i int) *pfspb.Commit { return commitOf("r@" + ids[i]) }
	m.must(m.CreateBranch(limit(t), &pfspb.CreateBranchRequest{Branch: branchOf("r@tag"), Head: at(4)}))
	m.must(m.CreateBranch(limit(t), &pfspb.CreateBranchRequest{Branch: branchOf("r@side"), Head: at(8)}))
	side := m.start("r@side") // open, so what it was made on has to stay
	m.must(m.CreateBranch(limit(t), &pfspb.CreateBranchRequest{Branch: branchOf("r@source"), Head: at(12)}))
	m.branch("s@down", "r@source")
	down := m.head("s@down")
	m.must(m.CreateBranch(limit(t), &pfspb.CreateBranchRequest{Branch: branchOf("r@source"), Head: at(19)}))
	r := m.small("r@master", Retention{Commits: 3})
	m.retain(r, agree)
	m.wantList("r@master", []string{ids[4], ids[8], ids[12], ids[17], ids[18], ids[19]})
	left := logs.FilterMessageSnippet("stay").All()
	if len(left) != 1 || left[0].ContextMap()["commits"] != int64(3) || !strings.Contains(fmt.Sprint(left[0].ContextMap()["the newest"]), "made from default/r@"+ids[12]) {
		t.Errorf("the log says %v", left)
	}
	m.finish(side)
	m.must(m.DeleteBranch(limit(t), &pfspb.DeleteBranchRequest{Branch: branchOf("r@tag")}))
	m.must(m.FinishCommit(limit(t), &pfspb.FinishCommitRequest{Commit: down}))
	m.retain(r, agree)
	m.wantList("r@master", []string{ids[4], ids[8], ids[12], ids[17], ids[18], ids[19]})
	clock.Advance(relookEvery)
	m.retain(r, agree)
	m.wantList("r@master", []string{ids[12], ids[17], ids[18], ids[19]})
	if n := logs.FilterMessageSnippet("stay").Len(); n != 1 {
		t.Errorf("the log says it %d times", n)
	}
	m.sound()
}

// TestRetain_SetsOfOtherRepos stay whole.
func TestRetain_SetsOfOtherRepos(t *testing.T) {
	m := newMeta(t)
	m.repo("r", "s")
	first := m.puts("r@master", 3)
	m.must(nil, m.svc.Update(limit(t), func(tx *Txn) error {
		for _, name := range []string{"r@master", "s@master"} {
			c, err := tx.StartCommit(branchOf(name), nil, "")
			if err == nil {
				err = tx.FinishCommit(c, "", "", false)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}))
	both := m.head("r@master").Id
	if both != m.head("s@master").Id {
		t.Fatal("they are two sets")
	}
	last := m.puts("r@master", 3)
	m.retain(m.small("r@master", Retention{Commits: 1}), agree)
	m.wantList("r@master", []string{both, last[2]})
	_ = first
}

// TestRetain_TriggersCountOn what has been squashed would be lost to them.
func TestRetain_TriggersCountOn(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	r := m.small("r@master", Retention{Commits: 2})
	m.puts("r@master", 4)
	m.trigger("r@slow", &pfspb.Trigger{Branch: "master", Commits: 10})
	m.retain(r, agree)
	for i := range 12 {
		before := m.head("r@slow")
		m.puts("r@master", 1)
		m.retain(r, agree)
		moved := !proto.Equal(before, m.head("r@slow"))
		if moved != (i == 5) {
			t.Errorf("at commit %d the trigger has fired: %t", i, moved)
		}
		if i == 5 {
			m.wantList("r@master", m.list("r@master")[:2])
		}
	}
}

// TestRetain_UsersInBetween squash and drop what has been counted, before and after the
// transaction's snapshot; the newest that are there by then stay.
func TestRetain_UsersInBetween(t *testing.T) {
	for name, act := range map[string]func(m *metaServer, ids []string){
		"squash": func(m *metaServer, ids []string) { m.must(nil, m.squash(commitOf("r@"+ids[17]), false)) },
		"drop":   func(m *metaServer, ids []string) { m.must(nil, m.drop(commitOf("r@master"), false)) },
		"move": func(m *metaServer, ids []string) {
			m.must(m.CreateBranch(limit(m.t), &pfspb.CreateBranchRequest{Branch: branchOf("r@master"), Head: commitOf("r@" + ids[9])}))
		},
	} {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, late %t", name, late), func(t *testing.T) {
				m := newMeta(t)
				m.repo("r")
				ids := m.puts("r@master", 20)
				r := m.small("r@master", Retention{Commits: 5})
				calls := 0
				m.retain(r, func(tx *store.Txn) error {
					if calls++; calls == 3 {
						if late {
							if _, _, err := tx.Get("x"); err != nil {
								return err
							}
						}
						act(m, ids)
					}
					return nil
				})
				m.retain(r, agree)
				// What a move or drop does after the snapshot comes after that batch.
				if got := m.list("r@master"); len(got) < 5 && !(late && name != "squash") {
					t.Errorf("%d commits are left: %q", len(got), got)
				}
				m.sound()
			})
		}
	}
}

func TestRetain_GuardRefuses(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	ids := m.puts("r@master", 10)
	r := m.small("r@master", Retention{Commits: 3})
	no := errors.New("no")
	calls := 0
	for calls < 3 {
		_, err := r.Step(limit(t), func(*store.Txn) error {
			if calls++; calls == 2 {
				return no
			}
			return nil
		})
		if calls == 2 {
			if !errors.Is(err, no) {
				t.Errorf("got %v", err)
			}
			m.wantList("r@master", slices.Concat(ids[:5], ids[7:]))
		}
	}
	m.retain(r, agree)
	m.wantList("r@master", ids[7:])
}

// TestRetain_WithPolicy: the open commit is nobody's business.
func TestRetain_WithPolicy(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	m.policy("r", &CommitPolicy{Files: 2})
	r := m.small("r@master", Retention{Commits: 1})
	for i := range 9 {
		m.apply("r@master", add(fmt.Sprintf("/%d", i), "x"))
		m.retain(r, agree)
	}
	m.wantLine("r@master", "/ /0=x /1=x /2=x /3=x /4=x /5=x /6=x /7=x /8=x open", "/ /0=x /1=x /2=x /3=x /4=x /5=x /6=x /7=x")
	m.sound()
}

// TestRetain_NothingThere is no error.
func TestRetain_NothingThere(t *testing.T) {
	m := newMeta(t)
	m.retain(m.small("r@master", Retention{Commits: 1}), agree)
	m.repo("r")
	m.retain(m.small("r@master", Retention{Commits: 1}), agree)
	m.put("r@master", "/a", "x")
	r := m.small("r@master", Retention{Commits: 1})
	m.retain(r, agree)
	m.must(m.DeleteRepo(limit(t), &pfspb.DeleteRepoRequest{Repo: repoOf("r")}))
	m.retain(r, agree)
	m.repo("r")
	ids := m.puts("r@master", 3)
	m.retain(r, agree)
	m.wantList("r@master", ids[2:])
}

// TestLineWalk_GoesOnPastSquashedCommits when the last one of a page and the next one
// are gone.
func TestLineWalk_GoesOnPastSquashedCommits(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	ids := m.puts("r@master", 12) // a walk gives them last to first
	l := lineWalk{repo: NormalizeRepo(repoOf("r")), at: ids[11]}
	var got []string
	page := func() (more bool) {
		m.must(nil, m.svc.View(limit(t), func(tx *Txn) error {
			recs, _, err := l.page(tx, 3)
			for _, rec := range recs {
				got = append(got, rec.Info.Commit.Id)
			}
			return err
		}))
		return l.at != ""
	}
	page() // 11, 10, 9
	for _, i := range []int{10, 9, 8, 7, 6} {
		m.must(nil, m.squash(commitOf("r@"+ids[i]), false))
	}
	page() // 5, 4, 3
	m.must(nil, m.squash(commitOf("r@"+ids[2]), false))
	page() // 1, 0
	if want := []string{ids[11], ids[10], ids[9], ids[5], ids[4], ids[3], ids[1], ids[0]}; !slices.Equal(got, want) || l.at != "" {
		t.Errorf("the walk gave\n%q, want\n%q", got, want)
	}
	l = lineWalk{repo: NormalizeRepo(repoOf("r")), at: ids[5]}
	got = nil
	page() // 5, 4, 3
	for _, i := range []int{5, 4, 3, 1, 0} {
		m.must(nil, m.squash(commitOf("r@"+ids[i]), false))
	}
	err := m.svc.View(limit(t), func(tx *Txn) error {
		_, _, err := l.page(tx, 3)
		return err
	})
	var gone *CommitNotFoundError
	if !errors.As(err, &gone) {
		t.Errorf("a walk of which nothing is left ends with %v", err)
	}
}

// TestRetain_UsersBetweenPasses squash and drop what a pass has counted.
func TestRetain_UsersBetweenPasses(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	r := m.small("r@master", Retention{Commits: 20})
	m.puts("r@master", 30)
	m.retain(r, agree)
	for range 3 {
		ids := m.list("r@master")
		for _, id := range ids[4:12] {
			m.must(nil, m.squash(commitOf("r@"+id), false))
		}
		m.must(nil, m.drop(commitOf("r@master"), false))
		m.puts("r@master", 4)
		want := m.list("r@master")
		m.retain(r, agree)
		m.wantList("r@master", want[max(0, len(want)-20):])
		m.puts("r@master", 15)
		want = m.list("r@master")
		m.retain(r, agree)
		m.wantList("r@master", want[max(0, len(want)-20):])
	}
	m.sound()
}
