package pfs

import (
	"context"
	"errors"

	"github.com/minipachd/minipachd/auth"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	"github.com/minipachd/minipachd/store"
)

// What a request needs is checked where it comes in: by the methods of pfs_v2.API,
// and by those whose names end in In, which are the same calls as part of a
// transaction. The methods of Txn check nothing, who calls them has; but for those that
// remove commits, which find out by themselves whose these are.

// ResourceOf is what the permissions on a normalized repo are about.
func ResourceOf(repo *pfspb.Repo) auth.Resource {
	if repo.GetType() == SpecType {
		return auth.SpecRepo(repo.GetProject().GetName(), repo.GetName())
	}
	return bindingOf(repo)
}

// bindingOf is where the role bindings of a normalized repo are: its system repos
// share them.
func bindingOf(repo *pfspb.Repo) auth.Resource {
	return auth.Repo(repo.GetProject().GetName(), repo.GetName())
}

// permit checks, as tx sees it, that the caller has all of perms on the repo of a
// commit. It comes before the commit is looked up, so that who may not know gets the
// same answer whether it is there or not. tx may be nil. A commit without a repo is
// left to whoever looks it up, a file set to whoever knows its id.
func (s *Service) permit(ctx context.Context, tx *store.Txn, c *pfspb.Commit, perms ...authpb.Permission) error {
	if repo := commitRepo(c); repo.GetName() != fileSetsRepo {
		return s.permitRepo(ctx, tx, repo, perms...)
	}
	return nil
}

// permitRepo is permit for a repo.
func (s *Service) permitRepo(ctx context.Context, tx *store.Txn, repo *pfspb.Repo, perms ...authpb.Permission) error {
	if !s.auth.Active() || repo == nil || len(perms) == 0 {
		return nil
	}
	repo = NormalizeRepo(repo)
	err := s.auth.Check(ctx, tx, ResourceOf(repo), perms...)
	var none *auth.NoBindingError
	if errors.As(err, &none) && isOutput(ctx, repo) {
		return nil
	}
	return err
}

// permitted is permitRepo for the caller that a transaction is of.
func (tx *Txn) permitted(repo *pfspb.Repo, perms ...authpb.Permission) error {
	return tx.s.permitRepo(tx.Context(), tx.Txn, repo, perms...)
}

// permittedProject checks that the caller that a transaction is of has all of perms
// on a project.
func (tx *Txn) permittedProject(name string, perms ...authpb.Permission) error {
	return tx.s.auth.Check(tx.Context(), tx.Txn, auth.Project(name), perms...)
}

// isOutput tells whether the caller is a worker of the pipeline that repo is the
// output of. It goes on writing there while auth has been turned on and the repo has
// no bindings yet, from which on they say what it may do.
func isOutput(ctx context.Context, repo *pfspb.Repo) bool {
	caller, _ := auth.CallerOf(ctx)
	return repo.GetType() == UserType && caller.Subject == auth.PipelineSubject(repo.GetProject().GetName(), repo.GetName())
}

// bindCreator makes the caller all that a role says of something new, and forgets
// what was granted on something of the same name before.
func (tx *Txn) bindCreator(res auth.Resource, role string) error {
	by := tx.author
	if auth.IsInternal(by) {
		by = "" // the daemon itself needs no roles
	}
	if err := tx.s.auth.Unbind(tx.Txn, res); err != nil {
		return err
	}
	return tx.s.auth.Bind(tx.Context(), tx.Txn, res, by, role)
}

// authInfo is what the caller may do with something; nil while auth is off.
func (s *Service) authInfo(ctx context.Context, res auth.Resource) *pfspb.AuthInfo {
	perms, roles, ok := s.auth.Granted(ctx, res)
	if !ok {
		return nil
	}
	return &pfspb.AuthInfo{Permissions: perms, Roles: roles}
}

// visible tells, from memory alone, whether a listing shows a repo to the caller: one
// that it may read, or any of a project whose repos it may list. System repos are
// seen by those who see the repo that they belong to.
func (s *Service) visible(ctx context.Context, repo *pfspb.Repo) (bool, error) {
	ok, err := s.auth.Allows(ctx, auth.Project(repo.GetProject().GetName()), authpb.Permission_PROJECT_LIST_REPO)
	if ok || err != nil {
		return ok, err
	}
	return s.auth.Allows(ctx, bindingOf(repo), authpb.Permission_REPO_READ)
}

// permittedLook checks that the caller may know of a repo: what visible says, but also
// of what was granted a moment ago. Everybody may look at the repos of specs.
func (tx *Txn) permittedLook(repo *pfspb.Repo) error {
	if repo = NormalizeRepo(repo); repo == nil {
		return nil
	}
	err := tx.permittedProject(repo.Project.Name, authpb.Permission_PROJECT_LIST_REPO)
	if !auth.Refused(err) {
		return err
	}
	return tx.permitted(repo, authpb.Permission_REPO_READ)
}

// maySee tells whether the caller has perm on a normalized repo, for answers that
// leave out what it may not know of. In these, system repos are known to those who
// know the repo that they belong to, although everybody may ask for a spec by name.
func (tx *Txn) maySee(repo *pfspb.Repo, perm authpb.Permission) (bool, error) {
	err := tx.permitted(&pfspb.Repo{Project: repo.GetProject(), Name: repo.GetName()}, perm)
	if auth.Refused(err) {
		return false, nil
	}
	return err == nil, err
}

// listed is maySee from memory alone, for long listings.
func (s *Service) listed(ctx context.Context, repo *pfspb.Repo, perm authpb.Permission) (bool, error) {
	return s.auth.Allows(ctx, bindingOf(repo), perm)
}

// permitAll checks that the caller may read whatever there is. tx may be nil.
func (s *Service) permitAll(ctx context.Context, tx *store.Txn) error {
	return s.auth.Check(ctx, tx, auth.Cluster(), authpb.Permission_REPO_READ)
}
