package pfs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/minipachd/minipachd/clock"
	"github.com/minipachd/minipachd/pfs/chunk"
	"github.com/minipachd/minipachd/pfs/fileset"
	"github.com/minipachd/minipachd/pfs/gc"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// GCConfig says how often garbage is collected. The zero value collects none.
type GCConfig struct {
	// Interval is the time between two collections, of all daemons together; 0 for none.
	Interval time.Duration
	// Grace is how long readers may go on with a commit after it was deleted.
	Grace time.Duration
	// Fence is how long deletes of a daemon that lost its lease may still take.
	Fence time.Duration
	// Exclusive says that no other daemon uses this etcd.
	Exclusive bool
	// Clock is the system's by default.
	Clock clock.Clock
}

// CollectGarbage collects garbage now, which takes the grace at least if there are
// layers to delete, and tells what was removed. It needs Run to be running. While
// another collection is under way it returns *gc.BusyError.
func (s *Service) CollectGarbage(ctx context.Context) (*recordpb.GarbageReport, error) {
	return s.garbage.Collect(ctx)
}

// references is what the collector asks.
type references struct{ s *Service }

// Referenced implements gc.Source: commits, file sets and cache entries refer to
// layers.
func (r references) Referenced(tx *store.Txn, fn func(layer []byte)) error {
	all := func(refs []*recordpb.LayerRef) {
		for _, ref := range refs {
			fn(ref.GetId())
		}
	}
	for item, err := range r.s.commits.Scan(tx, "", store.ScanOptions{}) {
		if err != nil {
			return err
		}
		all(item.Value.GetLayers())
	}
	for item, err := range r.s.fileSets.Scan(tx, "", store.ScanOptions{}) {
		if err != nil {
			return err
		}
		all(item.Value.GetLayers())
	}
	for item, err := range r.s.cached.Scan(tx, "", store.ScanOptions{}) {
		if err != nil {
			return err
		}
		for _, set := range item.Value.GetFileSets() {
			all(set.GetLayers())
		}
	}
	return nil
}

// Chunks implements gc.Source.
func (r references) Chunks(ctx context.Context, layer []byte, rec *recordpb.LayerRecord, fn func(chunk.Hash)) error {
	return r.s.files.Chunks(ctx, &recordpb.LayerRef{Id: layer}, rec, fn)
}

// expireBatch is how many file sets are removed in one transaction.
const expireBatch = 256

// Expire implements gc.Source: file sets whose time is over go away.
func (r references) Expire(ctx context.Context, now time.Time) error {
	over := func(set *recordpb.FileSetRecord) bool { return !set.GetExpires().AsTime().After(now) }
	var expired []string
	err := r.s.store.View(ctx, func(tx *store.Txn) error {
		for item, err := range r.s.fileSets.Scan(tx, "", store.ScanOptions{}) {
			if err != nil {
				return err
			}
			if over(item.Value) {
				expired = append(expired, item.Key)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for len(expired) > 0 {
		n := min(len(expired), expireBatch)
		if _, err := r.s.store.Update(ctx, func(tx *store.Txn) error {
			for _, key := range expired[:n] {
				set, ok, err := r.s.fileSets.Get(tx, key)
				if err != nil {
					return err
				}
				if ok && over(set) { // nobody has renewed it
					r.s.fileSets.Delete(tx, key)
				}
			}
			return nil
		}); err != nil {
			return err
		}
		expired = expired[n:]
	}
	return nil
}

// rely lets the transaction store layers whose pins hold something: it makes it
// depend on the session in etcd that the pins are worth something in, and fails if
// something was swept that they held.
func (tx *Txn) rely(layers []*fileset.Layer) error {
	for _, l := range layers {
		if l.Pins == nil {
			continue
		}
		if !tx.fenced {
			session, err := tx.s.garbage.Fence(tx.Txn)
			tx.fenced, tx.session = true, session
			if err != nil {
				return err
			}
		}
		// After the session is known: what breaks later breaks the session first.
		if err := l.Pins.Err(); err != nil {
			return err
		}
	}
	return nil
}

// cut tells whether an error of rely means that the transaction as a whole cannot
// commit: its session is over.
func (tx *Txn) cut(err error) bool {
	if errors.Is(err, store.ErrLeaseLost) {
		return true
	}
	var lost *gc.LostError
	return errors.As(err, &lost) && !tx.s.garbage.Current(tx.session)
}

// settle deals with the end of a transaction that relied on a session. It tells
// whether the transaction has to be run again because the daemon has a new one.
func (tx *Txn) settle(ctx context.Context, sent bool, err error) (bool, error) {
	if err == nil || tx == nil || !tx.fenced {
		return false, err
	}
	if !errors.Is(err, store.ErrLeaseLost) {
		var large *store.TooLargeError
		var full *store.FullError
		if sent && !errors.As(err, &large) && !errors.As(err, &full) {
			// It may yet take effect, when nobody holds the pins any longer: not without
			// its session.
			tx.s.garbage.Abandon(tx.session)
		}
		return false, err
	}
	ok, werr := tx.s.garbage.Await(ctx, tx.session)
	if werr != nil {
		return false, fmt.Errorf("wait for a session in etcd: %w", werr)
	}
	return ok, err
}
