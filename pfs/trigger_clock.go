package pfs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// A branch whose trigger has a cron_spec has a key below clockPrefix with the
// time of its next tick. Whichever daemon sees first that the time has come moves
// the branch and the key in one transaction, so a tick happens once however many
// daemons there are. Ticks missed while none ran are made up for by one.

const (
	// longestNap bounds how late a tick comes after the system's time was changed.
	longestNap = time.Minute
	tickRetry  = time.Second // after a tick that went wrong, doubled up to
	tickGiveUp = time.Minute
)

// setClock stores the first tick after some time; a schedule without one has no key.
func (tx *Txn) setClock(key, spec string, after time.Time) error {
	next, err := nextTick(spec, after)
	if err != nil {
		return err
	}
	if next.IsZero() {
		tx.s.clocks.Delete(tx.Txn, key)
		return nil
	}
	return tx.s.clocks.Put(tx.Txn, key, &recordpb.TriggerClock{Next: stamp(next)})
}

// tick lets the branch with a key follow its trunk if its time has come by now,
// and returns when it ticks next, the zero time for never.
func (s *Service) tick(ctx context.Context, key string, now time.Time) (next time.Time, err error) {
	err = s.Update(ctx, func(tx *Txn) error {
		next = time.Time{}
		due, ok, err := s.clocks.Get(tx.Txn, key)
		if err != nil || !ok {
			return err
		}
		if next = due.Next.AsTime(); next.After(now) {
			return nil
		}
		next = time.Time{}
		branch := parseBranchKey(key)
		brec, ok, err := tx.branch(branch)
		if err != nil {
			return err
		}
		t := brec.GetInfo().GetTrigger()
		if !ok || t.GetCronSpec() == "" {
			s.clocks.Delete(tx.Txn, key)
			return nil
		}
		if err := tx.setClock(key, t.CronSpec, now); err != nil {
			return err
		}
		if set, ok, err := s.clocks.Get(tx.Txn, key); err != nil {
			return err
		} else if ok {
			next = set.Next.AsTime()
		}
		trunk, ok, err := tx.branch(&pfspb.Branch{Repo: branch.Repo, Name: t.Branch})
		if err != nil || !ok {
			return err
		}
		head, err := tx.settledHead(trunk)
		if err != nil || head == nil {
			return err
		}
		return tx.follow(brec, head)
	})
	return next, err
}

// parseBranchKey is the inverse of branchKey; an empty branch if key is none.
func parseBranchKey(key string) *pfspb.Branch {
	i := max(strings.LastIndexByte(key, '/'), 0)
	return &pfspb.Branch{Repo: parseRepoKey(key[:i]), Name: strings.TrimPrefix(key[i:], "/")}
}

// ticks are the branches that a clock moves and when.
type ticks struct {
	mu      sync.Mutex
	due     map[string]time.Time
	changed chan struct{} // holds one
}

// set changes one; the zero time takes it out.
func (t *ticks) set(key string, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at.IsZero() {
		delete(t.due, key)
	} else {
		t.due[key] = at
	}
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// move changes one that is still due at a time; the zero time takes it out. One
// that was changed since keeps the change.
func (t *ticks) move(key string, from, to time.Time) {
	t.mu.Lock()
	at, ok := t.due[key]
	same := ok && at.Equal(from)
	if same && to.IsZero() {
		delete(t.due, key)
	} else if same {
		t.due[key] = to
	}
	t.mu.Unlock()
}

// first is the earliest; "" if there is none.
func (t *ticks) first() (key string, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, d := range t.due {
		if key == "" || d.Before(at) {
			key, at = k, d
		}
	}
	return key, at
}

// runClock ticks until ctx ends.
func (s *Service) runClock(ctx context.Context) error {
	t := &ticks{due: map[string]time.Time{}, changed: make(chan struct{}, 1)}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return s.clocks.Watch(ctx, s.store, "", func(e store.Event[*recordpb.TriggerClock]) error {
			switch {
			case e.Synced:
			case e.Deleted:
				t.set(e.Key, time.Time{})
			default:
				t.set(e.Key, e.Value.Next.AsTime())
			}
			return nil
		})
	})
	g.Go(func() error {
		for wait := tickRetry; ; {
			key, due, err := s.nextDue(ctx, t)
			if err != nil {
				return err
			}
			now := s.clock.Now()
			next, err := s.tick(ctx, key, now)
			if err == nil {
				// What the watch still has to tell may be older; a tick too early does
				// nothing. What it has told meanwhile is newer.
				t.move(key, due, next)
				wait = tickRetry
				continue
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.log.Warn("tick of a trigger, will be tried again", zap.String("branch", key), zap.Error(err))
			t.move(key, due, now.Add(wait/2+rand.N(wait)))
			wait = min(2*wait, tickGiveUp)
		}
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("triggers: %w", err)
	}
	return ctx.Err()
}

// nextDue waits until the time of some branch has come, and returns both.
func (s *Service) nextDue(ctx context.Context, t *ticks) (string, time.Time, error) {
	for {
		key, at := t.first()
		now := s.clock.Now()
		if key != "" && !at.After(now) {
			return key, at, ctx.Err()
		}
		var fires <-chan time.Time
		stop := func() {}
		if key != "" {
			if nap := now.Add(longestNap); at.After(nap) {
				at = nap
			}
			fires, stop = s.clock.Timer(at)
		}
		select {
		case <-ctx.Done():
		case <-t.changed:
		case <-fires:
		}
		stop()
		if ctx.Err() != nil {
			return "", time.Time{}, ctx.Err()
		}
	}
}
