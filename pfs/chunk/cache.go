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

	mu      sync.Mutex
	size    int64
	entries map[Hash]*list.Element // of *cached
	recent  *list.List             // most recently used first
	loading map[Hash]*loading
}

type cached struct {
	hash Hash
	data []byte
}

// loading is a load under way. Its result is set before done is closed.
type loading struct {
	done    chan struct{}
	data    []byte
	err     error
	dropped bool // guarded by cache.mu: the result is not to be kept
}

func newCache(limit int64) *cache {
	return &cache{limit: limit, entries: map[Hash]*list.Element{}, recent: list.New(), loading: map[Hash]*loading{}}
}

// get returns the chunk, which load provides if it is not there.
func (c *cache) get(ctx context.Context, h Hash, load func(context.Context, Hash) ([]byte, error)) ([]byte, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("read chunk %s: %w", h, err)
		}
		c.mu.Lock()
		if e, ok := c.entries[h]; ok {
			c.recent.MoveToFront(e)
			c.mu.Unlock()
			return e.Value.(*cached).data, nil
		}
		l, ok := c.loading[h]
		if !ok {
			l = &loading{done: make(chan struct{})}
			c.loading[h] = l
		}
		c.mu.Unlock()
		if !ok {
			l.data, l.err = load(ctx, h)
			c.finish(h, l)
			return l.data, l.err
		}
		select {
		case <-l.done:
			if l.err == nil {
				return l.data, nil
			}
			// The other reader's failure may be its own, a cancelled call: try again.
		case <-ctx.Done():
		}
	}
}

// peek returns the chunk if it is there.
func (c *cache) peek(h Hash) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[h]
	if !ok {
		return nil, false
	}
	c.recent.MoveToFront(e)
	return e.Value.(*cached).data, true
}

// finish hands the result of a load to those who wait, and keeps it.
func (c *cache) finish(h Hash, l *loading) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.loading, h)
	close(l.done)
	n := int64(len(l.data))
	if l.err != nil || l.dropped || n > c.limit {
		return
	}
	c.entries[h] = c.recent.PushFront(&cached{hash: h, data: l.data})
	for c.size += n; c.size > c.limit; {
		c.remove(c.recent.Back())
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

func (c *cache) remove(e *list.Element) {
	v := c.recent.Remove(e).(*cached)
	delete(c.entries, v.hash)
	c.size -= int64(len(v.data))
}
