package pfs

import (
	"maps"
	"slices"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// propagate gives every branch downstream of a branch that changed in the
// current set an open commit of that set, whose direct provenance is the heads
// of the branches that it is made from. Branches made from one spec branch only
// get none: what writes to them makes its commits itself.
func (tx *Txn) propagate() error {
	changed := map[string]bool{}
	var start []*pfspb.Branch
	for _, key := range slices.Sorted(maps.Keys(tx.touched)) {
		changed[key] = true
		start = append(start, tx.touched[key])
	}
	downstream, err := tx.downstream(start)
	if err != nil {
		return err
	}
	for _, brec := range downstream {
		key := branchKey(brec.Info.Branch)
		if changed[key] && tx.setID != "" && brec.Info.Head.GetId() == tx.setID {
			continue
		}
		if isSpoutBranch(brec) || !follows(brec, changed) {
			continue
		}
		provenance, err := tx.heads(brec.Info.DirectProvenance)
		if err != nil {
			return err
		}
		parent, err := tx.commit(brec.Info.Branch.Repo, brec.Info.Head.GetId())
		if err != nil {
			return err
		}
		if _, err := tx.makeCommit(brec, parent, commitOptions{origin: pfspb.OriginKind_AUTO, provenance: provenance}); err != nil {
			return err
		}
		changed[key] = true
	}
	return nil
}

// follows tells whether one of the changed branches moves brec.
func follows(brec *recordpb.BranchRecord, changed map[string]bool) bool {
	never := map[string]bool{}
	for _, spec := range brec.Info.BranchPropagationSpecs {
		if spec.GetPropagationSpec().GetNever() {
			never[branchKey(spec.GetBranch())] = true
		}
	}
	return slices.ContainsFunc(brec.Info.DirectProvenance, func(p *pfspb.Branch) bool {
		return changed[branchKey(p)] && !never[branchKey(p)]
	})
}

// movedBy returns the branches that commits on one may be propagated to, in no order.
func (tx *Txn) movedBy(b *pfspb.Branch) ([]*pfspb.Branch, error) {
	moved, seen := []*pfspb.Branch{b}, map[string]bool{branchKey(b): true}
	for i := 0; i < len(moved); i++ {
		rec, ok, err := tx.branch(moved[i])
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		for _, sub := range rec.DirectSubvenance {
			if seen[branchKey(sub)] {
				continue
			}
			seen[branchKey(sub)] = true
			srec, ok, err := tx.branch(sub)
			if err != nil {
				return nil, err
			}
			if ok && !isSpoutBranch(srec) {
				moved = append(moved, sub)
			}
		}
	}
	return moved[1:], nil
}

// downstream returns the branches that are made, at any distance, from the given
// ones, each after those that it is made from. The given ones are not among
// them unless one is made from another.
func (tx *Txn) downstream(start []*pfspb.Branch) ([]*recordpb.BranchRecord, error) {
	return tx.branchClosure(start, func(rec *recordpb.BranchRecord) []*pfspb.Branch { return rec.DirectSubvenance }, true)
}

// upstream returns the branches that the given ones are made from, at any distance.
func (tx *Txn) upstream(start []*pfspb.Branch) ([]*recordpb.BranchRecord, error) {
	return tx.branchClosure(start, func(rec *recordpb.BranchRecord) []*pfspb.Branch { return rec.GetInfo().GetDirectProvenance() }, false)
}

// branchClosure walks from the start along next, depth first. With sources first
// every branch comes before those that next leads to; else after them. Branches
// that do not exist are passed over.
func (tx *Txn) branchClosure(start []*pfspb.Branch, next func(*recordpb.BranchRecord) []*pfspb.Branch, sourcesFirst bool) ([]*recordpb.BranchRecord, error) {
	var order []*recordpb.BranchRecord
	seen := map[string]bool{}
	var visit func([]*pfspb.Branch) error
	visit = func(branches []*pfspb.Branch) error {
		for _, b := range branches {
			if seen[branchKey(b)] {
				continue
			}
			rec, ok, err := tx.branch(b)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			seen[branchKey(b)] = true
			if err := visit(next(rec)); err != nil {
				return err
			}
			order = append(order, rec)
		}
		return nil
	}
	for _, b := range start {
		rec, ok, err := tx.s.branches.GetShared(tx.Txn, branchKey(b))
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if err := visit(next(rec)); err != nil {
			return nil, err
		}
	}
	if sourcesFirst {
		slices.Reverse(order)
	}
	return order, nil
}
