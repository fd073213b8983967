package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Event is one change that a watch reports.
type Event[T any] struct {
	Key      string // without the collection's prefix
	Value    T      // zero when deleted or synced
	Deleted  bool
	Synced   bool // everything that existed at the start has been reported
	Revision int64
	// Known, unless it is 0, is a revision: all that had changed then has been reported.
	// A transaction that changes several keys is one revision and several events.
	Known int64
}

const (
	watchRetryFirst = 50 * time.Millisecond
	watchRetryMax   = 5 * time.Second
)

// Watch calls fn with every member whose key begins with sub, in key order, then
// once with Synced, then with each change in order, until ctx ends or fn returns
// an error, which it returns. When the connection is lost or etcd has compacted
// changes away, it lists anew and reports what differs from what it reported
// before, deletions included, followed by Synced again.
func (c Collection[T]) Watch(ctx context.Context, s *Store, sub string, fn func(Event[T]) error) error {
	w := &watcher[T]{s: s, prefix: c.prefix, sub: sub, decode: c.decode, fn: fn, known: map[string]int64{}}
	return w.follow(ctx)
}

// Watch is Collection.Watch of the plain values of all keys that begin with prefix.
// The keys of its events are whole.
func (s *Store) Watch(ctx context.Context, prefix string, fn func(Event[[]byte]) error) error {
	w := &watcher[[]byte]{
		s: s, sub: prefix, fn: fn, known: map[string]int64{},
		decode: func(_ string, b []byte) ([]byte, error) { return b, nil },
	}
	return w.follow(ctx)
}

// follow watches until ctx ends or fn has enough.
func (w *watcher[T]) follow(ctx context.Context) error {
	wait := watchRetryFirst
	for {
		start := time.Now()
		err := w.run(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var stop *stopError
		if errors.As(err, &stop) {
			return stop.err
		}
		if time.Since(start) > watchRetryMax {
			wait = watchRetryFirst
		}
		if !errors.Is(err, rpctypes.ErrCompacted) {
			w.s.log.Warn("watch was interrupted, listing anew", zap.String("prefix", w.prefix+w.sub), zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait/2 + rand.N(wait)):
		}
		wait = min(2*wait, watchRetryMax)
	}
}

// CatchUp makes transactions that begin from now on see a revision that the client
// has told of, past the store: in a watch or by a read. etcd tells watchers of a
// change just before reads of the embedded one can see it. Watch does this by itself.
func (s *Store) CatchUp(rev int64) {
	if s.etcd == nil {
		return // reads go through the cluster, or are tried again
	}
	s.await(rev)
	s.know(rev)
}

// stopError carries what fn returned.
type stopError struct{ err error }

func (e *stopError) Error() string { return e.err.Error() }

// watcher is one Watch over all its reconnects.
type watcher[T any] struct {
	s      *Store
	prefix string // of the collection
	sub    string
	decode func(key string, b []byte) (T, error)
	fn     func(Event[T]) error
	known  map[string]int64 // reported keys and their revisions
}

// run lists once and then follows changes until something fails.
func (w *watcher[T]) run(ctx context.Context) error {
	rev, err := w.list(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	prefix := w.s.prefix + w.prefix + w.sub
	changes := w.s.client.Watch(clientv3.WithRequireLeader(ctx), prefix,
		clientv3.WithRange(prefixEnd(prefix)), clientv3.WithRev(rev+1))
	for resp := range changes {
		if err := resp.Err(); err != nil {
			return err
		}
		w.s.CatchUp(resp.Header.Revision)
		for i, e := range resp.Events {
			known := e.Kv.ModRevision
			if i+1 < len(resp.Events) && resp.Events[i+1].Kv.ModRevision == known {
				known--
			}
			if err := w.change(e, known); err != nil {
				return err
			}
		}
	}
	return errors.New("the watch ended")
}

// list reports what is there and what is there no more.
func (w *watcher[T]) list(ctx context.Context) (int64, error) {
	gone := maps.Clone(w.known)
	var rev int64
	err := w.s.View(ctx, func(tx *Txn) error {
		for kv, err := range tx.Scan(w.prefix+w.sub, ScanOptions{}) {
			if err != nil {
				return err
			}
			key := kv.Key[len(w.prefix):]
			delete(gone, key)
			if w.known[key] == kv.ModRevision {
				continue
			}
			value, err := w.decode(key, kv.Value)
			if err != nil {
				return err
			}
			if err := w.report(Event[T]{Key: key, Value: value, Revision: kv.ModRevision}); err != nil {
				return err
			}
		}
		rev = tx.Revision()
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, key := range slices.Sorted(maps.Keys(gone)) {
		if err := w.report(Event[T]{Key: key, Deleted: true, Revision: rev}); err != nil {
			return 0, err
		}
	}
	return rev, w.report(Event[T]{Synced: true, Revision: rev, Known: rev})
}

// change reports one event of etcd, after which all up to known has been reported.
func (w *watcher[T]) change(e *clientv3.Event, known int64) error {
	key := string(e.Kv.Key[len(w.s.prefix)+len(w.prefix):])
	event := Event[T]{Key: key, Revision: e.Kv.ModRevision, Known: known, Deleted: e.Type == mvccpb.Event_DELETE}
	if !event.Deleted {
		var err error
		if event.Value, err = w.decode(key, e.Kv.Value); err != nil {
			return &stopError{fmt.Errorf("watch: %w", err)}
		}
	}
	return w.report(event)
}

func (w *watcher[T]) report(e Event[T]) error {
	switch {
	case e.Synced:
	case e.Deleted:
		delete(w.known, e.Key)
	default:
		w.known[e.Key] = e.Revision
	}
	if err := w.fn(e); err != nil {
		return &stopError{err}
	}
	return nil
}
