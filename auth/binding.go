package auth

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	"github.com/minipachd/minipachd/store"
)

// bindable refuses roles that there are not, or that mean nothing on res.
func (s *Service) bindable(name string, res Resource) error {
	r := s.roles[name]
	if r == nil {
		return status.Errorf(codes.InvalidArgument, "unknown role %s", quoted(name))
	}
	if !slices.Contains(r.GetCanBeBoundTo(), res.Type) {
		var where []string
		for _, t := range r.GetCanBeBoundTo() {
			where = append(where, t.String())
		}
		return invalid("role %q cannot be bound to a %v, but to: %s", name, res.Type, strings.Join(where, ", "))
	}
	return nil
}

// modifier is the permission that changing the bindings of a resource needs.
func modifier(res Resource) (authpb.Permission, error) {
	switch res.Type {
	case authpb.ResourceType_CLUSTER:
		return authpb.Permission_CLUSTER_MODIFY_BINDINGS, nil
	case authpb.ResourceType_PROJECT:
		return authpb.Permission_PROJECT_MODIFY_BINDINGS, nil
	case authpb.ResourceType_REPO:
		return authpb.Permission_REPO_MODIFY_BINDINGS, nil
	}
	return 0, invalid("roles are bound to the CLUSTER, a PROJECT or a REPO, not to a %v", res.Type)
}

// ModifyRoleBinding replaces the roles of a principal on a resource.
func (s *authServer) ModifyRoleBinding(ctx context.Context, req *authpb.ModifyRoleBindingRequest) (*authpb.ModifyRoleBindingResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	res, err := resourceOf(req.GetResource())
	if err != nil {
		return nil, err
	}
	perm, err := modifier(res)
	if err != nil {
		return nil, err
	}
	err = s.update(ctx, res, perm, func(tx *store.Txn) error {
		if err := checkPrincipal(req.GetPrincipal()); err != nil {
			return err
		}
		if res.Type == authpb.ResourceType_CLUSTER && strings.HasPrefix(req.GetPrincipal(), pachPrefix) {
			return errPachBinding
		}
		all := map[string]bool{}
		for _, name := range req.GetRoles() {
			if err := s.bindable(name, res); err != nil {
				return err
			}
			all[name] = true
		}
		b, err := s.records.binding(tx, res)
		if err != nil {
			return err
		}
		if b == nil {
			return &NoBindingError{Resource: res}
		}
		setRoles(b, req.GetPrincipal(), all)
		return s.records.putBinding(tx, res, b)
	})
	if err != nil {
		return nil, err
	}
	return &authpb.ModifyRoleBindingResponse{}, nil
}

// GetRoleBinding gives who has which roles on a resource itself.
func (s *authServer) GetRoleBinding(ctx context.Context, req *authpb.GetRoleBindingRequest) (*authpb.GetRoleBindingResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	answer := &authpb.GetRoleBindingResponse{}
	err := s.view(ctx, Cluster(), 0, func(tx *store.Txn) error {
		res, err := resourceOf(req.GetResource())
		if err != nil {
			return err
		}
		if answer.Binding, err = s.records.binding(tx, res.record()); answer.Binding == nil {
			answer.Binding = &authpb.RoleBinding{}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}
