package pfs

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/types/known/emptypb"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// SquashCommitSet removes all commits of a set; their children keep the data.
func (tx *Txn) SquashCommitSet(set *pfspb.CommitSet) error {
	recs, err := tx.ownCommits("squash", set)
	if err != nil {
		return err
	}
	return tx.squashAll(recs)
}

// SquashCommit removes one commit and, with recursive, all that comes from it;
// their children keep the data.
func (tx *Txn) SquashCommit(c *pfspb.Commit, recursive bool) error {
	recs, err := tx.withSubvenance("squash", c, recursive)
	if err != nil {
		return err
	}
	return tx.squashAll(recs)
}

// squashAll squashes commits, which come newest first.
func (tx *Txn) squashAll(recs []*recordpb.CommitRecord) error {
	for len(recs) > 0 {
		repo := recs[0].Info.Commit.Repo
		var own, others []*recordpb.CommitRecord
		for _, rec := range recs {
			if repoKey(rec.Info.Commit.Repo) == repoKey(repo) {
				own = append(own, rec)
			} else {
				others = append(others, rec)
			}
		}
		l, err := tx.lineage(repo, own)
		if err != nil {
			return err
		}
		for _, rec := range own {
			if err := l.squash(rec); err != nil {
				return err
			}
		}
		if err := l.write(); err != nil {
			return err
		}
		recs = others
	}
	return nil
}

// ForgetCommit gives up the content of a commit on an output branch and keeps the
// commit. Commits on it have their own copy of the content; those made on it
// afterwards begin with nothing, which is why it may not be what users commit to
// next.
func (tx *Txn) ForgetCommit(p *pfspb.CommitPicker) error {
	rec, err := tx.pickCommit(p, authpb.Permission_REPO_DELETE_COMMIT)
	if err != nil {
		return err
	}
	c := rec.Info.Commit
	if len(rec.Info.DirectProvenance) == 0 {
		return errors.New("the commit to be forgotten must be in an output repo")
	}
	if state(rec.Info) != pfspb.CommitState_FINISHED {
		return &CommitNotFinishedError{Commit: c}
	}
	l, err := tx.lineage(c.Repo, []*recordpb.CommitRecord{rec})
	if err != nil {
		return err
	}
	all, _ := l.reliant(rec)
	for _, child := range all {
		if state(child.Info) != pfspb.CommitState_FINISHED {
			return fmt.Errorf("cannot forget commit %s: direct descendants must be closed, %s is not", CommitName(c), CommitName(child.Info.Commit))
		}
	}
	for _, branch := range l.nextOn(rec, all) {
		b, err := tx.mustBranch(branch)
		if err != nil {
			return err
		}
		if len(b.Info.DirectProvenance) == 0 || isSpoutBranch(b) {
			return fmt.Errorf("cannot forget commit %s: the next commit on branch %s would begin with its content", CommitName(c), BranchName(branch))
		}
	}
	rec.Layers, rec.OwnLayers, rec.Forgotten = nil, 0, true
	return tx.putCommit(rec)
}

// SquashCommitSet implements pfs_v2.API.
func (s *Service) SquashCommitSet(ctx context.Context, req *pfspb.SquashCommitSetRequest) (*emptypb.Empty, error) {
	return done(s.Update(ctx, func(tx *Txn) error { return tx.SquashCommitSet(req.GetCommitSet()) }))
}

// SquashCommit implements pfs_v2.API.
func (s *Service) SquashCommit(ctx context.Context, req *pfspb.SquashCommitRequest) (*pfspb.SquashCommitResponse, error) {
	if err := s.Update(ctx, func(tx *Txn) error { return tx.SquashCommit(req.GetCommit(), req.GetRecursive()) }); err != nil {
		return nil, err
	}
	return &pfspb.SquashCommitResponse{}, nil
}

// ForgetCommit implements pfs_v2.API.
func (s *Service) ForgetCommit(ctx context.Context, req *pfspb.ForgetCommitRequest) (*pfspb.ForgetCommitResponse, error) {
	if err := s.Update(ctx, func(tx *Txn) error { return tx.ForgetCommit(req.GetCommit()) }); err != nil {
		return nil, err
	}
	return &pfspb.ForgetCommitResponse{}, nil
}
