package pfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/pfs/chunk"
	"github.com/minipachd/minipachd/pfs/fileset"
	"github.com/minipachd/minipachd/pfs/gc"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// hookedBucket calls a hook before it does something.
type hookedBucket struct {
	chunk.Bucket
	mu sync.Mutex
	fn func(op, key string)
}

func (b *hookedBucket) hook(fn func(op, key string)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fn = fn
}

func (b *hookedBucket) before(op, key string) {
	b.mu.Lock()
	fn := b.fn
	b.mu.Unlock()
	if fn != nil {
		fn(op, key)
	}
}

func (b *hookedBucket) Delete(ctx context.Context, key string) error {
	b.before("delete", key)
	return b.Bucket.Delete(ctx, key)
}

func (b *hookedBucket) Exists(ctx context.Context, key string) (bool, error) {
	b.before("exists", key)
	return b.Bucket.Exists(ctx, key)
}

func (b *hookedBucket) List(ctx context.Context, prefix string) iter.Seq2[chunk.ObjectInfo, error] {
	b.before("list", prefix)
	return b.Bucket.List(ctx, prefix)
}

// afterMark does something once the next sweep has read what layers refer to: it
// lists the chunks for the second time then.
func (b *hookedBucket) afterMark(then func()) {
	var n atomic.Int32
	b.hook(func(op, key string) {
		if op == "list" && key == "chunk/" && n.Add(1) == 2 {
			then()
		}
	})
}

// farm is an etcd and a bucket with daemons on them.
type farm struct {
	t      *testing.T
	ctx    context.Context
	store  *store.Store
	bucket *hookedBucket
}

func newFarm(t *testing.T) *farm {
	t.Helper()
	dir := t.TempDir()
	st, err := store.Open(t.Context(), store.Config{Dir: filepath.Join(dir, "etcd")})
	if err != nil {
		t.Fatal(err)
	}
	b, err := chunk.OpenDir(filepath.Join(dir, "bucket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(st.Close(), b.Close()); err != nil {
			t.Error(err)
		}
	})
	return &farm{t: t, ctx: limit(t), store: st, bucket: &hookedBucket{Bucket: b}}
}

// daemon runs a Service until the test ends or the returned function is called.
func (f *farm) daemon(cfg GCConfig) (*Service, func()) {
	f.t.Helper()
	svc, err := New(Config{Store: f.store, Bucket: f.bucket, GC: cfg})
	f.must(err)
	f.must(svc.Init(f.ctx))
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- svc.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ran; err != nil {
			f.t.Errorf("Run: %v", err)
		}
	})
	f.t.Cleanup(stop)
	return svc, stop
}

func (f *farm) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *farm) repo(s *Service, name string) {
	f.t.Helper()
	_, err := s.CreateRepo(f.ctx, &pfspb.CreateRepoRequest{Repo: repoOf(name)})
	f.must(err)
}

func (f *farm) deleteRepo(s *Service, name string) {
	f.t.Helper()
	_, err := s.DeleteRepo(f.ctx, &pfspb.DeleteRepoRequest{Repo: repoOf(name)})
	f.must(err)
	f.must(s.sweep(f.ctx))
}

// write puts a file's data where it goes without making a commit of it.
func (f *farm) write(s *Service, path string, data []byte) (*fileset.Writer, []*fileset.Layer) {
	f.t.Helper()
	w := s.files.NewWriter(f.ctx)
	f.t.Cleanup(w.Abort)
	f.must(w.Append(path, "default", data))
	layers, err := w.Finish()
	f.must(err)
	return w, layers
}

// put makes a commit on "repo@master" with one file in it.
func (f *farm) put(s *Service, repo, path string, data []byte) {
	f.t.Helper()
	w, layers := f.write(s, path, data)
	defer w.Abort()
	f.must(s.attach(f.ctx, commitOf(repo+"@master"), layers))
}

// get reads a file back.
func (f *farm) get(s *Service, repo, path string) []byte {
	f.t.Helper()
	sn, err := s.snapshot(f.ctx, commitOf(repo+"@master"))
	f.must(err)
	n, err := sn.one(f.ctx, path)
	f.must(err)
	var got []byte
	f.must(n.File.Stream(f.ctx, 0, func(b []byte) error {
		got = append(got, b...)
		return nil
	}))
	return got
}

func (f *farm) collect(s *Service) *recordpb.GarbageReport {
	f.t.Helper()
	report, err := s.CollectGarbage(f.ctx)
	f.must(err)
	return report
}

// objects are the keys in the bucket.
func (f *farm) objects() (keys []string) {
	f.t.Helper()
	for o, err := range f.bucket.List(f.ctx, "") {
		f.must(err)
		keys = append(keys, o.Key)
	}
	return keys
}

// whole checks that everything that is recorded is there, byte by byte.
func (f *farm) whole(s *Service) {
	f.t.Helper()
	for _, fault := range faults(f.ctx, f.t, s, true) {
		f.t.Errorf("fsck: %s", fault)
	}
}

func faults(ctx context.Context, t *testing.T, s *Service, deep bool) (all []string) {
	t.Helper()
	if err := s.Check(ctx, deep, func(fault error) error {
		all = append(all, fault.Error())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// noise gives the same n bytes for the same seed, that nothing compresses.
func noise(seed byte, n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data) // never fails
	return data
}

const large = 1 << 20 // more than stays in etcd, one chunk

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
	f.must(s.compactBranch(f.ctx, branchOf("r@master"))) // a fold under way would keep what it made
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
	f.put(s, "r", "/a", noise(1, large))
	f.whole(s)
	f.must(s.View(f.ctx, func(tx *Txn) error {
		run, _, err := runs.Get(tx.Txn, "")
		if run.GetOpen() {
			t.Error("the sweep is still open")
		}
		return err
	}))
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

func TestCollectGarbage_UnreadableLayerStopsTheSweep(t *testing.T) {
	f := newFarm(t)
	s, _ := f.daemon(GCConfig{})
	f.repo(s, "r")
	f.put(s, "r", "/a", noise(1, large))
	w, _ := f.write(s, "/b", noise(2, large))
	w.Abort() // garbage
	sn, err := s.snapshot(f.ctx, commitOf("r@master"))
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
	src, err := s.snapshot(f.ctx, commitOf("src@master"))
	f.must(err)
	node, err := src.one(f.ctx, "/a")
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
	clock := &stillClock{now: time.Now(), waits: make(chan time.Time, 10)}
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
	clock.advance(10 * time.Minute)
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

// stillClock stands still until it is advanced, and tells what it is waited for.
type stillClock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[chan time.Time]time.Time
	waits  chan time.Time
}

func (c *stillClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *stillClock) Timer(at time.Time) (<-chan time.Time, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timers == nil {
		c.timers = map[chan time.Time]time.Time{}
	}
	ch := make(chan time.Time, 1)
	c.timers[ch] = at
	c.fire()
	c.waits <- at
	return ch, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.timers, ch)
	}
}

func (c *stillClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.fire()
}

func (c *stillClock) fire() {
	for ch, at := range c.timers {
		if !at.After(c.now) {
			ch <- c.now
			delete(c.timers, ch)
		}
	}
}

// TestCollectGarbage_ByTheClock follows the schedule: the first collection soon
// after the start, layers after the grace, the next one an interval later.
func TestCollectGarbage_ByTheClock(t *testing.T) {
	f := newFarm(t)
	start := time.Now().Round(0)
	clock := &stillClock{now: start, waits: make(chan time.Time, 10)}
	s, _ := f.daemon(GCConfig{Clock: clock, Interval: time.Hour, Grace: 10 * time.Minute})
	wait := func(want time.Duration) {
		t.Helper()
		select {
		case at := <-clock.waits:
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
	sn, err := s.snapshot(f.ctx, commitOf("r@master"))
	f.must(err)
	f.deleteRepo(s, "r")
	clock.advance(time.Minute)
	wait(11 * time.Minute) // the grace
	// A reader that is on its way goes on.
	n, err := sn.one(f.ctx, "/a")
	f.must(err)
	f.must(n.File.Stream(f.ctx, 0, func([]byte) error { return nil }))
	clock.advance(10 * time.Minute)
	wait(11*time.Minute + time.Hour) // the next collection
	if left := f.objects(); len(left) != 0 {
		t.Errorf("objects left: %v", left)
	}
}
