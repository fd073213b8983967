package pfs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/minipachd/minipachd/auth"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// CreateRepo makes a repo; with update an existing one gets the description
// instead. System repos, of type meta or spec, need the user repo of their name.
func (tx *Txn) CreateRepo(repo *pfspb.Repo, description string, update bool) error {
	repo = NormalizeRepo(repo)
	if repo == nil {
		return invalidRequest("a repo must be given")
	}
	if repo.Name == fileSetsRepo {
		return errors.New(fileSetsRepo + " is a reserved name")
	}
	if err := checkName(repo.Name); err != nil {
		return err
	}
	user := &pfspb.Repo{Project: repo.Project, Name: repo.Name, Type: UserType}
	found, err := tx.GetMulti([]string{
		projectPrefix + repo.Project.Name,
		repoPrefix + repoKey(user),
		garbageKey(repo),
	}, false)
	if err != nil {
		return err
	}
	if found[0] == nil {
		return fmt.Errorf("cannot find project %q: %w", repo.Project.Name, &ProjectNotFoundError{Project: repo.Project.Name})
	}
	switch repo.Type {
	case UserType:
	case MetaType, SpecType:
		if found[1] == nil {
			return errors.New("cannot create a system repo without a corresponding 'user' repo")
		}
	default:
		return fmt.Errorf("repo type %q is none of user, meta and spec", repo.Type)
	}
	info, ok, err := tx.s.repos.Get(tx.Txn, repoKey(repo))
	switch {
	case err != nil:
		return err
	case ok && !update:
		return &RepoExistsError{Repo: repo}
	case ok && info.Description == description:
		return nil
	case ok:
		info.Description = description
		return tx.s.repos.Put(tx.Txn, repoKey(repo), info)
	case tx.dropped[repoKey(repo)]:
		return &RepoDroppedError{Repo: repo}
	case found[2] != nil:
		return &garbageError{repo: repo}
	}
	return tx.s.repos.Put(tx.Txn, repoKey(repo), &pfspb.RepoInfo{Repo: repo, Created: stamp(tx.Now()), Description: description})
}

// InspectRepo describes a repo, its size in details included.
func (tx *Txn) InspectRepo(repo *pfspb.Repo) (*pfspb.RepoInfo, error) {
	repo = NormalizeRepo(repo)
	if repo == nil {
		return nil, invalidRequest("a repo must be given")
	}
	info, err := tx.repoInfo(repo)
	if err != nil {
		return nil, err
	}
	info.Details = &pfspb.RepoInfo_Details{SizeBytes: info.SizeBytesUpperBound}
	return info, nil
}

// repoInfo describes a repo as a listing does.
func (tx *Txn) repoInfo(repo *pfspb.Repo) (*pfspb.RepoInfo, error) {
	info, ok, err := tx.s.repos.Get(tx.Txn, repoKey(repo))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, &RepoNotFoundError{Repo: repo}
	}
	prefix := branchPrefix + repoKey(repo) + "/"
	for kv, err := range tx.Scan(prefix, store.ScanOptions{KeysOnly: true}) {
		if err != nil {
			return nil, err
		}
		info.Branches = append(info.Branches, &pfspb.Branch{Repo: repo, Name: kv.Key[len(prefix):]})
	}
	info.SizeBytesUpperBound, err = tx.repoSize(repo)
	return info, err
}

// maxUnfinished bounds how many open commits repoSize looks behind.
const maxUnfinished = 1000

// repoSize is the size in bytes of the newest finished commit on the branch
// master; 0 if there is none.
func (tx *Txn) repoSize(repo *pfspb.Repo) (int64, error) {
	master, ok, err := tx.branch(&pfspb.Branch{Repo: repo, Name: defaultMasterName})
	if err != nil || !ok {
		return 0, err
	}
	head := master.Info.Head
	for range maxUnfinished {
		if head == nil {
			break
		}
		rec, err := tx.commit(repo, head.Id)
		if err != nil {
			return 0, err
		}
		if rec.Info.Details != nil {
			return rec.Info.Details.SizeBytes, nil
		}
		head = rec.Info.ParentCommit
	}
	return 0, nil
}

// DeleteRepo removes a repo with its branches and commits, and with a user repo
// its meta and spec repos. A missing repo is no error. Branches of other repos
// that are made from one of its branches forbid it unless force is set. The
// commits are out of reach at once; Run removes their records afterwards.
func (tx *Txn) DeleteRepo(repo *pfspb.Repo, force bool) (deleted bool, err error) {
	repo = NormalizeRepo(repo)
	if repo == nil {
		return false, invalidRequest("a repo must be given")
	}
	_, ok, err := tx.Get(repoPrefix + repoKey(repo))
	if err != nil || !ok {
		return false, err
	}
	_, err = tx.deleteRepos([]*pfspb.Repo{repo}, force)
	return err == nil, err
}

// deleteRepos removes existing repos with their role bindings, and returns them with
// the siblings that went too. Provenance between them forbids nothing.
func (tx *Txn) deleteRepos(repos []*pfspb.Repo, force bool) ([]*pfspb.Repo, error) {
	var all []*pfspb.Repo
	doomed := map[string]bool{}
	for _, repo := range repos {
		family := []*pfspb.Repo{repo}
		if repo.Type == UserType {
			for _, t := range []string{MetaType, SpecType} {
				family = append(family, &pfspb.Repo{Project: repo.Project, Name: repo.Name, Type: t})
			}
		}
		keys := []string{pipelinePrefix + repo.Project.Name + "/" + repo.Name}
		for _, r := range family {
			keys = append(keys, repoPrefix+repoKey(r))
		}
		found, err := tx.GetMulti(keys, false)
		if err != nil {
			return nil, err
		}
		if found[0] != nil {
			return nil, &PipelineRepoError{Repo: repo}
		}
		for i, r := range family {
			if found[i+1] != nil && !doomed[repoKey(r)] {
				doomed[repoKey(r)] = true
				all = append(all, r)
			}
		}
	}
	var branches []*recordpb.BranchRecord
	for _, repo := range all {
		for item, err := range tx.s.branches.Scan(tx.Txn, repoKey(repo)+"/", store.ScanOptions{Check: true}) {
			if err != nil {
				return nil, err
			}
			branches = append(branches, item.Value)
		}
	}
	for _, rec := range branches {
		outside := slices.DeleteFunc(slices.Clone(rec.DirectSubvenance), func(b *pfspb.Branch) bool { return doomed[repoKey(b.Repo)] })
		if len(outside) > 0 && !force {
			return nil, &BranchInUseError{Branch: rec.Info.Branch, Subvenance: outside}
		}
	}
	for _, rec := range branches {
		// Read again: deleting one branch changes its neighbours.
		rec, ok, err := tx.branch(rec.Info.Branch)
		if err != nil {
			return nil, err
		}
		if ok {
			if err := tx.deleteBranch(rec); err != nil {
				return nil, err
			}
		}
	}
	for _, repo := range all {
		if repo.Type == UserType {
			if err := tx.s.auth.Unbind(tx.Txn, bindingOf(repo)); err != nil {
				return nil, err
			}
		}
		tx.s.repos.Delete(tx.Txn, repoKey(repo))
		tx.s.policies.Delete(tx.Txn, repoKey(repo))
		tx.Put(garbageKey(repo), nil)
		tx.dropped[repoKey(repo)] = true
	}
	tx.Defer(tx.s.wakeSweeper)
	return all, nil
}

// CreateRepoIn is the call CreateRepo as part of tx. Whoever makes a repo owns it.
func (s *Service) CreateRepoIn(tx *Txn, req *pfspb.CreateRepoRequest) error {
	repo := NormalizeRepo(req.GetRepo())
	if repo == nil {
		return tx.CreateRepo(nil, "", false)
	}
	found, err := tx.GetMulti([]string{projectPrefix + repo.Project.Name, repoPrefix + repoKey(repo)}, false)
	if err != nil {
		return err
	}
	there := found[1] != nil
	switch {
	case !s.auth.Active():
	case found[0] == nil: // no project: which ones there are is no secret
	case there && req.GetUpdate():
		err = tx.permitted(repo, authpb.Permission_REPO_WRITE)
	default:
		err = tx.permittedProject(repo.Project.Name, authpb.Permission_PROJECT_CREATE_REPO)
		if err == nil && repo.Type != UserType { // it is part of somebody's repo
			err = tx.permitted(repo, authpb.Permission_REPO_WRITE)
		}
	}
	if err != nil {
		return err
	}
	if err := tx.CreateRepo(repo, req.GetDescription(), req.GetUpdate()); err != nil || there || repo.Type != UserType {
		return err
	}
	return tx.bindCreator(bindingOf(repo), auth.RoleRepoOwner)
}

// CreateRepo implements pfs_v2.API.
func (s *Service) CreateRepo(ctx context.Context, req *pfspb.CreateRepoRequest) (*emptypb.Empty, error) {
	return done(s.Update(ctx, func(tx *Txn) error { return s.CreateRepoIn(tx, req) }))
}

// InspectRepo implements pfs_v2.API. It needs what a listing needs to show the repo.
func (s *Service) InspectRepo(ctx context.Context, req *pfspb.InspectRepoRequest) (*pfspb.RepoInfo, error) {
	var info *pfspb.RepoInfo
	err := s.View(ctx, func(tx *Txn) error {
		err := tx.permittedLook(req.GetRepo())
		if err != nil {
			return err
		}
		info, err = tx.InspectRepo(req.GetRepo())
		return err
	})
	if err != nil {
		return nil, err
	}
	info.AuthInfo = s.authInfo(ctx, ResourceOf(info.Repo))
	return info, nil
}

// DeleteRepoIn is the call DeleteRepo as part of tx. A repo that the caller may not
// delete is left as it is, as one that is missing.
func (s *Service) DeleteRepoIn(tx *Txn, req *pfspb.DeleteRepoRequest) (deleted bool, err error) {
	if repo := NormalizeRepo(req.GetRepo()); repo != nil {
		if ok, err := tx.mayDelete(repo); err != nil || !ok {
			return false, err
		}
	}
	return tx.DeleteRepo(req.GetRepo(), req.GetForce())
}

// mayDelete tells whether the caller may delete a normalized repo.
func (tx *Txn) mayDelete(repo *pfspb.Repo) (bool, error) {
	err := tx.s.auth.Check(tx.Context(), tx.Txn, ResourceOf(repo), authpb.Permission_REPO_DELETE)
	if auth.Refused(err) {
		return false, nil
	}
	return err == nil, err
}

// DeleteRepo implements pfs_v2.API.
func (s *Service) DeleteRepo(ctx context.Context, req *pfspb.DeleteRepoRequest) (*pfspb.DeleteRepoResponse, error) {
	res := &pfspb.DeleteRepoResponse{}
	err := s.Update(ctx, func(tx *Txn) error {
		var err error
		res.Deleted, err = s.DeleteRepoIn(tx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// DeleteRepos implements pfs_v2.API. Without force it is one transaction.
func (s *Service) DeleteRepos(ctx context.Context, req *pfspb.DeleteReposRequest) (*pfspb.DeleteReposResponse, error) {
	res := &pfspb.DeleteReposResponse{}
	var projects []string
	for _, p := range req.GetProjects() {
		projects = append(projects, projectName(p))
	}
	if req.GetAll() {
		projects = nil
	} else if len(projects) == 0 {
		return res, nil
	}
	var err error
	if res.Repos, err = s.deleteRepos(ctx, projects, req.GetForce()); err != nil {
		return nil, err
	}
	return res, nil
}

// deleteRepos deletes all repos of some projects, of all if none is given, that the
// caller may delete: with force a page of them per transaction, else all in one. The
// result has user repos and system repos alike.
func (s *Service) deleteRepos(ctx context.Context, projects []string, force bool) ([]*pfspb.Repo, error) {
	repos, err := s.repoNames(ctx, repoQuery{projects: projects})
	if err != nil || len(repos) == 0 {
		return nil, err
	}
	page := len(repos)
	if force {
		page = listPage
	}
	var deleted []*pfspb.Repo
	for chunk := range slices.Chunk(repos, page) {
		var some []*pfspb.Repo
		err := s.Update(ctx, func(tx *Txn) error {
			var mine []*pfspb.Repo
			for _, repo := range chunk {
				ok, err := tx.mayDelete(repo)
				if err != nil {
					return err
				}
				if ok {
					mine = append(mine, repo)
				}
			}
			var err error
			some, err = tx.deleteRepos(mine, force)
			return err
		})
		if err != nil {
			return deleted, err
		}
		deleted = append(deleted, some...)
	}
	return deleted, nil
}

// repoQuery selects repos; the zero value selects all.
type repoQuery struct {
	projects []string
	repoType string
}

// repoNames lists repos ordered by project, name and type.
func (s *Service) repoNames(ctx context.Context, q repoQuery) ([]*pfspb.Repo, error) {
	var repos []*pfspb.Repo
	prefixes := []string{""}
	if len(q.projects) > 0 {
		prefixes = nil
		for _, p := range slices.Compact(slices.Sorted(slices.Values(q.projects))) {
			prefixes = append(prefixes, p+"/")
		}
	}
	err := s.View(ctx, func(tx *Txn) error {
		for _, prefix := range prefixes {
			for kv, err := range tx.Scan(repoPrefix+prefix, store.ScanOptions{KeysOnly: true}) {
				if err != nil {
					return err
				}
				repo := parseRepoKey(kv.Key[len(repoPrefix):])
				if repo != nil && (q.repoType == "" || q.repoType == repo.Type) {
					repos = append(repos, repo)
				}
			}
		}
		return nil
	})
	// Key order is not name order: "a-b/" comes before "a/".
	slices.SortFunc(repos, func(a, b *pfspb.Repo) int {
		return strings.Compare(sortName(a), sortName(b))
	})
	return repos, err
}

func sortName(r *pfspb.Repo) string { return r.Project.Name + "\x00" + r.Name + "\x00" + r.Type }

// visibleNames is repoNames of what listings of repos show the caller.
func (s *Service) visibleNames(ctx context.Context, q repoQuery) ([]*pfspb.Repo, error) {
	return s.namesWith(ctx, q, s.visible)
}

// listedNames is repoNames of what the caller has perm on.
func (s *Service) listedNames(ctx context.Context, q repoQuery, perm authpb.Permission) ([]*pfspb.Repo, error) {
	return s.namesWith(ctx, q, func(ctx context.Context, repo *pfspb.Repo) (bool, error) { return s.listed(ctx, repo, perm) })
}

func (s *Service) namesWith(ctx context.Context, q repoQuery, sees func(context.Context, *pfspb.Repo) (bool, error)) ([]*pfspb.Repo, error) {
	repos, err := s.repoNames(ctx, q)
	if err != nil || !s.auth.Active() {
		return repos, err
	}
	return slices.DeleteFunc(repos, func(repo *pfspb.Repo) bool {
		ok := false
		if err == nil {
			ok, err = sees(ctx, repo)
		}
		return !ok
	}), err
}

// eachRepo calls fn with the repos that q selects and the caller is shown, in order.
func (s *Service) eachRepo(ctx context.Context, q repoQuery, fn func(*pfspb.RepoInfo) error) error {
	repos, err := s.visibleNames(ctx, q)
	if err != nil {
		return err
	}
	return s.eachOf(ctx, repos, fn)
}

func (s *Service) eachOf(ctx context.Context, repos []*pfspb.Repo, fn func(*pfspb.RepoInfo) error) error {
	return eachPage(ctx, s, repos, (*Txn).repoInfo, func(info *pfspb.RepoInfo) error {
		info.AuthInfo = s.authInfo(ctx, ResourceOf(info.Repo))
		return fn(info)
	})
}

// ListRepo implements pfs_v2.API. Repos that the caller may not see are left out. It holds the names of all repos asked for, and
// the rest of a few of them, in memory.
func (s *Service) ListRepo(req *pfspb.ListRepoRequest, stream grpc.ServerStreamingServer[pfspb.RepoInfo]) error {
	q := repoQuery{repoType: req.GetType()}
	for _, p := range req.GetProjects() {
		q.projects = append(q.projects, projectName(p))
	}
	repos, err := s.visibleNames(stream.Context(), q)
	if err != nil {
		return err
	}
	if page := req.GetPage(); page != nil {
		size, index := page.GetPageSize(), page.GetPageIndex()
		if size < 0 || index < 0 {
			return invalidRequest("the page size and index must not be negative")
		}
		if n := int64(len(repos)); size > 0 {
			first := n
			if index <= n/size {
				first = min(index*size, n)
			}
			repos = repos[first : min(n-first, size)+first]
		}
	}
	return s.eachOf(stream.Context(), repos, stream.Send)
}
