package metadata

import (
	"context"

	"github.com/minipachd/minipachd/auth"
	"github.com/minipachd/minipachd/pfs"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	metadatapb "github.com/minipachd/minipachd/proto/metadata"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// permit checks, before the target is looked up, that the caller may edit its
// metadata. Pipelines ask by themselves; a target that names nothing is left to
// whoever looks it up.
func (s *Service) permit(ctx context.Context, tx *pfs.Txn, e *metadatapb.Edit) error {
	switch t := e.GetTarget().(type) {
	case *metadatapb.Edit_Project:
		if t.Project.GetName() == "" {
			return nil
		}
		return s.auth.Check(ctx, tx.Txn, auth.Project(t.Project.GetName()), authpb.Permission_PROJECT_SET_DEFAULTS)
	case *metadatapb.Edit_Repo:
		return s.permitRepo(ctx, tx, t.Repo, authpb.Permission_REPO_WRITE)
	case *metadatapb.Edit_Branch:
		return s.permitRepo(ctx, tx, t.Branch.GetName().GetRepo(), authpb.Permission_REPO_CREATE_BRANCH)
	case *metadatapb.Edit_Commit:
		return s.permitRepo(ctx, tx, repoOf(t.Commit), authpb.Permission_REPO_WRITE)
	case *metadatapb.Edit_Cluster:
		return s.auth.Check(ctx, tx.Txn, auth.Cluster(), authpb.Permission_CLUSTER_EDIT_CLUSTER_METADATA)
	}
	return nil
}

func (s *Service) permitRepo(ctx context.Context, tx *pfs.Txn, p *pfspb.RepoPicker, perm authpb.Permission) error {
	name := p.GetName()
	if name.GetName() == "" {
		return nil
	}
	repo := pfs.NormalizeRepo(&pfspb.Repo{
		Project: &pfspb.Project{Name: name.GetProject().GetName()}, Name: name.GetName(), Type: name.GetType(),
	})
	return s.auth.Check(ctx, tx.Txn, pfs.ResourceOf(repo), perm)
}

// repoOf is the repo that the commit of a picker lies in.
func repoOf(p *pfspb.CommitPicker) *pfspb.RepoPicker {
	for p.GetAncestor() != nil {
		p = p.GetAncestor().GetStart()
	}
	switch p := p.GetPicker().(type) {
	case *pfspb.CommitPicker_BranchHead:
		return p.BranchHead.GetName().GetRepo()
	case *pfspb.CommitPicker_Id:
		return p.Id.GetRepo()
	case *pfspb.CommitPicker_BranchRoot_:
		return p.BranchRoot.GetBranch().GetName().GetRepo()
	}
	return nil
}
