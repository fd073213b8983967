package auth

import (
	"context"
	"slices"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	"github.com/minipachd/minipachd/store"
)

// SetGroupsForUser makes a subject a member of some groups and of no others.
func (s *authServer) SetGroupsForUser(ctx context.Context, req *authpb.SetGroupsForUserRequest) (*authpb.SetGroupsForUserResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	err := s.update(ctx, Cluster(), authpb.Permission_CLUSTER_AUTH_MODIFY_GROUP_MEMBERS, func(tx *store.Txn) error {
		if err := checkSubject(req.GetUsername()); err != nil {
			return err
		}
		g := &authpb.Groups{Groups: map[string]bool{}}
		for _, group := range req.GetGroups() {
			name, err := groupName(group)
			if err != nil {
				return err
			}
			g.Groups[name] = true
		}
		return s.records.putGroups(tx, req.GetUsername(), g)
	})
	if err != nil {
		return nil, err
	}
	return &authpb.SetGroupsForUserResponse{}, nil
}

// ModifyMembers adds members to a group and removes others from it; who is in both
// lists is removed.
func (s *authServer) ModifyMembers(ctx context.Context, req *authpb.ModifyMembersRequest) (*authpb.ModifyMembersResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	err := s.update(ctx, Cluster(), authpb.Permission_CLUSTER_AUTH_MODIFY_GROUP_MEMBERS, func(tx *store.Txn) error {
		group, err := groupName(req.GetGroup())
		if err != nil {
			return err
		}
		set := func(subject string, in bool) error {
			if err := checkSubject(subject); err != nil {
				return err
			}
			g, err := s.records.groups(tx, subject)
			if err != nil {
				return err
			}
			if g.GetGroups() == nil {
				g = &authpb.Groups{Groups: map[string]bool{}}
			}
			delete(g.Groups, group)
			if in {
				g.Groups[group] = true
			}
			return s.records.putGroups(tx, subject, g)
		}
		for _, subject := range req.GetAdd() {
			if err := set(subject, true); err != nil {
				return err
			}
		}
		for _, subject := range req.GetRemove() {
			if err := set(subject, false); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &authpb.ModifyMembersResponse{}, nil
}

// GetGroups gives the groups of the caller.
func (s *authServer) GetGroups(ctx context.Context, _ *authpb.GetGroupsRequest) (*authpb.GetGroupsResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	answer := &authpb.GetGroupsResponse{}
	err := s.view(ctx, Cluster(), 0, func(tx *store.Txn) error {
		k, err := authenticated(ctx)
		if err != nil {
			return err
		}
		answer.Groups, err = snapshot{s.records, tx}.groups(k.Subject)
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// GetGroupsForPrincipal gives the groups of somebody.
func (s *authServer) GetGroupsForPrincipal(ctx context.Context, req *authpb.GetGroupsForPrincipalRequest) (*authpb.GetGroupsResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	answer := &authpb.GetGroupsResponse{}
	err := s.view(ctx, Cluster(), authpb.Permission_CLUSTER_AUTH_GET_GROUPS, func(tx *store.Txn) error {
		if err := checkPrincipal(req.GetPrincipal()); err != nil {
			return err
		}
		var err error
		answer.Groups, err = snapshot{s.records, tx}.groups(req.GetPrincipal())
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// GetUsers gives the members of a group.
func (s *authServer) GetUsers(ctx context.Context, req *authpb.GetUsersRequest) (*authpb.GetUsersResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	answer := &authpb.GetUsersResponse{}
	err := s.view(ctx, Cluster(), authpb.Permission_CLUSTER_AUTH_GET_GROUP_USERS, func(tx *store.Txn) error {
		group, err := groupName(req.GetGroup())
		if err != nil {
			return err
		}
		for item, err := range s.records.Scan(tx, groupsPrefix, store.ScanOptions{}) {
			if err != nil {
				return err
			}
			if slices.Contains(membership(item.Value.GetGroups()), group) {
				answer.Usernames = append(answer.Usernames, item.Key[len(groupsPrefix):])
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}
