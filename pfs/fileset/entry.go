package fileset

import (
	"context"
	"crypto/sha256"
	"encoding"
	"fmt"
	"hash"
	"strings"
	"sync"

	"github.com/minipachd/minipachd/pfs/chunk"
)

// op is what an entry does to what lies under it.
type op uint8

const (
	opAppend     op = iota // its bytes follow those below
	opReplace              // its bytes are all there is
	opDelete               // the file is gone
	opDeleteTree           // everything below the directory is gone; upper or same-layer entries stay
)

// part is a run of a file's bytes: inline, or in a chunk.
type part struct {
	data []byte // nil for a chunk
	ref  chunk.Ref
}

func (p part) size() int64 {
	if p.data != nil {
		return int64(len(p.data))
	}
	return int64(p.ref.Len)
}

// entry is one change of a layer. Entries are never modified once in a layer.
type entry struct {
	path  string // "/a/b"; a tree is "/a/"
	datum string // empty for a tree
	op    op
	parts []part
	size  int64
	sum   [sha256.Size]byte // SHA-256 of its own bytes
	state []byte            // hash state after its bytes, when there are more than keepState
}

// keepState is the size above which an entry carries its hash state, so that an
// append on top need not read its bytes again. Below it they are read.
const keepState = 64 << 10

// compare orders entries by path, then datum.
func compare(aPath, aDatum, bPath, bDatum string) int {
	if c := strings.Compare(aPath, bPath); c != 0 {
		return c
	}
	return strings.Compare(aDatum, bDatum)
}

// resume gives a SHA-256 in the state that an entry recorded.
func resume(state []byte) (hash.Hash, error) {
	h := sha256.New()
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
		return nil, fmt.Errorf("recorded hash state: %w", err)
	}
	return h, nil
}

// setSum records what h has seen as the entry's own bytes.
func (e *entry) setSum(h hash.Hash) error {
	h.Sum(e.sum[:0])
	e.state = nil
	if e.size > keepState {
		state, err := h.(encoding.BinaryMarshaler).MarshalBinary()
		if err != nil {
			return fmt.Errorf("hash state: %w", err)
		}
		e.state = state
	}
	return nil
}

// readAhead is the number of bytes from which on a stream reads the next chunk
// while the one before is dealt with.
const readAhead = 1 << 20

// readOnce is the number of bytes from which on a stream's chunks go past the cache:
// it would not hold them until somebody reads them again.
const readOnce = 8 << 20

// stream calls fn with the bytes of the parts from off on, piece by piece. The
// pieces are shared: fn must not modify or keep them.
func (s *Storage) stream(ctx context.Context, parts []part, off int64, fn func([]byte) error) error {
	return s.lend(ctx, parts, off, returning(fn))
}

// returning makes of fn one that gives each piece back as it returns.
func returning(fn func([]byte) error) func([]byte, func()) error {
	return func(b []byte, back func()) error {
		defer back()
		return fn(b)
	}
}

// lend is stream for an fn that keeps the pieces until it has called back.
func (s *Storage) lend(ctx context.Context, parts []part, off int64, fn func(b []byte, back func()) error) error {
	for len(parts) > 0 && off >= parts[0].size() {
		off -= parts[0].size()
		parts = parts[1:]
	}
	var size int64
	for _, p := range parts {
		size += p.size()
	}
	if len(parts) > 1 && size-off >= readAhead {
		return s.lendAhead(ctx, parts, off, size-off, fn)
	}
	for _, p := range parts {
		l := s.read(ctx, p, off, 0)
		if l.err != nil {
			return l.err
		}
		off = 0
		if err := fn(l.data, l.back); err != nil {
			return err
		}
	}
	return nil
}

// loan is the bytes of a part, which may be changed after back was called.
type loan struct {
	data []byte
	back func()
	err  error
}

// read gives the bytes of a part from off on. Size is the length of what is being read in all, or 0:
// when it is much, most of a chunk is not worth keeping in memory for the next reader.
func (s *Storage) read(ctx context.Context, p part, off, size int64) loan {
	if p.data != nil {
		return loan{data: p.data[off:], back: func() {}}
	}
	ref := p.ref
	ref.Off += uint32(off)
	ref.Len -= uint32(off)
	var l loan
	if size >= readOnce && ref.Len > ref.Size/2 {
		l.data, l.back, l.err = s.chunks.Borrow(ctx, ref, size >= chunk.BulkSize)
	} else {
		l.data, l.back, l.err = s.chunks.Lend(ctx, ref)
	}
	return l
}

// lendAhead is lend of size bytes with a goroutine that has the next part read, and the one after it
// while that is waited for.
func (s *Storage) lendAhead(ctx context.Context, parts []part, off, size int64, fn func(b []byte, back func()) error) error {
	ahead := make(chan chan loan, 1)
	rctx, cancel := context.WithCancel(ctx)
	var reader sync.WaitGroup
	defer reader.Wait()
	defer cancel()
	reader.Go(func() {
		defer close(ahead)
		for i, p := range parts {
			if i > 0 {
				off = 0
			}
			next := make(chan loan, 1)
			select {
			case ahead <- next:
			case <-rctx.Done():
				return
			}
			from := off
			reader.Go(func() { next <- s.read(rctx, p, from, size) })
		}
	})
	for range parts {
		next, ok := <-ahead
		if !ok {
			return ctx.Err()
		}
		l := <-next
		if l.err != nil {
			return l.err
		}
		if err := fn(l.data, l.back); err != nil {
			return err
		}
	}
	return nil
}

// hashAll returns the hash over the bytes of several entries, lowest first. It
// starts from what the first one recorded and reads the others.
func (s *Storage) hashAll(ctx context.Context, es []*entry) (hash.Hash, error) {
	h := sha256.New()
	rest := es
	if len(es) > 0 && es[0].state != nil {
		var err error
		if h, err = resume(es[0].state); err != nil {
			return nil, err
		}
		rest = es[1:]
	}
	for _, e := range rest {
		if err := s.stream(ctx, e.parts, 0, func(b []byte) error {
			h.Write(b)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return h, nil
}
