package gc

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/minipachd/minipachd/pfs/chunk"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

const (
	// batchObjects is how many objects are condemned at a time; writers that meet
	// one of them wait until the batch is over.
	batchObjects = 1024
	// deleteParallel is how many of them are deleted at a time.
	deleteParallel = 8
	// answerTimeout is how long a daemon with a live lease may take to answer.
	answerTimeout = time.Minute
	// pollEvery bounds how late a change is noticed that the watch did not report.
	pollEvery = time.Second
	// closeTimeout bounds the end of a sweep that was cut short.
	closeTimeout = 2 * time.Second
)

var (
	errMemberLeft = errors.New("a daemon left during the sweep")
	errNotYet     = errors.New("not all daemons have answered")
)

// prefixes are those of the objects that are swept.
var prefixes = [...]string{"chunk/", "layer/"}

// sweepBucket deletes the objects that no stored layer needs and no writer has
// pinned.
func (o *owner) sweepBucket(ctx context.Context, report *recordpb.GarbageReport) error {
	objects := 0
	for _, prefix := range prefixes {
		for _, err := range o.bucket.List(ctx, prefix) {
			if err != nil {
				return err
			}
			objects++
		}
	}
	if objects == 0 {
		return nil
	}
	s := &sweep{owner: o, report: report, changed: make(chan struct{}, 1)}
	ctx, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		// It ends with ctx alone; what it misses is polled for.
		_ = o.members.Watch(ctx, o.store, "", func(store.Event[*recordpb.GarbageMember]) error {
			select {
			case s.changed <- struct{}{}:
			default:
			}
			return nil
		})
	})
	err := s.run(ctx, objects)
	stop()
	watch.Wait()
	return errors.Join(err, s.close())
}

// sweep is one pass over the bucket.
type sweep struct {
	*owner
	report  *recordpb.GarbageReport
	changed chan struct{} // holds one: a member has answered, or left
	id      string
	opened  bool
	// doubtful is set when a delete has failed or was given up: it may yet happen.
	doubtful atomic.Bool
}

func (s *sweep) run(ctx context.Context, objects int) error {
	if err := s.begin(ctx); err != nil {
		return fmt.Errorf("begin the sweep: %w", err)
	}
	// From here on everybody remembers what is released: what is not stored by now
	// is kept by its writer until the end of the sweep.
	live, err := s.markChunks(ctx, objects)
	if err != nil {
		return err
	}
	var batch []chunk.ObjectInfo
	for _, prefix := range prefixes {
		for object, err := range s.bucket.List(ctx, prefix) {
			if err != nil {
				return err
			}
			h, ok := name(object.Key)
			if !ok && !isLayer(object.Key) {
				continue // nothing of ours
			}
			if live.has(h) || s.table.holds(h) {
				continue
			}
			if batch = append(batch, object); len(batch) == batchObjects {
				if err := s.sweepBatch(ctx, batch); err != nil {
					return err
				}
				batch = batch[:0]
			}
		}
	}
	if len(batch) > 0 {
		return s.sweepBatch(ctx, batch)
	}
	return nil
}

// isLayer tells whether a key is that of a layer.
func isLayer(key string) bool {
	rest, ok := strings.CutPrefix(key, prefixes[1])
	_, id, _ := strings.Cut(rest, "/")
	_, err := hex.DecodeString(id)
	return ok && err == nil && len(id) == 2*len(layerID{})
}

// begin opens the sweep and returns when every daemon knows of it.
func (s *sweep) begin(ctx context.Context) error {
	s.id = rand.Text()
	if _, err := s.store.Update(ctx, func(tx *store.Txn) error {
		s.fence(tx)
		run := &recordpb.GarbageRun{Id: s.id, Open: true}
		// Check: who joins from now on finds the sweep and enters its own name.
		for item, err := range s.members.Scan(tx, "", store.ScanOptions{Check: true}) {
			if err != nil {
				return err
			}
			run.Members = append(run.Members, memberPrefix+item.Key)
		}
		if old, _, err := s.runs.Get(tx, ""); err != nil {
			return err
		} else if old.GetOpen() {
			return errors.New("another sweep is open")
		}
		return s.runs.Put(tx, "", run)
	}); err != nil {
		return err
	}
	s.opened = true
	return s.await(ctx, func(tx *store.Txn, run *recordpb.GarbageRun) error {
		// Who has left by now has stored nothing since that is not going to be read.
		var present []string
		for _, key := range run.Members {
			m, ok, err := s.members.Get(tx, strings.TrimPrefix(key, memberPrefix))
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			if m.GetRun() != s.id {
				return errNotYet
			}
			present = append(present, key)
		}
		run.Members = present
		return s.runs.Put(tx, "", run)
	})
}

// await runs step in a transaction, with the sweep's record, as soon as it no
// longer gives errNotYet.
func (s *sweep) await(ctx context.Context, step func(tx *store.Txn, run *recordpb.GarbageRun) error) error {
	deadline := time.Now().Add(answerTimeout)
	for {
		_, err := s.store.Update(ctx, func(tx *store.Txn) error {
			s.fence(tx)
			run, _, err := s.runs.Get(tx, "")
			if err != nil {
				return err
			}
			if run.GetId() != s.id || !run.GetOpen() {
				return errors.New("somebody else has ended the sweep")
			}
			return step(tx, run)
		})
		if !errors.Is(err, errNotYet) {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait %v: %w", answerTimeout, err)
		}
		poll := time.NewTimer(pollEvery)
		select {
		case <-s.changed:
		case <-poll.C:
		case <-ctx.Done():
		}
		poll.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// sweepBatch condemns the objects, lets all daemons say which of them they keep,
// and deletes the others.
func (s *sweep) sweepBatch(ctx context.Context, batch []chunk.ObjectInfo) error {
	keys := make([]string, len(batch))
	sizes := make(map[string]int64, len(batch))
	for i, object := range batch {
		keys[i] = object.Key
		sizes[object.Key] = object.Size
	}
	if err := s.await(ctx, func(tx *store.Txn, run *recordpb.GarbageRun) error {
		run.Step++
		run.Condemned, run.Deleting = keys, false
		return s.runs.Put(tx, "", run)
	}); err != nil {
		return fmt.Errorf("condemn %d objects: %w", len(keys), err)
	}
	var decided []string
	if err := s.await(ctx, func(tx *store.Txn, run *recordpb.GarbageRun) error {
		kept := map[string]bool{}
		for _, key := range run.Members {
			m, ok, err := s.members.Get(tx, strings.TrimPrefix(key, memberPrefix))
			if err != nil {
				return err
			}
			if !ok {
				return errMemberLeft // and with it what it had released
			}
			if m.GetRun() != s.id || m.GetStep() != run.Step {
				return errNotYet
			}
			for _, k := range m.GetKept() {
				kept[k] = true
			}
		}
		decided = slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return kept[k] })
		run.Condemned, run.Deleting = decided, true
		return s.runs.Put(tx, "", run)
	}); err != nil {
		return fmt.Errorf("decide on %d objects: %w", len(keys), err)
	}
	if err := s.delete(ctx, decided); err != nil {
		return err
	}
	for _, key := range decided {
		s.report.Bytes += sizes[key]
		if strings.HasPrefix(key, prefixes[0]) {
			s.report.Chunks++
		} else {
			s.report.LayerObjects++
		}
	}
	if err := s.await(ctx, func(tx *store.Txn, run *recordpb.GarbageRun) error {
		run.Condemned, run.Deleting = nil, false
		return s.runs.Put(tx, "", run)
	}); err != nil {
		return fmt.Errorf("end a batch: %w", err)
	}
	// After the batch, since writers wait during it.
	return s.deletes.WaitN(ctx, min(len(keys), s.deletes.Burst()))
}

// delete deletes what is decided, and tries again until everything is gone.
func (s *sweep) delete(ctx context.Context, keys []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(deleteParallel)
	for _, key := range keys {
		g.Go(func() error {
			for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
				if err := ctx.Err(); err != nil {
					return err
				}
				err := s.remove(ctx, key)
				if err == nil {
					return nil
				}
				s.doubtful.Store(true)
				s.log.Warn("delete garbage, will be tried again", zap.String("object", key), zap.Error(err))
				if !sleep(ctx, wait/2+mathrand.N(wait)) {
					return ctx.Err()
				}
			}
		})
	}
	return g.Wait()
}

// remove deletes one object of the bucket.
func (o *owner) remove(ctx context.Context, key string) error {
	if h, ok := chunk.ParseKey(key); ok {
		return o.cfg.Chunks.Delete(ctx, h)
	}
	return o.bucket.Delete(ctx, key)
}

// close ends the sweep, also one that was cut short, unless a delete may still be
// under way; who rescues it then waits for that.
func (s *sweep) close() error {
	if !s.opened || s.doubtful.Load() && s.ctx.Err() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), closeTimeout)
	defer cancel()
	if err := s.endRun(ctx, s.id); err != nil && !errors.Is(err, store.ErrLeaseLost) {
		return fmt.Errorf("end the sweep: %w", err)
	}
	return nil
}

// endRun records that a sweep is over.
func (o *owner) endRun(ctx context.Context, id string) error {
	_, err := o.store.Update(ctx, func(tx *store.Txn) error {
		o.fence(tx)
		run, _, err := o.runs.Get(tx, "")
		if err != nil || !run.GetOpen() || run.GetId() != id {
			return err
		}
		return o.runs.Put(tx, "", &recordpb.GarbageRun{Id: id})
	})
	return err
}

// recover ends a sweep that an earlier owner left open. What had been decided is
// deleted first, after the time that the earlier owner's deletes may still take:
// only then may writers have these objects again.
func (o *owner) recover(ctx context.Context) error {
	var run *recordpb.GarbageRun
	if err := o.store.View(ctx, func(tx *store.Txn) error {
		var err error
		run, _, err = o.runs.Get(tx, "")
		return err
	}); err != nil || !run.GetOpen() {
		return err
	}
	if run.GetDeleting() {
		if !sleep(ctx, o.cfg.Fence) {
			return ctx.Err()
		}
		s := &sweep{owner: o}
		if err := s.delete(ctx, run.GetCondemned()); err != nil {
			return fmt.Errorf("delete what an earlier sweep had decided: %w", err)
		}
	}
	return o.endRun(ctx, run.GetId())
}
