package pfs

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/minipachd/minipachd/auth"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// A commit's record has the complete stack of its layers, so removing another
// one never changes its content. Layers are left alone here: those that no
// commit has any more are garbage.
//
// Whoever makes a commit the head of a branch or the parent of another writes to
// the commit's record, to its place in the id index or below its child key. A transaction that
// removes a commit compares all of them, and therefore need not compare all branches of a busy repo.

// removeCommit takes away a commit's record and its place in all indexes. Its
// children, what is made from it and the heads of branches are the caller's.
func (tx *Txn) removeCommit(rec *recordpb.CommitRecord) error {
	c := rec.Info.Commit
	if p := rec.Info.ParentCommit; p != nil {
		if err := tx.dropChild(c.Repo, p.Id, c.Id); err != nil {
			return err
		}
	}
	tx.s.commits.Delete(tx.Txn, commitKey(c.Repo, rec.Order))
	tx.Delete(idKey(c.Id, c.Repo))
	for _, p := range rec.Info.DirectProvenance {
		if p.Repo.Type != SpecType {
			tx.Delete(subvKey(p, c))
		}
	}
	if state(rec.Info) == pfspb.CommitState_FINISHING {
		tx.Delete(finishingKey(rec))
	}
	if rec.Policy != nil {
		tx.s.dues.Delete(tx.Txn, dueKey(rec))
	}
	return nil
}

// children returns the commits made on one; the transaction conflicts with
// changes to them and with new ones.
func (tx *Txn) children(c *pfspb.Commit) ([]*recordpb.CommitRecord, error) {
	ids, err := tx.childIDs([]*pfspb.Commit{c}, true)
	if err != nil {
		return nil, err
	}
	var recs []*recordpb.CommitRecord
	for _, id := range ids[0] {
		rec, err := tx.commit(c.Repo, id)
		if err != nil {
			return nil, err
		}
		recs = append(recs, rec)
	}
	return recs, nil
}

// branchesAt returns the branches whose head is one of some commits of a repo.
func (tx *Txn) branchesAt(repo *pfspb.Repo, ids ...string) ([]*recordpb.BranchRecord, error) {
	var at []*recordpb.BranchRecord
	for item, err := range tx.s.branches.Scan(tx.Txn, repoKey(repo)+"/", store.ScanOptions{}) {
		if err != nil {
			return nil, err
		}
		if slices.Contains(ids, item.Value.Info.Head.GetId()) {
			at = append(at, item.Value)
		}
	}
	return at, nil
}

// refuseSpec refuses to remove a spec commit while something is made from it.
// There is no index of that for spec commits, so the pipeline and the branches
// have to tell.
func (tx *Txn) refuseSpec(verb string, rec *recordpb.CommitRecord) error {
	repo := rec.Info.Commit.Repo
	if repo.Type != SpecType {
		return nil
	}
	_, used, err := tx.Get(pipelinePrefix + repo.Project.Name + "/" + repo.Name)
	if err != nil {
		return err
	}
	if used {
		return &PipelineCommitError{Verb: verb, Commit: rec.Info.Commit}
	}
	for item, err := range tx.s.branches.Scan(tx.Txn, repoKey(repo)+"/", store.ScanOptions{Check: true}) {
		if err != nil {
			return err
		}
		if sub := item.Value.DirectSubvenance; len(sub) > 0 {
			return fmt.Errorf("cannot %s commit %s because branches are made from its repo: [%s]", verb, CommitName(rec.Info.Commit), joinBranches(sub))
		}
	}
	return nil
}

// permittedRemoval checks that the caller may remove all of some commits of a set.
// Who may not even know of any gets the same answer as if there were none.
func (tx *Txn) permittedRemoval(set *pfspb.CommitSet, recs []*recordpb.CommitRecord) error {
	var denied error
	known := false
	for _, rec := range recs {
		repo := rec.Info.Commit.Repo
		sees, err := tx.maySee(repo, authpb.Permission_REPO_INSPECT_COMMIT)
		if err != nil {
			return err
		}
		err = tx.permitted(repo, authpb.Permission_REPO_DELETE_COMMIT)
		if err != nil && !auth.Refused(err) {
			return err
		}
		if err != nil && (denied == nil || sees && !known) {
			denied = err // that of a repo which the caller knows of, if there is one
		}
		known = known || sees
	}
	if denied != nil && !known {
		return &CommitSetNotFoundError{ID: set.Id}
	}
	return denied
}

// ownCommits returns the commits of a set, newest first, which the caller must be
// permitted to remove. Other sets that come from it forbid removing it.
func (tx *Txn) ownCommits(verb string, set *pfspb.CommitSet) ([]*recordpb.CommitRecord, error) {
	if set.GetId() == "" {
		return nil, invalidRequest("a commit set must be given")
	}
	if !IsCommitID(set.Id) {
		return nil, &CommitSetNotFoundError{ID: set.Id}
	}
	all, err := tx.commitSet(set.Id)
	if err != nil {
		return nil, err
	}
	own := slices.DeleteFunc(all, func(rec *recordpb.CommitRecord) bool { return rec.Info.Commit.Id != set.Id })
	if len(own) == 0 {
		return nil, &CommitSetNotFoundError{ID: set.Id}
	}
	if err := tx.permittedRemoval(set, own); err != nil {
		return nil, err
	}
	others := map[string]bool{}
	for _, rec := range own {
		if err := tx.refuseSpec(verb, rec); err != nil {
			return nil, err
		}
		made, err := tx.madeFrom(rec.Info.Commit)
		if err != nil {
			return nil, err
		}
		for _, c := range made {
			if c.Id != set.Id {
				others[c.Id] = true
			}
		}
	}
	if len(others) > 0 {
		return nil, &SubvenantSetsError{ID: set.Id, Sets: slices.Sorted(maps.Keys(others))}
	}
	newestFirst(own)
	return own, nil
}

// withSubvenance returns a commit and all that comes from it, newest first, which the
// caller must be permitted to remove. There must be none of the latter unless
// recursive is set.
func (tx *Txn) withSubvenance(verb string, c *pfspb.Commit, recursive bool) ([]*recordpb.CommitRecord, error) {
	if err := tx.permitted(commitRepo(c), authpb.Permission_REPO_DELETE_COMMIT); err != nil {
		return nil, err
	}
	rec, err := tx.resolve(c)
	if err != nil {
		return nil, err
	}
	first := rec.Info.Commit
	all := []*recordpb.CommitRecord{rec}
	seen := map[string]bool{idKey(first.Id, first.Repo): true}
	for i := 0; i < len(all); i++ {
		if err := tx.refuseSpec(verb, all[i]); err != nil {
			return nil, err
		}
		made, err := tx.madeFrom(all[i].Info.Commit)
		if err != nil {
			return nil, err
		}
		if len(made) > 0 && !recursive {
			return nil, fmt.Errorf("cannot %s commit (%s) with subvenance without recursive", verb, CommitName(first))
		}
		for _, m := range made {
			if seen[idKey(m.Id, m.Repo)] {
				continue
			}
			seen[idKey(m.Id, m.Repo)] = true
			if len(seen) > maxClosure {
				return nil, fmt.Errorf("cannot %s commit (%s): more than %d commits come from it", verb, CommitName(first), maxClosure)
			}
			if err := tx.permitted(m.Repo, authpb.Permission_REPO_DELETE_COMMIT); err != nil {
				return nil, err
			}
			rec, err := tx.commit(m.Repo, m.Id)
			if err != nil {
				return nil, err
			}
			all = append(all, rec)
		}
	}
	newestFirst(all)
	return all, nil
}

func newestFirst(recs []*recordpb.CommitRecord) {
	slices.SortStableFunc(recs, func(a, b *recordpb.CommitRecord) int { return strings.Compare(b.Order, a.Order) })
}

// madeFrom returns the direct subvenance of a commit, as far as it exists; the
// transaction conflicts with commits that join it.
func (tx *Txn) madeFrom(c *pfspb.Commit) ([]*pfspb.Commit, error) {
	var named []*pfspb.Commit
	prefix := subvPrefix + repoKey(c.Repo) + "/" + c.Id + "/"
	for kv, err := range tx.Scan(prefix, store.ScanOptions{KeysOnly: true, Check: true}) {
		if err != nil {
			return nil, err
		}
		if id, key, ok := strings.Cut(kv.Key[len(prefix):], "/"); ok {
			named = append(named, &pfspb.Commit{Repo: parseRepoKey(key), Id: id})
		}
	}
	var made []*pfspb.Commit
	for _, m := range named {
		_, ok, err := tx.lookup(m.Repo, m.Id)
		if err != nil && !gone(err) {
			return nil, err
		}
		if ok {
			made = append(made, m)
		}
	}
	return made, nil
}
