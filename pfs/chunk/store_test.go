package chunk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// small sizes make many chunks of few bytes.
var small = Sizes{Min: 1 << 10, Avg: 4 << 10, Max: 16 << 10}

// spyBucket counts and, where a hook is set, delays.
type spyBucket struct {
	Bucket
	puts, gets, active, most atomic.Int64
	onPut, onGet             func(context.Context) error

	mu     sync.Mutex
	synced []string
}

func (b *spyBucket) Put(ctx context.Context, key string, parts ...[]byte) error {
	b.puts.Add(1)
	var n int64
	for _, p := range parts {
		n += int64(len(p))
	}
	now := b.active.Add(n)
	defer b.active.Add(-n)
	for m := b.most.Load(); now > m && !b.most.CompareAndSwap(m, now); m = b.most.Load() {
	}
	if b.onPut != nil {
		if err := b.onPut(ctx); err != nil {
			return err
		}
	}
	return b.Bucket.Put(ctx, key, parts...)
}

func (b *spyBucket) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	b.gets.Add(1)
	if b.onGet != nil {
		if err := b.onGet(ctx); err != nil {
			return nil, err
		}
	}
	return b.Bucket.Get(ctx, key, off, n)
}

func (b *spyBucket) Append(ctx context.Context, dst []byte, key string, bulk bool) ([]byte, error) {
	data, err := b.Get(ctx, key, 0, -1)
	return append(dst, data...), err
}

func (b *spyBucket) Sync(ctx context.Context, keys ...string) error {
	b.mu.Lock()
	b.synced = append(b.synced, keys...)
	b.mu.Unlock()
	return b.Bucket.Sync(ctx, keys...)
}

func newSpy(t *testing.T) *spyBucket {
	t.Helper()
	b, err := OpenURL(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return &spyBucket{Bucket: b}
}

func writeAll(t *testing.T, s *Store, data []byte) []Ref {
	t.Helper()
	w := s.NewWriter(t.Context(), nil)
	if err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	x, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return x.AppendRefs(nil, 0, int64(len(data)))
}

func TestWriter_KnownChunksAreSyncedButNotWritten(t *testing.T) {
	b := newSpy(t)
	s := NewStore(b, Options{Sizes: small})
	data := randomBytes(t, 100<<10)
	refs := writeAll(t, s, data)
	puts := b.puts.Load()
	b.synced = nil
	if again := writeAll(t, s, data); !slices.Equal(refs, again) {
		t.Error("the same bytes give other chunks")
	}
	if n := b.puts.Load() - puts; n > 0 {
		t.Errorf("%d chunks were written again", n)
	}
	var want []string
	for _, r := range refs {
		want = append(want, r.Hash.Key())
	}
	slices.Sort(want)
	slices.Sort(b.synced)
	if !slices.Equal(b.synced, want) {
		t.Errorf("synced %d keys, want %d", len(b.synced), len(want))
	}
	var listed []string
	for c, err := range s.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		listed = append(listed, c.Hash.Key())
		if ok, err := s.Has(t.Context(), c.Hash); !ok || err != nil {
			t.Errorf("has: %v, %v", ok, err)
		}
		if err := s.Verify(t.Context(), c.Hash); err != nil {
			t.Error(err)
		}
	}
	if !slices.Equal(listed, want) {
		t.Errorf("%d chunks are listed, want %d", len(listed), len(want))
	}
}

func TestWriter_StaysWithinTheBudget(t *testing.T) {
	b := newSpy(t)
	const budget = 64 << 10
	s := NewStore(b, Options{Sizes: small, InFlightBytes: budget, Workers: 2})
	var all sync.WaitGroup
	for range 8 {
		data := randomBytes(t, 512<<10)
		all.Go(func() { writeAll(t, s, data) })
	}
	all.Wait()
	if most := b.most.Load(); most > budget || most == 0 {
		t.Errorf("%d bytes were being written at a time, the budget is %d", most, budget)
	}
	if !s.budget.TryAcquire(budget) {
		t.Error("a share of the budget was not given back")
	}
}

func TestWriter_ChunkLargerThanTheBudget(t *testing.T) {
	s := NewStore(newSpy(t), Options{Sizes: small, InFlightBytes: 100})
	writeAll(t, s, randomBytes(t, 64<<10))
	if !s.budget.TryAcquire(100) {
		t.Error("a share of the budget was not given back")
	}
}

func TestWriter_WaitingEndsWithTheContext(t *testing.T) {
	b := newSpy(t)
	stuck := make(chan struct{}, 1000)
	b.onPut = func(ctx context.Context) error {
		stuck <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	s := NewStore(b, Options{Sizes: small, InFlightBytes: 32 << 10})
	ctx, cancel := context.WithCancel(t.Context())
	w := s.NewWriter(ctx, nil)
	data := randomBytes(t, 1<<20)
	done := make(chan error)
	go func() { done <- w.Write(data) }()
	<-stuck
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("write: %v", err)
	}
	if _, err := w.Close(); !errors.Is(err, context.Canceled) {
		t.Errorf("close: %v", err)
	}
	w.Abort()
	if !s.budget.TryAcquire(32 << 10) {
		t.Error("a share of the budget was not given back")
	}
}

func TestWriter_FirstErrorIsReported(t *testing.T) {
	b := newSpy(t)
	broken := errors.New("broken bucket")
	b.onPut = func(context.Context) error { return broken }
	s := NewStore(b, Options{Sizes: small})
	w := s.NewWriter(t.Context(), nil)
	_ = w.Write(randomBytes(t, 256<<10)) // Close reports it at the latest
	if _, err := w.Close(); !errors.Is(err, broken) {
		t.Errorf("close: %v", err)
	}
	if len(b.synced) > 0 {
		t.Error("a failed writer was synced")
	}
	if err := w.Write([]byte("x")); err == nil {
		t.Error("a closed writer takes bytes")
	}
	if _, err := w.Close(); err == nil {
		t.Error("a writer can be closed twice")
	}
}

func TestWriter_EmptyStream(t *testing.T) {
	w := NewStore(newSpy(t), Options{}).NewWriter(t.Context(), nil)
	if err := errors.Join(w.Write(nil), w.Boundary()); err != nil {
		t.Fatal(err)
	}
	x, err := w.Close()
	if err != nil || x.Size() != 0 || x.AppendRefs(nil, 0, 0) != nil {
		t.Errorf("%v, %v", x, err)
	}
}

func TestIndex_AnyRange(t *testing.T) {
	s := NewStore(newSpy(t), Options{Sizes: small})
	data := randomBytes(t, 60<<10)
	w := s.NewWriter(t.Context(), nil)
	for p := data; len(p) > 0; {
		n := min(len(p), 777)
		if err := errors.Join(w.Write(p[:n]), w.Boundary()); err != nil {
			t.Fatal(err)
		}
		p = p[n:]
	}
	x, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	for off := 0; off < len(data); off += 997 {
		for _, n := range []int{1, 1000, 20_000, len(data) - off} {
			n = min(n, len(data)-off)
			var got []byte
			for _, ref := range x.AppendRefs(nil, int64(off), int64(n)) {
				b, _, err := s.Lend(t.Context(), ref)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, b...)
			}
			if !bytes.Equal(got, data[off:off+n]) {
				t.Fatalf("range %d+%d reads wrong", off, n)
			}
		}
	}
}

func TestRead_DamageIsNoticed(t *testing.T) {
	b := newSpy(t)
	s := NewStore(b, Options{CacheBytes: -1})
	t.Run("lend", func(t *testing.T) { damageIsNoticed(t, b, s, s.Lend) })
	for _, bulk := range []bool{false, true} {
		t.Run(fmt.Sprintf("borrow, bulk %v", bulk), func(t *testing.T) {
			damageIsNoticed(t, b, s, func(ctx context.Context, ref Ref) ([]byte, func(), error) { return s.Borrow(ctx, ref, bulk) })
		})
	}
}

func damageIsNoticed(t *testing.T, b *spyBucket, s *Store, lend func(context.Context, Ref) ([]byte, func(), error)) {
	read := func(ctx context.Context, ref Ref) ([]byte, error) {
		data, back, err := lend(ctx, ref)
		if err != nil {
			return nil, err
		}
		defer back()
		return bytes.Clone(data), nil
	}
	for _, data := range [][]byte{randomBytes(t, 5000), bytes.Repeat([]byte("line\n"), 1000)} {
		ref := writeAll(t, s, data)[0]
		good, err := b.Get(t.Context(), ref.Hash.Key(), 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		for i, bad := range [][]byte{nil, good[:5], good[:headerSize], good[:len(good)-1], append(slices.Clone(good), 0)} {
			if err := b.Put(t.Context(), ref.Hash.Key(), nil, bad); err != nil {
				t.Fatal(err)
			}
			var corrupt *CorruptError
			if _, err := read(t.Context(), ref); !errors.As(err, &corrupt) || corrupt.Hash != ref.Hash || status.Code(err) != codes.DataLoss {
				t.Errorf("damage %d: %v", i, err)
			}
		}
		for at := range min(len(good), 200) {
			bad := slices.Clone(good)
			bad[at] ^= 0x41
			if err := b.Put(t.Context(), ref.Hash.Key(), nil, bad); err != nil {
				t.Fatal(err)
			}
			// A bit of a zstd header may have no meaning; the bytes then are right all the same.
			if got, err := read(t.Context(), ref); err == nil && !bytes.Equal(got, data) {
				t.Errorf("a flipped byte at %d is not noticed", at)
			}
		}
		if err := b.Put(t.Context(), ref.Hash.Key(), nil, good); err != nil {
			t.Fatal(err)
		}
		wrong := ref
		wrong.Size++
		if _, err := read(t.Context(), wrong); status.Code(err) != codes.DataLoss {
			t.Errorf("a ref of the wrong size: %v", err)
		}
		wrong.Size = 1 << 31
		if _, err := read(t.Context(), wrong); status.Code(err) != codes.DataLoss {
			t.Errorf("a ref of a size that no chunk has: %v", err)
		}
		wrong = ref
		wrong.Off = 1
		if _, err := read(t.Context(), wrong); status.Code(err) != codes.DataLoss {
			t.Errorf("a ref beyond the end: %v", err)
		}
		if err := s.Delete(t.Context(), ref.Hash); err != nil {
			t.Fatal(err)
		}
		_, err = read(t.Context(), ref)
		var missing *MissingError
		if !errors.As(err, &missing) || !errors.Is(err, ErrNotFound) || status.Code(err) != codes.DataLoss {
			t.Errorf("a missing chunk: %v", err)
		}
	}
}

func TestCache_OneLoadForManyAndBounded(t *testing.T) {
	b := newSpy(t)
	s := NewStore(b, Options{Sizes: small, CacheBytes: 40 << 10})
	refs := writeAll(t, s, randomBytes(t, 200<<10))
	release := make(chan struct{})
	b.onGet = func(context.Context) error { <-release; return nil }
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if _, _, err := s.Lend(t.Context(), refs[0]); err != nil {
				t.Error(err)
			}
		})
	}
	close(release)
	all.Wait()
	if n := b.gets.Load(); n != 1 {
		t.Errorf("ten readers of a chunk made %d loads", n)
	}
	for _, ref := range refs {
		if _, _, err := s.Lend(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
	}
	var held int64
	for e := s.cache.recent.Front(); e != nil; e = e.Next() {
		held += int64(len(e.Value.(*cached).data))
	}
	if held != s.cache.size || held > 40<<10 || held < 20<<10 || len(s.cache.entries) != s.cache.recent.Len() {
		t.Errorf("the cache holds %d bytes, thinks %d", held, s.cache.size)
	}
	gets := b.gets.Load()
	if _, _, err := s.Lend(t.Context(), refs[len(refs)-1]); err != nil || b.gets.Load() != gets {
		t.Errorf("the newest chunk is not in the cache: %v", err)
	}
}

func TestCache_CancelledReaderDoesNotFailOthers(t *testing.T) {
	b := newSpy(t)
	s := NewStore(b, Options{})
	ref := writeAll(t, s, []byte("some bytes"))[0]
	started := make(chan struct{}, 2)
	var first atomic.Bool
	b.onGet = func(ctx context.Context) error {
		started <- struct{}{}
		if first.CompareAndSwap(false, true) {
			<-ctx.Done()
		}
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	one, other := make(chan error), make(chan error)
	go func() { _, _, err := s.Lend(ctx, ref); one <- err }()
	<-started
	go func() { _, _, err := s.Lend(t.Context(), ref); other <- err }()
	cancel()
	if err := <-one; !errors.Is(err, context.Canceled) {
		t.Errorf("the cancelled reader: %v", err)
	}
	if err := <-other; err != nil {
		t.Errorf("the other reader: %v", err)
	}
}

func TestOpenURL_Refuses(t *testing.T) {
	for _, url := range []string{"", "dir", "s3://bucket", "file://host/dir", "file:dir", "file:///", "::"} {
		if b, err := OpenURL(t.Context(), url); err == nil {
			_ = b.Close()
			t.Errorf("%q was opened", url)
		}
	}
}

// Where the cuts are is no part of the format, but if they move, nothing that is
// stored is found again.
func TestCut_RuleIsFixed(t *testing.T) {
	var data []byte
	for i := range uint32(6 << 20) { // without a period, and the same for ever
		data = append(data, byte(i*i*2654435761>>24))
	}
	c := cutter{cutRule: newCutRule(Sizes{Min: MinSize, Avg: AvgSize, Max: MaxSize})}
	if got, want := c.gear[0], uint64(0xd1279a6e3b3c6f5f); got != want {
		t.Errorf("the table begins with %#x, want %#x", got, want)
	}
	var ends []int
	for off := 0; off < len(data); {
		n, cut := c.next(data[off:])
		if off += n; cut {
			ends = append(ends, off)
		}
	}
	if want := []int{2527713, 4448591}; !slices.Equal(ends, want) {
		t.Errorf("cuts at %v, want %v", ends, want)
	}
}

// TestLend_StaysUntilItIsGivenBack has readers of all kinds look at chunks of a cache
// that holds few of them, so that memory is used again all the time.
func TestLend_StaysUntilItIsGivenBack(t *testing.T) {
	s := NewStore(newSpy(t), Options{Sizes: small, CacheBytes: 40 << 10})
	want := randomBytes(t, 400<<10)
	refs := writeAll(t, s, want)
	starts := make([]int, len(refs))
	for i := range refs[1:] {
		starts[i+1] = starts[i] + int(refs[i].Len)
	}
	var all sync.WaitGroup
	for reader := range 8 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(reader)))
			type piece struct{ got, want []byte }
			var read []piece
			for n := range 3000 {
				i := random.IntN(len(refs))
				expected := want[starts[i]:][:refs[i].Len]
				ctx, cancel := context.WithCancel(t.Context())
				var data []byte
				var err error
				back := func() {}
				switch kind := random.IntN(10); {
				case kind < 2:
					data, back, err = s.Borrow(ctx, refs[i], i%2 == 0)
				case kind < 3 && n < 1000:
					data, _, err = s.Lend(ctx, refs[i])
					read = append(read, piece{data, expected})
				case kind < 4: // gives up while others load the chunk, perhaps
					go cancel()
					if data, back, err = s.Lend(ctx, refs[i]); errors.Is(err, context.Canceled) {
						continue
					}
				default:
					data, back, err = s.Lend(ctx, refs[i])
				}
				if err != nil {
					t.Error(err)
					cancel()
					return
				}
				for range 3 {
					runtime.Gosched()
					if !bytes.Equal(data, expected) {
						t.Errorf("the bytes of chunk %d changed before they were given back", i)
					}
				}
				if random.IntN(20) > 0 { // nobody has to
					back()
				}
				cancel()
			}
			for _, p := range read {
				if !bytes.Equal(p.got, p.want) {
					t.Error("bytes that were not given back changed")
				}
			}
		})
	}
	all.Wait()
	if len(s.cache.loading) > 0 {
		t.Errorf("%d loads never ended", len(s.cache.loading))
	}
}

// TestLend_UsesMemoryAgain reads many chunks one after the other through a small cache.
func TestLend_UsesMemoryAgain(t *testing.T) {
	s := NewStore(newSpy(t), Options{Sizes: small, CacheBytes: 40 << 10})
	refs := writeAll(t, s, randomBytes(t, 400<<10))
	memory := map[*byte]bool{}
	for _, ref := range refs {
		data, back, err := s.Lend(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		memory[&data[0]] = true
		back()
	}
	if len(memory) > len(refs)/2 {
		t.Errorf("%d chunks were read into %d pieces of memory", len(refs), len(memory))
	}
}
