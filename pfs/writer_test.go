package pfs

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	"github.com/minipachd/minipachd/store"
)

// someone is a writer whose key holds "1".
func (m *metaServer) someone(name string) (context.Context, *Writer) {
	m.t.Helper()
	w := &Writer{
		ID: name, Key: "test/" + name, Value: "1",
		Ended: func(current []byte) error {
			return status.Errorf(codes.PermissionDenied, "%s ended: %q", name, current)
		},
	}
	m.allow(w, w.Value)
	return WithWriter(limit(m.t), w), w
}

// allow sets what the key of a writer holds; empty removes it.
func (m *metaServer) allow(w *Writer, value string) {
	m.t.Helper()
	_, err := m.svc.store.Update(limit(m.t), func(tx *store.Txn) error {
		if value == "" {
			tx.Delete(w.Key)
		} else {
			tx.Put(w.Key, []byte(value))
		}
		return nil
	})
	m.must(nil, err)
}

// writeAs is what ModifyFile does at the end of a stream.
func (m *metaServer) writeAs(ctx context.Context, commit, path, data string) error {
	m.t.Helper()
	w := m.svc.files.NewWriter(ctx)
	defer w.Abort()
	if err := w.Append(path, "default", []byte(data)); err != nil {
		m.t.Fatal(err)
	}
	layers, err := w.Finish()
	m.must(nil, err)
	return m.svc.attach(ctx, commitOf(commit), layers)
}

func TestWriter_WhoseTimeIsOverWritesNothing(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	m.branch("r@master")
	ctx, w := m.someone("worker")
	m.must(nil, m.writeAs(ctx, "r@master", "/a", "1"))
	open, err := m.svc.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branchOf("r@other")})
	m.must(open, err)
	m.must(nil, m.writeAs(ctx, "r@other", "/b", "1"))
	before := m.inspectBranch("r@master").Head
	for value, text := range map[string]string{"2": `worker ended: "2"`, "": `worker ended: ""`} {
		m.allow(w, value)
		_, start := m.svc.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branchOf("r@master")})
		_, finish := m.svc.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: open})
		_, branch := m.svc.CreateBranch(ctx, &pfspb.CreateBranchRequest{Branch: branchOf("r@third")})
		for what, err := range map[string]error{
			"one-shot": m.writeAs(ctx, "r@master", "/a", "2"), "into an open commit": m.writeAs(ctx, "r@other", "/b", "2"),
			"start": start, "finish": finish, "branch": branch,
		} {
			if status.Code(err) != codes.PermissionDenied || status.Convert(err).Message() != text {
				t.Errorf("%s: %v, want %s", what, err, text)
			}
		}
	}
	if head := m.inspectBranch("r@master").Head; head.Id != before.Id {
		t.Errorf("the head moved to %s", head.Id)
	}
	if info := m.inspect(open); info.Finishing != nil || info.SizeBytesUpperBound != 1 {
		t.Errorf("the open commit: %v", info)
	}
	m.allow(w, w.Value)
	m.must(nil, m.writeAs(ctx, "r@master", "/a", "3"))
	// Whoever is no such writer is not touched.
	m.must(nil, m.writeAs(limit(t), "r@master", "/a", "4"))
}

// Streams that share a transaction do not share the fate of one of them, be each a
// commit or all of one open commit.
func TestWriter_RefusalSparesTheOthersOfAGroup(t *testing.T) {
	t.Run("one-shot", func(t *testing.T) { refusalSparesOthers(t, false) })
	t.Run("open commit", func(t *testing.T) { refusalSparesOthers(t, true) })
}

func refusalSparesOthers(t *testing.T, open bool) {
	m := newMeta(t)
	m.repo("r")
	m.branch("r@master")
	var c *pfspb.Commit
	if open {
		c = m.start("r@master")
	}
	live, _ := m.someone("live")
	dead, w := m.someone("dead")
	m.allow(w, "2")
	errs := make(chan error, 60)
	for i := range 60 {
		ctx := limit(t)
		switch i % 3 {
		case 0:
			ctx = live
		case 1:
			ctx = dead
		}
		go func() {
			err := m.writeAs(ctx, "r@master", fmt.Sprint("/", i), "x")
			if refused := status.Code(err) == codes.PermissionDenied; refused != (i%3 == 1) {
				errs <- fmt.Errorf("stream %d: %w", i, errors.Join(err, errors.New("unexpected")))
				return
			}
			errs <- nil
		}()
	}
	for range 60 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if open {
		m.finish(c)
	}
	if n := m.inspect(commitOf("r@master")).Details.GetSizeBytes(); n != 40 {
		t.Errorf("the head has %d bytes, want 40", n)
	}
}

// A stream finds its target before its data comes, and the right one after that.
func TestModifyFile_TargetChangesMeanwhile(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	m.branch("r@master")
	put := func(path string, meanwhile func()) error {
		before, err := m.svc.target(ctx, commitOf("r@master"))
		m.must(before, err)
		w := m.svc.files.NewWriter(ctx)
		defer w.Abort()
		m.must(nil, w.Append(path, "default", []byte("x")))
		layers, err := w.Finish()
		m.must(layers, err)
		meanwhile()
		return m.svc.attachTo(ctx, before, commitOf("r@master"), layers)
	}
	var open *pfspb.Commit
	m.must(nil, put("/opened", func() { open = m.start("r@master") }))
	m.must(nil, put("/finished", func() { m.finish(open) }))
	m.wantTree(open, "/ /opened=x")
	m.wantTree(commitOf("r@master"), "/ /finished=x /opened=x")
	m.start("r@master")
	m.must(nil, put("/dropped", func() { m.must(nil, m.dropSet(m.inspectBranch("r@master").Head.Id)) }))
	m.wantTree(commitOf("r@master"), "/ /dropped=x /finished=x /opened=x")
	err := put("/gone", func() { m.must(m.svc.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repoOf("r")})) })
	var gone *RepoNotFoundError
	if !errors.As(err, &gone) {
		t.Errorf("to a repo that was deleted meanwhile: %v", err)
	}
}

func TestDropOpen_TakesBackWhatWriterLeft(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r", "below", "late")
	m.branch("r@master")
	m.branch("r@mine")
	m.branch("r@needed")
	m.branch("r@passed-on")
	m.must(m.CreateBranch(ctx, &pfspb.CreateBranchRequest{Branch: branchOf("below@master"), Provenance: []*pfspb.Branch{branchOf("r@passed-on")}}))
	worker, _ := m.someone("worker")
	m.must(nil, m.writeAs(worker, "r@master", "/a", "kept"))
	kept := m.inspectBranch("r@master").Head
	open := map[string]*pfspb.Commit{}
	for _, name := range []string{"r@master", "r@needed", "r@new", "r@passed-on"} {
		c, err := m.svc.StartCommit(worker, &pfspb.StartCommitRequest{Branch: branchOf(name)})
		m.must(c, err)
		m.must(nil, m.writeAs(worker, name, "/a", "half"))
		open[name] = c
	}
	// Of this one something is made that does not belong to its set.
	m.must(m.CreateBranch(ctx, &pfspb.CreateBranchRequest{Branch: branchOf("late@master"), Provenance: []*pfspb.Branch{branchOf("r@needed")}}))
	mine := m.start("r@mine")
	other := func(string) bool { return false }
	m.must(nil, m.svc.DropOpen(ctx, repoOf("r"), other))
	m.must(nil, m.svc.DropOpen(ctx, repoOf("none"), func(string) bool { return true }))
	if m.inspect(open["r@master"]).Finishing != nil {
		t.Error("not asked for")
	}
	for range 2 { // again: nothing is left to do
		m.must(nil, m.svc.DropOpen(ctx, repoOf("r"), func(w string) bool { return w == "worker" }))
	}
	if head := m.inspectBranch("r@master").Head; head.Id != kept.Id {
		t.Errorf("the head is %s, want %s", head.Id, kept.Id)
	}
	for _, name := range []string{"r@master", "r@new", "r@passed-on"} {
		if _, err := m.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: open[name]}); status.Code(err) != codes.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"r@new", "below@master"} {
		if info := m.inspect(commitOf(name)); info.Finished == nil && name == "r@new" || info.Details.GetSizeBytes() != 0 {
			t.Errorf("%s: %v", name, info)
		}
	}
	// What others depend on stays, empty and with an error.
	info, err := m.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: open["r@needed"], Wait: pfspb.CommitState_FINISHED})
	m.must(info, err)
	if info.GetError() != "dropped: its writer ended before it was finished" || info.Details.GetSizeBytes() != 0 {
		t.Errorf("a commit that is needed: %v", info)
	}
	if info := m.inspect(mine); info.Finishing != nil {
		t.Errorf("somebody else's commit: %v", info)
	}
	m.must(nil, m.writeAs(ctx, "r@master", "/a", "+"))
	if n := m.inspect(commitOf("r@master")).Details.GetSizeBytes(); n != 5 {
		t.Errorf("the head has %d bytes, want 5", n)
	}
	stream, err := m.Fsck(ctx, &pfspb.FsckRequest{})
	m.must(nil, err)
	if fault, err := stream.Recv(); err == nil {
		t.Errorf("fsck: %v", fault)
	}
}
