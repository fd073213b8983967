package pfs

import (
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// An edit takes the metadata that something has, nil if none, and gives what it
// is to have. It may change the map that it is given.
type edit = func(map[string]string) (map[string]string, error)

// EditProjectMetadata replaces the metadata of a project.
func (tx *Txn) EditProjectMetadata(p *pfspb.ProjectPicker, edit edit) error {
	name, err := tx.pickProject(p)
	if err != nil {
		return err
	}
	info, err := tx.project(name)
	if err != nil {
		return err
	}
	if info.Metadata, err = edit(info.Metadata); err != nil {
		return err
	}
	return tx.s.projects.Put(tx.Txn, name, info)
}

// EditRepoMetadata replaces the metadata of a repo.
func (tx *Txn) EditRepoMetadata(p *pfspb.RepoPicker, edit edit) error {
	repo, err := pickRepo(p)
	if err != nil {
		return err
	}
	info, ok, err := tx.s.repos.Get(tx.Txn, repoKey(repo))
	if err != nil {
		return err
	}
	if !ok {
		return &RepoNotFoundError{Repo: repo}
	}
	if info.Metadata, err = edit(info.Metadata); err != nil {
		return err
	}
	return tx.s.repos.Put(tx.Txn, repoKey(repo), info)
}

// EditBranchMetadata replaces the metadata of a branch.
func (tx *Txn) EditBranchMetadata(p *pfspb.BranchPicker, edit edit) error {
	branch, err := pickBranch(p)
	if err != nil {
		return err
	}
	rec, err := tx.mustBranch(branch)
	if err != nil {
		return err
	}
	if rec.Info.Metadata, err = edit(rec.Info.Metadata); err != nil {
		return err
	}
	return tx.putBranch(rec)
}

// EditCommitMetadata replaces the metadata of a commit, open or finished.
func (tx *Txn) EditCommitMetadata(p *pfspb.CommitPicker, edit edit) error {
	rec, err := tx.pickCommit(p)
	if err != nil {
		return err
	}
	if rec.Info.Metadata, err = edit(rec.Info.Metadata); err != nil {
		return err
	}
	return tx.putCommit(rec)
}

// pickProject returns the name of the existing project that a picker names.
func (tx *Txn) pickProject(p *pfspb.ProjectPicker) (string, error) {
	if p.GetName() == "" {
		return "", invalidRequest("a project picker must have a name")
	}
	_, err := tx.project(p.GetName())
	return p.GetName(), err
}
