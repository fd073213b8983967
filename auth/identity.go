package auth

import (
	"context"

	identitypb "github.com/minipachd/minipachd/proto/identity_v2"
)

// identityServer is identity_v2.API of a server without auth: there are no
// identities, so every call says that auth is off.
type identityServer struct {
	identitypb.UnimplementedAPIServer
}

func (*identityServer) SetIdentityServerConfig(context.Context, *identitypb.SetIdentityServerConfigRequest) (*identitypb.SetIdentityServerConfigResponse, error) {
	return nil, ErrNotActivated
}

func (*identityServer) GetIdentityServerConfig(context.Context, *identitypb.GetIdentityServerConfigRequest) (*identitypb.GetIdentityServerConfigResponse, error) {
	return nil, ErrNotActivated
}

func (*identityServer) CreateIDPConnector(context.Context, *identitypb.CreateIDPConnectorRequest) (*identitypb.CreateIDPConnectorResponse, error) {
	return nil, ErrNotActivated
}

func (*identityServer) UpdateIDPConnector(context.Context, *identitypb.UpdateIDPConnectorRequest) (*identitypb.UpdateIDPConnectorResponse, error) {
	return nil, ErrNotActivated
}

func (*identityServer) ListIDPConnectors(context.Context, *identitypb.ListIDPConnectorsRequest) (*identitypb.ListIDPConnectorsResponse, error) {
	return nil, ErrNotActivated
}

func (*identityServer) GetIDPConnector(context.Context, *identitypb.GetIDPConnectorRequest) (*identitypb.GetIDPConnectorResponse, error) {
	return nil, ErrNotActivated
}

func (*identityServer) DeleteIDPConnector(context.Context, *identitypb.DeleteIDPConnectorRequest) (*identitypb.DeleteIDPConnectorResponse, error) {
	return nil, ErrNotActivated
}

func (*identityServer) CreateOIDCClient(context.Context, *identitypb.CreateOIDCClientRequest) (*identitypb.CreateOIDCClientResponse, error) {
	return nil, ErrNotActivated
}

func (*identityServer) UpdateOIDCClient(context.Context, *identitypb.UpdateOIDCClientRequest) (*identitypb.UpdateOIDCClientResponse, error) {
	return nil, ErrNotActivated
}

func (*identityServer) GetOIDCClient(context.Context, *identitypb.GetOIDCClientRequest) (*identitypb.GetOIDCClientResponse, error) {
	return nil, ErrNotActivated
}

func (*identityServer) ListOIDCClients(context.Context, *identitypb.ListOIDCClientsRequest) (*identitypb.ListOIDCClientsResponse, error) {
	return nil, ErrNotActivated
}

func (*identityServer) DeleteOIDCClient(context.Context, *identitypb.DeleteOIDCClientRequest) (*identitypb.DeleteOIDCClientResponse, error) {
	return nil, ErrNotActivated
}

func (*identityServer) DeleteAll(context.Context, *identitypb.DeleteAllRequest) (*identitypb.DeleteAllResponse, error) {
	return nil, ErrNotActivated
}
