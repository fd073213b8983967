package pfs

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
	cron "github.com/netresearch/go-cron"
	"google.golang.org/protobuf/proto"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// A branch with a trigger follows another one of its repo, its trunk: when the
// conditions are met its head becomes the trunk's newest FINISHED commit without
// an error. The trunk's record lists the branches that follow it, so a commit on
// a branch without followers costs nothing more. The conditions are looked at in
// the very transaction that makes a commit of the trunk FINISHED: there is no
// moment in which the commit is there and its triggers may still be lost.

// neverTicks is the cron expression of a schedule without ticks.
const neverTicks = "@never"

// schedule tells the first tick after a time; the zero time if there is none.
type schedule interface{ Next(time.Time) time.Time }

type noTicks struct{}

func (noTicks) Next(time.Time) time.Time { return time.Time{} }

// parseSchedule reads a cron expression of five fields, or @every 1h, @hourly and
// so on. Times are UTC unless the expression begins with CRON_TZ=.
func parseSchedule(spec string) (schedule, error) {
	if spec == neverTicks {
		return noTicks{}, nil
	}
	return cron.ParseStandard(spec)
}

// nextTick is the first tick of a valid expression after t.
func nextTick(spec string, t time.Time) (time.Time, error) {
	s, err := parseSchedule(spec)
	if err != nil {
		return time.Time{}, err
	}
	return s.Next(t.UTC()), nil
}

// parseSize reads a number of bytes with or without a unit, as in 100MB.
func parseSize(text string) (int64, error) {
	n, err := humanize.ParseBytes(text)
	if err == nil && n > math.MaxInt64 {
		err = errors.New("it is too large")
	}
	return int64(n), err
}

// checkTrigger refuses triggers that cannot be evaluated or lead back to their
// own branch. Nil is fine.
func (tx *Txn) checkTrigger(branch *pfspb.Branch, t *pfspb.Trigger, provenance []*pfspb.Branch) error {
	switch {
	case t == nil:
		return nil
	case len(provenance) > 0:
		return errors.New("a branch cannot have both provenance and a trigger")
	case t.GetBranch() == "":
		return errors.New("triggers must specify a branch to trigger on")
	case t.GetCommits() < 0:
		return errors.New("can't trigger on a negative number of commits")
	}
	if err := checkBranchName(t.Branch); err != nil {
		return err
	}
	if t.Size != "" {
		if _, err := parseSize(t.Size); err != nil {
			return fmt.Errorf("invalid trigger size %q, a valid one is like 100MB: %w", t.Size, err)
		}
	}
	if t.RateLimitSpec != "" {
		if _, err := parseSchedule(t.RateLimitSpec); err != nil {
			return fmt.Errorf("invalid trigger rate limit spec %q: %w", t.RateLimitSpec, err)
		}
	}
	if t.CronSpec != "" {
		if _, err := parseSchedule(t.CronSpec); err != nil {
			return fmt.Errorf("invalid trigger cron spec %q: %w", t.CronSpec, err)
		}
	}
	for name := t.Branch; name != ""; {
		if name == branch.Name {
			return errors.New("triggers cannot form a loop")
		}
		trunk, ok, err := tx.branch(&pfspb.Branch{Repo: branch.Repo, Name: name})
		if err != nil || !ok {
			return err
		}
		name = trunk.Info.GetTrigger().GetBranch()
	}
	return nil
}

// setTrigger replaces the trigger of a branch by a checked one, or by none, and
// keeps the records around it up to date; a trunk that is missing is made. brec
// is not stored.
func (tx *Txn) setTrigger(brec *recordpb.BranchRecord, t *pfspb.Trigger) error {
	branch, old := brec.Info.Branch, brec.Info.GetTrigger()
	if proto.Equal(old, t) {
		return nil
	}
	brec.Info.Trigger = t
	if old.GetBranch() != t.GetBranch() {
		if err := tx.unlist(branch, old.GetBranch()); err != nil {
			return err
		}
		if err := tx.list(branch, t.GetBranch()); err != nil {
			return err
		}
	}
	if old.GetCronSpec() == t.GetCronSpec() {
		return nil // the clock goes on
	}
	key := branchKey(branch)
	if t.GetCronSpec() == "" {
		tx.s.clocks.Delete(tx.Txn, key)
		return nil
	}
	return tx.setClock(key, t.CronSpec, tx.Now())
}

// list adds a branch to the followers of its trunk.
func (tx *Txn) list(branch *pfspb.Branch, trunk string) error {
	if trunk == "" {
		return nil
	}
	b := &pfspb.Branch{Repo: branch.Repo, Name: trunk}
	rec, ok, err := tx.branch(b)
	if err == nil && !ok {
		if err = tx.CreateBranch(&pfspb.CreateBranchRequest{Branch: b}); err == nil {
			rec, err = tx.mustBranch(b)
		}
	}
	if err != nil {
		return err
	}
	rec.Triggers = append(rec.Triggers, branch.Name)
	return tx.s.branches.Put(tx.Txn, branchKey(b), rec)
}

// unlist takes a branch out of the followers of its trunk.
func (tx *Txn) unlist(branch *pfspb.Branch, trunk string) error {
	if trunk == "" {
		return nil
	}
	b := &pfspb.Branch{Repo: branch.Repo, Name: trunk}
	rec, ok, err := tx.branch(b)
	if err != nil || !ok {
		return err
	}
	rec.Triggers = slices.DeleteFunc(rec.Triggers, func(name string) bool { return name == branch.Name })
	return tx.s.branches.Put(tx.Txn, branchKey(b), rec)
}

// cutTriggers ends the triggers that a branch, about to be deleted, takes part in.
func (tx *Txn) cutTriggers(brec *recordpb.BranchRecord) error {
	for _, name := range brec.Triggers {
		follower, ok, err := tx.branch(&pfspb.Branch{Repo: brec.Info.Branch.Repo, Name: name})
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		follower.Info.Trigger = nil
		tx.s.clocks.Delete(tx.Txn, branchKey(follower.Info.Branch))
		if err := tx.putBranch(follower); err != nil {
			return err
		}
	}
	brec.Triggers = nil
	return tx.setTrigger(brec, nil)
}

// fireTriggers lets the branches that follow a trunk follow it now if their
// conditions are met. It is called when a commit of the trunk became FINISHED
// without an error, after its set has ended.
func (tx *Txn) fireTriggers(trunk *pfspb.Branch) error {
	// Not compared, so that a commit that is slow to finish does not contend with
	// those that come after it: a trigger made meanwhile counts as made afterwards.
	peeked, ok, err := tx.s.branches.PeekShared(tx.Txn, branchKey(trunk))
	if err != nil || !ok || len(peeked.Triggers) == 0 {
		return err
	}
	rec, ok, err := tx.branch(trunk)
	if err != nil || !ok {
		return err
	}
	head, err := tx.settledHead(rec)
	if err != nil || head == nil {
		return err
	}
	for _, name := range rec.Triggers {
		follower, ok, err := tx.branch(&pfspb.Branch{Repo: trunk.Repo, Name: name})
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		fires, err := tx.fires(follower, head)
		if err == nil && fires {
			err = tx.follow(follower, head)
		}
		if err != nil {
			return fmt.Errorf("trigger of branch %s: %w", BranchName(follower.Info.Branch), err)
		}
	}
	return nil
}

// settledHead is the newest FINISHED commit without an error in a branch's line;
// nil if there is none.
func (tx *Txn) settledHead(brec *recordpb.BranchRecord) (*recordpb.CommitRecord, error) {
	for c := brec.Info.Head; c != nil; {
		rec, err := tx.commit(brec.Info.Branch.Repo, c.Id)
		if err != nil {
			return nil, err
		}
		if state(rec.Info) == pfspb.CommitState_FINISHED && rec.Info.Error == "" {
			return rec, nil
		}
		c = rec.Info.ParentCommit
	}
	return nil, nil
}

// follow makes a commit the head of a branch, as a set of its own with what that
// leads to downstream and in the branches that follow this one.
func (tx *Txn) follow(brec *recordpb.BranchRecord, head *recordpb.CommitRecord) error {
	branch, c := brec.Info.Branch, head.Info.Commit
	if brec.Info.Head.GetId() == c.Id {
		return nil
	}
	if err := tx.finishPolicyCommit(brec); err != nil {
		return err
	}
	if err := tx.setHead(brec, c.Repo, c.Id); err != nil {
		return err
	}
	tx.touched[branchKey(branch)] = branch
	tx.settled = append(tx.settled, branch)
	return tx.endSet()
}

// fires tells whether a branch is to follow its trunk to a commit. Without all,
// one condition that is met is enough, and without conditions nothing is; with
// all, every one that is given must be met.
func (tx *Txn) fires(brec *recordpb.BranchRecord, head *recordpb.CommitRecord) (bool, error) {
	t := brec.Info.GetTrigger()
	if t == nil || t.CronSpec != "" {
		return false, nil // a clock moves it, nothing else
	}
	old, ok, err := tx.lookup(brec.Info.Branch.Repo, brec.Info.Head.GetId())
	if err != nil {
		return false, err
	}
	if !ok {
		old = &recordpb.CommitRecord{}
	}
	fires := t.All
	count := func(met bool) {
		if t.All {
			fires = fires && met
		} else {
			fires = fires || met
		}
	}
	if t.Size != "" {
		size, err := parseSize(t.Size)
		if err != nil {
			return false, err
		}
		count(head.Info.GetDetails().GetSizeBytes()-old.Info.GetDetails().GetSizeBytes() >= size)
	}
	if t.RateLimitSpec != "" {
		next, err := nextTick(t.RateLimitSpec, old.Info.GetFinishing().AsTime())
		if err != nil {
			return false, err
		}
		count(!next.IsZero() && next.Before(head.Info.GetFinishing().AsTime()))
	}
	if t.Commits > 0 {
		met, err := tx.grownBy(old, head, uint64(t.Commits))
		if err != nil {
			return false, err
		}
		count(met)
	}
	return fires, nil
}

// grownBy tells whether there are n commits after old in the line of head, or in
// all of it if old is not there. The empty commit that a branch was made with
// does not count.
func (tx *Txn) grownBy(old, head *recordpb.CommitRecord, n uint64) (bool, error) {
	// Ordinals bound the number from above: most often that spares the walk. Those
	// of commits made on one branch lie on one line unless its head was put back.
	most := head.Ordinal
	if old.Branch == head.Branch && old.Ordinal <= head.Ordinal {
		most -= old.Ordinal
	}
	if most < n {
		return false, nil
	}
	found := uint64(0)
	for rec, err := range tx.line(head) {
		if err != nil {
			return false, err
		}
		if rec.Info.Commit.Id == old.GetInfo().GetCommit().GetId() {
			return false, nil
		}
		if rec.Info.ParentCommit == nil && rec.Info.GetOrigin().GetKind() == pfspb.OriginKind_AUTO {
			return false, nil
		}
		if found++; found >= n {
			return true, nil
		}
	}
	return false, nil
}
