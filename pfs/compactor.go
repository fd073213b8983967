package pfs

import (
	"context"
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/minipachd/minipachd/pfs/fileset"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// compactor holds the branches whose heads may have layers worth folding.
type compactor struct {
	mu      sync.Mutex
	pending map[string]*pfspb.Branch
	wake    chan struct{} // holds one
	working sync.Map      // branch key -> *sync.Mutex: one fold of a branch at a time
}

func newCompactor() *compactor {
	return &compactor{pending: map[string]*pfspb.Branch{}, wake: make(chan struct{}, 1)}
}

// pokeCompactor tells that a branch has a new head, of these layers.
func (s *Service) pokeCompactor(branch *pfspb.Branch, stack []*recordpb.LayerRef) {
	if lo, hi := fileset.Plan(stack); lo == hi {
		return // nothing to fold
	}
	c := s.compactor
	c.mu.Lock()
	c.pending[branchKey(branch)] = branch
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// runCompactor folds layers of heads until ctx ends.
func (s *Service) runCompactor(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.compactor.wake:
		}
		s.compactor.mu.Lock()
		pending := s.compactor.pending
		s.compactor.pending = map[string]*pfspb.Branch{}
		s.compactor.mu.Unlock()
		for _, branch := range pending {
			if err := s.compactBranch(ctx, branch); err != nil && ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
}

// compactBranch folds runs of layers in the head of a branch until none is worth
// it. Troubles are logged and returned; the commit is readable all the same.
func (s *Service) compactBranch(ctx context.Context, branch *pfspb.Branch) error {
	v, _ := s.compactor.working.LoadOrStore(branchKey(branch), &sync.Mutex{})
	mu := v.(*sync.Mutex)
	mu.Lock()
	defer mu.Unlock()
	for {
		more, err := s.compactOnce(ctx, branch)
		if err != nil && ctx.Err() == nil {
			s.log.Warn("fold layers", zap.String("branch", BranchName(branch)), zap.Error(err))
		}
		if err != nil || !more {
			return err
		}
	}
}

// compactOnce folds one run. The swap is made in whatever commit is the head by
// then, as long as its stack still has the run: its content stays the same.
func (s *Service) compactOnce(ctx context.Context, branch *pfspb.Branch) (more bool, err error) {
	head, err := s.completeHead(ctx, branch)
	if err != nil || head == nil {
		return false, err
	}
	lo, hi := fileset.Plan(head.Layers)
	if lo == hi {
		return false, nil
	}
	folded, err := s.files.Compact(ctx, head.Layers, lo, hi)
	if err != nil {
		return false, err
	}
	defer folded.Release()
	err = s.Update(ctx, func(tx *Txn) error {
		more = false
		brec, ok, err := tx.branch(branch)
		if err != nil || !ok {
			return err
		}
		rec, err := tx.commit(branch.Repo, brec.Info.Head.GetId())
		if err != nil {
			return err
		}
		at := 0 // what was folded as the bottom lacks the deletions that it needs elsewhere
		if lo > 0 {
			at = findRun(rec.Layers, head.Layers[lo:hi])
		}
		if !complete(rec) || !replaceRun(rec, at, head.Layers[lo:hi], folded) {
			return nil
		}
		more = true
		if folded != nil {
			if err := tx.putLayers([]*fileset.Layer{folded}); err != nil {
				return err
			}
		}
		return tx.putCommit(rec)
	})
	return more, err
}

// completeHead returns the head of a branch, nil if it is gone or its record does not
// have all of its content.
func (s *Service) completeHead(ctx context.Context, branch *pfspb.Branch) (rec *recordpb.CommitRecord, err error) {
	err = s.View(ctx, func(tx *Txn) error {
		brec, ok, err := tx.branch(branch)
		if err != nil || !ok {
			return err
		}
		head, ok, err := tx.lookup(branch.Repo, brec.Info.Head.GetId())
		if err == nil && ok && complete(head) {
			rec = head
		}
		return err
	})
	if gone(err) {
		return nil, nil
	}
	return rec, err
}

func sameLayer(a, b *recordpb.LayerRef) bool { return string(a.GetId()) == string(b.GetId()) }

// findRun tells where a stack has a run of layers, -1 if nowhere.
func findRun(stack, run []*recordpb.LayerRef) int {
	for at := range len(stack) - len(run) + 1 {
		if slices.EqualFunc(stack[at:at+len(run)], run, sameLayer) {
			return at
		}
	}
	return -1
}

// replaceRun puts one layer, or none, where a stack has a run of layers at a
// place; false if it does not have it there.
func replaceRun(rec *recordpb.CommitRecord, at int, run []*recordpb.LayerRef, by *fileset.Layer) bool {
	end := at + len(run)
	if at < 0 || end > len(rec.Layers) || !slices.EqualFunc(rec.Layers[at:end], run, sameLayer) {
		return false
	}
	var refs []*recordpb.LayerRef
	if by != nil {
		refs = append(refs, by.Ref)
	}
	rec.Layers = slices.Concat(rec.Layers[:at], refs, rec.Layers[end:])
	return true
}
