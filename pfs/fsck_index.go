package pfs

import (
	"context"
	"errors"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// branches checks heads, provenance from both sides, and that it has no circle.
func (c *check) branches(ctx context.Context) error {
	return c.pages(ctx, branchPrefix, false, func(tx *Txn, kv store.KV) error {
		rec := &recordpb.BranchRecord{}
		if err := proto.Unmarshal(kv.Value, rec); err != nil {
			return c.fault("key %s: its value is no branch: %w", kv.Key, err)
		}
		b := rec.GetInfo().GetBranch()
		if b.GetRepo() == nil || branchPrefix+branchKey(b) != kv.Key {
			return c.fault("key %s has the branch %s", kv.Key, BranchName(b))
		}
		if ok, err := c.owned(tx, b.Repo, kv.Key); err != nil || !ok {
			return err
		}
		head, ok, err := tx.lookup(b.Repo, rec.Info.GetHead().GetId())
		if err != nil {
			return err
		}
		if !ok {
			return c.fault("branch %s has the head %s, which does not exist", BranchName(b), rec.Info.GetHead().GetId())
		}
		if err := c.size(tx.Context(), head); err != nil {
			return err
		}
		return c.provenance(tx, rec)
	}, nil)
}

// provenance checks that each branch that rec is made from knows of it, and the
// other way round, and that rec is not made from itself.
func (c *check) provenance(tx *Txn, rec *recordpb.BranchRecord) error {
	me := rec.Info.Branch
	has := func(all []*pfspb.Branch) bool {
		return slices.ContainsFunc(all, func(b *pfspb.Branch) bool { return branchKey(b) == branchKey(me) })
	}
	for _, p := range rec.Info.DirectProvenance {
		other, ok, err := tx.branch(p)
		if err != nil {
			return err
		}
		switch {
		case !ok:
			err = c.fault("branch %s is made from %s, which does not exist", BranchName(me), BranchName(p))
		case !has(other.DirectSubvenance):
			err = c.fault("branch %s is made from %s, which does not know of it", BranchName(me), BranchName(p))
		}
		if err != nil {
			return err
		}
	}
	for _, d := range rec.DirectSubvenance {
		other, ok, err := tx.branch(d)
		if err != nil {
			return err
		}
		if !ok || !has(other.Info.DirectProvenance) {
			if err := c.fault("branch %s says that %s is made from it, which is not so", BranchName(me), BranchName(d)); err != nil {
				return err
			}
		}
	}
	todo, seen := slices.Clone(rec.Info.DirectProvenance), map[string]bool{}
	for len(todo) > 0 {
		b := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if branchKey(b) == branchKey(me) {
			return c.fault("branch %s is made from itself", BranchName(me))
		}
		if seen[branchKey(b)] {
			continue
		}
		seen[branchKey(b)] = true
		other, ok, err := tx.branch(b)
		if err != nil {
			return err
		}
		if ok {
			todo = append(todo, other.Info.DirectProvenance...)
		}
	}
	return nil
}

// ids checks that every entry of the id index leads to a commit with that id, and to
// a child of it if it names one.
func (c *check) ids(ctx context.Context) error {
	return c.pages(ctx, idPrefix, false, func(tx *Txn, kv store.KV) error {
		id, key, _ := strings.Cut(strings.TrimPrefix(kv.Key, idPrefix), "/")
		repo := parseRepoKey(key)
		if repo == nil {
			return c.fault("key %s has an unknown form", kv.Key)
		}
		if ok, err := c.owned(tx, repo, kv.Key); err != nil || !ok {
			return err
		}
		order, child := parseIDValue(kv.Value)
		rec, ok, err := c.s.commits.Get(tx.Txn, commitKey(repo, order))
		if err != nil {
			return err
		}
		if !ok || rec.GetInfo().GetCommit().GetId() != id {
			return c.fault("key %s leads to %s, where no such commit is", kv.Key, order)
		}
		if child == "" {
			return nil
		}
		return c.child(tx, rec.Info.Commit, child)
	}, nil)
}

// children checks that every entry of the index of further children leads to a child.
func (c *check) children(ctx context.Context) error {
	return c.pages(ctx, childPrefix, true, func(tx *Txn, kv store.KV) error {
		parts := strings.Split(strings.TrimPrefix(kv.Key, childPrefix), "/")
		if len(parts) != 5 {
			return c.fault("key %s has an unknown form", kv.Key)
		}
		repo := parseRepoKey(strings.Join(parts[:3], "/"))
		if ok, err := c.owned(tx, repo, kv.Key); err != nil || !ok {
			return err
		}
		return c.child(tx, &pfspb.Commit{Repo: repo, Id: parts[3]}, parts[4])
	}, nil)
}

// child checks that a commit which an index names as a child is one.
func (c *check) child(tx *Txn, parent *pfspb.Commit, id string) error {
	child, ok, err := tx.lookup(parent.Repo, id)
	if err != nil {
		return err
	}
	if !ok {
		return c.fault("commit %s has the child %s, which does not exist", CommitName(parent), id)
	}
	if p := child.Info.GetParentCommit().GetId(); p != parent.Id {
		return c.fault("commit %s has the child %s, whose parent is %q", CommitName(parent), id, p)
	}
	return nil
}

// subvenance checks that every entry of the subvenance index leads to a commit that
// comes from the one it is under.
func (c *check) subvenance(ctx context.Context) error {
	return c.pages(ctx, subvPrefix, true, func(tx *Txn, kv store.KV) error {
		parts := strings.Split(strings.TrimPrefix(kv.Key, subvPrefix), "/")
		if len(parts) != 8 {
			return c.fault("key %s has an unknown form", kv.Key)
		}
		source := &pfspb.Commit{Repo: parseRepoKey(strings.Join(parts[:3], "/")), Id: parts[3]}
		if ok, err := c.owned(tx, source.Repo, kv.Key); err != nil || !ok {
			return err
		}
		made := &pfspb.Commit{Repo: parseRepoKey(strings.Join(parts[5:], "/")), Id: parts[4]}
		if alive, fading, err := c.alive(tx, made.Repo); err != nil || !alive && fading {
			return err
		}
		rec, ok, err := tx.lookup(made.Repo, made.Id)
		var gone *RepoNotFoundError
		if err != nil && !errors.As(err, &gone) {
			return err
		}
		if !ok || !slices.ContainsFunc(rec.Info.DirectProvenance, func(p *pfspb.Commit) bool { return subvKey(p, made) == kv.Key }) {
			return c.fault("commit %s says that %s comes from it, which is not so", CommitName(source), CommitName(made))
		}
		return nil
	}, nil)
}

// finishing checks that only commits on their way to FINISHED are marked.
func (c *check) finishing(ctx context.Context) error {
	return c.pages(ctx, finishingPrefix, true, func(tx *Txn, kv store.KV) error {
		repo, order, ok := parseFinishingKey(kv.Key)
		if !ok {
			return c.fault("key %s has an unknown form", kv.Key)
		}
		if ok, err := c.owned(tx, repo, kv.Key); err != nil || !ok {
			return err
		}
		rec, ok, err := c.s.commits.Get(tx.Txn, commitKey(repo, order))
		if err != nil {
			return err
		}
		if !ok {
			return c.fault("key %s marks a commit that does not exist", kv.Key)
		}
		if st := state(rec.Info); st != pfspb.CommitState_FINISHING {
			return c.fault("commit %s is marked as finishing, but is %s", CommitName(rec.Info.Commit), st)
		}
		return nil
	}, nil)
}
