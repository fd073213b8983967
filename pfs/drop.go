package pfs

import (
	"context"
	"errors"
	"maps"
	"slices"

	"google.golang.org/protobuf/types/known/emptypb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// DropCommitSet removes all commits of a set with their data, the open ones
// included. None of them may have children.
func (tx *Txn) DropCommitSet(set *pfspb.CommitSet) error {
	recs, err := tx.ownCommits("drop", set)
	if err != nil {
		return err
	}
	return tx.dropAll(recs)
}

// DropCommit removes one commit and, with recursive, all that comes from it, with
// their data.
func (tx *Txn) DropCommit(c *pfspb.Commit, recursive bool) error {
	recs, err := tx.withSubvenance("drop", c, recursive)
	if err != nil {
		return err
	}
	return tx.dropAll(recs)
}

// dropAll drops commits, which come newest first. Branches that had one as head
// get its parent instead, or a new empty commit if there is none.
func (tx *Txn) dropAll(recs []*recordpb.CommitRecord) error {
	h := &headless{tx: tx, branches: map[string]*recordpb.BranchRecord{}, lost: map[string]string{}, given: map[string]string{}}
	for _, rec := range recs {
		c := rec.Info.Commit
		children, err := tx.children(c)
		if err != nil {
			return err
		}
		if len(children) > 0 {
			return errors.New("cannot drop a commit that has children: " + CommitName(c))
		}
		at, err := tx.branchesAt(c.Repo, c.Id)
		if err != nil {
			return err
		}
		for _, b := range at {
			brec, err := tx.mustBranch(b.Info.Branch)
			if err != nil {
				return err
			}
			if p := rec.Info.ParentCommit; p != nil {
				err = tx.setHead(brec, c.Repo, p.Id)
			} else {
				h.add(brec)
			}
			if err != nil {
				return err
			}
		}
		if err := tx.removeCommit(rec); err != nil {
			return err
		}
	}
	return h.giveAll()
}

// headless are branches whose last commit was dropped.
type headless struct {
	tx       *Txn
	branches map[string]*recordpb.BranchRecord
	lost     map[string]string // branch key -> id of the commit that was its head
	given    map[string]string // repo and lost head -> id of the new one: who shared a head still do
}

func (h *headless) add(brec *recordpb.BranchRecord) {
	key := branchKey(brec.Info.Branch)
	h.lost[key] = brec.Info.Head.GetId()
	brec.Info.Head = nil
	h.branches[key] = brec
}

// giveAll gives every one an empty commit, those that others are made from first.
func (h *headless) giveAll() error {
	for _, key := range slices.Sorted(maps.Keys(h.branches)) {
		if err := h.give(key); err != nil {
			return err
		}
	}
	return nil
}

func (h *headless) give(key string) error {
	brec, ok := h.branches[key]
	if !ok {
		return nil
	}
	delete(h.branches, key)
	for _, p := range brec.Info.DirectProvenance {
		if err := h.give(branchKey(p)); err != nil {
			return err
		}
	}
	repo := brec.Info.Branch.Repo
	was := repoKey(repo) + "/" + h.lost[key]
	if id, ok := h.given[was]; ok {
		return h.tx.setHead(brec, repo, id)
	}
	provenance, err := h.tx.heads(brec.Info.DirectProvenance)
	if err != nil {
		return err
	}
	rec, err := h.tx.makeCommit(brec, nil, commitOptions{origin: pfspb.OriginKind_AUTO, provenance: provenance})
	if err != nil {
		return err
	}
	h.given[was] = rec.Info.Commit.Id
	if len(provenance) > 0 && !isSpoutBranch(brec) {
		return nil // open, as with a new branch
	}
	return h.tx.finish(rec, "", "")
}

// DropCommitSet implements pfs_v2.API.
func (s *Service) DropCommitSet(ctx context.Context, req *pfspb.DropCommitSetRequest) (*emptypb.Empty, error) {
	return done(s.Update(ctx, func(tx *Txn) error { return tx.DropCommitSet(req.GetCommitSet()) }))
}

// DropCommit implements pfs_v2.API.
func (s *Service) DropCommit(ctx context.Context, req *pfspb.DropCommitRequest) (*pfspb.DropCommitResponse, error) {
	if err := s.Update(ctx, func(tx *Txn) error { return tx.DropCommit(req.GetCommit(), req.GetRecursive()) }); err != nil {
		return nil, err
	}
	return &pfspb.DropCommitResponse{}, nil
}
