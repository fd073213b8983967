package pfs

import (
	"context"
	"slices"

	"github.com/minipachd/minipachd/auth"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	"github.com/minipachd/minipachd/store"
)

// activatePage is how many projects or repos get their role bindings in one transaction.
const activatePage = 256

// ActivateAuth implements pfs_v2.API: it makes the role bindings of the projects and
// repos that there are, without which nobody can be granted anything on them. Those of
// the project default let everybody create repos in it; the others are empty. What
// has bindings keeps them, so it may be called again; it goes in several transactions.
func (s *Service) ActivateAuth(ctx context.Context, _ *pfspb.ActivateAuthRequest) (*pfspb.ActivateAuthResponse, error) {
	if !s.auth.Active() {
		return nil, auth.ErrNotActivated
	}
	if err := s.auth.Check(ctx, nil, auth.Cluster(), authpb.Permission_CLUSTER_AUTH_ACTIVATE); err != nil {
		return nil, err
	}
	var projects []string
	err := s.View(ctx, func(tx *Txn) error {
		projects = nil
		for item, err := range s.projects.Scan(tx.Txn, "", store.ScanOptions{KeysOnly: true}) {
			if err != nil {
				return err
			}
			projects = append(projects, item.Key)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	repos, err := s.repoNames(ctx, repoQuery{repoType: UserType})
	if err != nil {
		return nil, err
	}
	var all []bindable
	for _, name := range projects {
		all = append(all, bindable{key: projectPrefix + name, res: auth.Project(name)})
	}
	for _, repo := range repos {
		all = append(all, bindable{key: repoPrefix + repoKey(repo), res: bindingOf(repo)})
	}
	for page := range slices.Chunk(all, activatePage) {
		if err := s.Update(ctx, func(tx *Txn) error { return tx.bindMissing(page) }); err != nil {
			return nil, err
		}
	}
	return &pfspb.ActivateAuthResponse{}, nil
}

// bindable is a project or repo, by the key of its record.
type bindable struct {
	key string
	res auth.Resource
}

// bindMissing makes the role bindings of those that have none and are still there.
func (tx *Txn) bindMissing(all []bindable) error {
	keys := make([]string, len(all))
	for i, b := range all {
		keys[i] = b.key
	}
	found, err := tx.GetMulti(keys, false)
	if err != nil {
		return err
	}
	var there []auth.Resource
	for i, b := range all {
		if found[i] != nil {
			there = append(there, b.res)
		}
	}
	unbound, err := tx.s.auth.Unbound(tx.Txn, there)
	if err != nil {
		return err
	}
	for _, res := range unbound {
		if res == auth.Project(DefaultProject) {
			err = tx.openDefaultProject()
		} else {
			err = tx.s.auth.Bind(tx.Context(), tx.Txn, res, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}
