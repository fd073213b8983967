package remote

import (
	"context"
	"sync"
)

// budget is the share of one fetch in the memory of all.
type budget struct {
	c *Client

	mu   sync.Mutex
	held int64
}

// take waits for n bytes.
func (b *budget) take(ctx context.Context, n int64) error {
	if err := b.c.memory.Acquire(ctx, n); err != nil {
		return err
	}
	b.mu.Lock()
	b.held += n
	b.mu.Unlock()
	return nil
}

// give returns n bytes.
func (b *budget) give(n int64) {
	b.mu.Lock()
	b.held -= n
	b.mu.Unlock()
	b.c.memory.Release(n)
}

// release returns all that is left, once nothing is taken any more.
func (b *budget) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.c.memory.Release(b.held)
	b.held = 0
}
