package pfs

import (
	"context"
	"errors"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// Writer is somebody who may write only as long as a key of the store says so,
// such as a program that is restarted and whose earlier self may linger. Every
// transaction made in a context with a Writer compares that key as it commits;
// reading is not touched.
type Writer struct {
	// ID is remembered with the commits that it opens, until they are finished.
	ID string
	// Key holds Value as long as it may write.
	Key, Value string
	// Ended makes the error for a write after that; current is what the key holds
	// by then, nil if there is none.
	Ended func(current []byte) error
}

type writerKey struct{}

// WithWriter makes what is done in the context the work of a writer.
func WithWriter(ctx context.Context, w *Writer) context.Context {
	return context.WithValue(ctx, writerKey{}, w)
}

func writerOf(ctx context.Context) *Writer {
	w, _ := ctx.Value(writerKey{}).(*Writer)
	return w
}

// writerEndedError ends a transaction for the sake of one writer.
type writerEndedError struct {
	writer *Writer
	err    error
}

func (e *writerEndedError) Error() string { return e.err.Error() }

func (e *writerEndedError) Unwrap() error { return e.err }

// guard makes the commit of tx depend on w, if there is one, still being allowed to write.
func guard(tx *store.Txn, w *Writer) {
	if w != nil {
		tx.Guard(w.Key, w.Value, func(current []byte) error { return &writerEndedError{writer: w, err: w.Ended(current)} })
	}
}

// refused tells a member of a group of commits that its right to write has ended,
// if that is what err says.
func (o *oneShot) refused(err error) error {
	var ended *writerEndedError
	w := writerOf(o.ctx)
	if errors.As(err, &ended) && w != nil && w.Key == ended.writer.Key && w.Value == ended.writer.Value {
		return ended.err
	}
	return nil
}

// DropOpen removes the commits that writers left open at the heads of a repo's
// branches, with everything that was written to them, by whomever, and with their
// commit sets; left says whose they are. The branch's head moves back to the parent,
// or to a new empty commit. What others depend on is emptied and finished with an
// error instead. A repo that does not exist has none.
func (s *Service) DropOpen(ctx context.Context, repo *pfspb.Repo, left func(writer string) bool) error {
	repo = NormalizeRepo(repo)
	var heads []*pfspb.Commit
	err := s.View(ctx, func(tx *Txn) error {
		for item, err := range s.branches.Scan(tx.Txn, repoKey(repo)+"/", store.ScanOptions{}) {
			if err != nil {
				return err
			}
			if head := item.Value.GetInfo().GetHead(); head != nil {
				heads = append(heads, &pfspb.Commit{Repo: repo, Id: head.GetId()})
			}
		}
		return nil
	})
	for _, head := range heads {
		if err != nil {
			return err
		}
		err = s.dropHead(ctx, head, left)
	}
	return err
}

// dropHead is DropOpen of one branch's head.
func (s *Service) dropHead(ctx context.Context, head *pfspb.Commit, left func(writer string) bool) error {
	find := func(tx *Txn) (*recordpb.CommitRecord, error) {
		rec, ok, err := tx.lookup(head.Repo, head.Id)
		var gone *RepoNotFoundError
		if errors.As(err, &gone) || err == nil && !ok {
			return nil, nil
		}
		if err != nil || rec.Writer == "" || state(rec.Info) != pfspb.CommitState_STARTED || !left(rec.Writer) {
			return nil, err
		}
		return rec, nil
	}
	var rec *recordpb.CommitRecord
	err := s.View(ctx, func(tx *Txn) (err error) {
		rec, err = find(tx)
		return err
	})
	if err != nil || rec == nil {
		return err
	}
	return s.Update(ctx, func(tx *Txn) error {
		rec, err := find(tx)
		if err != nil || rec == nil {
			return err
		}
		return tx.dropOpen(rec)
	})
}

// DropOpenHead is Service.DropOpen of the head of one branch, whichever writer opened
// it. Anything else is left alone.
func (tx *Txn) DropOpenHead(branch *pfspb.Branch) error {
	branch = NormalizeBranch(branch)
	brec, ok, err := tx.branch(branch)
	if err != nil || !ok || brec.Info.GetHead() == nil {
		return err
	}
	rec, err := tx.commit(branch.Repo, brec.Info.Head.Id)
	if err != nil || rec.Writer == "" || state(rec.Info) != pfspb.CommitState_STARTED {
		return err
	}
	return tx.dropOpen(rec)
}

// dropOpen removes an open commit with its set, or finishes it, empty and with an
// error, if something else depends on one of the set.
func (tx *Txn) dropOpen(rec *recordpb.CommitRecord) error {
	set, err := tx.ownCommits("drop", &pfspb.CommitSet{Id: rec.Info.Commit.Id})
	var sets *SubvenantSetsError
	var spec *PipelineCommitError
	needed := errors.As(err, &sets) || errors.As(err, &spec)
	if err != nil && !needed {
		return err
	}
	for _, other := range set {
		children, err := tx.children(other.Info.Commit)
		if err != nil {
			return err
		}
		needed = needed || len(children) > 0
	}
	if !needed {
		return tx.dropAll(set)
	}
	rec.Layers, rec.OwnLayers = rec.Layers[:len(rec.Layers)-int(rec.OwnLayers)], 0
	return tx.finish(rec, "", "dropped: its writer ended before it was finished")
}
