package chunk_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/minipachd/minipachd/pfs/chunk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func random(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b) // never fails
	return b
}

func openMem(t testing.TB) chunk.Bucket {
	b, err := chunk.OpenURL(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// write stores data in pieces of random size and reads it back.
func write(t testing.TB, s *chunk.Store, seed uint64, data []byte) []chunk.Ref {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	w := s.NewWriter(t.Context(), nil)
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 1+r.IntN(3<<20))
		if err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	x, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return x.AppendRefs(nil, 0, int64(len(data)))
}

func read(t testing.TB, s *chunk.Store, refs []chunk.Ref) []byte {
	t.Helper()
	var all []byte
	for _, ref := range refs {
		b, _, err := s.Lend(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

func TestWriter_CutsByContent(t *testing.T) {
	s := chunk.NewStore(openMem(t), chunk.Options{})
	data := random(1, 40<<20)
	refs := write(t, s, 1, data)
	if !bytes.Equal(read(t, s, refs), data) {
		t.Fatal("what was read is not what was written")
	}
	if again := write(t, s, 2, data); !slices.Equal(refs, again) {
		t.Error("the size of writes changes the chunks")
	}
	for i, r := range refs {
		if r.Size > chunk.MaxSize || r.Size < chunk.MinSize && i < len(refs)-1 {
			t.Errorf("chunk %d has %d bytes", i, r.Size)
		}
	}
	shifted := write(t, s, 3, append(random(2, 1000), data...))
	same := 0
	for _, r := range shifted {
		if slices.Contains(refs, r) {
			same++
		}
	}
	if same < len(refs)/2 {
		t.Errorf("after an insertion only %d of %d chunks are the same", same, len(refs))
	}
	t.Logf("%d chunks of %d bytes on average", len(refs), len(data)/len(refs))
}

func TestWriter_BoundaryMakesAFileCutAsElsewhere(t *testing.T) {
	s := chunk.NewStore(openMem(t), chunk.Options{})
	file := random(3, 10<<20)
	alone := write(t, s, 1, file)
	for _, size := range []int{len(file), 100_000, 1000} {
		cutAfterAnother(t, s, file, alone, size)
	}
}

// cutAfterAnother writes a file after another in pieces of some size.
func cutAfterAnother(t *testing.T, s *chunk.Store, file []byte, alone []chunk.Ref, size int) {
	t.Helper()
	w := s.NewWriter(t.Context(), nil)
	before := random(4, 700<<10)
	if err := errors.Join(w.Write(before), w.Boundary()); err != nil {
		t.Fatal(err)
	}
	for p := range slices.Chunk(file, size) {
		if err := w.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if w.Offset() != int64(len(before)+len(file)) {
		t.Errorf("offset %d", w.Offset())
	}
	x, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if got := x.AppendRefs(nil, int64(len(before)), int64(len(file))); !slices.Equal(got, alone) {
		t.Error("the file is cut differently after another")
	}
	part := x.AppendRefs(nil, 100, int64(len(before)))
	if want := append(slices.Clone(before[100:]), file[:100]...); !bytes.Equal(read(t, s, part), want) {
		t.Error("a range over two chunks reads wrong")
	}
	if refs := x.AppendRefs(nil, 5, 0); refs != nil {
		t.Errorf("an empty range has %d refs", len(refs))
	}
}

func TestWriter_SmallFilesShareChunksOfAFairSize(t *testing.T) {
	s := chunk.NewStore(openMem(t), chunk.Options{})
	files := slices.Collect(slices.Chunk(random(5, 20<<20), 4<<10))
	w := s.NewWriter(t.Context(), nil)
	for _, f := range files {
		if err := errors.Join(w.Boundary(), w.Write(f)); err != nil {
			t.Fatal(err)
		}
	}
	x, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	refs := x.AppendRefs(nil, 0, x.Size())
	if mean := int(x.Size()) / len(refs); mean < 1<<20 {
		t.Errorf("%d chunks of %d bytes on average", len(refs), mean)
	}
	if got := read(t, s, refs); !bytes.Equal(got, bytes.Join(files, nil)) {
		t.Error("the files read wrong")
	}
}

func TestStore_CompressesAndVerifies(t *testing.T) {
	dir := t.TempDir()
	b, err := chunk.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := chunk.NewStore(b, chunk.Options{})
	text := bytes.Repeat([]byte("the same line again\n"), 200_000)
	refs := write(t, s, 1, text)
	var stored int64
	for o, err := range b.List(t.Context(), "chunk/") {
		if err != nil {
			t.Fatal(err)
		}
		stored += o.Size
	}
	if stored > int64(len(text)/10) {
		t.Errorf("%d bytes of text take %d", len(text), stored)
	}
	var files []string
	if err := filepath.WalkDir(filepath.Join(dir, "chunk"), func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, p)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for i, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		raw[len(raw)/2] ^= 1
		if i%2 == 1 {
			raw = raw[:4]
		}
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fresh := chunk.NewStore(b, chunk.Options{})
	var corrupt *chunk.CorruptError
	if _, _, err := fresh.Lend(t.Context(), refs[0]); !errors.As(err, &corrupt) {
		t.Errorf("a changed chunk: %v", err)
	}
	var missing *chunk.MissingError
	if err := fresh.Verify(t.Context(), chunk.Hash{1}); !errors.As(err, &missing) {
		t.Errorf("a missing chunk: %v", err)
	}
}

func TestWriter_ManyAtOnceShareTheBudget(t *testing.T) {
	s := chunk.NewStore(openMem(t), chunk.Options{InFlightBytes: chunk.MaxSize})
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			data := random(byte(i), 12<<20)
			if !bytes.Equal(read(t, s, write(t, s, uint64(i), data)), data) {
				t.Errorf("writer %d: wrong bytes", i)
			}
		})
	}
	all.Wait()
}

func TestWriter_AbortAndCancel(t *testing.T) {
	s := chunk.NewStore(openMem(t), chunk.Options{})
	w := s.NewWriter(t.Context(), nil)
	if err := w.Write(random(1, 9<<20)); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	ctx, cancel := context.WithCancel(t.Context())
	w = s.NewWriter(ctx, nil)
	cancel()
	_ = w.Write(random(1, 9<<20)) // may or may not notice; Close must
	if _, err := w.Close(); !errors.Is(err, context.Canceled) {
		t.Errorf("close of a cancelled writer: %v", err)
	}
}

// TestBucket is the contract that every bucket keeps.
func TestBucket(t *testing.T) {
	for name, open := range map[string]func() (chunk.Bucket, error){
		"dir": func() (chunk.Bucket, error) { return chunk.OpenURL(t.Context(), "file://"+t.TempDir()+"/new") },
		"mem": func() (chunk.Bucket, error) { return chunk.OpenURL(t.Context(), "mem://") },
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			b, err := open()
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			if err := b.Put(ctx, "a/b/1", []byte("hello "), nil, []byte("world")); err != nil {
				t.Fatal(err)
			}
			for _, tc := range []struct {
				off, n int64
				want   string
			}{{0, -1, "hello world"}, {6, 3, "wor"}, {6, 100, "world"}, {11, -1, ""}, {50, 5, ""}, {0, 0, ""}} {
				if got, err := b.Get(ctx, "a/b/1", tc.off, tc.n); err != nil || string(got) != tc.want {
					t.Errorf("get %d %d: %q, %v", tc.off, tc.n, got, err)
				}
			}
			if err := errors.Join(b.Put(ctx, "a/b/1", []byte("new")), b.Put(ctx, "a/0", nil), b.Put(ctx, "b", nil)); err != nil {
				t.Fatal(err)
			}
			if err := b.Sync(ctx, "a/b/1", "a/0", "b"); err != nil {
				t.Errorf("sync: %v", err)
			}
			if got, err := b.Get(ctx, "a/b/1", 0, -1); err != nil || string(got) != "new" {
				t.Errorf("replaced: %q, %v", got, err)
			}
			if _, err := b.Get(ctx, "a/2", 0, -1); !errors.Is(err, chunk.ErrNotFound) {
				t.Errorf("missing: %v", err)
			}
			if ok, err := b.Exists(ctx, "a/2"); ok || err != nil {
				t.Errorf("exists: %v, %v", ok, err)
			}
			list := func(prefix string) (keys []string) {
				for o, err := range b.List(ctx, prefix) {
					if err != nil {
						t.Fatal(err)
					}
					keys = append(keys, o.Key)
				}
				return keys
			}
			if got := list("a/"); !slices.Equal(got, []string{"a/0", "a/b/1"}) {
				t.Errorf("list: %v", got)
			}
			if err := errors.Join(b.Delete(ctx, "a/0"), b.Delete(ctx, "a/0")); err != nil {
				t.Errorf("delete: %v", err)
			}
			if got := list(""); !slices.Equal(got, []string{"a/b/1", "b"}) {
				t.Errorf("list after delete: %v", got)
			}
			cancelled, cancel := context.WithCancel(ctx)
			cancel()
			if err := b.Put(cancelled, "c", []byte("x")); err == nil {
				t.Error("a put with a cancelled context succeeded")
			}
		})
	}
	if _, err := chunk.OpenURL(t.Context(), "ftp://x"); err == nil {
		t.Error("an unknown scheme was accepted")
	}
}

func BenchmarkWriter(b *testing.B) {
	bucket, err := chunk.OpenDir(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	s := chunk.NewStore(bucket, chunk.Options{})
	data := random(9, 64<<20)
	b.SetBytes(int64(len(data)))
	for i := range b.N {
		for page := 0; page < len(data); page += 4096 {
			data[page] = byte(i)
		}
		w := s.NewWriter(b.Context(), nil)
		if err := w.Write(data); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
