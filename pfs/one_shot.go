package pfs

import (
	"context"
	"time"

	"github.com/minipachd/minipachd/pfs/fileset"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// maxStack is the number of layers at which writers wait for the compactor.
const maxStack = 64

// commitOneShot makes a FINISHED commit of the layers on a branch. Streams that
// come while another's transaction is under way share the next one, and each gets a
// commit of its own, in the order they came.
func (s *Service) commitOneShot(ctx context.Context, branch *pfspb.Branch, layers []*fileset.Layer) error {
	return s.enqueue(branch, &oneShot{ctx: ctx, layers: layers})
}

// enqueue is commitOneShot for a stream that need not be a commit: with an
// idempotency key it may turn out to be one that was made before.
func (s *Service) enqueue(branch *pfspb.Branch, me *oneShot) error {
	return s.queues.join(branchPrefix+branchKey(branch), me, func(g *group) { s.commitGroup(g, branch) })
}

// commitGroup makes the commits of a group.
func (s *Service) commitGroup(g *group, branch *pfspb.Branch) {
	now := s.clock.Now()
	var stack []*recordpb.LayerRef // of the newest commit
	ctx, cancel := g.context()
	defer cancel()
	g.run(ctx, s, func(tx *Txn) error {
		if err := tx.prefetch(g.members); err != nil {
			return err
		}
		policy, err := tx.policy(branch)
		if err != nil {
			return err
		}
		if policy != nil {
			j := &joining{tx: tx, branch: branch, policy: policy, now: now, group: g}
			err := j.all()
			stack = j.stack
			return err
		}
		var known []*fileset.Layer
		return g.each(tx, func(o *oneShot) error {
			if o.once != nil {
				if done, err := tx.repeats(o.once); done || err != nil {
					return err
				}
			}
			tx.author = s.auth.Subject(o.ctx)
			rec, made, err := tx.oneShot(branch, o.layers, known)
			if err != nil {
				return err
			}
			guard(tx.Txn, writerOf(o.ctx))
			known = append(known, made...)
			stack = rec.Layers
			if err := tx.remember(o.once, rec); err != nil {
				return &halfDoneError{err}
			}
			return nil
		})
	})
	if g.err == nil && len(stack) > maxStack {
		// The compactor is behind: these writers, and those behind them, wait for it.
		_ = s.compactBranch(ctx, branch) // it logs its troubles; the commits are made
	}
	if g.err == nil {
		s.pokeCompactor(branch, stack)
	}
	g.answer()
}

// oneShot makes one FINISHED commit and closes its set. Known are layers of
// commits made before in the same transaction; made are the ones it adds.
func (tx *Txn) oneShot(branch *pfspb.Branch, layers, known []*fileset.Layer) (rec *recordpb.CommitRecord, made []*fileset.Layer, err error) {
	if err := tx.rely(layers); err != nil {
		return nil, nil, err
	}
	brec, err := tx.openBranch(branch)
	if err != nil {
		return nil, nil, err
	}
	var parent *recordpb.CommitRecord
	if head := brec.GetInfo().GetHead(); head != nil {
		if parent, err = tx.commit(branch.Repo, head.Id); err != nil {
			return nil, nil, err
		}
		switch state(parent.Info) {
		case pfspb.CommitState_STARTED:
			return nil, nil, &ParentOpenError{Parent: parent.Info.Commit}
		case pfspb.CommitState_FINISHING:
			return nil, nil, &headFinishingError{head: parent.Info.Commit}
		}
	}
	base, err := tx.base(&recordpb.CommitRecord{Info: &pfspb.CommitInfo{}}, parent)
	if err != nil {
		return nil, nil, err
	}
	applied, err := tx.s.files.Apply(tx.Context(), base.GetLayers(), base.GetInfo().GetDetails().GetSizeBytes(), layers, known...)
	if err != nil {
		return nil, nil, err
	}
	fill := func(rec *recordpb.CommitRecord) { tx.apply(rec, applied) }
	if rec, err = tx.startCommitOn(brec, parent, commitOptions{fill: fill}); err != nil {
		return nil, nil, err
	}
	if err := tx.putLayers(applied.New); err != nil {
		return nil, nil, &halfDoneError{err}
	}
	if err := tx.endSet(); err != nil {
		return nil, nil, &halfDoneError{err}
	}
	return rec, applied.New, nil
}

// setApplied makes a commit FINISHED with the content that Apply found.
func (tx *Txn) setApplied(rec *recordpb.CommitRecord, a *fileset.Applied) error {
	tx.apply(rec, a)
	if err := tx.putLayers(a.New); err != nil {
		return err
	}
	return tx.putCommit(rec)
}

// apply is setApplied of a record and layers that the caller stores.
func (tx *Txn) apply(rec *recordpb.CommitRecord, a *fileset.Applied) {
	rec.Layers, rec.OwnLayers = a.Stack, 0
	if a.Invalid != nil && rec.Info.Error == "" {
		rec.Info.Error = a.Invalid.Error()
	}
	tx.setFinished(rec, a.Size, time.Unix(0, max(tx.Now().UnixNano(), orderTime(rec.Order))))
}
