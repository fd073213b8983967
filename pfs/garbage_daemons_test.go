package pfs

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/pfs/chunk"
	"github.com/minipachd/minipachd/pfs/gc"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

func TestCollectGarbage_OtherDaemonsStreamsAreKept(t *testing.T) {
	f := newFarm(t)
	a, _ := f.daemon(GCConfig{})
	b, _ := f.daemon(GCConfig{})
	f.repo(a, "r")
	_, layers := f.write(b, "/a", noise(1, large))
	if report := f.collect(a); report.Chunks != 0 {
		t.Errorf("swept %d chunks", report.Chunks)
	}
	f.must(b.attach(f.ctx, commitOf("r@master"), layers))
	f.whole(a)
}

// TestCollectGarbage_DaemonLeavesDuringTheSweep takes away a daemon that has made
// a commit of garbage since the sweep has read what commits refer to.
func TestCollectGarbage_DaemonLeavesDuringTheSweep(t *testing.T) {
	f := newFarm(t)
	a, _ := f.daemon(GCConfig{})
	b, stop := f.daemon(GCConfig{})
	f.repo(a, "old")
	f.repo(a, "r")
	f.put(a, "old", "/a", noise(1, large))
	f.deleteRepo(a, "old")
	f.bucket.afterMark(func() {
		f.put(b, "r", "/b", noise(1, large))
		stop()
	})
	if report := f.collect(a); report.Chunks != 0 {
		t.Errorf("swept %d chunks", report.Chunks)
	}
	f.whole(a)
}

// cutOff ends a daemon's session in etcd, as a lease that ran out does.
func (f *farm) cutOff() {
	f.t.Helper()
	leases, err := f.store.Client().Leases(f.ctx)
	f.must(err)
	for _, l := range leases.Leases {
		_, err := f.store.Client().Revoke(f.ctx, l.ID)
		f.must(err)
	}
}

func TestCollectGarbage_LostSession(t *testing.T) {
	f := newFarm(t)
	s, _ := f.daemon(GCConfig{})
	f.repo(s, "r")
	_, layers := f.write(s, "/a", noise(1, large))
	f.cutOff()
	// What was written is still there: the stream goes on in the new session.
	f.must(s.attach(f.ctx, commitOf("r@master"), layers))
	f.whole(s)

	_, layers = f.write(s, "/b", noise(2, large))
	doomed, ok := chunk.ParseKey(chunk.Sum(noise(2, large)).Key())
	if !ok {
		t.Fatal("no key of a chunk")
	}
	f.must(s.chunks.Delete(f.ctx, doomed)) // as a sweep may do that did not ask this daemon
	f.cutOff()
	err := s.attach(f.ctx, commitOf("r@master"), layers)
	var lost *gc.LostError
	if !errors.As(err, &lost) || status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
	f.whole(s)
	f.put(s, "r", "/b", noise(2, large))
	f.whole(s)
}

// TestCollectGarbage_TransactionWithUnknownEnd lets a transaction take effect, or
// try to, after its writer has given up and a sweep has been through.
func TestCollectGarbage_TransactionWithUnknownEnd(t *testing.T) {
	f := newFarm(t)
	s, _ := f.daemon(GCConfig{})
	w, layers := f.write(s, "/a", noise(1, large))
	_, err := f.store.Update(f.ctx, func(stx *store.Txn) error {
		tx := s.newTxn(stx)
		if err := tx.putLayers(layers); err != nil {
			return err
		}
		again, err := tx.settle(f.ctx, true, &store.UnavailableError{Op: "commit to", Err: context.DeadlineExceeded})
		if again || err == nil {
			t.Errorf("the writer hears of no error: %v, %v", again, err)
		}
		w.Abort()
		if report := f.collect(s); report.Chunks != 1 {
			t.Errorf("swept %v", report)
		}
		return nil
	})
	if !errors.Is(err, store.ErrLeaseLost) {
		t.Errorf("the transaction ends with %v", err)
	}
	f.whole(s)
}

// TestCollectGarbage_SweepWithoutOwner leaves a sweep as a daemon does that died
// while it deleted: another ends it, and a writer that waits for it goes on.
func TestCollectGarbage_SweepWithoutOwner(t *testing.T) {
	f := newFarm(t)
	s, _ := f.daemon(GCConfig{})
	f.repo(s, "r")
	w, _ := f.write(s, "/a", noise(1, large))
	w.Abort()
	runs := store.NewCollection[*recordpb.GarbageRun]("pfs/gc/run")
	_, err := f.store.Update(f.ctx, func(tx *store.Txn) error {
		return runs.Put(tx, "", &recordpb.GarbageRun{Id: "dead", Open: true, Step: 1, Deleting: true, Condemned: f.objects()})
	})
	f.must(err)
	// Whoever writes a condemned chunk ends the sweep, once it has heard of it.
	for open := true; open; {
		f.must(f.ctx.Err())
		f.put(s, "r", "/a", noise(1, large))
		f.must(s.View(f.ctx, func(tx *Txn) error {
			run, _, err := runs.Get(tx.Txn, "")
			open = run.GetOpen()
			return err
		}))
	}
	f.whole(s)
}

// TestCollectGarbage_AfterACrash finds the keys of a daemon that was killed, whose
// leases have not run out yet.
func TestCollectGarbage_AfterACrash(t *testing.T) {
	f := newFarm(t)
	lease, err := f.store.NewLease(f.ctx, time.Hour)
	f.must(err)
	defer lease.Close()
	_, err = f.store.Update(f.ctx, func(tx *store.Txn) error {
		tx.PutLease("pfs/gc/owner", []byte("dead"), lease.ID())
		tx.PutLease("pfs/gc/member/dead", nil, lease.ID())
		return nil
	})
	f.must(err)
	s, _ := f.daemon(GCConfig{Exclusive: true})
	w, _ := f.write(s, "/a", noise(1, large))
	w.Abort()
	if report := f.collect(s); report.Chunks != 1 {
		t.Errorf("swept %v", report)
	}
}

func TestCollectGarbage_OneAtATime(t *testing.T) {
	f := newFarm(t)
	a, _ := f.daemon(GCConfig{})
	b, _ := f.daemon(GCConfig{})
	w, _ := f.write(a, "/a", noise(1, large))
	w.Abort()
	f.bucket.hook(func(op, _ string) {
		if op != "delete" {
			return
		}
		_, err := b.CollectGarbage(f.ctx)
		var busy *gc.BusyError
		if !errors.As(err, &busy) {
			t.Errorf("a second collection: %v", err)
		}
	})
	f.collect(a)
}
