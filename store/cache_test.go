package store

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// TestCache_IsWhatEtcdHas: while transactions of all kinds and a lease change a few
// keys, every transaction finds in the cache what etcd has at the revision of its
// snapshot, and that is no older than what was acknowledged before it began. The
// cache is so small that it forgets all the time, and some values are too large for it.
func TestCache_IsWhatEtcdHas(t *testing.T) {
	s, err := Open(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.cache.mu.Lock()
	s.cache.limit, s.cache.largest = 3000, 150
	s.cache.mu.Unlock()

	const keys, writers, readers, rounds = 40, 4, 3, 150
	key := func() string { return fmt.Sprintf("k/%02d", rand.N(keys)) }
	var acked atomic.Int64
	ack := func(rev int64) {
		for {
			old := acked.Load()
			if rev <= old || acked.CompareAndSwap(old, rev) {
				return
			}
		}
	}
	var hits, reads atomic.Int64
	writing, stop := context.WithCancel(t.Context())
	var g, rg errgroup.Group
	for w := range writers {
		g.Go(func() error {
			for i := range rounds {
				if w == 0 && i%20 == 10 {
					if err := leased(t.Context(), s, key()); err != nil {
						return err
					}
				}
				rev, err := s.Update(t.Context(), func(tx *Txn) error {
					if _, _, err := tx.Get(key()); err != nil {
						return err
					}
					switch rand.N(10) {
					case 0:
						tx.DeletePrefix(key()[:3])
						tx.Put(key(), []byte(fmt.Sprint(w, i)))
					case 1, 2:
						tx.Delete(key())
					case 3:
						tx.Put(key(), nil)
						tx.Delete(key())
					default:
						tx.Put(key(), []byte(fmt.Sprint(w, i)))
						tx.Put(key(), bytes.Repeat([]byte{byte(i)}, rand.N(200)))
					}
					return nil
				})
				if err != nil {
					return err
				}
				ack(rev)
			}
			return nil
		})
	}
	for range readers {
		rg.Go(func() error {
			for writing.Err() == nil {
				before := acked.Load()
				if err := s.View(t.Context(), func(tx *Txn) error {
					for range 4 {
						k := key()
						if _, ok := tx.reads[k]; ok {
							continue
						}
						reads.Add(1)
						if tx.fromCache(k) {
							hits.Add(1)
						}
						got, ok, err := tx.Get(k)
						if err != nil {
							return err
						}
						if tx.Revision() < before {
							return fmt.Errorf("snapshot at %d after %d was acknowledged", tx.Revision(), before)
						}
						resp, err := s.client.Get(t.Context(), s.prefix+k, clientv3.WithRev(tx.Revision()), clientv3.WithSerializable())
						if err != nil {
							return err
						}
						var want []byte
						var rev int64
						if len(resp.Kvs) > 0 {
							want, rev = resp.Kvs[0].Value, resp.Kvs[0].ModRevision
						}
						if ok != (len(resp.Kvs) > 0) || !bytes.Equal(got, want) || tx.reads[k].rev != rev {
							return fmt.Errorf("%s at %d: %q of revision %d, %v, want %q of %d", k, tx.Revision(), got, tx.reads[k].rev, ok, want, rev)
						}
					}
					return nil
				}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	stop()
	if err := rg.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d of %d reads came from the cache", hits.Load(), reads.Load())
	if hits.Load() == 0 {
		t.Error("nothing ever came from the cache")
	}
}

// leased puts a key and lets it go away with its lease.
func leased(ctx context.Context, s *Store, key string) error {
	l, err := s.NewLease(ctx, time.Minute)
	if err != nil {
		return err
	}
	if _, err := s.Update(ctx, func(tx *Txn) error {
		tx.PutLease(key, []byte("leased"), l.ID())
		return nil
	}); err != nil {
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	return s.View(ctx, func(tx *Txn) error {
		if v, _, err := tx.Get(key); err != nil || string(v) == "leased" {
			return fmt.Errorf("after the end of its lease %s is %q, %w", key, v, err)
		}
		return nil
	})
}

// TestCache_SparesRequests: what was written or read just before is read again
// without etcd, by a transaction that sees it.
func TestCache_SparesRequests(t *testing.T) {
	s, err := Open(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Update(t.Context(), func(tx *Txn) error {
		tx.Put("a", []byte("1"))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	read := func(key string) (fromCache bool) {
		if err := s.View(t.Context(), func(tx *Txn) error {
			fromCache = tx.fromCache(key)
			_, _, err := tx.Get(key)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return fromCache
	}
	if !read("a") {
		t.Error("the value that was just put is read from etcd")
	}
	if read("b") || !read("b") {
		t.Error("want the missing key read from etcd once, and never again")
	}
}

// TestCache_BeginsAnew: a cache whose changes were compacted away before the watch
// told of them forgets everything and is right again.
func TestCache_BeginsAnew(t *testing.T) {
	s, err := Open(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// A second cache takes the place of the first, far behind.
	var rev int64
	for i := range 10 {
		if rev, err = s.Update(t.Context(), func(tx *Txn) error {
			tx.Put("a", []byte(fmt.Sprint(i)))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.client.Compact(t.Context(), rev, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	late := &Store{client: s.client, etcd: s.etcd, prefix: s.prefix, log: s.log, cache: newCache(rev - 8)}
	late.cache.fill("a", cached{value: []byte("1"), rev: rev - 8, since: rev - 8}, rev-8)
	late.know(rev)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { late.follow(ctx) })
	defer wg.Wait()
	defer stop()
	for late.cache.snapshot() == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := late.View(t.Context(), func(tx *Txn) error {
		if v, _, err := tx.Get("a"); err != nil || string(v) != "9" {
			return fmt.Errorf("%q, %w", v, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestCache_NeverGoesBack: after a transaction that read past the cache, the next one
// sees no less.
func TestCache_NeverGoesBack(t *testing.T) {
	s, err := Open(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var first, last int64
	for _, v := range []string{"old", "new"} {
		if last, err = s.Update(t.Context(), func(tx *Txn) error {
			tx.Put("a", []byte(v))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if first == 0 {
			first = last
		}
	}
	// A second cache, which nobody has told of the last change.
	late := &Store{client: s.client, etcd: s.etcd, prefix: s.prefix, log: s.log, cache: newCache(first)}
	late.cache.fill("a", cached{value: []byte("old"), rev: first, since: first}, first)
	for _, read := range []func(tx *Txn) error{
		func(tx *Txn) error { _, err := tx.Count(""); return err },
		func(tx *Txn) error {
			v, _, err := tx.Get("a")
			if string(v) != "new" || tx.Revision() != last {
				t.Errorf("%q at %d, want what was new at %d", v, tx.Revision(), last)
			}
			return err
		},
	} {
		if err := late.View(t.Context(), read); err != nil {
			t.Error(err)
		}
	}
}
