package chunk

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
)

// BulkSize is the size in bytes from which a stream counts as much data. What comes after so much of
// it is written past the page cache of the system, where copying takes more processor time than the
// disk needs and drives out what is read more often.
const BulkSize = 64 << 20

// writerParallel bounds the chunks of one writer that are under way.
const writerParallel = 8

// Pinner keeps objects of a bucket from being deleted while nothing that is
// stored refers to them yet.
type Pinner interface {
	// Pin returns once the object under key, which may not exist, will not be deleted
	// until the pin is released; it waits while the object is being deleted. Whether
	// the object exists has to be found out afterwards. It is safe for concurrent use.
	Pin(ctx context.Context, key string) error
}

// errClosed is the cause with which a writer ends its own context.
var errClosed = errors.New("writer is closed")

// Writer stores one stream of bytes as chunks. Its methods are for one goroutine.
// Either Close or Abort must be called; both wait for all that the writer started.
type Writer struct {
	store  *Store
	pins   Pinner // nil for none
	parent context.Context
	ctx    context.Context // ends with the first error
	cancel context.CancelCauseFunc

	cut     cutter
	pending []byte // the object of the unfinished chunk; empty, or room for the header and data
	// border is where in pending the last file begins, if the chunk may end there; 0
	// otherwise.
	border int
	offset int64
	closed bool

	slots   chan struct{} // one held by each chunk under way
	wg      sync.WaitGroup
	hashing sync.WaitGroup // of chunks whose hash is not known yet

	mu     sync.Mutex
	chunks []stored // in stream order
}

// stored is a chunk of the stream.
type stored struct {
	hash Hash // set once it is known
	end  int64
}

// NewWriter begins a stream. When ctx ends, so does the writer, with its error.
// Every chunk, new or found in the bucket, is pinned before it is looked for, and
// stays pinned when the writer is done; pins may be nil where nothing sweeps.
func (s *Store) NewWriter(ctx context.Context, pins Pinner) *Writer {
	w := &Writer{store: s, pins: pins, parent: ctx, cut: cutter{cutRule: s.rule}, slots: make(chan struct{}, writerParallel)}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	return w
}

// Write appends p to the stream. It copies p, so the caller may reuse it. It waits
// while too much is under way. After an error all further calls fail with it.
func (w *Writer) Write(p []byte) error {
	if err := w.err(); err != nil {
		return err
	}
	if w.border > 0 && len(w.pending)-w.border+len(p) >= w.store.rule.min/4 {
		if err := w.cutAtBorder(); err != nil {
			return err
		}
	}
	for len(p) > 0 {
		n, cut := w.cut.next(p)
		if !cut {
			w.append(p, w.grown(w.size()+n))
			return nil
		}
		if err := w.finishChunk(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// Offset is the number of bytes written so far: where the next byte goes.
func (w *Writer) Offset() int64 { return w.offset }

// Boundary hints that a file begins here. The chunk ends if it is large enough, so
// that an equal file at another boundary gives equal chunks; but small files
// share chunks of a fair size.
func (w *Writer) Boundary() error {
	if err := w.err(); err != nil {
		return err
	}
	w.border = 0
	switch n := w.size(); {
	case n < w.store.rule.min:
	case n >= w.store.rule.norm:
		w.cut.reset()
		return w.finishChunk(nil)
	default:
		w.border = len(w.pending) // the next file decides, when it turns out to be large
	}
	return nil
}

// cutAtBorder ends the chunk where the last file begins. What there is of the file
// is too little for a cut, so the cutter has to know its length alone.
func (w *Writer) cutAtBorder() error {
	file := append(w.store.buffers.get(w.store.rule.min/4), w.pending[w.border:]...)
	w.offset -= int64(len(file))
	w.pending = w.pending[:w.border]
	if err := w.finishChunk(nil); err != nil {
		w.store.buffers.put(file)
		return err
	}
	w.cut.reset()
	_, _ = w.cut.next(file)
	w.append(file, w.grown(len(file)))
	w.store.buffers.put(file)
	return nil
}

// Close stores what is pending and makes all of the stream's chunks durable,
// including those that the bucket had before. Only then may the index's refs be recorded.
func (w *Writer) Close() (*Index, error) {
	x, err := w.Seal()
	if err == nil {
		err = w.Settle()
	}
	if err != nil {
		w.Abort()
		return nil, err
	}
	return x, nil
}

// Seal ends the stream and tells what chunks it became, which need not be durable
// before Settle has returned.
func (w *Writer) Seal() (*Index, error) {
	if w.closed {
		return nil, fmt.Errorf("close writer: %w", errClosed)
	}
	if len(w.pending) > 0 && w.err() == nil {
		if err := w.finishChunk(nil); err != nil {
			return nil, err
		}
	}
	w.hashing.Wait()
	if err := w.err(); err != nil {
		return nil, err
	}
	return &Index{chunks: w.chunks}, nil
}

// Settle, after Seal, is Close: it makes the stream's chunks durable. It may run in
// another goroutine than Seal, and the writer ends with it.
func (w *Writer) Settle() error {
	w.wg.Wait()
	err := w.err()
	if err == nil {
		err = w.store.bucket.Sync(w.parent, w.keys()...)
	}
	w.end()
	return err
}

// Abort ends the writer and waits until it does nothing more. Chunks already stored
// stay until they are swept. After Close it does nothing.
func (w *Writer) Abort() {
	w.cancel(errClosed)
	w.wg.Wait()
	w.end()
}

// end gives back what the writer holds.
func (w *Writer) end() {
	w.cancel(errClosed)
	w.closed = true
	w.store.buffers.put(w.pending)
	w.pending = nil
}

// err is why the writer cannot go on.
func (w *Writer) err() error {
	if w.ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("write chunks: %w", context.Cause(w.ctx))
}

// keys are the distinct keys of the stream.
func (w *Writer) keys() []string {
	seen := make(map[Hash]bool, len(w.chunks))
	keys := make([]string, 0, len(w.chunks))
	for _, c := range w.chunks {
		if !seen[c.hash] {
			seen[c.hash] = true
			keys = append(keys, c.hash.Key())
		}
	}
	return keys
}

// size is the number of bytes of the unfinished chunk.
func (w *Writer) size() int { return max(len(w.pending)-headerSize, 0) }

// grown is how many bytes pending should have room for when there are n. Small streams stay
// small; a large one is moved a few times at most.
func (w *Writer) grown(n int) int {
	if headerSize+n <= cap(w.pending) {
		return n
	}
	r := w.store.rule
	for _, c := range [...]int{r.min / 8, r.min, r.norm + r.norm/2} {
		if n <= c {
			return c
		}
	}
	return r.max
}

// append adds p to pending, which gets room for at least n bytes.
func (w *Writer) append(p []byte, n int) {
	if cap(w.pending) < headerSize+n {
		b := append(w.store.buffers.get(headerSize+n), w.pending...)
		w.store.buffers.put(w.pending)
		w.pending = b
	}
	if len(w.pending) == 0 {
		w.pending = w.pending[:headerSize]
	}
	w.pending = append(w.pending, p...)
	w.offset += int64(len(p))
}

// finishChunk ends the chunk with p and sends it on its way.
func (w *Writer) finishChunk(p []byte) error {
	select {
	case w.slots <- struct{}{}:
	case <-w.ctx.Done():
		return w.err()
	}
	size := w.size() + len(p)
	share := min(int64(size), w.store.memory)
	// Only chunks under way hold a share, and each of them gets done without
	// waiting for another: so every writer's turn comes.
	if err := w.store.budget.Acquire(w.ctx, share); err != nil {
		<-w.slots
		return w.err()
	}
	bulk := w.offset >= BulkSize
	w.append(p, size)
	object := w.pending
	w.pending, w.border = nil, 0

	w.mu.Lock()
	i := len(w.chunks)
	w.chunks = append(w.chunks, stored{end: w.offset})
	w.mu.Unlock()
	w.hashing.Add(1)
	w.wg.Go(func() {
		defer func() { <-w.slots }()
		if err := w.put(i, object, share, bulk); err != nil {
			w.cancel(err)
		}
	})
	return nil
}

// put stores the i-th chunk, whose object still lacks its header. It gives back the object and its share
// of the budget. Bulk is as for Bucket.PutBulk.
func (w *Writer) put(i int, object []byte, share int64, bulk bool) error {
	s := w.store
	defer func() {
		s.buffers.put(object)
		s.budget.Release(share)
	}()
	data := object[headerSize:]
	hash, err := w.sum(i, data)
	if err != nil {
		return err
	}

	key, size := hash.Key(), len(data)
	if w.pins != nil {
		if err := w.pins.Pin(w.ctx, key); err != nil {
			return err
		}
	}
	if ok, err := s.bucket.Exists(w.ctx, key); err != nil || ok {
		return err
	}
	compression := byte(plain)
	if err := w.work(func() {
		packed, pays := s.codec.compress(data, s.buffers)
		if !pays {
			return
		}
		s.buffers.put(object)
		object, compression = packed, compressed
	}); err != nil {
		return err
	}
	if n := int64(len(object)); n < share {
		s.budget.Release(share - n)
		share = n
	}
	setHeader(object, compression, size)
	if bulk {
		return s.bucket.PutBulk(w.ctx, key, object)
	}
	return s.bucket.Put(w.ctx, key, object)
}

// sum gives the hash of the i-th chunk, and notes it.
func (w *Writer) sum(i int, data []byte) (hash Hash, err error) {
	defer w.hashing.Done()
	if err = w.work(func() { hash = Sum(data) }); err != nil {
		w.cancel(err) // before anybody takes the hashes for known
		return hash, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.chunks[i].hash = hash
	return hash, nil
}

// work runs f while holding one of the store's workers.
func (w *Writer) work(f func()) error {
	if err := w.store.workers.Acquire(w.ctx, 1); err != nil {
		return context.Cause(w.ctx)
	}
	defer w.store.workers.Release(1)
	f()
	return nil
}

// Index tells which chunks a written stream became.
type Index struct {
	chunks []stored
}

// Size is the length of the stream.
func (x *Index) Size() int64 {
	if len(x.chunks) == 0 {
		return 0
	}
	return x.chunks[len(x.chunks)-1].end
}

// AppendRefs appends the slices of chunks that hold the n bytes of the stream from off,
// in order; none if n is 0. It panics if the range is not within the stream.
func (x *Index) AppendRefs(refs []Ref, off, n int64) []Ref {
	if off < 0 || n < 0 || off > x.Size()-n {
		panic(fmt.Sprintf("chunk: range %d+%d of a stream of %d bytes", off, n, x.Size()))
	}
	i := sort.Search(len(x.chunks), func(i int) bool { return x.chunks[i].end > off })
	for ; n > 0; i++ {
		var start int64
		if i > 0 {
			start = x.chunks[i-1].end
		}
		c := x.chunks[i]
		k := min(n, c.end-off)
		refs = append(refs, Ref{Hash: c.hash, Size: uint32(c.end - start), Off: uint32(off - start), Len: uint32(k)})
		off += k
		n -= k
	}
	return refs
}
