package auth

import (
	"context"
	"crypto/subtle"
	"slices"

	"google.golang.org/protobuf/types/known/timestamppb"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// authServer is auth_v2.API. What a call needs is checked in the transaction that
// does it, whatever the interceptor has checked before.
type authServer struct {
	authpb.UnimplementedAPIServer
	*Service
}

// active refuses every call while auth is off, before it is looked at.
func (s *authServer) active() error {
	if !s.Active() {
		return ErrNotActivated
	}
	return nil
}

// update runs fn in a transaction, if the caller has perm on res, and returns once
// this daemon knows of its outcome. A perm of 0 only wants a caller.
func (s *authServer) update(ctx context.Context, res Resource, perm authpb.Permission, fn func(tx *store.Txn) error) error {
	wrote := false
	rev, err := s.store.Update(ctx, func(tx *store.Txn) error {
		if err := s.require(ctx, tx, res, perm); err != nil {
			return err
		}
		err := fn(tx)
		wrote = tx.Writes()
		return err
	})
	if err != nil {
		return err
	}
	if wrote { // otherwise the watch may never get to rev
		s.cache.await(ctx.Done(), rev)
	}
	return nil
}

// view is update of what only reads.
func (s *authServer) view(ctx context.Context, res Resource, perm authpb.Permission, fn func(tx *store.Txn) error) error {
	return s.store.View(ctx, func(tx *store.Txn) error {
		if err := s.require(ctx, tx, res, perm); err != nil {
			return err
		}
		return fn(tx)
	})
}

// require is check of one permission while auth must be on.
func (s *authServer) require(ctx context.Context, tx *store.Txn, res Resource, perm authpb.Permission) error {
	if err := s.records.on(tx); err != nil {
		return err
	}
	k, err := authenticated(ctx)
	if err != nil || k.internal() || perm == authpb.Permission_PERMISSION_UNKNOWN {
		return err
	}
	return s.verify(ctx, tx, res, []authpb.Permission{perm})
}

// Activate turns auth on. The caller gets the root token; everybody else needs one
// from now on.
func (s *authServer) Activate(ctx context.Context, req *authpb.ActivateRequest) (*authpb.ActivateResponse, error) {
	token := req.GetRootToken()
	switch {
	case s.preset != "" && token == "":
		token = s.preset
	case s.preset != "" && subtle.ConstantTimeCompare([]byte(hashOf(token)), []byte(hashOf(s.preset))) != 1:
		return nil, invalid("the root token is preset by whoever runs pachd: give none, or that one")
	case token == "":
		token = newToken()
	}
	if err := checkToken(token); err != nil {
		return nil, err
	}
	rev, err := s.store.Update(ctx, func(tx *store.Txn) error {
		a, err := s.records.activation(tx)
		if err != nil {
			return err
		}
		if a != nil {
			return errActivated
		}
		if err := s.records.putBinding(tx, Cluster(), &authpb.RoleBinding{Entries: map[string]*authpb.Roles{
			RootUser:        {Roles: map[string]bool{RoleClusterAdmin: true}},
			AllClusterUsers: {Roles: map[string]bool{RoleProjectCreator: true}},
		}}); err != nil {
			return err
		}
		return s.putRoot(tx, &recordpb.AuthActivation{Activated: timestamppb.New(tx.Now())}, token)
	})
	if err != nil {
		return nil, err
	}
	s.cache.await(ctx.Done(), rev)
	s.log.Info("auth is on")
	return &authpb.ActivateResponse{PachToken: token}, nil
}

// putRoot makes token the only one of the root user.
func (s *Service) putRoot(tx *store.Txn, a *recordpb.AuthActivation, token string) error {
	hash := hashOf(token)
	other, err := s.records.token(tx, hash)
	if err != nil {
		return err
	}
	if other != nil && other.GetSubject() != RootUser {
		return invalid("the root token must not be the token of somebody else")
	}
	if old := a.GetRootHash(); old != "" && old != hash {
		s.records.Delete(tx, tokenPrefix+old)
	}
	a.RootHash = hash
	if err := s.records.putToken(tx, &authpb.TokenInfo{Subject: RootUser, HashedToken: hash}); err != nil {
		return err
	}
	return s.records.Put(tx, activationKey, &recordpb.AccessRecord{Kind: &recordpb.AccessRecord_Activation{Activation: a}})
}

// Deactivate turns auth off and forgets tokens, bindings, groups and how users log in.
func (s *authServer) Deactivate(ctx context.Context, _ *authpb.DeactivateRequest) (*authpb.DeactivateResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	err := s.update(ctx, Cluster(), authpb.Permission_CLUSTER_AUTH_DEACTIVATE, func(tx *store.Txn) error {
		s.records.DeletePrefix(tx, "")
		s.logins.Clear(tx)
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.log.Info("auth is off")
	return &authpb.DeactivateResponse{}, nil
}

// RotateRootToken replaces the root token; the one before is good no more.
func (s *authServer) RotateRootToken(ctx context.Context, req *authpb.RotateRootTokenRequest) (*authpb.RotateRootTokenResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	token := req.GetRootToken()
	if token == "" {
		token = newToken()
	}
	err := s.update(ctx, Cluster(), authpb.Permission_CLUSTER_AUTH_ROTATE_ROOT_TOKEN, func(tx *store.Txn) error {
		if s.preset != "" {
			return errPresetRotation
		}
		if err := checkToken(token); err != nil {
			return err
		}
		a, err := s.records.activation(tx)
		if err != nil {
			return err
		}
		return s.putRoot(tx, a, token)
	})
	if err != nil {
		return nil, err
	}
	return &authpb.RotateRootTokenResponse{RootToken: token}, nil
}

// WhoAmI tells the caller who they are, and until when.
func (s *authServer) WhoAmI(ctx context.Context, _ *authpb.WhoAmIRequest) (*authpb.WhoAmIResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	k, err := authenticated(ctx)
	if err != nil {
		return nil, err
	}
	res := &authpb.WhoAmIResponse{Username: k.Subject}
	if !k.Expiration.IsZero() {
		res.Expiration = timestamppb.New(k.Expiration)
	}
	return res, nil
}

// Authorize tells which of some permissions the caller has.
func (s *authServer) Authorize(ctx context.Context, req *authpb.AuthorizeRequest) (*authpb.AuthorizeResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	k, err := authenticated(ctx)
	if err != nil {
		return nil, err
	}
	res, err := resourceOf(req.GetResource())
	if err != nil {
		return nil, err
	}
	answer := &authpb.AuthorizeResponse{Principal: k.Subject}
	err = s.store.View(ctx, func(tx *store.Txn) error {
		g, err := s.may(tx, k.Subject, res)
		if err != nil {
			return err
		}
		for _, p := range req.GetPermissions() {
			if g.has(p) {
				answer.Satisfied = append(answer.Satisfied, p)
			} else {
				answer.Missing = append(answer.Missing, p)
			}
		}
		if g.missing && len(answer.Missing) > 0 {
			return &NoBindingError{Resource: res.record()}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	answer.Authorized = len(answer.Missing) == 0
	return answer, nil
}

// may is what a subject may do with a resource, while auth is on.
func (s *authServer) may(tx *store.Txn, subject string, res Resource) (granted, error) {
	if err := s.records.on(tx); err != nil {
		return granted{}, err
	}
	return s.roles.evaluate(snapshot{s.records, tx}, subject, res)
}

// permissions answers both calls that ask for them.
func (s *authServer) permissions(tx *store.Txn, subject string, res Resource) (*authpb.GetPermissionsResponse, error) {
	g, err := s.may(tx, subject, res)
	if err != nil {
		return nil, err
	}
	if g.missing && len(g.roles) == 0 {
		return nil, &NoBindingError{Resource: res.record()}
	}
	return &authpb.GetPermissionsResponse{Permissions: g.list(), Roles: s.roles.listed(g, res.Type)}, nil
}

// GetPermissions gives what the caller may do with a resource.
func (s *authServer) GetPermissions(ctx context.Context, req *authpb.GetPermissionsRequest) (answer *authpb.GetPermissionsResponse, err error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	k, err := authenticated(ctx)
	if err != nil {
		return nil, err
	}
	res, err := resourceOf(req.GetResource())
	if err != nil {
		return nil, err
	}
	err = s.store.View(ctx, func(tx *store.Txn) error {
		answer, err = s.permissions(tx, k.Subject, res)
		return err
	})
	return answer, err
}

// GetPermissionsForPrincipal gives what somebody may do with a resource.
func (s *authServer) GetPermissionsForPrincipal(ctx context.Context, req *authpb.GetPermissionsForPrincipalRequest) (answer *authpb.GetPermissionsResponse, err error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	err = s.view(ctx, Cluster(), authpb.Permission_CLUSTER_AUTH_GET_PERMISSIONS_FOR_PRINCIPAL, func(tx *store.Txn) error {
		res, err := resourceOf(req.GetResource())
		if err != nil {
			return err
		}
		if err := checkPrincipal(req.GetPrincipal()); err != nil {
			return err
		}
		answer, err = s.permissions(tx, req.GetPrincipal(), res)
		return err
	})
	return answer, err
}

// GetRolesForPermission gives the roles that grant a permission.
func (s *authServer) GetRolesForPermission(_ context.Context, req *authpb.GetRolesForPermissionRequest) (*authpb.GetRolesForPermissionResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	if p := req.GetPermission(); authpb.Permission_name[int32(p)] == "" || p == authpb.Permission_PERMISSION_UNKNOWN {
		return nil, invalid("there is no permission with number %d", p)
	}
	answer := &authpb.GetRolesForPermissionResponse{}
	for _, r := range roleTable {
		if slices.Contains(s.roles[r.name].GetPermissions(), req.GetPermission()) {
			answer.Roles = append(answer.Roles, s.roles[r.name].Role)
		}
	}
	return answer, nil
}
