package pfs

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/minipachd/minipachd/pfs/fileset"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// Limits of one transaction of grouped commits.
const (
	maxGroup      = 64
	maxGroupBytes = 512 << 10
	// groupTimeout bounds a group's transaction, which does not end with the stream
	// of any one of its members.
	groupTimeout = 30 * time.Second
	// maxStack is the number of layers at which writers wait for the compactor.
	maxStack = 64
)

// oneShot is a stream that waits to become a commit of its own.
type oneShot struct {
	ctx    context.Context
	layers []*fileset.Layer
	once   *once         // nil without an idempotency key
	lead   chan struct{} // its stream is to lead the next group
	done   chan error
}

// bytes is what it puts into a transaction.
func (o *oneShot) bytes() (n int) {
	for _, l := range o.layers {
		n += len(l.Record.GetInline())
	}
	return n
}

// queue holds the streams that wait for one branch, first come first served.
type queue struct {
	mu      sync.Mutex
	waiting []*oneShot
	led     bool
}

// commitOneShot makes a FINISHED commit of the layers on a branch. Streams that
// come while another's transaction is under way share the next one: the first
// of them leads it, each gets a commit of its own, in the order they came.
func (s *Service) commitOneShot(ctx context.Context, branch *pfspb.Branch, layers []*fileset.Layer) error {
	return s.enqueue(ctx, branch, &oneShot{ctx: ctx, layers: layers})
}

// enqueue is commitOneShot for a stream that need not be a commit: with an
// idempotency key it may turn out to be one that was made before.
func (s *Service) enqueue(ctx context.Context, branch *pfspb.Branch, me *oneShot) error {
	v, _ := s.groups.LoadOrStore(branchKey(branch), &queue{})
	q := v.(*queue)
	me.lead, me.done = make(chan struct{}, 1), make(chan error, 1)
	q.mu.Lock()
	q.waiting = append(q.waiting, me)
	leads := !q.led
	q.led = true
	q.mu.Unlock()
	if !leads {
		select {
		case err := <-me.done:
			return err
		case <-me.lead:
		}
	}
	group := q.take()
	s.commitGroup(context.WithoutCancel(ctx), branch, group)
	q.mu.Lock()
	q.led = len(q.waiting) > 0
	if q.led {
		q.waiting[0].lead <- struct{}{}
	}
	q.mu.Unlock()
	return <-me.done
}

// take removes the next group from the queue.
func (q *queue) take() []*oneShot {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, size := 0, 0
	for n < len(q.waiting) && n < maxGroup {
		size += q.waiting[n].bytes()
		if n > 0 && size > maxGroupBytes {
			break
		}
		n++
	}
	group := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	return group
}

// headFinishingError asks to wait until a branch's head is FINISHED.
type headFinishingError struct{ head *pfspb.Commit }

func (e *headFinishingError) Error() string { return CommitName(e.head) + " is finishing" }

// halfDoneError is the error of a commit that is partly in the transaction already:
// nothing of the transaction may be kept.
type halfDoneError struct{ err error }

func (e *halfDoneError) Error() string { return e.err.Error() }
func (e *halfDoneError) Unwrap() error { return e.err }

// commitGroup makes the commits of a group in one transaction and tells each
// member what became of it. What is wrong with one does not touch the others.
func (s *Service) commitGroup(ctx context.Context, branch *pfspb.Branch, group []*oneShot) {
	// Each member answers for its own right to write, the leader not for all.
	ctx, cancel := context.WithTimeout(WithWriter(ctx, nil), groupTimeout)
	defer cancel()
	now := s.clock.Now()
	errs := make([]error, len(group))
	ended := make([]bool, len(group)) // no longer allowed to write
	var err error
	for {
		var depth int
		err = s.Update(ctx, func(tx *Txn) error {
			var known []*fileset.Layer
			if err := tx.prefetch(group); err != nil {
				return err
			}
			policy, err := tx.policy(branch)
			if err != nil {
				return err
			}
			if policy != nil {
				j := &joining{tx: tx, branch: branch, policy: policy, now: now, group: group, errs: errs}
				err := j.all(ended)
				depth = j.depth
				return err
			}
			for i, o := range group {
				if ended[i] {
					continue
				}
				if errs[i] = o.ctx.Err(); errs[i] != nil {
					continue // its client is gone: nobody waits for the commit
				}
				if o.once != nil {
					var done bool
					if done, errs[i] = tx.repeats(o.once); done || errs[i] != nil {
						continue
					}
				}
				tx.author = s.auth.Subject(o.ctx)
				rec, made, err := tx.oneShot(branch, o.layers, known)
				var wait *headFinishingError
				var half *halfDoneError
				if errors.As(err, &wait) || errors.As(err, &half) {
					return err
				}
				if tx.cut(err) {
					return store.ErrLeaseLost
				}
				if errs[i] = err; err == nil {
					guard(tx.Txn, writerOf(o.ctx))
					known = append(known, made...)
					depth = len(rec.Layers)
					if err := tx.remember(o.once, rec); err != nil {
						return err
					}
				}
			}
			return nil
		})
		var wait *headFinishingError
		if errors.As(err, &wait) {
			_, err = s.waitCommit(ctx, wait.head.Repo, wait.head.Id, pfspb.CommitState_FINISHED)
			if err == nil || removed(err) {
				continue
			}
		}
		refused := false
		for i, o := range group {
			if why := o.refused(err); why != nil {
				errs[i], ended[i], refused = why, true, true
			}
		}
		if refused {
			continue // with the others
		}
		if err == nil && depth > maxStack {
			// The compactor is behind: these writers, and those behind them, wait for it.
			_ = s.compactBranch(ctx, branch) // it logs its troubles; the commits are made
		}
		if err == nil {
			s.pokeCompactor(branch, depth)
		}
		break
	}
	for i, o := range group {
		if errs[i] == nil {
			errs[i] = err
		}
		o.done <- errs[i]
	}
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
	if rec, err = tx.startCommit(branch, parent, ""); err != nil {
		return nil, nil, err
	}
	if err := tx.setApplied(rec, applied); err != nil {
		return nil, nil, err
	}
	if err := tx.endSet(); err != nil {
		return nil, nil, &halfDoneError{err}
	}
	return rec, applied.New, nil
}

// setApplied makes a commit FINISHED with the content that Apply found.
func (tx *Txn) setApplied(rec *recordpb.CommitRecord, a *fileset.Applied) error {
	rec.Layers, rec.OwnLayers = a.Stack, 0
	if a.Invalid != nil && rec.Info.Error == "" {
		rec.Info.Error = a.Invalid.Error()
	}
	tx.setFinished(rec, a.Size, time.Unix(0, max(tx.Now().UnixNano(), orderTime(rec.Order))))
	if err := tx.putLayers(a.New); err != nil {
		return err
	}
	return tx.putCommit(rec)
}
