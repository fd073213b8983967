package pfs

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	"github.com/minipachd/minipachd/store"
)

// CreateBranchIn is the call CreateBranch as part of tx. Whoever makes a branch from
// others must be able to read them, and to make those that are missing.
func (s *Service) CreateBranchIn(tx *Txn, req *pfspb.CreateBranchRequest) error {
	if err := tx.permitted(req.GetBranch().GetRepo(), authpb.Permission_REPO_CREATE_BRANCH); err != nil {
		return err
	}
	for _, p := range req.GetProvenance() {
		p = NormalizeBranch(p)
		if p.GetRepo() == nil || !s.auth.Active() {
			continue
		}
		if err := tx.permitted(p.Repo, authpb.Permission_REPO_READ); err != nil {
			return err
		}
		_, there, err := tx.branch(p)
		if err == nil && !there {
			err = tx.permitted(p.Repo, authpb.Permission_REPO_CREATE_BRANCH)
		}
		if err != nil {
			return err
		}
	}
	return tx.CreateBranch(req)
}

// CreateBranch implements pfs_v2.API.
func (s *Service) CreateBranch(ctx context.Context, req *pfspb.CreateBranchRequest) (*emptypb.Empty, error) {
	return done(s.Update(ctx, func(tx *Txn) error { return s.CreateBranchIn(tx, req) }))
}

// InspectBranch implements pfs_v2.API.
func (s *Service) InspectBranch(ctx context.Context, req *pfspb.InspectBranchRequest) (*pfspb.BranchInfo, error) {
	var info *pfspb.BranchInfo
	err := s.View(ctx, func(tx *Txn) error {
		err := tx.permitted(req.GetBranch().GetRepo(), authpb.Permission_REPO_LIST_BRANCH)
		if err != nil {
			return err
		}
		info, err = tx.InspectBranch(req.GetBranch())
		return err
	})
	return info, err
}

// DeleteBranchIn is the call DeleteBranch as part of tx.
func (s *Service) DeleteBranchIn(tx *Txn, req *pfspb.DeleteBranchRequest) error {
	if err := tx.permitted(req.GetBranch().GetRepo(), authpb.Permission_REPO_DELETE_BRANCH); err != nil {
		return err
	}
	return tx.DeleteBranch(req.GetBranch(), req.GetForce())
}

// DeleteBranch implements pfs_v2.API.
func (s *Service) DeleteBranch(ctx context.Context, req *pfspb.DeleteBranchRequest) (*emptypb.Empty, error) {
	return done(s.Update(ctx, func(tx *Txn) error { return s.DeleteBranchIn(tx, req) }))
}

// listPage is how many repos or branches are read at one snapshot.
const listPage = 64

var errAllBranches = errors.New("Cannot list branches from all repos with auth activated")

// ListBranch implements pfs_v2.API. It holds the names of all branches asked
// for, and the rest of a few of them, in memory.
func (s *Service) ListBranch(req *pfspb.ListBranchRequest, stream grpc.ServerStreamingServer[pfspb.BranchInfo]) error {
	ctx := stream.Context()
	type entry struct {
		branch  *pfspb.Branch
		created int64
	}
	var entries []entry
	err := s.View(ctx, func(tx *Txn) error {
		sub := ""
		repo := NormalizeRepo(req.GetRepo())
		if repo.GetName() == "" && s.auth.Active() {
			return errAllBranches
		}
		if repo.GetName() != "" {
			if err := tx.permitted(repo, authpb.Permission_REPO_LIST_BRANCH); err != nil {
				return err
			}
			if err := tx.repoExists(repo); err != nil {
				return err
			}
			sub = repoKey(repo) + "/"
		}
		for item, err := range s.branches.Scan(tx.Txn, sub, store.ScanOptions{}) {
			if err != nil {
				return err
			}
			info := item.Value.Info
			entries = append(entries, entry{info.Branch, info.CreatedAt.AsTime().UnixNano()})
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.created, b.created), strings.Compare(branchKey(a.branch), branchKey(b.branch)))
	})
	if !req.GetReverse() {
		slices.Reverse(entries)
	}
	return eachPage(ctx, s, entries, func(tx *Txn, e entry) (*pfspb.BranchInfo, error) { return tx.InspectBranch(e.branch) }, stream.Send)
}

// eachPage calls fn with what look finds of names, page by page, each at one snapshot.
// What has been deleted since it was named is left out.
func eachPage[Name, Info any](ctx context.Context, s *Service, names []Name, look func(*Txn, Name) (Info, error), fn func(Info) error) error {
	for page := range slices.Chunk(names, listPage) {
		var infos []Info
		err := s.View(ctx, func(tx *Txn) error {
			for _, name := range page {
				info, err := look(tx, name)
				if gone(err) {
					continue
				}
				if err != nil {
					return err
				}
				infos = append(infos, info)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, info := range infos {
			if err := fn(info); err != nil {
				return err
			}
		}
	}
	return nil
}

// gone tells whether what a listing named has been deleted since.
func gone(err error) bool {
	var repo *RepoNotFoundError
	var branch *BranchNotFoundError
	var commit *CommitNotFoundError
	return errors.As(err, &repo) || errors.As(err, &branch) || errors.As(err, &commit)
}
