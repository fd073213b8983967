package pfs

import (
	"context"
	"strings"
	"time"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// A branch whose trigger has a cron_spec has a key below clockPrefix with the
// time of its next tick. Whichever daemon sees first that the time has come moves
// the branch and the key in one transaction, so a tick happens once however many
// daemons there are. Ticks missed while none ran are made up for by one.

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

// runClock ticks until ctx ends.
func (s *Service) runClock(ctx context.Context) error {
	return s.runTimetable(ctx, "tick of a trigger", func(ctx context.Context, t *timetable) error {
		return s.clocks.Watch(ctx, s.store, "", func(e store.Event[*recordpb.TriggerClock]) error {
			t.hear(e.Key, e.Value.GetNext(), e.Deleted, e.Synced)
			return nil
		})
	}, s.tick)
}
