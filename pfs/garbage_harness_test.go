package pfs

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/minipachd/minipachd/pfs/chunk"
	"github.com/minipachd/minipachd/pfs/fileset"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
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
func (f *farm) daemon(gc GCConfig, edit ...func(*Config)) (*Service, func()) {
	f.t.Helper()
	cfg := Config{Store: f.store, Bucket: f.bucket, GC: gc}
	for _, e := range edit {
		e(&cfg)
	}
	svc, err := New(cfg)
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
	sn, err := s.snapshot(f.ctx, commitOf(repo+"@master"), authpb.Permission_REPO_READ)
	f.must(err)
	n, err := sn.one(f.ctx, fileOf(nil, path))
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
