package chunk

import (
	"container/list"
	"context"
	"fmt"
	"sync"
)

// cache keeps the most recently read chunks, up to a number of bytes, and lets
// readers of the same chunk share one load.
type cache struct {
	limit int64
	free  func(memory []byte) // takes the memory of chunks that nobody looks at

	mu      sync.Mutex
	size    int64
	entries map[Hash]*list.Element // of *cached
	recent  *list.List             // most recently used first
	loading map[Hash]*loading
}

// cached is a chunk in memory.
type cached struct {
	hash   Hash
	data   []byte
	memory []byte // what data lies in
	// users count the readers that have not given the chunk back, and kept tells whether it is in the
	// cache; both are guarded by cache.mu. Who never gives it back leaves its memory to the collector.
	users int
	kept  bool
}

// loading is a load under way. Its result is set before done is closed.
type loading struct {
	done  chan struct{}
	chunk *cached
	err   error
	// Guarded by cache.mu:
	waiting int  // other readers
	dropped bool // the result is not to be kept
}

// loader provides a chunk and what memory it lies in.
type loader func(context.Context, Ref) (data, memory []byte, err error)

func newCache(limit int64, free func([]byte)) *cache {
	return &cache{limit: limit, free: free, entries: map[Hash]*list.Element{}, recent: list.New(), loading: map[Hash]*loading{}}
}

// get returns the chunk of ref, which load provides if it is not there. Once the reader has called
// back, its memory may be used for something else.
func (c *cache) get(ctx context.Context, ref Ref, load loader) (*cached, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("read chunk %s: %w", ref.Hash, err)
		}
		c.mu.Lock()
		if e := c.find(ref.Hash); e != nil {
			c.mu.Unlock()
			return e, nil
		}
		l, ok := c.loading[ref.Hash]
		if ok {
			l.waiting++
		} else {
			l = &loading{done: make(chan struct{})}
			c.loading[ref.Hash] = l
		}
		c.mu.Unlock()
		if !ok {
			data, memory, err := load(ctx, ref)
			c.finish(l, &cached{hash: ref.Hash, data: data, memory: memory}, err)
			return l.chunk, l.err
		}
		select {
		case <-l.done:
			if l.err == nil {
				return l.chunk, nil
			}
			// The other reader's failure may be its own, a cancelled call: try again.
		case <-ctx.Done():
			c.leave(l)
		}
	}
}

// find returns the chunk, with a user more, if it is there. It needs c.mu.
func (c *cache) find(h Hash) *cached {
	e, ok := c.entries[h]
	if !ok {
		return nil
	}
	c.recent.MoveToFront(e)
	v := e.Value.(*cached)
	v.users++
	return v
}

// peek returns the chunk if it is there.
func (c *cache) peek(h Hash) *cached {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.find(h)
}

// back ends one reader's use of a chunk.
func (c *cache) back(v *cached) {
	c.mu.Lock()
	v.users--
	unused := v.users == 0 && !v.kept
	c.mu.Unlock()
	if unused {
		c.free(v.memory)
	}
}

// finish hands the result of a load to those who wait, and keeps it.
func (c *cache) finish(l *loading, v *cached, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.loading, v.hash)
	defer close(l.done)
	if err != nil {
		l.err = err
		return
	}
	v.users = 1 + l.waiting
	l.chunk = v
	n := int64(len(v.data))
	if l.dropped || n > c.limit {
		return
	}
	v.kept = true
	c.entries[v.hash] = c.recent.PushFront(v)
	for c.size += n; c.size > c.limit; {
		c.remove(c.recent.Back())
	}
}

// leave is for a reader that waits no longer.
func (c *cache) leave(l *loading) {
	c.mu.Lock()
	v := l.chunk
	l.waiting--
	c.mu.Unlock()
	if v != nil { // it was counted as a user meanwhile
		c.back(v)
	}
}

// drop forgets a chunk.
func (c *cache) drop(h Hash) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries[h]; ok {
		c.remove(e)
	}
	if l, ok := c.loading[h]; ok {
		l.dropped = true
	}
}

// remove takes a chunk out of the cache. It needs c.mu.
func (c *cache) remove(e *list.Element) {
	v := c.recent.Remove(e).(*cached)
	delete(c.entries, v.hash)
	c.size -= int64(len(v.data))
	v.kept = false
	if v.users == 0 {
		c.free(v.memory)
	}
}
