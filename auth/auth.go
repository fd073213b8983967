package auth

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
)

// ErrNotActivated answers every auth call while auth is off. Clients match the
// text, so it must stay as it is.
var ErrNotActivated = status.Error(codes.Unimplemented, "the auth service is not activated")

// authServer is auth_v2.API of a server without auth.
type authServer struct {
	authpb.UnimplementedAPIServer
}

func (*authServer) Activate(context.Context, *authpb.ActivateRequest) (*authpb.ActivateResponse, error) {
	return nil, status.Error(codes.Unimplemented, "activating auth is not supported by this version of pachd: it serves every caller without a token")
}

func (*authServer) Deactivate(context.Context, *authpb.DeactivateRequest) (*authpb.DeactivateResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) GetConfiguration(context.Context, *authpb.GetConfigurationRequest) (*authpb.GetConfigurationResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) SetConfiguration(context.Context, *authpb.SetConfigurationRequest) (*authpb.SetConfigurationResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) Authenticate(context.Context, *authpb.AuthenticateRequest) (*authpb.AuthenticateResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) Authorize(context.Context, *authpb.AuthorizeRequest) (*authpb.AuthorizeResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) GetPermissions(context.Context, *authpb.GetPermissionsRequest) (*authpb.GetPermissionsResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) GetPermissionsForPrincipal(context.Context, *authpb.GetPermissionsForPrincipalRequest) (*authpb.GetPermissionsResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) WhoAmI(context.Context, *authpb.WhoAmIRequest) (*authpb.WhoAmIResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) GetRolesForPermission(context.Context, *authpb.GetRolesForPermissionRequest) (*authpb.GetRolesForPermissionResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) ModifyRoleBinding(context.Context, *authpb.ModifyRoleBindingRequest) (*authpb.ModifyRoleBindingResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) GetRoleBinding(context.Context, *authpb.GetRoleBindingRequest) (*authpb.GetRoleBindingResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) GetOIDCLogin(context.Context, *authpb.GetOIDCLoginRequest) (*authpb.GetOIDCLoginResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) GetRobotToken(context.Context, *authpb.GetRobotTokenRequest) (*authpb.GetRobotTokenResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) RevokeAuthToken(context.Context, *authpb.RevokeAuthTokenRequest) (*authpb.RevokeAuthTokenResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) RevokeAuthTokensForUser(context.Context, *authpb.RevokeAuthTokensForUserRequest) (*authpb.RevokeAuthTokensForUserResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) SetGroupsForUser(context.Context, *authpb.SetGroupsForUserRequest) (*authpb.SetGroupsForUserResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) ModifyMembers(context.Context, *authpb.ModifyMembersRequest) (*authpb.ModifyMembersResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) GetGroups(context.Context, *authpb.GetGroupsRequest) (*authpb.GetGroupsResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) GetGroupsForPrincipal(context.Context, *authpb.GetGroupsForPrincipalRequest) (*authpb.GetGroupsResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) GetUsers(context.Context, *authpb.GetUsersRequest) (*authpb.GetUsersResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) ExtractAuthTokens(context.Context, *authpb.ExtractAuthTokensRequest) (*authpb.ExtractAuthTokensResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) RestoreAuthToken(context.Context, *authpb.RestoreAuthTokenRequest) (*authpb.RestoreAuthTokenResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) DeleteExpiredAuthTokens(context.Context, *authpb.DeleteExpiredAuthTokensRequest) (*authpb.DeleteExpiredAuthTokensResponse, error) {
	return nil, ErrNotActivated
}

func (*authServer) RotateRootToken(context.Context, *authpb.RotateRootTokenRequest) (*authpb.RotateRootTokenResponse, error) {
	return nil, ErrNotActivated
}
