package pfs

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/minipachd/minipachd/clock"
	"github.com/minipachd/minipachd/clock/clocktest"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// trigger makes a branch follow another one of its repo.
func (m *metaServer) trigger(name string, t *pfspb.Trigger) {
	m.t.Helper()
	m.must(m.CreateBranch(limit(m.t), &pfspb.CreateBranchRequest{Branch: branchOf(name), Trigger: t}))
}

// follows tells which commits became the head of a branch: it makes them one by
// one with add and gives the numbers of those at which the branch is afterwards.
func (m *metaServer) follows(name string, n int, add func(i int) *pfspb.Commit) string {
	m.t.Helper()
	var fired []string
	for i := range n {
		c := add(i)
		if m.inspectBranch(name).Head.Id == c.Id {
			fired = append(fired, fmt.Sprint(i))
		}
	}
	return strings.Join(fired, " ")
}

func TestTrigger_Conditions(t *testing.T) {
	m := newMeta(t)
	bytes := func(n int) func(string) func(int) *pfspb.Commit {
		return func(repo string) func(int) *pfspb.Commit {
			return func(int) *pfspb.Commit { return m.put(repo+"@master", "/f", strings.Repeat("x", n)) }
		}
	}
	for i, tc := range []struct {
		name    string
		trigger *pfspb.Trigger
		want    string // of ten commits of 30 bytes each
	}{
		{"commits", &pfspb.Trigger{Commits: 3}, "2 5 8"},
		{"one commit", &pfspb.Trigger{Commits: 1}, "0 1 2 3 4 5 6 7 8 9"},
		{"size", &pfspb.Trigger{Size: "100B"}, "3 7"},
		{"size without unit", &pfspb.Trigger{Size: "30"}, "0 1 2 3 4 5 6 7 8 9"},
		{"decimal units", &pfspb.Trigger{Size: "0.15KB"}, "4 9"},
		{"any", &pfspb.Trigger{Size: "100B", Commits: 3}, "2 5 8"},
		{"all", &pfspb.Trigger{Size: "100B", Commits: 3, All: true}, "3 7"},
		{"nothing", &pfspb.Trigger{}, ""},
		{"all of nothing", &pfspb.Trigger{All: true}, "0 1 2 3 4 5 6 7 8 9"},
		{"never ticks", &pfspb.Trigger{RateLimitSpec: "@never"}, ""},
		{"ticks tomorrow", &pfspb.Trigger{RateLimitSpec: "@every 24h"}, ""},
		{"size or tomorrow", &pfspb.Trigger{RateLimitSpec: "@every 24h", Size: "100B"}, "3 7"},
		{"size and tomorrow", &pfspb.Trigger{RateLimitSpec: "@every 24h", Size: "100B", All: true}, ""},
		{"by the clock only", &pfspb.Trigger{CronSpec: "@never", Commits: 1, All: true}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			repo := fmt.Sprintf("r%d", i)
			m.repo(repo)
			m.branch(repo + "@master")
			tc.trigger.Branch = "master"
			m.trigger(repo+"@t", tc.trigger)
			if got := m.follows(repo+"@t", 10, bytes(30)(repo)); got != tc.want {
				t.Errorf("fired after commits %q, want %q", got, tc.want)
			}
			if got := m.inspectBranch(repo + "@t").Trigger; got.GetBranch() != "master" {
				t.Errorf("trigger in the answer: %v", got)
			}
		})
	}
	m.sound()
}

// TestTrigger_RateLimit compares the ends of commits, not the time of day.
func TestTrigger_RateLimit(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	m.branch("r@master")
	m.trigger("r@t", &pfspb.Trigger{Branch: "master", RateLimitSpec: "@every 1h"})
	age := func(name string, d time.Duration) { // as if the head had been made long ago
		m.must(nil, m.svc.Update(limit(t), func(tx *Txn) error {
			rec, err := tx.resolve(commitOf(name))
			if err != nil {
				return err
			}
			rec.Info.Finishing = stamp(tx.Now().Add(-d))
			return tx.putCommit(rec)
		}))
	}
	one := m.commit("r@master")
	if m.inspectBranch("r@t").Head.Id == one.Id {
		t.Error("fired within the hour")
	}
	age("r@t", 59*time.Minute)
	m.commit("r@master")
	age("r@t", 61*time.Minute)
	three := m.commit("r@master")
	if m.inspectBranch("r@t").Head.Id != three.Id {
		t.Error("did not fire after an hour")
	}
	m.commit("r@master")
	if m.inspectBranch("r@t").Head.Id != three.Id {
		t.Error("fired twice within the hour")
	}
}

// TestTrigger_EveryWayToFinish: empty commits, open ones with data, streams that
// share a transaction.
func TestTrigger_EveryWayToFinish(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	m.branch("r@master")
	m.trigger("r@t", &pfspb.Trigger{Branch: "master", Commits: 1})
	wantAt := func(what string) {
		t.Helper()
		if master, at := m.inspectBranch("r@master").Head.Id, m.inspectBranch("r@t").Head.Id; master != at {
			t.Errorf("after %s: head %s, want %s", what, at, master)
		}
	}
	m.commit("r@master")
	wantAt("an empty commit")
	c := m.start("r@master")
	m.must(nil, m.write(c, "/a", "x"))
	m.finishWith(c, "")
	wantAt("a commit by the finisher")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if err := m.write(commitOf("r@master"), fmt.Sprintf("/%d", i), "x"); err != nil {
				t.Errorf("write: %v", err)
			}
		})
	}
	wg.Wait()
	wantAt("streams at once")
	before := m.inspectBranch("r@t").Head.Id
	bad := m.start("r@master")
	m.finishWith(bad, "broken")
	if got := m.inspectBranch("r@t").Head.Id; got != before {
		t.Errorf("a commit with an error moved the branch to %s", got)
	}
	m.sound()
}

// TestTrigger_ChainsAndDownstream: each branch that moves does so in a set of its own.
func TestTrigger_ChainsAndDownstream(t *testing.T) {
	m := newMeta(t)
	m.repo("r", "d", "e")
	m.branch("r@master")
	m.trigger("r@one", &pfspb.Trigger{Branch: "master", Commits: 2})
	m.trigger("r@two", &pfspb.Trigger{Branch: "one", Commits: 4})
	m.branch("d@master", "r@one")
	m.branch("e@master", "r@two")
	d, e := m.inspectBranch("d@master").Head.Id, m.inspectBranch("e@master").Head.Id
	m.commit("r@master")
	if m.inspectBranch("d@master").Head.Id != d {
		t.Error("something went downstream too early")
	}
	second := m.commit("r@master")
	made := m.inspect(commitOf("d@master"))
	if made.Commit.Id == d || made.Commit.Id == second.Id || len(made.DirectProvenance) != 1 || made.DirectProvenance[0].Id != second.Id {
		t.Errorf("downstream of the branch that fired: %v", made)
	}
	if m.inspectBranch("e@master").Head.Id != e {
		t.Error("the chain fired too early")
	}
	m.commit("r@master")
	fourth := m.commit("r@master")
	if m.inspectBranch("r@two").Head.Id != fourth.Id {
		t.Error("the chain did not fire")
	}
	if got := m.inspect(commitOf("e@master")); got.DirectProvenance[0].Id != fourth.Id || got.Commit.Id == m.inspectBranch("d@master").Head.Id {
		t.Errorf("downstream of the end of the chain: %v", got)
	}
	m.sound()
}

// TestTrigger_SurvivesSquash counts the commits that are left.
func TestTrigger_SurvivesSquash(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	m.branch("r@master")
	m.trigger("r@t", &pfspb.Trigger{Branch: "master", Commits: 3})
	a, b := m.commit("r@master"), m.commit("r@master")
	m.must(nil, m.squash(a, false))
	m.commit("r@master")
	if got := m.inspectBranch("r@t").Head.Id; got == m.inspectBranch("r@master").Head.Id {
		t.Error("fired with two commits")
	}
	last := m.commit("r@master")
	if got := m.inspectBranch("r@t").Head.Id; got != last.Id {
		t.Errorf("three commits: head %s, want %s", got, last.Id)
	}
	wantError(t, m.drop(b, false), codes.Unknown, "cannot drop a commit that has children")
	m.must(nil, m.drop(last, false))
	if got, want := m.inspectBranch("r@t").Head.Id, m.inspectBranch("r@master").Head.Id; got != want {
		t.Errorf("after a drop of the head of both: %s, want %s", got, want)
	}
	m.sound()
}

func TestTrigger_Errors(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r", "in")
	m.branch("in@master")
	m.trigger("r@b", &pfspb.Trigger{Branch: "a", Commits: 1}) // makes r@a
	m.trigger("r@c", &pfspb.Trigger{Branch: "b", Commits: 1})
	create := func(name string, trigger *pfspb.Trigger, provenance ...*pfspb.Branch) error {
		_, err := m.CreateBranch(ctx, &pfspb.CreateBranchRequest{Branch: branchOf(name), Trigger: trigger, Provenance: provenance})
		return err
	}
	remove := func(name string) error {
		_, err := m.DeleteBranch(ctx, &pfspb.DeleteBranchRequest{Branch: branchOf(name)})
		return err
	}
	for _, tc := range []struct {
		name string
		err  error
		text string
	}{
		{"no branch", create("r@x", &pfspb.Trigger{Commits: 1}), "triggers must specify a branch to trigger on"},
		{"provenance", create("r@x", &pfspb.Trigger{Branch: "a"}, branchOf("in@master")), "a branch cannot have both provenance and a trigger"},
		{"itself", create("r@x", &pfspb.Trigger{Branch: "x"}), "triggers cannot form a loop"},
		{"each other", create("r@a", &pfspb.Trigger{Branch: "b"}), "triggers cannot form a loop"},
		{"loop", create("r@a", &pfspb.Trigger{Branch: "c"}), "triggers cannot form a loop"},
		{"size", create("r@x", &pfspb.Trigger{Branch: "a", Size: "much"}), "invalid trigger size"},
		{"negative size", create("r@x", &pfspb.Trigger{Branch: "a", Size: "-1B"}), "invalid trigger size"},
		{"huge size", create("r@x", &pfspb.Trigger{Branch: "a", Size: "10EB"}), "invalid trigger size"},
		{"rate limit", create("r@x", &pfspb.Trigger{Branch: "a", RateLimitSpec: "* * *"}), "invalid trigger rate limit spec"},
		{"rate limit with a broken zone", create("r@x", &pfspb.Trigger{Branch: "a", RateLimitSpec: "TZ=0"}), "invalid trigger rate limit spec"},
		{"cron", create("r@x", &pfspb.Trigger{Branch: "a", CronSpec: "61 * * * *"}), "invalid trigger cron spec"},
		{"commits", create("r@x", &pfspb.Trigger{Branch: "a", Commits: -1}), "can't trigger on a negative number of commits"},
		{"name", create("r@x", &pfspb.Trigger{Branch: "a b"}), "name (a b) invalid: only alphanumeric characters, underscores, and dashes are allowed"},
		{"delete a trunk", remove("r@a"), `branch "default/r@a" cannot be deleted because it triggers branches [default/r@b]`},
		{"delete a follower", remove("r@c"), `branch "default/r@c" cannot be deleted because it is triggered by branches [default/r@b]`},
	} {
		t.Run(tc.name, func(t *testing.T) { wantError(t, tc.err, codes.Unknown, tc.text) })
	}
	if _, err := m.InspectBranch(ctx, &pfspb.InspectBranchRequest{Branch: branchOf("r@x")}); err == nil {
		t.Error("a refused request made a branch")
	}
}

// TestTrigger_Removed by an update without one, and by deleting either branch.
func TestTrigger_Removed(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	for _, name := range []string{"r@t", "r@u", "r@v"} {
		m.trigger(name, &pfspb.Trigger{Branch: "master", Commits: 1})
	}
	if a, b := m.inspectBranch("r@t").Head.Id, m.inspectBranch("r@master").Head.Id; a != b {
		t.Errorf("a trunk made with its follower has the head %s, the follower %s", b, a)
	}
	m.branch("r@t")
	if m.inspectBranch("r@t").Trigger != nil {
		t.Error("the trigger is still there")
	}
	m.must(m.DeleteBranch(ctx, &pfspb.DeleteBranchRequest{Branch: branchOf("r@u"), Force: true}))
	c := m.commit("r@master")
	if m.inspectBranch("r@t").Head.Id == c.Id || m.inspectBranch("r@v").Head.Id != c.Id {
		t.Errorf("heads after a commit: %v, %v", m.inspectBranch("r@t").Head, m.inspectBranch("r@v").Head)
	}
	m.must(m.DeleteBranch(ctx, &pfspb.DeleteBranchRequest{Branch: branchOf("r@master"), Force: true}))
	if m.inspectBranch("r@v").Trigger != nil {
		t.Error("the trigger of a deleted trunk is still there")
	}
	m.commit("r@master") // made anew: nobody follows it
	if m.inspectBranch("r@v").Head.Id != c.Id {
		t.Error("a branch follows one that was deleted")
	}
}

func withClock(c clock.Clock) func(*Config) { return func(cfg *Config) { cfg.Clock = c } }

// waitHead waits until a branch has a head other than one.
func (m *metaServer) waitHead(name, not string) string {
	m.t.Helper()
	ctx := limit(m.t)
	head := ""
	err := m.svc.branches.Watch(ctx, m.svc.store, branchKey(NormalizeBranch(branchOf(name))), func(e store.Event[*recordpb.BranchRecord]) error {
		if !e.Synced && !e.Deleted {
			head = e.Value.Info.Head.Id
		}
		if head != not && e.Synced || head != not && head != "" {
			return errReached
		}
		return nil
	})
	if head == "" || head == not {
		m.t.Fatalf("waiting for %s to move: %v", name, err)
	}
	return head
}

// TestTrigger_Clock ticks while the daemon runs, and once for what was missed
// while it did not.
func TestTrigger_Clock(t *testing.T) {
	dir, clock := t.TempDir(), clocktest.New(time.Now())
	m, stop := startMeta(t, dir, withClock(clock))
	m.repo("r", "down")
	m.branch("r@master")
	m.trigger("r@t", &pfspb.Trigger{Branch: "master", CronSpec: "@every 1h"})
	m.branch("down@master", "r@t")
	was := m.inspectBranch("r@t").Head.Id
	c := m.commit("r@master")
	if got := m.inspectBranch("r@t").Head.Id; got != was {
		t.Errorf("moved to %s without a tick", got)
	}
	clock.Advance(2 * time.Hour)
	if got := m.waitHead("r@t", was); got != c.Id {
		t.Errorf("moved to %s, want %s", got, c.Id)
	}
	if got := m.inspect(commitOf("down@master")); got.DirectProvenance[0].Id != c.Id {
		t.Errorf("downstream: %v", got)
	}
	d := m.commit("r@master")
	stop()
	clock.Advance(100 * time.Hour)
	m, _ = startMeta(t, dir, withClock(clock))
	if got := m.waitHead("r@t", c.Id); got != d.Id {
		t.Errorf("after a restart: %s, want %s", got, d.Id)
	}
	down := m.list("down@master")
	if len(down) != 3 {
		t.Errorf("downstream has %d commits, want the first and one per tick", len(down))
	}
	// A change of the schedule takes effect at once, none lets the clock go on.
	m.trigger("r@t", &pfspb.Trigger{Branch: "master", CronSpec: "@every 1m"})
	e := m.commit("r@master")
	clock.Advance(2 * time.Minute)
	if got := m.waitHead("r@t", d.Id); got != e.Id {
		t.Errorf("after a change: %s, want %s", got, e.Id)
	}
	m.sound()
}

// TestTrigger_TickHappensOnce however many daemons see that its time has come.
func TestTrigger_TickHappensOnce(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	m.branch("r@master")
	m.trigger("r@t", &pfspb.Trigger{Branch: "master", CronSpec: "0 0 * * *"})
	key := branchKey(NormalizeBranch(branchOf("r@t")))
	a := m.commit("r@master")
	now := time.Now().Add(25 * time.Hour)
	first, err := m.svc.tick(ctx, key, now)
	m.must(nil, err)
	if got := m.inspectBranch("r@t").Head.Id; got != a.Id {
		t.Fatalf("the first tick left the head at %s", got)
	}
	m.commit("r@master")
	second, err := m.svc.tick(ctx, key, now)
	m.must(nil, err)
	if got := m.inspectBranch("r@t").Head.Id; got != a.Id {
		t.Errorf("the tick happened twice, head %s", got)
	}
	if !first.Equal(second) || !first.After(now) || first.Hour() != 0 || first.Minute() != 0 {
		t.Errorf("next ticks: %v, %v", first, second)
	}
	m.must(m.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repoOf("r")}))
	if next, err := m.svc.tick(ctx, key, first); err != nil || !next.IsZero() {
		t.Errorf("tick of a deleted branch: %v, %v", next, err)
	}
	m.must(nil, m.svc.View(ctx, func(tx *Txn) error {
		_, left, err := m.svc.clocks.Get(tx.Txn, key)
		if left {
			t.Error("the clock of a deleted branch is left")
		}
		return err
	}))
}

// TestSetTrigger_KeepsTheClock when the schedule stays the same.
func TestSetTrigger_KeepsTheClock(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	trigger := &pfspb.Trigger{Branch: "master", CronSpec: "@every 1h"}
	next := func() (at *recordpb.TriggerClock) {
		m.must(nil, m.svc.View(limit(t), func(tx *Txn) (err error) {
			at, _, err = m.svc.clocks.Get(tx.Txn, branchKey(NormalizeBranch(branchOf("r@t"))))
			return err
		}))
		return at
	}
	m.trigger("r@t", trigger)
	m.must(nil, m.svc.Update(limit(t), func(tx *Txn) error {
		return m.svc.clocks.Put(tx.Txn, branchKey(NormalizeBranch(branchOf("r@t"))), &recordpb.TriggerClock{Next: stamp(time.Unix(1e9, 0).Add(1e6 * time.Hour))})
	}))
	was := next()
	m.trigger("r@t", trigger)
	if now := next(); !now.Next.AsTime().Equal(was.Next.AsTime()) {
		t.Errorf("an update with the same schedule moved the next tick from %v to %v", was, now)
	}
	m.trigger("r@t", &pfspb.Trigger{Branch: "master", Commits: 1})
	if now := next(); now != nil {
		t.Errorf("a trigger without a schedule has a clock: %v", now)
	}
}

// TestTicks_MoveKeepsWhatChangedMeanwhile: the outcome of a tick does not undo a
// change of the schedule that was heard of while it ran.
func TestTicks_MoveKeepsWhatChangedMeanwhile(t *testing.T) {
	at := func(h int) time.Time { return time.Unix(0, 0).Add(time.Duration(h) * time.Hour) }
	ticks := &timetable{due: map[string]time.Time{}, changed: make(chan struct{}, 1)}
	ticks.set("a", at(1))
	ticks.move("a", at(1), at(5))
	if _, due := ticks.first(); !due.Equal(at(5)) {
		t.Errorf("moved to %v", due)
	}
	ticks.set("a", at(2))
	ticks.move("a", at(5), at(9))
	if _, due := ticks.first(); !due.Equal(at(2)) {
		t.Errorf("a change was undone: %v", due)
	}
	ticks.move("a", at(2), time.Time{})
	ticks.move("a", at(2), at(3))
	if key, _ := ticks.first(); key != "" {
		t.Error("what was taken out came back")
	}
}
