package store

import (
	"bytes"
	"context"
	"runtime"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

// cache has the newest values of keys of the embedded etcd, so that most of what a
// transaction reads costs no request. It follows etcd by a watch within the process
// and by the transactions of this store.
//
// At any moment it knows all changes up to rev and, perhaps, values that are newer.
// A transaction whose snapshot is at a revision takes from it what was there at that
// revision; everything else it reads from etcd. The snapshot of a new transaction
// is at rev, unless somebody has seen a later revision: by an acknowledged commit,
// by a read or by a watch. So reads through the cache are as fresh as those past it.
type cache struct {
	mu      sync.Mutex
	rev     int64 // every change up to it is in
	seen    int64 // the newest revision that anybody knows of
	limit   int   // bytes of a generation
	largest int   // bytes of a value that is kept
	// The least recently used half goes when the other one is full.
	young, old generation
	evicted    int64 // no entry that went was as new as this
	// own has the writes of this store's commits that are after a revision the cache
	// has not heard of yet.
	own map[int64]map[string]write
}

// generation is a set of entries that go together.
type generation struct {
	entries map[string]cached
	bytes   int
	newest  int64 // revision
}

// cached is what a key has held from a revision on, as far as the cache knows.
type cached struct {
	value []byte // nil if the key is missing
	rev   int64  // ModRevision; 0 if missing
	since int64  // rev, or a revision at which the key was missing
}

const (
	cacheBytes    = 12 << 20 // of both generations together
	cacheOverhead = 160      // bytes of an entry beside its key and value
	maxCached     = 256 << 10
	maxAhead      = 1024 // commits kept until the watch has told of those before
)

func newCache(rev int64) *cache {
	c := &cache{limit: cacheBytes / 2, largest: maxCached}
	c.reset(rev)
	return c
}

// reset forgets everything; the cache then knows all changes up to rev.
func (c *cache) reset(rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rev, c.seen, c.evicted = rev, max(c.seen, rev), rev
	c.young, c.old = generation{entries: map[string]cached{}}, generation{}
	c.own = map[int64]map[string]write{}
}

// snapshot is the revision for a new transaction, 0 if it has to ask etcd.
func (c *cache) snapshot() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rev < c.seen {
		return 0
	}
	return c.rev
}

// see notes that somebody knows of a revision.
func (c *cache) see(rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = max(c.seen, rev)
}

// get is what a key held at a revision, if the cache knows.
func (c *cache) get(key string, rev int64) (cached, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rev < rev {
		return cached{}, false
	}
	e, ok := c.find(key)
	return e, ok && e.since <= rev
}

func (c *cache) find(key string) (cached, bool) {
	e, ok := c.young.entries[key]
	if !ok {
		if e, ok = c.old.entries[key]; ok {
			c.put(key, e)
		}
	}
	return e, ok
}

// fill takes in what etcd had under a key at a revision.
func (c *cache) fill(key string, e cached, rev int64) {
	if len(e.value) > c.largest {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.find(key); ok {
		return // as new, or newer
	}
	// Had the key changed since, it would be in: what changes is taken in always.
	if rev < c.rev && rev < c.evicted {
		return
	}
	c.put(key, e)
}

func (c *cache) put(key string, e cached) {
	if before, ok := c.young.entries[key]; ok {
		c.young.bytes -= len(key) + len(before.value) + cacheOverhead
	}
	c.young.entries[key] = e
	c.young.bytes += len(key) + len(e.value) + cacheOverhead
	c.young.newest = max(c.young.newest, e.since)
	if c.young.bytes > c.limit {
		c.evicted = max(c.evicted, c.old.newest+1)
		c.old, c.young = c.young, generation{entries: map[string]cached{}}
	}
}

// committed takes in a commit of this store, which made the revision.
func (c *cache) committed(rev int64, writes map[string]write) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = max(c.seen, rev)
	if rev <= c.rev {
		return // the watch was faster
	}
	if len(c.own) < maxAhead {
		c.own[rev] = writes
	}
	c.catchUp()
}

// catchUp takes in own commits that follow on what is known.
func (c *cache) catchUp() {
	for {
		writes, ok := c.own[c.rev+1]
		if !ok {
			return
		}
		c.rev++
		delete(c.own, c.rev)
		for key, w := range writes {
			if w.delete {
				c.change(key, nil, c.rev)
			} else {
				c.change(key, w.value, c.rev)
			}
		}
	}
}

// change takes in that a key has a value, nil for none, since a revision.
func (c *cache) change(key string, value []byte, rev int64) {
	if e, ok := c.find(key); ok && e.since >= rev {
		return
	}
	e := cached{value: value, rev: rev, since: rev}
	if value == nil {
		e.rev = 0
	}
	if len(value) > c.largest {
		if before, ok := c.young.entries[key]; ok {
			c.young.bytes -= len(key) + len(before.value) + cacheOverhead
			delete(c.young.entries, key)
		}
		delete(c.old.entries, key)
		c.evicted = max(c.evicted, rev+1)
		return
	}
	c.put(key, e)
}

// events takes in what the watch reports, which leaves out nothing.
func (c *cache) events(prefix []byte, events []*mvccpb.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range events {
		rev := e.Kv.ModRevision
		if rev <= c.rev {
			continue
		}
		key, ok := bytes.CutPrefix(e.Kv.Key, prefix)
		if !ok {
			continue
		}
		value := e.Kv.Value
		switch {
		case e.Type == mvccpb.Event_DELETE:
			value = nil
		case value == nil:
			value = empty
		}
		c.change(string(key), value, rev)
	}
	last := events[len(events)-1].Kv.ModRevision
	if last <= c.rev {
		return
	}
	c.rev = last
	for rev := range c.own {
		if rev <= last {
			delete(c.own, rev)
		}
	}
	c.catchUp()
}

// follow feeds the cache until ctx ends.
func (s *Store) follow(ctx context.Context) {
	for s.followOnce(ctx) {
		s.cache.reset(s.etcd.Server.KV().Rev())
	}
}

// followOnce returns true when the cache has to begin anew, because etcd has
// dropped changes that were not reported yet.
func (s *Store) followOnce(ctx context.Context) bool {
	kv := s.etcd.Server.KV()
	stream := kv.NewWatchStream()
	defer stream.Close()
	s.cache.mu.Lock()
	from := s.cache.rev + 1
	s.cache.mu.Unlock()
	// From the first key on, without end.
	if _, err := stream.Watch(ctx, 0, []byte{0}, []byte{}, from); err != nil {
		return false // nothing is taken from a cache that lags behind
	}
	for {
		var resp mvcc.WatchResponse
		select {
		case <-ctx.Done():
			return false
		case resp = <-stream.Chan():
		}
		if resp.CompactRevision != 0 {
			return true
		}
		if n := len(resp.Events); n > 0 {
			s.await(resp.Events[n-1].Kv.ModRevision)
			s.cache.events([]byte(s.prefix), resp.Events)
		}
	}
}

// await returns once reads of the embedded etcd see a revision that a watch has told
// of: it tells watchers just before, within the same transaction.
func (s *Store) await(rev int64) {
	for kv := s.etcd.Server.KV(); kv.Rev() < rev; {
		runtime.Gosched()
	}
}
