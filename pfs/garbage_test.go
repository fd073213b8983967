package pfs

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/minipachd/minipachd/clock/clocktest"
	"github.com/minipachd/minipachd/pfs/fileset"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

func TestCollectGarbage_DeletedRepoGivesEverythingBack(t *testing.T) {
	f := newFarm(t)
	s, _ := f.daemon(GCConfig{})
	f.repo(s, "r")
	f.repo(s, "stays")
	f.put(s, "stays", "/a", noise(1, large))
	f.put(s, "r", "/a", noise(1, large)) // shared
	f.put(s, "r", "/b", noise(2, large))
	for i := range 500 { // more than one layer keeps inline
		f.put(s, "r", fmt.Sprintf("/dir/%03d", i), noise(byte(i), 100))
	}
	f.must(s.compactBranch(f.ctx, normalBranchOf("r@master"))) // a fold under way would keep what it made
	before := len(f.objects())
	f.deleteRepo(s, "r")
	report := f.collect(s)
	if report.Chunks == 0 || report.Layers == 0 || report.Bytes < large {
		t.Errorf("report: %v", report)
	}
	if got := f.objects(); len(got) != 1 || before < 2 {
		t.Errorf("objects left of %d: %v", before, got)
	}
	f.whole(s)
	if !bytes.Equal(f.get(s, "stays", "/a"), noise(1, large)) {
		t.Error("the other repo's file has changed")
	}
	last, err := s.garbage.Last(f.ctx)
	f.must(err)
	if last.GetChunks() != report.Chunks || last.GetFinished() == nil {
		t.Errorf("recorded report: %v", last)
	}
	if again := f.collect(s); again.Chunks+again.Layers+again.LayerObjects != 0 {
		t.Errorf("a second collection found more: %v", again)
	}
}

func TestCollectGarbage_LiveHistoryStays(t *testing.T) {
	f := newFarm(t)
	s, _ := f.daemon(GCConfig{})
	f.repo(s, "r")
	for i := range 60 {
		f.put(s, "r", fmt.Sprintf("/f%d", i%7), noise(byte(i), 40_000+i))
		if i%10 == 0 {
			f.collect(s)
		}
	}
	f.collect(s)
	f.whole(s)
}

// TestCollectGarbage_WritesWithoutPinsAreSwept shows that what the next tests find
// intact would not be so without pins.
func TestCollectGarbage_WritesWithoutPinsAreSwept(t *testing.T) {
	f := newFarm(t)
	s, _ := f.daemon(GCConfig{})
	f.repo(s, "r")
	bare := fileset.New(s.chunks, s.bucket, s, fileset.Options{})
	w := bare.NewWriter(f.ctx)
	defer w.Abort()
	f.must(w.Append("/a", "default", noise(1, large)))
	layers, err := w.Finish()
	f.must(err)
	f.collect(s)
	f.must(s.attach(f.ctx, commitOf("r@master"), layers))
	if found := faults(f.ctx, t, s, false); len(found) == 0 {
		t.Error("nothing is missing")
	}
}

func TestCollectGarbage_OpenStreamKeepsWhatItWrote(t *testing.T) {
	f := newFarm(t)
	s, _ := f.daemon(GCConfig{})
	f.repo(s, "r")
	_, layers := f.write(s, "/a", noise(1, 3*large))
	for range 2 {
		if report := f.collect(s); report.Chunks != 0 {
			t.Errorf("swept %d chunks of an open stream", report.Chunks)
		}
	}
	f.must(s.attach(f.ctx, commitOf("r@master"), layers))
	f.collect(s)
	f.whole(s)
}

func TestCollectGarbage_BrokenStreamLeavesNothing(t *testing.T) {
	f := newFarm(t)
	s, _ := f.daemon(GCConfig{})
	w, _ := f.write(s, "/a", noise(1, large))
	w.Abort()
	f.collect(s)
	if left := f.objects(); len(left) != 0 {
		t.Errorf("objects left: %v", left)
	}
}

func TestCollectGarbage_ReusedGarbageStays(t *testing.T) {
	f := newFarm(t)
	s, _ := f.daemon(GCConfig{})
	f.repo(s, "old")
	f.repo(s, "r")
	f.put(s, "old", "/a", noise(1, large))
	f.deleteRepo(s, "old")
	_, layers := f.write(s, "/b", noise(1, large)) // finds the chunk in the bucket
	if report := f.collect(s); report.Chunks != 0 {
		t.Errorf("swept %d chunks", report.Chunks)
	}
	f.must(s.attach(f.ctx, commitOf("r@master"), layers))
	f.whole(s)
}

// TestCollectGarbage_CommitDuringTheSweep makes a commit of garbage after the sweep
// has read what commits refer to, and lets go of its pins before their batch.
func TestCollectGarbage_CommitDuringTheSweep(t *testing.T) {
	f := newFarm(t)
	s, _ := f.daemon(GCConfig{})
	f.repo(s, "old")
	f.repo(s, "r")
	f.put(s, "old", "/a", noise(1, large))
	f.deleteRepo(s, "old")
	f.bucket.afterMark(func() { f.put(s, "r", "/b", noise(1, large)) })
	if report := f.collect(s); report.Chunks != 0 {
		t.Errorf("swept %d chunks", report.Chunks)
	}
	f.whole(s)
	f.deleteRepo(s, "r")
	if report := f.collect(s); report.Chunks != 1 {
		t.Errorf("swept %d chunks afterwards, want 1", report.Chunks)
	}
}

// TestCollectGarbage_WriterMeetsCondemnedChunk writes the very bytes that are being
// deleted: the writer waits, then stores them anew.
func TestCollectGarbage_WriterMeetsCondemnedChunk(t *testing.T) {
	f := newFarm(t)
	a, _ := f.daemon(GCConfig{})
	b, _ := f.daemon(GCConfig{})
	f.repo(a, "old")
	f.repo(a, "r")
	f.put(a, "old", "/a", noise(1, large))
	f.deleteRepo(a, "old")
	written := make(chan error, 1)
	looked := make(chan struct{}, 10)
	f.bucket.hook(func(op, key string) {
		switch {
		case op == "exists":
			looked <- struct{}{}
		case op == "delete":
			go func() {
				w := b.files.NewWriter(f.ctx)
				defer w.Abort()
				err := w.Append("/b", "default", noise(1, large))
				if err == nil {
					var layers []*fileset.Layer
					if layers, err = w.Finish(); err == nil {
						err = b.attach(f.ctx, commitOf("r@master"), layers)
					}
				}
				written <- err
			}()
			// The chunk is still there, and must not be looked for now.
			select {
			case <-looked:
				t.Error("the writer did not wait")
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	if report := f.collect(a); report.Chunks != 1 {
		t.Errorf("swept %d chunks", report.Chunks)
	}
	f.must(<-written)
	f.whole(a)
	if !bytes.Equal(f.get(b, "r", "/b"), noise(1, large)) {
		t.Error("other bytes come back")
	}
}

func TestCollectGarbage_UnreadableLayerStopsTheSweep(t *testing.T) {
	f := newFarm(t)
	s, _ := f.daemon(GCConfig{})
	f.repo(s, "r")
	f.put(s, "r", "/a", noise(1, large))
	w, _ := f.write(s, "/b", noise(2, large))
	w.Abort() // garbage
	sn, err := s.snapshot(f.ctx, commitOf("r@master"), authpb.Permission_REPO_READ)
	f.must(err)
	_, err = f.store.Update(f.ctx, func(tx *store.Txn) error {
		return s.layers.Put(tx, layerKey(sn.rec.Layers[0].Id), &recordpb.LayerRecord{Body: &recordpb.LayerRecord_Inline{Inline: []byte("?")}})
	})
	f.must(err)
	if _, err := s.CollectGarbage(f.ctx); err == nil || !strings.Contains(err.Error(), "nothing in the bucket is swept as long as layer") {
		t.Errorf("got %v", err)
	}
	if got := f.objects(); len(got) != 2 {
		t.Errorf("objects: %v", got)
	}
}

func TestCopyFile_SourceIsDeletedMeanwhile(t *testing.T) {
	f := newFarm(t)
	s, _ := f.daemon(GCConfig{})
	f.repo(s, "src")
	f.repo(s, "r")
	f.put(s, "src", "/a", noise(1, large))
	src, err := s.snapshot(f.ctx, commitOf("src@master"), authpb.Permission_REPO_READ)
	f.must(err)
	node, err := src.one(f.ctx, fileOf(nil, "/a"))
	f.must(err)
	// Copied before the source goes: the copy keeps what it needs.
	w := s.files.NewWriter(f.ctx)
	defer w.Abort()
	f.must(w.Copy("/b", "default", node.File, false))
	f.deleteRepo(s, "src")
	if report := f.collect(s); report.Chunks != 0 {
		t.Errorf("swept %d chunks", report.Chunks)
	}
	layers, err := w.Finish()
	f.must(err)
	f.must(s.attach(f.ctx, commitOf("r@master"), layers))
	w.Abort()
	f.whole(s)

	// Copied afterwards: there is nothing to copy, and that is said.
	f.deleteRepo(s, "r")
	f.collect(s)
	late := s.files.NewWriter(f.ctx)
	defer late.Abort()
	err = src.deleted(f.ctx, s, late.Copy("/b", "default", node.File, false))
	var gone *CommitDeletedError
	if !errors.As(err, &gone) {
		t.Errorf("got %v", err)
	}
}

func TestFileSets_AreReferencesUntilTheyExpire(t *testing.T) {
	f := newFarm(t)
	clock := clocktest.New(time.Now())
	s, _ := f.daemon(GCConfig{Clock: clock})
	put := func(data []byte) []*recordpb.LayerRef {
		w, layers := f.write(s, "/a", data)
		defer w.Abort()
		var refs []*recordpb.LayerRef
		f.must(s.Update(f.ctx, func(tx *Txn) error {
			refs = nil
			for _, l := range layers {
				refs = append(refs, l.Ref)
			}
			if err := tx.putLayers(layers); err != nil {
				return err
			}
			set := &recordpb.FileSetRecord{Layers: refs, Expires: stamp(clock.Now().Add(10 * time.Minute))}
			return s.fileSets.Put(tx.Txn, tx.NewID(), set)
		}))
		return refs
	}
	put(noise(1, large))
	cached := put(noise(2, large))
	f.must(s.Update(f.ctx, func(tx *Txn) error {
		return s.cached.Put(tx.Txn, "k", &recordpb.CacheRecord{FileSets: []*recordpb.FileSetRecord{{Layers: cached}}})
	}))
	if report := f.collect(s); report.Chunks+report.Layers != 0 {
		t.Errorf("swept too early: %v", report)
	}
	clock.Advance(10 * time.Minute)
	if report := f.collect(s); report.Chunks != 1 {
		t.Errorf("swept %v, want the chunk of the set that is not cached", report)
	}
	f.must(s.Update(f.ctx, func(tx *Txn) error {
		s.cached.Delete(tx.Txn, "k")
		return nil
	}))
	if report := f.collect(s); report.Chunks != 1 {
		t.Errorf("swept %v, want the chunk of the set that was cached", report)
	}
}

// TestCollectGarbage_ByTheClock follows the schedule: the first collection soon
// after the start, layers after the grace, the next one an interval later.
func TestCollectGarbage_ByTheClock(t *testing.T) {
	f := newFarm(t)
	start := time.Now().Round(0)
	clock, waits := clocktest.NewTelling(start, 10)
	s, _ := f.daemon(GCConfig{Clock: clock, Interval: time.Hour, Grace: 10 * time.Minute})
	wait := func(want time.Duration) {
		t.Helper()
		select {
		case at := <-waits:
			if got := at.Sub(start); got != want {
				t.Fatalf("waits until %v after the start, want %v", got, want)
			}
		case <-f.ctx.Done():
			t.Fatal("waits for nothing")
		}
	}
	wait(time.Minute)
	f.repo(s, "r")
	f.put(s, "r", "/a", noise(1, large))
	sn, err := s.snapshot(f.ctx, commitOf("r@master"), authpb.Permission_REPO_READ)
	f.must(err)
	f.deleteRepo(s, "r")
	clock.Advance(time.Minute)
	wait(11 * time.Minute) // the grace
	// A reader that is on its way goes on.
	n, err := sn.one(f.ctx, fileOf(nil, "/a"))
	f.must(err)
	f.must(n.File.Stream(f.ctx, 0, func([]byte) error { return nil }))
	clock.Advance(10 * time.Minute)
	wait(11*time.Minute + time.Hour) // the next collection
	if left := f.objects(); len(left) != 0 {
		t.Errorf("objects left: %v", left)
	}
}

// TestCollectGarbage_IsHurriedWhenEtcdIsFull: whoever is refused for want of room in etcd
// makes the collection come early, since what was deleted holds space until then.
func TestCollectGarbage_IsHurriedWhenEtcdIsFull(t *testing.T) {
	f := newFarm(t)
	start := time.Now().Round(0)
	clock, waits := clocktest.NewTelling(start, 10)
	s, _ := f.daemon(GCConfig{Clock: clock, Interval: time.Hour}, func(cfg *Config) {
		cfg.Room = func() error { return &store.FullError{} }
	})
	want := func(at time.Duration) {
		t.Helper()
		select {
		case got := <-waits:
			if got.Sub(start) != at {
				t.Fatalf("waits until %v after the start, want %v", got.Sub(start), at)
			}
		case <-f.ctx.Done():
			t.Fatal("waits for nothing")
		}
	}
	want(time.Minute)
	clock.Advance(time.Minute)
	want(time.Minute + time.Hour)
	var full *store.FullError
	if err := s.Room(); !errors.As(err, &full) {
		t.Fatalf("room: %v", err)
	}
	want(2 * time.Minute)
}
