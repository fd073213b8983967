package pfs

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/minipachd/minipachd/pfs/fileset"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

func TestCommit_LifeCycle(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	m.branch("r@master")
	root := m.inspectBranch("r@master").Head
	if info := m.inspect(root); info.Origin.Kind != pfspb.OriginKind_AUTO || info.Finished == nil || info.Details.GetSizeBytes() != 0 {
		t.Errorf("the first head is no finished AUTO commit: %v", info)
	}
	c, err := m.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branchOf("r@master"), Description: "begun"})
	m.must(c, err)
	if c.Branch != nil || !IsCommitID(c.Id) {
		t.Errorf("StartCommit gave %v", c)
	}
	info := m.inspect(commitOf("r@master"))
	if info.Commit.Id != c.Id || info.Finishing != nil || info.Description != "begun" || info.ParentCommit.GetId() != root.Id || info.Origin.Kind != pfspb.OriginKind_USER {
		t.Errorf("open commit: %v", info)
	}
	if info.Commit.Branch != nil || info.ParentCommit.Branch != nil {
		t.Errorf("branches are not stripped: %v", info)
	}
	if info, err := m.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: c, Wait: pfspb.CommitState_READY}); err != nil || info.Finishing != nil {
		t.Errorf("an open commit without provenance is READY: %v %v", info, err)
	}
	waited := make(chan *pfspb.CommitInfo, 1)
	go func() {
		info, err := m.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: c, Wait: pfspb.CommitState_FINISHED})
		if err != nil {
			t.Errorf("wait: %v", err)
		}
		waited <- info
	}()
	m.must(m.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: commitOf("r@master"), Description: "ended"}))
	info = <-waited
	if info.GetFinished() == nil || info.GetFinishing() == nil || info.GetDescription() != "ended" || info.GetDetails() == nil {
		t.Errorf("finished commit: %v", info)
	}
	if got := m.inspect(root).ChildCommits; len(got) != 1 || got[0].Id != c.Id {
		t.Errorf("children of the root: %v", got)
	}
	if got := m.inspect(commitOf("r@" + c.Id)); !cmp.Equal(got, info, protocmp.Transform()) {
		t.Errorf("by id: %v", cmp.Diff(got, info, protocmp.Transform()))
	}
}

// TestCommit_ErrorIsSkippedByChildren starts on a commit that finished with an error.
func TestCommit_ErrorIsSkippedByChildren(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	good := m.commit("r@master")
	ref := &recordpb.LayerRef{Id: []byte("0123456789abcdef")}
	m.must(nil, m.svc.Update(ctx, func(tx *Txn) error { // as if the commit held a layer
		rec, err := tx.resolve(good)
		if err != nil {
			return err
		}
		rec.Layers = []*recordpb.LayerRef{ref}
		tx.setFinished(rec, 7, tx.Now())
		return tx.putCommit(rec)
	}))
	bad := m.start("r@master")
	m.must(m.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: bad, Error: "broken"}))
	m.must(nil, m.svc.Update(ctx, func(tx *Txn) error {
		rec, err := tx.resolve(bad)
		if err != nil {
			return err
		}
		rec.Layers = append(rec.Layers, &recordpb.LayerRef{Id: []byte("bad")})
		tx.setFinished(rec, 99, tx.Now())
		return tx.putCommit(rec)
	}))
	child := m.commit("r@master")
	info := m.inspect(child)
	if info.ParentCommit.Id != bad.Id || info.Details.SizeBytes != 7 || info.SizeBytesUpperBound != 7 {
		t.Errorf("child of an errored commit: %v", info)
	}
	m.must(nil, m.svc.View(ctx, func(tx *Txn) error {
		rec, err := tx.resolve(child)
		if err == nil && (len(rec.Layers) != 1 || string(rec.Layers[0].Id) != string(ref.Id)) {
			t.Errorf("layers of the child: %v", rec.Layers)
		}
		return err
	}))
	if got := m.inspect(bad); got.Error != "broken" || got.Finished == nil {
		t.Errorf("errored commit: %v", got)
	}
}

// TestFinish_WithData makes a commit with little data FINISHED by the transaction that
// ends its writing, and leaves one with much of it to the finisher, by a mark.
func TestFinish_WithData(t *testing.T) {
	little, much := "1", strings.Repeat("0123456789", 10_000)
	for _, tc := range []struct {
		name    string
		streams []string
		marked  bool
	}{
		{"one small stream", []string{little}, false},
		{"small streams that are folded", []string{little, little, little, little, little}, false},
		{"much data in small layers", []string{little, much}, false},
		{"layers that are much together", []string{much[:20_000], much[:20_000], much[:20_000], much[:20_000]}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMeta(t)
			m.repo("r")
			base := make([]op, 30)
			for i := range base {
				base[i] = add(fmt.Sprintf("/base/%02d", i), "b")
			}
			m.apply("r@master", base...)
			c := m.start("r@master")
			size := int64(len(base))
			for _, data := range tc.streams {
				m.must(nil, m.modify(c, add("/a", data)))
				size += int64(len(data))
			}
			m.must(nil, m.svc.Update(limit(t), func(tx *Txn) error {
				rec, err := tx.resolve(c)
				if err != nil {
					return err
				}
				if err := tx.finish(rec, "", ""); err != nil {
					return err
				}
				_, marked, err := tx.Get(finishingKey(rec))
				if repo, order, ok := parseFinishingKey(finishingKey(rec)); !ok || repoKey(repo) != "default/r/user" || order != rec.Order {
					t.Errorf("the mark reads %v %s", repo, order)
				}
				if marked != tc.marked || rec.Info.Finishing == nil || (rec.Info.Finished == nil) != tc.marked {
					t.Errorf("marked %v: %v", marked, rec.Info)
				}
				return err
			}))
			m.finished(c)
			if info := m.inspect(c); info.Details.GetSizeBytes() != size || info.SizeBytesUpperBound != size || info.Error != "" {
				t.Errorf("want %d bytes: %v", size, info)
			}
			if n := m.count(finishingPrefix); n != 0 {
				t.Errorf("%d marks are left", n)
			}
			if got := m.content(c, "/a"); got != strings.Join(tc.streams, "") {
				t.Errorf("/a has %d bytes", len(got))
			}
			if got := m.content(c, "/base/29"); got != "b" {
				t.Errorf("/base/29 has %q", got)
			}
			m.sound()
		})
	}
}

// TestFinish_OnUnfinishedBase leaves a commit to the finisher whose base it has not
// finished yet.
func TestFinish_OnUnfinishedBase(t *testing.T) {
	svc, stop := openService(t, t.TempDir()) // nothing runs in the background
	defer stop()
	ctx := limit(t)
	if _, err := svc.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repoOf("r")}); err != nil {
		t.Fatal(err)
	}
	for i, bytes := range []uint64{0, 64 << 10} {
		svc.finishAtOnce = bytes
		c, err := svc.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branchOf("r@master")})
		if err != nil {
			t.Fatal(err)
		}
		w := svc.files.NewWriter(ctx)
		defer w.Abort()
		err = w.Append(fmt.Sprint("/", i), DefaultDatum, []byte("x"))
		if err == nil {
			var layers []*fileset.Layer
			if layers, err = w.Finish(); err == nil {
				err = svc.appendOpen(ctx, &pfspb.Commit{Repo: NormalizeRepo(c.Repo), Id: c.Id}, layers)
			}
		}
		if err == nil {
			_, err = svc.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: c})
		}
		if err != nil {
			t.Fatal(err)
		}
		info, err := svc.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: c})
		if err != nil || info.Finishing == nil || info.Finished != nil {
			t.Errorf("commit %d: %v, %v", i, info, err)
		}
	}
}

// TestFinish_InOneTransaction ends commits whose layers, or those below them, are
// new in the same transaction.
func TestFinish_InOneTransaction(t *testing.T) {
	// Without a cache nothing is known of layers but what etcd has.
	m, _ := startMeta(t, t.TempDir(), func(cfg *Config) { cfg.Files.CacheBytes = 1 })
	m.repo("r", "s")
	w := m.svc.files.NewWriter(limit(t))
	defer w.Abort()
	m.must(nil, w.Append("/new", DefaultDatum, []byte("x")))
	layers, err := w.Finish()
	m.must(nil, err)
	refs, size := refsOf(layers)
	first, other := m.start("r@master"), m.start("s@master")
	for i := range 6 {
		m.must(nil, m.modify(first, add(fmt.Sprint("/", i), "1")))
		m.must(nil, m.modify(other, add(fmt.Sprint("/", i), "2")))
	}
	var second *pfspb.Commit
	m.must(nil, m.svc.Update(limit(t), func(tx *Txn) error {
		for _, c := range []*pfspb.Commit{first, other} {
			if err := tx.FinishCommit(c, "", "", false); err != nil {
				return err
			}
		}
		var err error
		if second, err = tx.StartCommit(branchOf("r@master"), nil, ""); err != nil {
			return err
		}
		rec, err := tx.resolve(second)
		if err != nil {
			return err
		}
		if err := tx.putLayers(layers); err != nil {
			return err
		}
		if err := tx.appendLayers(rec, refs, size); err != nil {
			return err
		}
		return tx.FinishCommit(second, "", "", false)
	}))
	for _, c := range []*pfspb.Commit{first, other, second} {
		m.finished(c)
	}
	m.wantTree(first, "/ /0=1 /1=1 /2=1 /3=1 /4=1 /5=1")
	m.wantTree(other, "/ /0=2 /1=2 /2=2 /3=2 /4=2 /5=2")
	m.wantTree(second, "/ /0=1 /1=1 /2=1 /3=1 /4=1 /5=1 /new=x")
	if n := m.count(finishingPrefix); n != 0 {
		t.Errorf("%d marks are left", n)
	}
	m.sound()
}

func TestResolve_Ancestry(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r", "up", "down")
	var line []string // of the branch a, oldest first, with commits of b in between
	for i := range 100 {
		line = append(line, m.commit("r@a").Id)
		for range i % 3 {
			m.commit("r@b")
		}
	}
	head, n := line[len(line)-1], len(line)
	for text, want := range map[string]string{
		"a":           head,
		head:          head,
		"a^":          line[n-2],
		"a~":          line[n-2],
		"a^^":         line[n-3],
		"a^2":         line[n-3],
		"a~2":         line[n-3],
		"a^0":         head,
		"a^60":        line[n-61],
		head + "^9":   line[n-10],
		"a.1":         line[0],
		"a.2":         line[1],
		"a.100":       head,
		"a.50^20":     line[29],
		"a^99":        line[0],
		line[3] + "^": line[2],
	} {
		for _, c := range []*pfspb.Commit{
			commitOf("r@" + text),
			{Repo: repoOf("r"), Id: text},
			{Repo: repoOf("r"), Id: text, Branch: &pfspb.Branch{Name: "ignored"}},
		} {
			info, err := m.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: c})
			if err != nil || info.Commit.Id != want {
				t.Errorf("%v: %v, %v; want %s", c, info.GetCommit(), err, want)
			}
		}
	}
	suffix := m.inspect(&pfspb.Commit{Id: "^3", Branch: branchOf("r@a")})
	if suffix.Commit.Id != line[n-4] {
		t.Errorf("branch with a suffix in the id: %v", suffix.Commit)
	}
	for _, text := range []string{"a^100", "a.101", "a.5^5"} {
		_, err := m.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: commitOf("r@" + text)})
		wantError(t, err, codes.Unknown, "invalid offset for ancestor of commit")
	}
	for _, text := range []string{"a^~", "a.", "a.0", "a.x", "a^x", "a^1.2", "a.1.1"} {
		_, err := m.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: commitOf("r@" + text)})
		wantError(t, err, codes.Unknown, "invalid commit")
	}
}

// TestResolve_Alias asks a repo for the id of a commit set that reaches it by
// provenance only.
func TestResolve_Alias(t *testing.T) {
	m := newMeta(t)
	m.repo("left", "right", "down", "apart")
	l := m.commit("left@master")
	m.commit("right@master")
	m.branch("down@master", "left@master", "right@master")
	r := m.commit("right@master")
	if got := m.inspect(commitOf("left@" + r.Id)).Commit.Id; got != l.Id {
		t.Errorf("alias of left: %s, want %s", got, l.Id)
	}
	down := m.inspect(commitOf("down@" + r.Id))
	if down.Commit.Id != r.Id || down.Origin.Kind != pfspb.OriginKind_AUTO || len(down.DirectProvenance) != 2 {
		t.Errorf("propagated commit: %v", down)
	}
	_, err := m.InspectCommit(limit(t), &pfspb.InspectCommitRequest{Commit: commitOf("apart@" + r.Id)})
	wantError(t, err, codes.NotFound, "commit default/apart@"+r.Id+" not found")
	set, err := all(m.InspectCommitSet(limit(t), &pfspb.InspectCommitSetRequest{CommitSet: &pfspb.CommitSet{Id: r.Id}}))
	m.must(set, err)
	var names []string
	for _, info := range set {
		names = append(names, CommitName(info.Commit))
	}
	want := []string{"default/left@" + l.Id, "default/right@" + r.Id, "default/down@" + r.Id}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("commit set (-want +got):\n%s", diff)
	}
}

// TestInspectCommitSet_Waits finishes a set's commits while it is waited for.
func TestInspectCommitSet_Waits(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("up", "down")
	m.commit("up@master")
	m.branch("down@master", "up@master")
	m.must(m.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: commitOf("down@master")}))
	c := m.start("up@master")
	stream, err := m.InspectCommitSet(ctx, &pfspb.InspectCommitSetRequest{CommitSet: &pfspb.CommitSet{Id: c.Id}, Wait: true})
	m.must(stream, err)
	m.must(m.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: c}))
	first, err := stream.Recv()
	m.must(first, err)
	if first.Commit.Repo.Name != "up" || first.Finished == nil {
		t.Errorf("first: %v", first)
	}
	m.must(m.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: commitOf("down@" + c.Id)}))
	rest, err := all(stream, nil)
	if err != nil || len(rest) != 1 || rest[0].Finished == nil {
		t.Errorf("rest: %v, %v", rest, err)
	}
}

// TestStartCommit_Concurrent lets clients commit at once: to one branch, where
// everybody gets through in turn, and to their own.
func TestStartCommit_Concurrent(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	const clients, each = 8, 5
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for range each {
				for _, branch := range []string{"r@shared", fmt.Sprintf("r@own%d", i)} {
					for {
						c, err := m.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branchOf(branch)})
						if err != nil && strings.Contains(err.Error(), "has not been finished") {
							if _, err := m.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: commitOf(branch), Wait: pfspb.CommitState_FINISHED}); err != nil {
								t.Errorf("wait: %v", err)
								return
							}
							continue
						}
						if err == nil {
							_, err = m.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: c})
						}
						if err != nil {
							t.Errorf("commit to %s: %v", branch, err)
							return
						}
						break
					}
				}
			}
		})
	}
	wg.Wait()
	shared, err := all(m.ListCommit(ctx, &pfspb.ListCommitRequest{Repo: repoOf("r"), To: commitOf("r@shared")}))
	m.must(shared, err)
	if len(shared) != clients*each {
		t.Errorf("%d commits in the line of the shared branch, want %d", len(shared), clients*each)
	}
	every, err := all(m.ListCommit(ctx, &pfspb.ListCommitRequest{Repo: repoOf("r")}))
	m.must(every, err)
	if len(every) != 2*clients*each {
		t.Errorf("%d commits in the repo, want %d", len(every), 2*clients*each)
	}
	if !slices.IsSortedFunc(every, func(a, b *pfspb.CommitInfo) int {
		return b.Started.AsTime().Compare(a.Started.AsTime())
	}) {
		t.Error("the listing is not newest first")
	}
}

// TestRestart stops the daemon with a commit open and goes on with it.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	m, stop := startMeta(t, dir)
	m.repo("r", "down")
	first := m.commit("r@master")
	m.branch("down@master", "r@master")
	open := m.start("r@master")
	m.repo("gone")
	m.commit("gone@master")
	m.must(m.DeleteRepo(limit(t), &pfspb.DeleteRepoRequest{Repo: repoOf("gone")}))
	before := m.inspect(open)
	stop()

	m, _ = startMeta(t, dir)
	if diff := cmp.Diff(before, m.inspect(commitOf("r@master")), protocmp.Transform()); diff != "" {
		t.Errorf("open commit after the restart (-before +after):\n%s", diff)
	}
	m.must(m.FinishCommit(limit(t), &pfspb.FinishCommitRequest{Commit: open}))
	got, err := all(m.ListCommit(limit(t), &pfspb.ListCommitRequest{Repo: repoOf("r")}))
	m.must(got, err)
	if diff := cmp.Diff([]string{open.Id, first.Id}, ids(got)); diff != "" {
		t.Errorf("commits after the restart:\n%s", diff)
	}
	m.repo("gone")
	got, err = all(m.ListCommit(limit(t), &pfspb.ListCommitRequest{Repo: repoOf("gone")}))
	if err != nil || len(got) != 0 {
		t.Errorf("a repo made anew has commits: %v, %v", got, err)
	}
}

func FuzzParseAncestry(f *testing.F) {
	for _, s := range []string{"a", "a^", "a^^2", "a.3^1", "a~~", ".1", "^", "a.99999999999999999999", "a^99999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseAncestry(s)
		if err == nil && (!strings.HasPrefix(s, a.base) || strings.ContainsAny(a.base, ancestryRunes)) {
			t.Errorf("%q: base %q", s, a.base)
		}
	})
}
