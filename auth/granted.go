package auth

import (
	"context"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	"github.com/minipachd/minipachd/store"
)

// Subject is who calls, for records of who made what: empty while auth is off, and for
// nobody.
func (s *Service) Subject(ctx context.Context) string {
	if !s.Active() {
		return ""
	}
	c, _ := CallerOf(ctx)
	return c.Subject
}

// Granted lists what the caller of ctx may do with res, and the roles that are shown
// for it, from memory alone. ok is false while auth is off, and for a caller that is
// not known.
func (s *Service) Granted(ctx context.Context, res Resource) (perms []authpb.Permission, roles []string, ok bool) {
	if !s.Active() {
		return nil, nil, false
	}
	k, err := authenticated(ctx)
	if err != nil {
		return nil, nil, false
	}
	g, err := s.roles.evaluate(memory{s.cache}, k.Subject, res)
	if err != nil {
		return nil, nil, false
	}
	return g.list(), s.roles.listed(g, res.Type), true
}

// Unbound gives those of some resources that have no record. The transaction
// conflicts with one that makes it.
func (s *Service) Unbound(tx *store.Txn, all []Resource) ([]Resource, error) {
	keys := make([]string, len(all))
	for i, res := range all {
		keys[i] = accessPrefix + bindingKey(res.record())
	}
	found, err := tx.GetMulti(keys, false)
	if err != nil {
		return nil, err
	}
	var none []Resource
	for i, value := range found {
		if value == nil {
			none = append(none, all[i])
		}
	}
	return none, nil
}

// memory is the bindings that this daemon knows of.
type memory struct{ *cache }

func (m memory) binding(res Resource) (*authpb.RoleBinding, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if b := m.bindings[bindingKey(res)]; b != nil {
		return b.RoleBinding, nil
	}
	return nil, nil
}

func (m memory) groups(subject string) ([]string, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.members[subject], nil
}
