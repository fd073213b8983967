package pfs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// longestNap bounds how late something is done after the system's time was changed.
	longestNap = time.Minute
	tickRetry  = time.Second // after something that went wrong, doubled up to
	tickGiveUp = time.Minute
)

// timetable holds what is to be done when, by key.
type timetable struct {
	mu      sync.Mutex
	due     map[string]time.Time
	changed chan struct{} // holds one
}

// set changes one; the zero time takes it out.
func (t *timetable) set(key string, at time.Time) {
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
func (t *timetable) move(key string, from, to time.Time) {
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
func (t *timetable) first() (key string, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, d := range t.due {
		if key == "" || d.Before(at) {
			key, at = k, d
		}
	}
	return key, at
}

// hear takes in an event of the keys' watch.
func (t *timetable) hear(key string, at *timestamppb.Timestamp, deleted, synced bool) {
	switch {
	case synced:
	case deleted:
		t.set(key, time.Time{})
	default:
		t.set(key, at.AsTime())
	}
}

// runTimetable does what is due until ctx ends. watch keeps the timetable up to date.
// do does what a key stands for if its time has come by now, and returns when it
// is due next, the zero time for never; every daemon may do so at the same time.
func (s *Service) runTimetable(ctx context.Context, what string, watch func(ctx context.Context, t *timetable) error,
	do func(ctx context.Context, key string, now time.Time) (next time.Time, err error),
) error {
	t := &timetable{due: map[string]time.Time{}, changed: make(chan struct{}, 1)}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return watch(ctx, t) })
	g.Go(func() error {
		for wait := tickRetry; ; {
			key, due, err := s.nextDue(ctx, t)
			if err != nil {
				return err
			}
			now := s.clock.Now()
			next, err := do(ctx, key, now)
			if err == nil {
				// What the watch still has to tell may be older; to look too early does
				// nothing. What it has told meanwhile is newer.
				t.move(key, due, next)
				wait = tickRetry
				continue
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.log.Warn(what+", will be tried again", zap.String("key", key), zap.Error(err))
			t.move(key, due, now.Add(wait/2+rand.N(wait)))
			wait = min(2*wait, tickGiveUp)
		}
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return ctx.Err()
}

// nextDue waits until the time of some key has come, and returns both.
func (s *Service) nextDue(ctx context.Context, t *timetable) (string, time.Time, error) {
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
