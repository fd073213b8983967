package pfs

import (
	"context"
	"errors"

	"github.com/minipachd/minipachd/pfs/gc"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// Txn is a transaction on repos, branches and commits. All commits made in it
// form one commit set. Like the store.Txn below it, it must not be used
// concurrently nor after the function it was given to has returned.
type Txn struct {
	*store.Txn
	s     *Service
	setID string
	// dropped are the repos that the transaction deleted.
	dropped map[string]bool
	// touched are the branches whose head or provenance changed in this set.
	touched map[string]*pfspb.Branch
	// made has the id of the set for every repo that got a commit in it.
	made map[string]bool
	// settled are the branches with a newly FINISHED commit without error, in which
	// their triggers are looked at when the set ends.
	settled []*pfspb.Branch
	// last is the newest start time given to a commit of a repo, Unix nanoseconds.
	last map[string]int64
	// author is who all that is made now is created by; empty while auth is off.
	author string
	// fenced says that the transaction depends on session.
	fenced  bool
	session gc.Session
}

func (s *Service) newTxn(tx *store.Txn) *Txn {
	t := &Txn{Txn: tx, s: s, touched: map[string]*pfspb.Branch{}, made: map[string]bool{}, last: map[string]int64{}, dropped: map[string]bool{}}
	t.author = s.auth.Subject(tx.Context())
	return t
}

// Update runs fn in one transaction and, at its end, makes the commits that
// follow downstream from the branches that fn changed. fn runs again when the
// transaction conflicts with another, so it must have no effect but on its Txn.
// The Writer of ctx, if it has one, must be allowed to write as it commits.
func (s *Service) Update(ctx context.Context, fn func(tx *Txn) error) error {
	for {
		var tx *Txn
		sent := false
		_, err := s.store.Update(ctx, func(stx *store.Txn) error {
			tx, sent = s.newTxn(stx), false
			guard(stx, writerOf(ctx))
			if err := fn(tx); err != nil {
				return err
			}
			err := tx.endSet()
			sent = err == nil
			return err
		})
		var ended *writerEndedError
		if errors.As(err, &ended) { // nothing has taken effect
			if ended.writer == writerOf(ctx) {
				return ended.err
			}
			return err
		}
		if again, werr := tx.settle(ctx, sent, err); again {
			continue
		} else if werr != nil {
			err = werr
		}
		var g *garbageError
		if !errors.As(err, &g) {
			return err
		}
		if err := s.sweepRepo(ctx, g.repo); err != nil {
			return err
		}
	}
}

// View runs fn over one snapshot; fn must not write.
func (s *Service) View(ctx context.Context, fn func(tx *Txn) error) error {
	return s.store.View(ctx, func(tx *store.Txn) error { return fn(s.newTxn(tx)) })
}

// SetID is the id of the commit set that commits made now belong to.
func (tx *Txn) SetID() string {
	if tx.setID == "" {
		tx.setID = tx.NewID()
	}
	return tx.setID
}

// endSet closes the current commit set: it propagates what changed downstream,
// lets later commits of the transaction have a new set of their own, and then
// fires the triggers of branches that got on. Update ends with it; whoever groups
// independent commits into one transaction calls it after each.
func (tx *Txn) endSet() error {
	if err := tx.propagate(); err != nil {
		return err
	}
	settled := tx.settled
	tx.settled = nil
	tx.setID = ""
	clear(tx.touched)
	clear(tx.made)
	for _, branch := range settled {
		if err := tx.fireTriggers(branch); err != nil {
			return err
		}
	}
	return nil
}

// repoExists returns *RepoNotFoundError unless the normalized repo exists. The
// transaction conflicts with the repo's deletion.
func (tx *Txn) repoExists(repo *pfspb.Repo) error {
	_, ok, err := tx.Get(repoPrefix + repoKey(repo))
	if err != nil {
		return err
	}
	if !ok {
		return &RepoNotFoundError{Repo: repo}
	}
	return nil
}

// branch returns the record of a normalized branch, a copy.
func (tx *Txn) branch(b *pfspb.Branch) (*recordpb.BranchRecord, bool, error) {
	return tx.s.branches.Get(tx.Txn, branchKey(b))
}

// mustBranch is branch for one that has to exist: else *RepoNotFoundError or
// *BranchNotFoundError.
func (tx *Txn) mustBranch(b *pfspb.Branch) (*recordpb.BranchRecord, error) {
	rec, ok, err := tx.branch(b)
	if err != nil || ok {
		return rec, err
	}
	if err := tx.repoExists(b.GetRepo()); err != nil {
		return nil, err
	}
	return nil, &BranchNotFoundError{Branch: b}
}

// putBranch stores a changed branch.
func (tx *Txn) putBranch(rec *recordpb.BranchRecord) error {
	rec.Info.UpdatedAt = stamp(tx.Now())
	return tx.s.branches.Put(tx.Txn, branchKey(rec.Info.Branch), rec)
}

// commit returns the record of the commit with this very id in a normalized
// repo, a copy; else *RepoNotFoundError or *CommitNotFoundError.
func (tx *Txn) commit(repo *pfspb.Repo, id string) (*recordpb.CommitRecord, error) {
	rec, ok, err := tx.lookup(repo, id)
	if err != nil || ok {
		return rec, err
	}
	return nil, &CommitNotFoundError{Commit: &pfspb.Commit{Repo: repo, Id: id}}
}

// lookup is commit with a missing commit, but not a missing repo, as no error.
// An entry of the id index whose commit is gone counts as missing.
func (tx *Txn) lookup(repo *pfspb.Repo, id string) (*recordpb.CommitRecord, bool, error) {
	found, err := tx.GetMulti([]string{repoPrefix + repoKey(repo), idKey(id, repo)}, true)
	if err != nil {
		return nil, false, err
	}
	if found[0] == nil {
		return nil, false, &RepoNotFoundError{Repo: repo}
	}
	if found[1] == nil {
		return nil, false, nil
	}
	order, _ := parseIDValue(found[1])
	return tx.s.commits.Get(tx.Txn, commitKey(repo, order))
}

// setHead makes a commit that exists already the head of a branch. Storing that
// commit anew lets a transaction that removes it at the same time fail.
func (tx *Txn) setHead(brec *recordpb.BranchRecord, repo *pfspb.Repo, id string) error {
	rec, err := tx.commit(repo, id)
	if err != nil {
		return err
	}
	brec.Info.Head = &pfspb.Commit{Repo: repo, Id: id}
	if err := tx.s.commits.Put(tx.Txn, commitKey(repo, rec.Order), rec); err != nil {
		return err
	}
	return tx.putBranch(brec)
}

// putCommit stores a commit. Its layers are the caller's to store.
func (tx *Txn) putCommit(rec *recordpb.CommitRecord) error {
	rec.Info.UpdatedAt = stamp(tx.Now())
	return tx.s.commits.Put(tx.Txn, commitKey(rec.Info.Commit.Repo, rec.Order), rec)
}

// state tells how far a commit is, READY left aside.
func state(info *pfspb.CommitInfo) pfspb.CommitState {
	switch {
	case info.GetFinished() != nil:
		return pfspb.CommitState_FINISHED
	case info.GetFinishing() != nil:
		return pfspb.CommitState_FINISHING
	default:
		return pfspb.CommitState_STARTED
	}
}
