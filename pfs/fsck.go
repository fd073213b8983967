package pfs

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// Fsck implements pfs_v2.API. It finds out whether everything that is recorded
// is there and fits together; it changes nothing.
func (s *Service) Fsck(req *pfspb.FsckRequest, stream grpc.ServerStreamingServer[pfspb.FsckResponse]) error {
	if req.GetZombieAll() || req.GetZombieTarget() != nil {
		return unsupported("checking output files against datums is")
	}
	return s.Check(stream.Context(), false, func(fault error) error {
		return stream.Send(&pfspb.FsckResponse{Error: fault.Error()})
	})
}

// Check reports every fault it finds: branch heads, parents, children and ids
// that do not agree, layers and chunks that are missing or corrupt; with deep
// also content that does not have its recorded hash. It works repo by repo, on
// what is there when it comes to it, and ends with the first error of report.
func (s *Service) Check(ctx context.Context, deep bool, report func(fault error) error) error {
	repos, err := s.repoNames(ctx, repoQuery{})
	if err != nil {
		return err
	}
	for _, repo := range repos {
		c := &check{s: s, repo: repo, deep: deep, report: report, seen: map[string]bool{}}
		if err := c.branches(ctx); err != nil {
			return err
		}
		if err := c.commits(ctx); err != nil {
			return err
		}
	}
	return nil
}

// check is the check of one repo.
type check struct {
	s      *Service
	repo   *pfspb.Repo
	deep   bool
	report func(error) error
	seen   map[string]bool // layer ids whose content was read
}

func (c *check) fault(format string, args ...any) error { return c.report(fmt.Errorf(format, args...)) }

// branches checks that every head exists.
func (c *check) branches(ctx context.Context) error {
	return c.s.View(ctx, func(tx *Txn) error {
		for item, err := range c.s.branches.Scan(tx.Txn, repoKey(c.repo)+"/", store.ScanOptions{}) {
			if err != nil {
				return err
			}
			info := item.Value.Info
			if _, ok, err := tx.lookup(c.repo, info.GetHead().GetId()); err != nil {
				return err
			} else if !ok {
				if err := c.fault("branch %s has the head %s, which does not exist", BranchName(info.GetBranch()), info.GetHead().GetId()); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// fsckPage is how many commits are checked against one snapshot.
const fsckPage = 200

func (c *check) commits(ctx context.Context) error {
	from := ""
	for {
		var recs []*recordpb.CommitRecord
		err := c.s.View(ctx, func(tx *Txn) error {
			recs = recs[:0]
			opt := store.ScanOptions{Limit: fsckPage, From: from}
			for item, err := range c.s.commits.Scan(tx.Txn, repoKey(c.repo)+"/", opt) {
				if err != nil {
					return err
				}
				recs = append(recs, item.Value)
			}
			for _, rec := range recs {
				if err := c.links(tx, rec); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(recs) == 0 {
			return err
		}
		for _, rec := range recs {
			if err := c.content(ctx, rec); err != nil {
				return err
			}
		}
		from = commitKey(c.repo, recs[len(recs)-1].Order) + "\x00"
	}
}

// links checks what a commit says of others.
func (c *check) links(tx *Txn, rec *recordpb.CommitRecord) error {
	me := rec.Info.GetCommit()
	order, ok, err := tx.Get(idKey(me.GetId(), c.repo))
	if err != nil {
		return err
	}
	if !ok || string(order) != rec.Order {
		if err := c.fault("commit %s is not found by its id", CommitName(me)); err != nil {
			return err
		}
	}
	if p := rec.Info.GetParentCommit(); p != nil {
		if _, ok, err := tx.lookup(c.repo, p.GetId()); err != nil {
			return err
		} else if !ok {
			if err := c.fault("commit %s has the parent %s, which does not exist", CommitName(me), p.GetId()); err != nil {
				return err
			}
		}
		if _, ok, err := tx.Get(childKey(c.repo, p.GetId(), me.GetId())); err != nil {
			return err
		} else if !ok {
			if err := c.fault("commit %s is not among the children of its parent %s", CommitName(me), p.GetId()); err != nil {
				return err
			}
		}
	}
	for _, p := range rec.Info.GetDirectProvenance() {
		_, ok, err := tx.lookup(p.GetRepo(), p.GetId())
		var gone *RepoNotFoundError
		if err != nil && !errors.As(err, &gone) {
			return err
		}
		if !ok {
			if err := c.fault("commit %s comes from %s, which does not exist", CommitName(me), CommitName(p)); err != nil {
				return err
			}
		}
	}
	return nil
}

// content checks the layers of a commit and, where one was not met before, what
// is in them.
func (c *check) content(ctx context.Context, rec *recordpb.CommitRecord) error {
	fresh := false
	for _, ref := range rec.Layers {
		if !c.seen[string(ref.GetId())] {
			fresh = true
			c.seen[string(ref.GetId())] = true
		}
	}
	if !fresh {
		return nil
	}
	name := CommitName(rec.Info.Commit)
	err := c.s.files.Open(rec.Layers).Verify(ctx, c.deep, func(path string, fault error) error {
		return c.fault("commit %s: %s: %w", name, path, fault)
	})
	if err == nil || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	return c.fault("commit %s: %w", name, err)
}
