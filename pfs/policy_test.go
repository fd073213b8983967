package pfs

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minipachd/minipachd/clock/clocktest"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// policy sets the policy of a repo.
func (m *metaServer) policy(repo string, p *CommitPolicy) {
	m.t.Helper()
	m.must(nil, m.svc.Update(limit(m.t), func(tx *Txn) error { return tx.SetCommitPolicy(repoOf(repo), p) }))
}

// line describes the commits of a branch, newest first: its files as of then, and
// " open" or " error" if it is.
func (m *metaServer) line(name string) (lines []string) {
	m.t.Helper()
	infos, err := all(m.ListCommit(limit(m.t), &pfspb.ListCommitRequest{Repo: branchOf(name).Repo, To: commitOf(name)}))
	m.must(nil, err)
	for _, info := range infos {
		files, err := m.tree(info.Commit, "/")
		switch {
		case info.Error != "":
			files = "error"
		case err != nil:
			files = err.Error()
		case info.Finished == nil:
			files += " open"
		}
		lines = append(lines, files)
	}
	return lines
}

func (m *metaServer) wantLine(name string, want ...string) {
	m.t.Helper()
	if got := m.line(name); strings.Join(got, "\n") != strings.Join(want, "\n") {
		m.t.Errorf("%s:\n got %q\nwant %q", name, got, want)
	}
}

// finished waits until a commit is FINISHED.
func (m *metaServer) finished(c *pfspb.Commit) {
	m.t.Helper()
	m.must(m.InspectCommit(limit(m.t), &pfspb.InspectCommitRequest{Commit: c, Wait: pfspb.CommitState_FINISHED}))
}

func (m *metaServer) head(name string) *pfspb.Commit { return m.inspectBranch(name).Head }

func TestPolicy_PutsBecomeCommitsBySize(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	m.policy("r", &CommitPolicy{Files: 3, Bytes: 100})
	m.apply("r@master", add("/a", "1"))
	m.wantLine("r@master", "/ /a=1 open")
	m.apply("r@master", add("/b", "2"))
	first := m.head("r@master")
	m.wantLine("r@master", "/ /a=1 /b=2 open")
	m.apply("r@master", add("/a", "3"))
	m.wantLine("r@master", "/ /a=13 /b=2")
	if m.head("r@master").Id != first.Id {
		t.Error("the put that made it enough is in another commit")
	}
	m.apply("r@master", del("/b"))
	m.wantLine("r@master", "/ /a=13 open", "/ /a=13 /b=2")
	// A put is never divided.
	m.apply("r@master", add("/x", "1"), add("/y", "2"), add("/z", "3"))
	m.wantLine("r@master", "/ /a=13 /x=1 /y=2 /z=3", "/ /a=13 /b=2")
	long := strings.Repeat("q", 100)
	m.apply("r@b", add("/long", long))
	m.wantLine("r@b", "/ /long="+long)
	info := m.inspect(m.head("r@master"))
	if info.Details.GetSizeBytes() != 5 || info.SizeBytesUpperBound != 5 {
		t.Errorf("size %d of %d, want 5", info.Details.GetSizeBytes(), info.SizeBytesUpperBound)
	}
	m.sound()
}

func TestPolicy_IntervalSurvivesRestart(t *testing.T) {
	dir, clock := t.TempDir(), clocktest.New(time.Now())
	m, stop := startMeta(t, dir, withClock(clock))
	m.repo("r")
	m.policy("r", &CommitPolicy{Interval: time.Minute})
	m.apply("r@master", add("/a", "1"))
	c := m.head("r@master")
	clock.Advance(59 * time.Second)
	m.apply("r@master", add("/b", "2"))
	stop()
	m, _ = startMeta(t, dir, withClock(clock))
	m.wantLine("r@master", "/ /a=1 /b=2 open")
	clock.Advance(time.Second)
	m.finished(c)
	m.apply("r@master", add("/c", "3"))
	m.wantLine("r@master", "/ /a=1 /b=2 /c=3 open", "/ /a=1 /b=2")
	m.sound()
}

// TestPolicy_PutFinishesWhatIsDue without anybody else: a daemon whose background is
// behind does not make commits longer.
func TestPolicy_PutFinishesWhatIsDue(t *testing.T) {
	clock := clocktest.New(time.Now())
	svc, stop := openService(t, t.TempDir(), withClock(clock)) // Run does not run
	defer stop()
	m := &metaServer{t: t, svc: svc}
	ctx := limit(t)
	m.must(svc.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repoOf("r")}))
	m.policy("r", &CommitPolicy{Interval: time.Minute})
	var heads []string
	for _, pause := range []time.Duration{0, 59 * time.Second, time.Second, 59 * time.Second, time.Second} {
		clock.Advance(pause)
		m.must(nil, m.writeAs(ctx, "r@master", "/a", "x"))
		info, err := svc.InspectBranch(ctx, &pfspb.InspectBranchRequest{Branch: branchOf("r@master")})
		m.must(info, err)
		heads = append(heads, info.Head.Id)
	}
	if heads[0] != heads[1] || heads[1] == heads[2] || heads[2] != heads[3] || heads[3] == heads[4] {
		t.Errorf("the puts are in %q", heads)
	}
}

func TestPolicy_FilesThatCannotStandTogetherHarmNobody(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	m.policy("r", &CommitPolicy{Files: 100})
	m.apply("r@master", add("/a", "1"))
	m.apply("r@master", add("/a/b", "2"))
	m.apply("r@master", add("/c", "3"))
	m.wantLine("r@master", "/ /a=1 /c=3 open", "error", "/ /a=1")
	m.sound()
}

func TestPolicy_ExplicitCommits(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	m.policy("r", &CommitPolicy{Files: 100})
	m.apply("r@master", add("/a", "1"))
	c := m.start("r@master")
	m.wantLine("r@master", "/ /a=1 open", "/ /a=1")
	m.apply("r@master", add("/b", "2")) // to the open commit, as ever
	m.must(nil, m.modify(c, add("/c", "3")))
	m.finish(c)
	m.wantLine("r@master", "/ /a=1 /b=2 /c=3", "/ /a=1")
	m.apply("r@master", add("/d", "4"))
	p := m.head("r@master")
	m.must(nil, m.modify(p, add("/e", "5"))) // by its id
	m.addFileSet(p, m.fileSet(add("/f", "6")))
	m.wantTree(commitOf("r@master"), "/ /a=1 /b=2 /c=3 /d=4 /e=5 /f=6")
	if err := m.modify(p, add("/e/x", "7")); err == nil || !strings.Contains(err.Error(), "/e") {
		t.Errorf("got %v, want that /e is a file", err)
	}
	m.must(m.FinishCommit(limit(t), &pfspb.FinishCommitRequest{Commit: p, Description: "early"}))
	if info := m.inspect(p); info.Finished == nil || info.Description != "early" || info.Details.SizeBytes != 6 {
		t.Errorf("after FinishCommit: %v", info)
	}
	m.apply("r@master", add("/g", "8"))
	m.must(m.ClearCommit(limit(t), &pfspb.ClearCommitRequest{Commit: m.head("r@master")}))
	m.apply("r@master", add("/h", "9"))
	m.wantTree(commitOf("r@master"), "/ /a=1 /b=2 /c=3 /d=4 /e=5 /f=6 /h=9")
	m.must(nil, m.drop(m.head("r@master"), false))
	m.wantTree(commitOf("r@master"), "/ /a=1 /b=2 /c=3 /d=4 /e=5 /f=6")
	m.sound()
	if n := m.count(duePrefix); n != 0 {
		t.Errorf("%d commits are due without an interval", n)
	}
}

// TestPolicy_NothingStaysOpen that no put will be added to any more.
func TestPolicy_NothingStaysOpen(t *testing.T) {
	for name, act := range map[string]func(m *metaServer){
		"the policy is removed":  func(m *metaServer) { m.policy("r", nil) },
		"the policy is replaced": func(m *metaServer) { m.policy("r", &CommitPolicy{Files: 50}) },
		"the branch is moved": func(m *metaServer) {
			m.must(m.CreateBranch(limit(m.t), &pfspb.CreateBranchRequest{Branch: branchOf("r@master"), Head: commitOf("r@other")}))
		},
		"the branch is deleted": func(m *metaServer) {
			m.must(m.DeleteBranch(limit(m.t), &pfspb.DeleteBranchRequest{Branch: branchOf("r@master")}))
		},
		"a commit is started on its parent": func(m *metaServer) {
			m.must(m.StartCommit(limit(m.t), &pfspb.StartCommitRequest{Branch: branchOf("r@master"), Parent: commitOf("r@master^")}))
		},
		"another branch begins with it, and gets a put": func(m *metaServer) {
			m.must(m.CreateBranch(limit(m.t), &pfspb.CreateBranchRequest{Branch: branchOf("r@b"), Head: commitOf("r@master")}))
			m.apply("r@b", add("/elsewhere", "1"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMeta(t)
			m.repo("r")
			m.commit("r@other")
			m.commit("r@master")
			m.policy("r", &CommitPolicy{Interval: time.Hour})
			m.apply("r@master", add("/a", "1"))
			c := m.head("r@master")
			act(m)
			if info := m.inspect(c); info.Finished == nil || info.Error != "" {
				t.Errorf("after that: %v", info)
			}
			m.wantTree(c, "/ /a=1")
			m.sound()
		})
	}
}

func TestPolicy_DeletedRepoTakesItAlong(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	m.policy("r", &CommitPolicy{Interval: time.Hour})
	m.apply("r@master", add("/a", "1"))
	m.must(m.DeleteRepo(limit(t), &pfspb.DeleteRepoRequest{Repo: repoOf("r")}))
	m.repo("r")
	if n := m.count(duePrefix) + m.count(policyPrefix); n != 0 {
		t.Errorf("%d keys are left", n)
	}
	m.apply("r@master", add("/b", "2"))
	m.wantLine("r@master", "/ /b=2")
}

func TestPolicy_IdempotencyKeys(t *testing.T) {
	dir := t.TempDir()
	m, stop := startMeta(t, dir)
	m.repo("r")
	m.policy("r", &CommitPolicy{Files: 3})
	put := func(key, path string) string {
		t.Helper()
		id, err := m.modifyOnce(commitOf("r@master"), key, addOp(path, "x"))
		m.must(id, err)
		return id
	}
	first := put("k1", "/a")
	if again := put("k1", "/a"); again != first {
		t.Errorf("repeated: %s, want %s", again, first)
	}
	if second := put("k2", "/b"); second != first {
		t.Errorf("the second put is in %s, want %s", second, first)
	}
	if _, err := m.modifyOnce(commitOf("r@master"), "k2", addOp("/b", "y")); err == nil {
		t.Error("a key was used for something else")
	}
	put("k3", "/c")
	m.wantLine("r@master", "/ /a=x /b=x /c=x")
	put("k4", "/d")
	stop()
	m, _ = startMeta(t, dir)
	for key, path := range map[string]string{"k1": "/a", "k2": "/b", "k3": "/c"} {
		if again := put(key, path); again != first {
			t.Errorf("%s, repeated after the commit was finished: %s, want %s", key, again, first)
		}
	}
	m.wantLine("r@master", "/ /a=x /b=x /c=x /d=x open", "/ /a=x /b=x /c=x")
	if n, k := m.count(oncePrefix), m.count(onceOrderPrefix); n != 4 || k != 4 {
		t.Errorf("%d keys are remembered, %d in the order of time, want 4", n, k)
	}
	m.must(nil, m.svc.forgetKeys(limit(t), time.Now().Add(48*time.Hour)))
	if n, k := m.count(oncePrefix), m.count(onceOrderPrefix); n+k != 0 {
		t.Errorf("%d keys are remembered, %d in the order of time, want none", n, k)
	}
}

func TestPolicy_DownstreamTriggersAndSubscribers(t *testing.T) {
	m := newMeta(t)
	m.repo("r", "s")
	m.branch("r@master")
	m.branch("s@master", "r@master")
	m.trigger("r@v", &pfspb.Trigger{Branch: "master", Commits: 1})
	before := m.head("r@v")
	m.policy("r", &CommitPolicy{Files: 2})
	ctx, cancel := context.WithCancel(limit(t))
	defer cancel()
	stream := m.subscribe(ctx, &pfspb.SubscribeCommitRequest{Repo: repoOf("r"), Branch: "master", State: pfspb.CommitState_FINISHED, From: m.head("r@master")})
	m.apply("r@master", add("/a", "1"))
	c := m.head("r@master")
	if down := m.head("s@master"); down.Id != c.Id {
		t.Errorf("downstream is %s, want the set of %s", down.Id, c.Id)
	}
	if now := m.head("r@v"); now.Id != before.Id {
		t.Error("a trigger follows an open commit")
	}
	m.apply("r@master", add("/b", "2"))
	if now := m.head("r@v"); now.Id != c.Id {
		t.Errorf("the trigger is at %s, want %s", now.Id, c.Id)
	}
	m.apply("r@master", add("/c", "3"), add("/d", "4"))
	m.wantTaken(stream, c.Id, m.head("r@master").Id)
}

// TestPolicy_ManyAtOnce has clients put at the same time. Each put is there once, and
// each commit holds as many as the policy says.
func TestPolicy_ManyAtOnce(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	m.policy("r", &CommitPolicy{Files: 7})
	const clients, each = 16, 20
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				key := ""
				if i%2 == 0 {
					key = fmt.Sprintf("%d-%d", c, i)
				}
				path := fmt.Sprintf("/%02d/%02d", c, i)
				var err error
				if key == "" {
					err = m.modify(commitOf("r@master"), add(path, "x"))
				} else {
					_, err = m.modifyOnce(commitOf("r@master"), key, addOp(path, "x"))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	lines := m.line("r@master")
	if want := (clients*each + 6) / 7; len(lines) != want {
		t.Errorf("%d commits, want %d", len(lines), want)
	}
	for i, line := range lines {
		want := min(clients*each, (len(lines)-i)*7)
		if n := strings.Count(line, "=x"); n != want {
			t.Errorf("commit %d holds %d files, want %d", i, n, want)
		}
	}
	m.sound()
}

func TestPolicy_AWriterThatEndedLeavesItsPuts(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	m.branch("r@master")
	m.policy("r", &CommitPolicy{Files: 10})
	ctx, w := m.someone("worker")
	m.must(nil, m.writeAs(ctx, "r@master", "/a", "1"))
	m.allow(w, "")
	if err := m.writeAs(ctx, "r@master", "/b", "2"); err == nil {
		t.Error("a writer whose time is over put something")
	}
	m.must(nil, m.svc.DropOpen(limit(t), repoOf("r"), func(string) bool { return true }))
	m.must(nil, m.writeAs(limit(t), "r@master", "/c", "3"))
	m.wantTree(commitOf("r@master"), "/ /a=1 /c=3")
	m.must(nil, m.svc.Update(limit(t), func(tx *Txn) error { return tx.DropOpenHead(branchOf("r@master")) }))
	m.wantTree(commitOf("r@master"), "/ /a=1 /c=3")
}

// TestPolicy_TwinsInOneGroup are one put, also if both come before either is written.
func TestPolicy_TwinsInOneGroup(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	m.policy("r", &CommitPolicy{Files: 10})
	branch := NormalizeBranch(branchOf("r@master"))
	var group []*oneShot
	for range 2 {
		w := m.svc.files.NewWriter(t.Context())
		defer w.Abort()
		m.must(nil, w.Append("/a", DefaultDatum, []byte("x")))
		layers, err := w.Finish()
		m.must(layers, err)
		group = append(group, &oneShot{ctx: limit(t), layers: layers, once: &once{branch: branch, key: "k", digest: []byte("d")}, done: make(chan error, 1)})
	}
	m.svc.commitGroup(newGroup(group), branch)
	for _, o := range group {
		m.must(nil, <-o.done)
	}
	if group[0].once.commit != group[1].once.commit {
		t.Errorf("they are in %s and %s", group[0].once.commit, group[1].once.commit)
	}
	m.wantLine("r@master", "/ /a=x open")
}
