package pfs

import (
	"context"
	"errors"

	"github.com/minipachd/minipachd/auth"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	"github.com/minipachd/minipachd/store"
)

// resourceOf is what the permissions on a normalized repo are about.
func resourceOf(repo *pfspb.Repo) auth.Resource {
	if repo.GetType() == SpecType {
		return auth.SpecRepo(repo.GetProject().GetName(), repo.GetName())
	}
	return auth.Repo(repo.GetProject().GetName(), repo.GetName())
}

// permit checks, as tx sees it, that the caller has perm on the repo of a commit. It
// comes before the commit is looked up, so that who may not know gets the same answer
// whether it is there or not. tx may be nil. A commit without a repo is left to
// whoever looks it up, a file set to whoever knows its id.
func (s *Service) permit(ctx context.Context, tx *store.Txn, c *pfspb.Commit, perm authpb.Permission) error {
	if !s.auth.Active() {
		return nil
	}
	repo := NormalizeRepo(commitRepo(c))
	if repo == nil || repo.GetName() == fileSetsRepo {
		return nil
	}
	err := s.auth.Check(ctx, tx, resourceOf(repo), perm)
	var none *auth.NoBindingError
	if errors.As(err, &none) && isOutput(ctx, repo) {
		return nil
	}
	return err
}

// isOutput tells whether the caller is a worker of the pipeline that repo is the
// output of. It goes on writing there while auth has been turned on and the repo has
// no bindings yet, from which on they say what it may do.
func isOutput(ctx context.Context, repo *pfspb.Repo) bool {
	caller, _ := auth.CallerOf(ctx)
	return repo.GetType() == UserType && caller.Subject == "pipeline:"+repo.GetProject().GetName()+"/"+repo.GetName()
}
