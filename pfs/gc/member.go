package gc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

const (
	memberRetryFirst = 50 * time.Millisecond
	memberRetryMax   = 5 * time.Second
)

var errSession = errors.New("the lease is lost")

// Session is what Fence made a transaction depend on.
type Session struct{ s *session }

// Fence makes a transaction that stores layers with pins depend on this daemon
// being asked by sweeps: without that the pins are worth nothing. Its failure is
// store.ErrLeaseLost; Await then says whether to run the transaction again.
func (c *Collector) Fence(tx *store.Txn) (Session, error) {
	s, _ := c.table.current()
	if s == nil {
		return Session{}, store.ErrLeaseLost
	}
	tx.CompareLease(s.lease, s.key)
	return Session{s}, nil
}

// Current tells whether a session is the one that pins are worth something in now.
func (c *Collector) Current(s Session) bool {
	now, _ := c.table.current()
	return now != nil && now == s.s
}

// Abandon ends a session whose transaction may or may not take effect. It is called
// before the pins are released that the transaction relied on: sweeps then wait
// until the session is gone, and the transaction with it.
func (c *Collector) Abandon(s Session) {
	if s.s != nil {
		c.table.drop(s.s)
	}
}

// Await returns true, once there is a new session, if the one that a failed
// transaction depended on is over; false if that was not why it failed.
func (c *Collector) Await(ctx context.Context, used Session) (bool, error) {
	if used.s != nil {
		if now, _ := c.table.current(); now == used.s {
			alive := false
			if err := c.store.View(ctx, func(tx *store.Txn) error {
				var err error
				_, alive, err = tx.Get(used.s.key)
				return err
			}); err != nil || alive {
				return false, err
			}
			c.table.drop(used.s)
		}
	}
	for {
		now, changed := c.table.current()
		if now != nil {
			return true, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// runMember keeps this daemon registered until ctx ends.
func (c *Collector) runMember(ctx context.Context) error {
	wait := memberRetryFirst
	for {
		begun := time.Now()
		err := c.beMember(ctx)
		c.table.drop(nil)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(begun) > memberRetryMax {
			wait = memberRetryFirst
		}
		c.log.Warn("no session in etcd: writers of large data wait for a new one", zap.Error(err))
		if !sleep(ctx, wait/2+mathrand.N(wait)) {
			return ctx.Err()
		}
		wait = min(2*wait, memberRetryMax)
	}
}

// beMember is one session: it joins, finds out what the pins of before are worth,
// and answers sweeps until the lease is lost.
func (c *Collector) beMember(ctx context.Context) error {
	lease, err := c.store.NewLease(ctx, c.cfg.TTL)
	if err != nil {
		return err
	}
	defer lease.Close() // a member that has left is not waited for
	m := &member{c: c, s: &session{lease: lease.ID(), key: memberPrefix + rand.Text()}}
	if err := m.join(ctx); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return c.runs.Watch(ctx, c.store, "", func(e store.Event[*recordpb.GarbageRun]) error {
			if e.Synced {
				return nil
			}
			return m.answer(ctx, e.Value)
		})
	})
	g.Go(func() error {
		if err := c.table.revalidate(ctx, c.bucket.Exists); err != nil {
			return fmt.Errorf("look after what writers hold: %w", err)
		}
		c.table.trust(m.s)
		for {
			now, changed := c.table.current()
			if now != m.s {
				return errSession
			}
			select {
			case <-changed:
			case <-lease.Done():
				c.table.drop(m.s)
				return errSession
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	return g.Wait()
}

// member is this daemon in one session.
type member struct {
	c    *Collector
	s    *session
	run  string // the newest step that was answered
	step uint64
}

// join registers the member. Into a sweep under way it enters its name for good, so
// that the sweep ends if the member goes away.
func (m *member) join(ctx context.Context) error {
	var run *recordpb.GarbageRun
	_, err := m.c.store.Update(ctx, func(tx *store.Txn) error {
		var err error
		if run, _, err = m.c.runs.Get(tx, ""); err != nil {
			return err
		}
		if run.GetOpen() {
			run.Members = append(run.Members, m.s.key)
			if err := m.c.runs.Put(tx, "", run); err != nil {
				return err
			}
		}
		// Early, but that only makes pins wait.
		return m.put(tx, run, m.c.table.install(run))
	})
	m.run, m.step = run.GetId(), run.GetStep()
	return err
}

// answer takes in the state of a sweep and answers a new step.
func (m *member) answer(ctx context.Context, run *recordpb.GarbageRun) error {
	kept := m.c.table.install(run)
	// A session that was abandoned gives no answers: pins released since then were not
	// seen. One that is abandoned after this still had them when they were looked at.
	if m.c.table.over(m.s) {
		return errSession
	}
	if !run.GetOpen() || run.GetDeleting() || m.run == run.GetId() && m.step == run.GetStep() {
		return nil
	}
	_, err := m.c.store.Update(ctx, func(tx *store.Txn) error {
		tx.CompareLease(m.s.lease, m.s.key)
		return m.put(tx, run, kept)
	})
	if err != nil {
		return fmt.Errorf("answer the sweep: %w", err)
	}
	m.run, m.step = run.GetId(), run.GetStep()
	return nil
}

func (m *member) put(tx *store.Txn, run *recordpb.GarbageRun, kept []string) error {
	b, err := proto.Marshal(&recordpb.GarbageMember{Run: run.GetId(), Step: run.GetStep(), Kept: kept})
	if err != nil {
		return err
	}
	tx.PutLease(m.s.key, b, m.s.lease)
	return nil
}

// sleep waits; false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
