// Package cache holds decoded immutable data in memory, bounded in bytes, least
// recently used out first.
package cache

import (
	"container/list"
	"sync"
)

// Cache maps keys to values whose sizes add up to at most a limit. It is safe
// for concurrent use. Values must not be modified: readers share them.
type Cache[K comparable, V any] struct {
	limit int64

	mu    sync.Mutex
	size  int64
	order *list.List // of *entry, most recently used first
	items map[K]*list.Element
}

type entry[K comparable, V any] struct {
	key   K
	value V
	size  int64
}

// New makes a cache of at most limit bytes.
func New[K comparable, V any](limit int64) *Cache[K, V] {
	return &Cache[K, V]{limit: limit, order: list.New(), items: map[K]*list.Element{}}
}

// Get returns the value of key, if it is there.
func (c *Cache[K, V]) Get(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[key]
	if !ok {
		var zero V
		return zero, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*entry[K, V]).value, true
}

// Put keeps value under key, size being its bytes. A value above a quarter of
// the limit is not kept: it would drive out everything else.
func (c *Cache[K, V]) Put(key K, value V, size int64) {
	if size > c.limit/4 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.items[key]; ok {
		c.remove(e)
	}
	c.items[key] = c.order.PushFront(&entry[K, V]{key: key, value: value, size: size})
	c.size += size
	for c.size > c.limit {
		c.remove(c.order.Back())
	}
}

func (c *Cache[K, V]) remove(e *list.Element) {
	old := c.order.Remove(e).(*entry[K, V])
	delete(c.items, old.key)
	c.size -= old.size
}
