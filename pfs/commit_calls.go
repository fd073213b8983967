package pfs

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/types/known/emptypb"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// waitCommit blocks until a commit, given by its id in a normalized repo, is in
// a state or a later one, and returns it as it is then. A commit that goes away
// meanwhile gives *CommitDeletedError.
func (s *Service) waitCommit(ctx context.Context, repo *pfspb.Repo, id string, want pfspb.CommitState) (*recordpb.CommitRecord, error) {
	var rec *recordpb.CommitRecord
	err := s.View(ctx, func(tx *Txn) error {
		var err error
		rec, err = tx.commit(repo, id)
		return err
	})
	if err != nil || want <= max(state(rec.GetInfo()), pfspb.CommitState_STARTED) {
		return rec, err
	}
	if want == pfspb.CommitState_READY {
		return s.waitProvenance(ctx, rec)
	}
	return s.await(ctx, rec, want)
}

// await is the part of waitCommit that follows the look at the commit as it was.
func (s *Service) await(ctx context.Context, rec *recordpb.CommitRecord, want pfspb.CommitState) (*recordpb.CommitRecord, error) {
	seen := false
	err := s.commits.Watch(ctx, s.store, commitKey(rec.Info.Commit.Repo, rec.Order), func(e store.Event[*recordpb.CommitRecord]) error {
		switch {
		case e.Deleted, e.Synced && !seen:
			return &CommitDeletedError{Commit: rec.Info.Commit}
		case e.Synced:
			return nil
		}
		seen = true
		if state(e.Value.Info) < want {
			return nil
		}
		rec = e.Value
		return errReached
	})
	if !errors.Is(err, errReached) {
		return nil, err
	}
	return rec, nil
}

// waitProvenance waits until all that a commit comes from is FINISHED. What has
// been deleted is not waited for.
func (s *Service) waitProvenance(ctx context.Context, rec *recordpb.CommitRecord) (*recordpb.CommitRecord, error) {
	for _, p := range rec.Info.DirectProvenance {
		_, err := s.waitCommit(ctx, p.GetRepo(), p.GetId(), pfspb.CommitState_FINISHED)
		var noCommit *CommitNotFoundError
		var noRepo *RepoNotFoundError
		var deleted *CommitDeletedError
		if err != nil && !errors.As(err, &noCommit) && !errors.As(err, &noRepo) && !errors.As(err, &deleted) {
			return nil, err
		}
	}
	return s.waitCommit(ctx, rec.Info.Commit.Repo, rec.Info.Commit.Id, pfspb.CommitState_STARTED)
}

// StartCommitIn is the call StartCommit as part of tx.
func (s *Service) StartCommitIn(tx *Txn, req *pfspb.StartCommitRequest) (*pfspb.Commit, error) {
	if err := tx.permitted(req.GetBranch().GetRepo(), authpb.Permission_REPO_WRITE); err != nil {
		return nil, err
	}
	return tx.StartCommit(req.GetBranch(), req.GetParent(), req.GetDescription())
}

// StartCommit implements pfs_v2.API.
func (s *Service) StartCommit(ctx context.Context, req *pfspb.StartCommitRequest) (*pfspb.Commit, error) {
	var c *pfspb.Commit
	err := s.Update(ctx, func(tx *Txn) error {
		var err error
		c, err = s.StartCommitIn(tx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// FinishCommitIn is the call FinishCommit as part of tx.
func (s *Service) FinishCommitIn(tx *Txn, req *pfspb.FinishCommitRequest) error {
	if err := tx.permitted(commitRepo(req.GetCommit()), authpb.Permission_REPO_WRITE); err != nil {
		return err
	}
	return tx.FinishCommit(req.GetCommit(), req.GetDescription(), req.GetError(), req.GetForce())
}

// FinishCommit implements pfs_v2.API.
func (s *Service) FinishCommit(ctx context.Context, req *pfspb.FinishCommitRequest) (*emptypb.Empty, error) {
	return done(s.Update(ctx, func(tx *Txn) error { return s.FinishCommitIn(tx, req) }))
}

// ClearCommit implements pfs_v2.API.
func (s *Service) ClearCommit(ctx context.Context, req *pfspb.ClearCommitRequest) (*emptypb.Empty, error) {
	return done(s.Update(ctx, func(tx *Txn) error {
		if err := tx.permitted(commitRepo(req.GetCommit()), authpb.Permission_REPO_WRITE); err != nil {
			return err
		}
		return tx.ClearCommit(req.GetCommit())
	}))
}

// checkState refuses a state that no commit ever reaches.
func checkState(field string, state pfspb.CommitState) error {
	if _, ok := pfspb.CommitState_name[int32(state)]; !ok {
		return invalidRequest(fmt.Sprintf("%s is %d, which is no state of a commit: want 1 (STARTED) to 4 (FINISHED)", field, state))
	}
	return nil
}

// InspectCommit implements pfs_v2.API.
func (s *Service) InspectCommit(ctx context.Context, req *pfspb.InspectCommitRequest) (*pfspb.CommitInfo, error) {
	if err := checkState("wait", req.GetWait()); err != nil {
		return nil, err
	}
	var info *pfspb.CommitInfo
	var rec *recordpb.CommitRecord
	err := s.View(ctx, func(tx *Txn) error {
		err := tx.permitted(commitRepo(req.GetCommit()), authpb.Permission_REPO_INSPECT_COMMIT)
		if err != nil {
			return err
		}
		if rec, err = tx.resolve(req.GetCommit()); err != nil || req.GetWait() > max(state(rec.Info), pfspb.CommitState_STARTED) {
			return err
		}
		info, err = tx.commitInfo(rec)
		return err
	})
	if err != nil || info != nil {
		return info, err
	}
	if rec, err = s.waitCommit(ctx, rec.Info.Commit.Repo, rec.Info.Commit.Id, req.GetWait()); err != nil {
		return nil, err
	}
	// Once more: the permission may have been taken away meanwhile.
	if err := s.permitRepo(ctx, nil, rec.Info.Commit.Repo, authpb.Permission_REPO_INSPECT_COMMIT); err != nil {
		return nil, err
	}
	return s.inspectRecord(ctx, rec)
}

// done turns the outcome of an RPC without an answer into its answer.
func done(err error) (*emptypb.Empty, error) {
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
