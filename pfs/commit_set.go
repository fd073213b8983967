package pfs

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// InspectCommitSet implements pfs_v2.API: the commits of the set and those that
// they come from, each after its provenance, as far as the caller may know of them.
func (s *Service) InspectCommitSet(req *pfspb.InspectCommitSetRequest, stream grpc.ServerStreamingServer[pfspb.CommitInfo]) error {
	if req.GetCommitSet() == nil {
		return invalidRequest("a commit set must be given")
	}
	ctx := stream.Context()
	infos, err := s.commitSetInfo(ctx, req.GetCommitSet().GetId(), func(tx *Txn, repo *pfspb.Repo) (bool, error) {
		return tx.maySee(repo, authpb.Permission_REPO_INSPECT_COMMIT)
	})
	if err != nil {
		return err
	}
	for _, info := range infos {
		if req.GetWait() && info.GetFinished() == nil {
			rec, err := s.waitCommit(ctx, info.Commit.Repo, info.Commit.Id, pfspb.CommitState_FINISHED)
			if err != nil {
				return err
			}
			// Once more: the permission may have been taken away meanwhile.
			if err := s.permitRepo(ctx, nil, info.Commit.Repo, authpb.Permission_REPO_INSPECT_COMMIT); err != nil {
				return err
			}
			if info, err = s.inspectRecord(ctx, rec); err != nil {
				return err
			}
		}
		if err := stream.Send(info); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) inspectRecord(ctx context.Context, rec *recordpb.CommitRecord) (info *pfspb.CommitInfo, err error) {
	err = s.View(ctx, func(tx *Txn) error {
		info, err = tx.commitInfo(rec)
		return err
	})
	return info, err
}

// commitSetInfo describes those commits of a set whose repos the caller may see. None
// is *CommitSetNotFoundError.
func (s *Service) commitSetInfo(ctx context.Context, id string, sees func(*Txn, *pfspb.Repo) (bool, error)) ([]*pfspb.CommitInfo, error) {
	var infos []*pfspb.CommitInfo
	err := s.View(ctx, func(tx *Txn) error {
		if !IsCommitID(id) {
			return &CommitSetNotFoundError{ID: id}
		}
		set, err := tx.commitSet(id)
		if err != nil {
			return err
		}
		for _, rec := range set {
			ok, err := sees(tx, rec.Info.Commit.Repo)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			info, err := tx.commitInfo(rec)
			if err != nil {
				return err
			}
			infos = append(infos, info)
		}
		if len(infos) == 0 {
			return &CommitSetNotFoundError{ID: id}
		}
		return nil
	})
	return infos, err
}

// ListCommitSet implements pfs_v2.API. A project selects the sets that have a
// commit in it; only sets with one that the caller may know of are listed.
func (s *Service) ListCommitSet(req *pfspb.ListCommitSetRequest, stream grpc.ServerStreamingServer[pfspb.CommitSetInfo]) error {
	ctx := stream.Context()
	project := req.GetProject().GetName()
	q := repoQuery{}
	if project != "" {
		q.projects = []string{project}
	}
	repos, err := s.listedNames(ctx, q, authpb.Permission_REPO_INSPECT_COMMIT)
	if err != nil {
		return err
	}
	listed := map[string]bool{}
	for _, repo := range repos {
		listed[repoKey(repo)] = true
	}
	m := newMerge(repos, false, "")
	for {
		var ids []string
		end := false
		err := s.View(ctx, func(tx *Txn) error {
			for range cursorPage {
				rec, err := m.next(tx)
				if err != nil {
					return err
				}
				if end = rec == nil; end {
					return nil
				}
				newest, err := tx.newestOfSet(rec, listed)
				if err != nil {
					return err
				}
				if newest {
					ids = append(ids, rec.Info.Commit.Id)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, id := range ids {
			infos, err := s.commitSetInfo(ctx, id, func(_ *Txn, repo *pfspb.Repo) (bool, error) {
				return s.listed(ctx, repo, authpb.Permission_REPO_INSPECT_COMMIT)
			})
			var nf *CommitSetNotFoundError
			if errors.As(err, &nf) {
				continue // deleted since
			}
			if err != nil {
				return err
			}
			if err := stream.Send(&pfspb.CommitSetInfo{CommitSet: &pfspb.CommitSet{Id: id}, Commits: infos}); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

// newestOfSet tells whether a commit is the one of the listed repos' commits in
// its set by which the set is listed: the last started one, and among those the
// one whose repo comes first. So a listing need not remember the sets it sent.
func (tx *Txn) newestOfSet(rec *recordpb.CommitRecord, listed map[string]bool) (bool, error) {
	own := repoKey(rec.Info.Commit.Repo)
	prefix := idPrefix + rec.Info.Commit.Id + "/"
	for kv, err := range tx.Scan(prefix, store.ScanOptions{}) {
		if err != nil {
			return false, err
		}
		key := kv.Key[len(prefix):]
		if !listed[key] {
			continue
		}
		if order, _ := parseIDValue(kv.Value); order > rec.Order || order == rec.Order && key < own {
			return false, nil
		}
	}
	return true, nil
}
