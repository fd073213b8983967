package pfs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/minipachd/minipachd/auth"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// A deleted repo is out of reach as soon as its record is gone, but the keys of
// its commits can be too many for the same transaction. That transaction leaves
// a mark below garbagePrefix; the sweeper removes the rest in small pieces and
// the mark last. A repo of the same name can be made only without the mark.

const (
	sweepBatch = 64          // commits per transaction
	sweepEvery = time.Minute // how often marks of other daemons are looked for
)

// garbageError asks Update to sweep a repo and run the transaction again.
type garbageError struct{ repo *pfspb.Repo }

func (e *garbageError) Error() string {
	return "repo " + RepoName(e.repo) + " is still being deleted"
}

func (s *Service) wakeSweeper() {
	select {
	case s.sweeps <- struct{}{}:
	default: // it is awake already
	}
}

// runSweeper removes what deleted repos leave, until ctx ends.
func (s *Service) runSweeper(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("sweep deleted repos", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.sweeps:
		case <-tick.C:
		}
	}
}

// sweep removes what all deleted repos have left so far.
func (s *Service) sweep(ctx context.Context) error {
	var repos []*pfspb.Repo
	err := s.View(ctx, func(tx *Txn) error {
		for kv, err := range tx.Scan(garbagePrefix, store.ScanOptions{KeysOnly: true}) {
			if err != nil {
				return err
			}
			if repo := parseRepoKey(strings.TrimPrefix(kv.Key, garbagePrefix)); repo != nil {
				repos = append(repos, repo)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, repo := range repos {
		if err := s.sweepRepo(ctx, repo); err != nil {
			return err
		}
	}
	return nil
}

// sweepRepo removes all that a deleted repo has left, then its mark. Without the
// mark it does nothing.
func (s *Service) sweepRepo(ctx context.Context, repo *pfspb.Repo) error {
	for more := true; more; {
		_, err := s.store.Update(ctx, func(tx *store.Txn) error {
			more = false
			_, marked, err := tx.Get(garbageKey(repo))
			if err != nil || !marked {
				return err
			}
			var batch []*recordpb.CommitRecord
			// Check: whoever still changes a commit may be adding a layer to it.
			for item, err := range s.commits.Scan(tx, repoKey(repo)+"/", store.ScanOptions{Limit: sweepBatch, Check: true}) {
				if err != nil {
					return err
				}
				batch = append(batch, item.Value)
			}
			if len(batch) == 0 {
				for _, prefix := range []string{childPrefix, subvPrefix, finishingPrefix, duePrefix} {
					tx.DeletePrefix(prefix + repoKey(repo) + "/")
				}
				tx.Delete(squashedKey(repo))
				tx.Delete(garbageKey(repo))
				return nil
			}
			more = true
			for _, rec := range batch {
				s.deleteCommit(tx, rec)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("sweep deleted repo %s: %w", RepoName(repo), err)
		}
	}
	return nil
}

// deleteCommit removes a commit's record and place in the indexes. Others may
// refer to its layers: these are left to garbage collection.
func (s *Service) deleteCommit(tx *store.Txn, rec *recordpb.CommitRecord) {
	c := rec.Info.Commit
	s.commits.Delete(tx, commitKey(c.Repo, rec.Order))
	tx.Delete(idKey(c.Id, c.Repo))
	for _, p := range rec.Info.DirectProvenance {
		if p.Repo.Type != SpecType {
			tx.Delete(subvKey(p, c))
		}
	}
}

// DeleteAll implements pfs_v2.API. Repos and projects go in many transactions:
// after an error some are gone. Repos of pipelines cannot be deleted so.
func (s *Service) DeleteAll(ctx context.Context, _ *emptypb.Empty) (*emptypb.Empty, error) {
	if err := s.auth.Check(ctx, nil, auth.Cluster(), authpb.Permission_CLUSTER_DELETE_ALL); err != nil {
		return nil, err
	}
	if _, err := s.deleteRepos(ctx, nil, true); err != nil {
		return nil, fmt.Errorf("delete all: %w", err)
	}
	var names []string
	err := s.View(ctx, func(tx *Txn) error {
		for item, err := range s.projects.Scan(tx.Txn, "", store.ScanOptions{KeysOnly: true}) {
			if err != nil {
				return err
			}
			names = append(names, item.Key)
		}
		return nil
	})
	for _, name := range names {
		if err == nil && name != DefaultProject {
			err = s.Update(ctx, func(tx *Txn) error { return tx.deleteProject(name) })
		}
		var nf *ProjectNotFoundError
		if errors.As(err, &nf) {
			err = nil // somebody else was faster
		}
	}
	if err == nil {
		err = s.Update(ctx, func(tx *Txn) error {
			s.defaults.Delete(tx.Txn, DefaultProject)
			return tx.putDefaultProject()
		})
	}
	if err != nil {
		return nil, fmt.Errorf("delete all: %w", err)
	}
	return &emptypb.Empty{}, nil
}
