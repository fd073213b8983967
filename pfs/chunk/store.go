package chunk

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"time"

	"golang.org/x/sync/semaphore"
)

// Options of a Store. The zero value of a field stands for its default.
type Options struct {
	// InFlightBytes bounds the chunks of all writers that are being hashed, compressed
	// or written; a writer waits for its share. Default 16 MiB, and a single chunk
	// is always admitted. An open writer holds its unfinished chunk, at most
	// Sizes.Max, besides.
	InFlightBytes int64
	// CacheBytes bounds the chunks kept in memory for reading, default 16 MiB;
	// negative for none.
	CacheBytes int64
	// Workers bounds the chunks being hashed and compressed at a time, default GOMAXPROCS.
	Workers int
	// Sizes says where to cut, default MinSize, AvgSize, MaxSize.
	Sizes Sizes
}

// readParallel bounds the chunks that are being fetched and decoded at a time.
const readParallel = 16

// Store reads and writes chunks in a bucket. It is safe for concurrent use and needs
// no closing: it has no goroutines but those of its writers.
type Store struct {
	bucket  Bucket
	rule    *cutRule
	codec   *codec
	budget  *semaphore.Weighted
	memory  int64
	workers *semaphore.Weighted
	cache   *cache
	loads   *semaphore.Weighted
	buffers *buffers
}

// NewStore gives the store of the chunks in a bucket; the bucket stays the caller's
// to close, after all writers.
// It panics if the options make no sense.
func NewStore(b Bucket, opt Options) *Store {
	if opt.InFlightBytes == 0 {
		opt.InFlightBytes = 16 << 20
	}
	if opt.CacheBytes == 0 {
		opt.CacheBytes = 16 << 20
	}
	if opt.Workers == 0 {
		opt.Workers = runtime.GOMAXPROCS(0)
	}
	if opt.Sizes == (Sizes{}) {
		opt.Sizes = Sizes{Min: MinSize, Avg: AvgSize, Max: MaxSize}
	}
	if z := opt.Sizes; opt.InFlightBytes < 0 || opt.Workers < 0 || z.Min < 1 || z.Avg < max(z.Min, 64) || z.Max < z.Avg || z.Max > maxRawSize {
		panic(fmt.Sprintf("chunk: options make no sense: %+v", opt))
	}
	free := &buffers{}
	return &Store{
		bucket:  b,
		rule:    newCutRule(opt.Sizes),
		codec:   newCodec(),
		budget:  semaphore.NewWeighted(opt.InFlightBytes),
		memory:  opt.InFlightBytes,
		workers: semaphore.NewWeighted(int64(opt.Workers)),
		cache:   newCache(opt.CacheBytes, free.put),
		loads:   semaphore.NewWeighted(readParallel),
		buffers: free,
	}
}

// Lend returns the bytes that ref points at, after checking the whole chunk against
// its hash. The caller must not modify them, and looks at them until it calls back, at most
// once: then their memory may be used again. Back need not be called. A chunk that has
// changed, or that has another size than ref says, gives a *CorruptError, a lost one a *MissingError.
func (s *Store) Lend(ctx context.Context, ref Ref) (data []byte, back func(), err error) {
	c, err := s.cache.get(ctx, ref, func(ctx context.Context, ref Ref) (data, memory []byte, err error) {
		return s.loadBuffered(ctx, ref, false)
	})
	if err != nil {
		return nil, nil, err
	}
	return s.lent(c, ref)
}

// lent is a piece of a chunk of the cache.
func (s *Store) lent(c *cached, ref Ref) (data []byte, back func(), err error) {
	if data, err = ref.slice(c.data); err != nil {
		s.cache.back(c)
		return nil, nil, err
	}
	return data, func() { s.cache.back(c) }, nil
}

// Borrow is Lend of most of a chunk, once: what is not in the cache does not come there. Bulk is as
// for Bucket.PutBulk.
func (s *Store) Borrow(ctx context.Context, ref Ref, bulk bool) (data []byte, back func(), err error) {
	if c := s.cache.peek(ref.Hash); c != nil {
		return s.lent(c, ref)
	}
	whole, memory, err := s.loadBuffered(ctx, ref, bulk)
	if err != nil {
		return nil, nil, err
	}
	if data, err = ref.slice(whole); err != nil {
		return nil, nil, err
	}
	return data, func() { s.buffers.put(memory) }, nil
}

// loadBuffered fetches and checks the chunk of ref. Memory is what it lies in, for buffers. Bulk is
// as for Bucket.PutBulk.
func (s *Store) loadBuffered(ctx context.Context, ref Ref, bulk bool) (whole, memory []byte, err error) {
	if ref.Size > maxRawSize {
		return nil, nil, &CorruptError{Hash: ref.Hash, Reason: fmt.Sprintf("no chunk has %d bytes", ref.Size)}
	}
	buffer := s.buffers.get(int(ref.Size) + headerSize)
	if whole, err = s.fetch(ctx, ref.Hash, buffer, bulk, s.buffers.get); err != nil {
		return nil, nil, err
	}
	if len(whole) > 0 && &whole[0] == &buffer[:headerSize+1][headerSize] {
		return whole, buffer, nil
	}
	s.buffers.put(buffer)
	return whole, whole, nil
}

// load fetches and checks a chunk.
func (s *Store) load(ctx context.Context, h Hash) ([]byte, error) {
	return s.fetch(ctx, h, nil, true, func(n int) []byte { return make([]byte, 0, n) })
}

// fetch is load of an object that fits into dst, and of a chunk that lies there too
// or in what buffer gives.
func (s *Store) fetch(ctx context.Context, h Hash, dst []byte, bulk bool, buffer func(int) []byte) ([]byte, error) {
	if err := s.loads.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("read chunk %s: %w", h, err)
	}
	defer s.loads.Release(1)
	object, err := s.bucket.Append(ctx, dst, h.Key(), bulk)
	if errors.Is(err, ErrNotFound) {
		return nil, &MissingError{Hash: h}
	}
	if err != nil {
		return nil, fmt.Errorf("read chunk %s: %w", h, err)
	}
	return s.codec.decode(h, object, buffer)
}

// Verify reads a chunk from the bucket, past the cache, and checks it. A chunk that
// has changed gives a *CorruptError, a lost one a *MissingError.
func (s *Store) Verify(ctx context.Context, h Hash) error {
	_, err := s.load(ctx, h)
	return err
}

// ReadStored gives a whole chunk past the cache: what the bucket has now.
func (s *Store) ReadStored(ctx context.Context, h Hash) ([]byte, error) { return s.load(ctx, h) }

// Keep pins chunks that the bucket already has, so that a new layer may refer to
// them. One that is gone gives a *MissingError.
func (s *Store) Keep(ctx context.Context, p Pinner, hashes ...Hash) error {
	for _, h := range hashes {
		if err := p.Pin(ctx, h.Key()); err != nil {
			return fmt.Errorf("keep chunk %s: %w", h, err)
		}
		// Only what was there after the pin is sure to stay.
		ok, err := s.Has(ctx, h)
		if err != nil {
			return err
		}
		if !ok {
			return &MissingError{Hash: h}
		}
	}
	return nil
}

// Has tells whether the bucket has a chunk, without reading it.
func (s *Store) Has(ctx context.Context, h Hash) (bool, error) {
	return s.bucket.Exists(ctx, h.Key())
}

// Delete removes a chunk; a missing one is no error. The caller sees to it that
// nobody refers to it or is about to.
func (s *Store) Delete(ctx context.Context, h Hash) error {
	s.cache.drop(h)
	return s.bucket.Delete(ctx, h.Key())
}

// Info describes a stored chunk.
type Info struct {
	Hash     Hash
	Stored   int64     // bytes in the bucket
	Modified time.Time // when it was written
}

// List yields all chunks in the bucket in order of their hashes. Objects there that
// are no chunks are passed over. It ends after the first error.
func (s *Store) List(ctx context.Context) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		for o, err := range s.bucket.List(ctx, keyPrefix) {
			if err != nil {
				yield(Info{}, fmt.Errorf("list chunks: %w", err))
				return
			}
			if h, ok := ParseKey(o.Key); ok && !yield(Info{Hash: h, Stored: o.Size, Modified: o.Modified}, nil) {
				return
			}
		}
	}
}
