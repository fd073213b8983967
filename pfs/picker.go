package pfs

import (
	"fmt"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// pickRepo reads a picker: the project defaults to default, the type to user.
func pickRepo(p *pfspb.RepoPicker) (*pfspb.Repo, error) {
	name := p.GetName()
	if name.GetName() == "" {
		return nil, invalidRequest("a repo picker must have a name")
	}
	return NormalizeRepo(&pfspb.Repo{
		Project: &pfspb.Project{Name: name.GetProject().GetName()},
		Name:    name.GetName(),
		Type:    name.GetType(),
	}), nil
}

// pickBranch reads a picker. The branch may be missing.
func pickBranch(p *pfspb.BranchPicker) (*pfspb.Branch, error) {
	name := p.GetName()
	if name.GetName() == "" {
		return nil, invalidRequest("a branch picker must have a name")
	}
	repo, err := pickRepo(name.GetRepo())
	if err != nil {
		return nil, err
	}
	if err := checkBranchName(name.GetName()); err != nil {
		return nil, err
	}
	return &pfspb.Branch{Repo: repo, Name: name.GetName()}, nil
}

// pickCommit finds the commit that a picker names, in a repo on which the caller must
// have perms.
func (tx *Txn) pickCommit(p *pfspb.CommitPicker, perms ...authpb.Permission) (*recordpb.CommitRecord, error) {
	c, err := tx.picked(p, perms...)
	if err != nil {
		return nil, err
	}
	if err := tx.permitted(c.Repo, perms...); err != nil {
		return nil, err
	}
	return tx.resolve(c)
}

// picked gives a picker the form that resolve reads.
func (tx *Txn) picked(p *pfspb.CommitPicker, perms ...authpb.Permission) (*pfspb.Commit, error) {
	switch p := p.GetPicker().(type) {
	case *pfspb.CommitPicker_BranchHead:
		b, err := pickBranch(p.BranchHead)
		return &pfspb.Commit{Repo: b.GetRepo(), Id: b.GetName()}, err
	case *pfspb.CommitPicker_Id:
		repo, err := pickRepo(p.Id.GetRepo())
		if err == nil && !IsCommitID(p.Id.GetId()) {
			err = invalidRequest(fmt.Sprintf("%q is no commit id: 32 lower-case hex digits, the 13th a 4", p.Id.GetId()))
		}
		return &pfspb.Commit{Repo: repo, Id: p.Id.GetId()}, err
	case *pfspb.CommitPicker_Ancestor:
		start, err := tx.pickCommit(p.Ancestor.GetStart(), perms...)
		if err != nil {
			return nil, err
		}
		c := start.Info.Commit
		return &pfspb.Commit{Repo: c.Repo, Id: fmt.Sprintf("%s^%d", c.Id, p.Ancestor.GetOffset())}, nil
	case *pfspb.CommitPicker_BranchRoot_:
		b, err := pickBranch(p.BranchRoot.GetBranch())
		if err == nil && p.BranchRoot.GetOffset() == 0 {
			err = invalidRequest("the offset from a branch's root must be at least 1, its first commit")
		}
		return &pfspb.Commit{Repo: b.GetRepo(), Id: fmt.Sprintf("%s.%d", b.GetName(), p.BranchRoot.GetOffset())}, err
	default:
		return nil, invalidRequest("a commit picker must name a branch head, an id, an ancestor or a branch root")
	}
}
