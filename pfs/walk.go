package pfs

import (
	"context"
	"slices"

	"google.golang.org/grpc"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// Limits of a walk whose request gives none.
const (
	walkMost  = 10000
	walkDepth = 1000
)

// walk goes through a graph breadth first. It holds the names of what it has met
// in memory, and reads a page of nodes at a snapshot of its own; what is deleted
// meanwhile is passed over.
type walk[Node, Info any] struct {
	key func(Node) string
	// look describes a node and gives its neighbours.
	look func(tx *Txn, n Node) (Info, []Node, error)
	// sees tells whether the caller may know of a node. What it may not is left out,
	// the walk goes on behind it.
	sees        func(tx *Txn, n Node) (bool, error)
	send        func(Info) error
	most, depth uint64 // 0 means the default
}

// run walks on from start, which it sends only if a way leads back to it.
func (w *walk[Node, Info]) run(ctx context.Context, s *Service, start []Node) error {
	if w.most == 0 {
		w.most = walkMost
	}
	if w.depth == 0 {
		w.depth = walkDepth
	}
	seen := map[string]bool{}
	level := start
	for depth := uint64(0); len(level) > 0 && depth <= w.depth; depth++ {
		var next []Node
		for page := range slices.Chunk(level, listPage) {
			var infos []Info
			var found []Node
			err := s.View(ctx, func(tx *Txn) error {
				for _, n := range page {
					info, neighbours, err := w.look(tx, n)
					if gone(err) {
						continue
					}
					if err != nil {
						return err
					}
					found = append(found, neighbours...)
					if depth == 0 {
						continue
					}
					sees, err := w.sees(tx, n)
					if err != nil {
						return err
					}
					if sees {
						infos = append(infos, info)
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			for _, n := range found {
				if !seen[w.key(n)] && uint64(len(seen)) < w.most {
					seen[w.key(n)] = true
					next = append(next, n)
				}
			}
			for _, info := range infos {
				if err := w.send(info); err != nil {
					return err
				}
			}
		}
		level = next
	}
	return nil
}

// walkCommits walks from the picked commits to the neighbours that next gives.
func (s *Service) walkCommits(stream grpc.ServerStreamingServer[pfspb.CommitInfo], pickers []*pfspb.CommitPicker, most, depth uint64, next func(*pfspb.CommitInfo) []*pfspb.Commit) error {
	if len(pickers) == 0 {
		return invalidRequest("the commits to start at must be given")
	}
	var start []*pfspb.Commit
	err := s.View(stream.Context(), func(tx *Txn) error {
		for _, p := range pickers {
			rec, err := tx.pickCommit(p, authpb.Permission_REPO_INSPECT_COMMIT)
			if err != nil {
				return err
			}
			start = append(start, rec.Info.Commit)
		}
		return nil
	})
	if err != nil {
		return err
	}
	w := &walk[*pfspb.Commit, *pfspb.CommitInfo]{
		key: func(c *pfspb.Commit) string { return idKey(c.Id, c.Repo) },
		look: func(tx *Txn, c *pfspb.Commit) (*pfspb.CommitInfo, []*pfspb.Commit, error) {
			rec, err := tx.commit(c.Repo, c.Id)
			if err != nil {
				return nil, nil, err
			}
			info, err := tx.commitInfo(rec)
			return info, next(info), err
		},
		sees: func(tx *Txn, c *pfspb.Commit) (bool, error) {
			return tx.maySee(c.Repo, authpb.Permission_REPO_INSPECT_COMMIT)
		},
		send: stream.Send, most: most, depth: depth,
	}
	return w.run(stream.Context(), s, start)
}

// WalkCommitProvenance implements pfs_v2.API: what the commits to start at come
// from, the nearest first, each once, without these commits themselves.
func (s *Service) WalkCommitProvenance(req *pfspb.WalkCommitProvenanceRequest, stream grpc.ServerStreamingServer[pfspb.CommitInfo]) error {
	return s.walkCommits(stream, req.GetStart(), req.GetMaxCommits(), req.GetMaxDepth(), (*pfspb.CommitInfo).GetDirectProvenance)
}

// WalkCommitSubvenance implements pfs_v2.API: what was made from the commits to
// start at. As in CommitInfo, the commits of a spout are not among what was made
// from its spec commit.
func (s *Service) WalkCommitSubvenance(req *pfspb.WalkCommitSubvenanceRequest, stream grpc.ServerStreamingServer[pfspb.CommitInfo]) error {
	return s.walkCommits(stream, req.GetStart(), req.GetMaxCommits(), req.GetMaxDepth(), (*pfspb.CommitInfo).GetDirectSubvenance)
}

// walkBranches walks from the picked branches upstream or downstream.
func (s *Service) walkBranches(stream grpc.ServerStreamingServer[pfspb.BranchInfo], pickers []*pfspb.BranchPicker, most, depth uint64, down bool) error {
	if len(pickers) == 0 {
		return invalidRequest("the branches to start at must be given")
	}
	var start []*pfspb.Branch
	err := s.View(stream.Context(), func(tx *Txn) error {
		for _, p := range pickers {
			b, err := pickBranch(p)
			if err != nil {
				return err
			}
			if err := tx.permitted(b.Repo, authpb.Permission_REPO_LIST_BRANCH); err != nil {
				return err
			}
			if _, err := tx.mustBranch(b); err != nil {
				return err
			}
			start = append(start, b)
		}
		return nil
	})
	if err != nil {
		return err
	}
	w := &walk[*pfspb.Branch, *pfspb.BranchInfo]{
		key: branchKey,
		look: func(tx *Txn, b *pfspb.Branch) (*pfspb.BranchInfo, []*pfspb.Branch, error) {
			rec, err := tx.mustBranch(b)
			if err != nil {
				return nil, nil, err
			}
			info, err := tx.InspectBranch(b)
			if down {
				return info, rec.DirectSubvenance, err
			}
			return info, rec.Info.DirectProvenance, err
		},
		sees: func(tx *Txn, b *pfspb.Branch) (bool, error) {
			return tx.maySee(b.Repo, authpb.Permission_REPO_LIST_BRANCH)
		},
		send: stream.Send, most: most, depth: depth,
	}
	return w.run(stream.Context(), s, start)
}

// WalkBranchProvenance implements pfs_v2.API: the branches that those to start at
// are made from, the nearest first, each once.
func (s *Service) WalkBranchProvenance(req *pfspb.WalkBranchProvenanceRequest, stream grpc.ServerStreamingServer[pfspb.BranchInfo]) error {
	return s.walkBranches(stream, req.GetStart(), req.GetMaxBranches(), req.GetMaxDepth(), false)
}

// WalkBranchSubvenance implements pfs_v2.API: the branches made from those to
// start at.
func (s *Service) WalkBranchSubvenance(req *pfspb.WalkBranchSubvenanceRequest, stream grpc.ServerStreamingServer[pfspb.BranchInfo]) error {
	return s.walkBranches(stream, req.GetStart(), req.GetMaxBranches(), req.GetMaxDepth(), true)
}
