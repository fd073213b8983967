package auth

import (
	"context"
	"crypto/rand"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	identitypb "github.com/minipachd/minipachd/proto/identity_v2"
	"github.com/minipachd/minipachd/store"
)

// Keys of this package in etcd, below the store's prefix.
const (
	identityPrefix = "auth/identity/"
	clientPrefix   = "auth/oidc-client/" // by id
	configKey      = "config"
	maxClientID    = 256
)

// identityServer is identity_v2.API. What `pachctl auth activate` sets up is kept
// and given back; there are no identity providers, and calls about them say so.
type identityServer struct {
	identitypb.UnimplementedAPIServer

	auth    *Service
	store   *store.Store
	config  store.Collection[*identitypb.IdentityServerConfig]
	clients store.Collection[*identitypb.OIDCClient]
}

func newIdentityServer(s *Service) *identityServer {
	return &identityServer{
		auth:    s,
		store:   s.store,
		config:  store.NewCollection[*identitypb.IdentityServerConfig](identityPrefix),
		clients: store.NewCollection[*identitypb.OIDCClient](clientPrefix),
	}
}

// SetIdentityServerConfig keeps a configuration in place of the one before.
func (s *identityServer) SetIdentityServerConfig(ctx context.Context, req *identitypb.SetIdentityServerConfigRequest) (*identitypb.SetIdentityServerConfigResponse, error) {
	if req.GetConfig() == nil {
		return nil, status.Error(codes.InvalidArgument, "validate request: a config must be given")
	}
	_, err := s.store.Update(ctx, func(tx *store.Txn) error { return s.config.Put(tx, configKey, req.GetConfig()) })
	if err != nil {
		return nil, fmt.Errorf("set identity server config: %w", err)
	}
	return &identitypb.SetIdentityServerConfigResponse{}, nil
}

// GetIdentityServerConfig gives the configuration that was set, an empty one if
// none was.
func (s *identityServer) GetIdentityServerConfig(ctx context.Context, _ *identitypb.GetIdentityServerConfigRequest) (*identitypb.GetIdentityServerConfigResponse, error) {
	res := &identitypb.GetIdentityServerConfigResponse{}
	err := s.store.View(ctx, func(tx *store.Txn) error {
		config, ok, err := s.config.Get(tx, configKey)
		if !ok {
			config = &identitypb.IdentityServerConfig{}
		}
		res.Config = config
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("get identity server config: %w", err)
	}
	return res, nil
}

// ListIDPConnectors gives none: there are no identity providers.
func (*identityServer) ListIDPConnectors(context.Context, *identitypb.ListIDPConnectorsRequest) (*identitypb.ListIDPConnectorsResponse, error) {
	return &identitypb.ListIDPConnectorsResponse{}, nil
}

// CreateOIDCClient keeps a client and gives it back, with a random secret if it
// came without one.
func (s *identityServer) CreateOIDCClient(ctx context.Context, req *identitypb.CreateOIDCClientRequest) (*identitypb.CreateOIDCClientResponse, error) {
	switch id := req.GetClient().GetId(); {
	case req.GetClient() == nil:
		return nil, status.Error(codes.InvalidArgument, "validate request: a client must be given")
	case id == "":
		return nil, status.Error(codes.InvalidArgument, "validate request: the client must have an id")
	case len(id) > maxClientID:
		return nil, status.Errorf(codes.InvalidArgument, "validate request: the client's id has %d bytes, more than %d", len(id), maxClientID)
	}
	client := proto.CloneOf(req.GetClient())
	if client.GetSecret() == "" {
		client.Secret = rand.Text()
	}
	kept := proto.CloneOf(client)
	if s.auth.sealer != nil {
		kept.Secret = s.auth.sealer.SealText(secretOf(client.GetId()), client.GetSecret())
	}
	_, err := s.store.Update(ctx, func(tx *store.Txn) error {
		_, exists, err := s.clients.Get(tx, client.GetId())
		if err != nil {
			return err
		}
		if exists {
			return status.Errorf(codes.AlreadyExists, "OIDC client %q already exists", client.GetId())
		}
		return s.clients.Put(tx, client.GetId(), kept)
	})
	if err != nil {
		return nil, err
	}
	return &identitypb.CreateOIDCClientResponse{Client: client}, nil
}

// secretOf is what a client's secret is sealed for.
func secretOf(id string) string { return "OIDC client " + id }

// sealClients encrypts the secrets of clients that an earlier daemon kept as they
// were.
func (s *Service) sealClients(tx *store.Txn) error {
	if s.sealer == nil {
		return nil
	}
	clients := store.NewCollection[*identitypb.OIDCClient](clientPrefix)
	for item, err := range clients.Scan(tx, "", store.ScanOptions{}) {
		if err != nil {
			return err
		}
		name := secretOf(item.Key)
		if _, sealed, _ := s.sealer.OpenText(name, item.Value.GetSecret()); sealed {
			continue
		}
		kept := proto.CloneOf(item.Value)
		kept.Secret = s.sealer.SealText(name, kept.GetSecret())
		if err := clients.Put(tx, item.Key, kept); err != nil {
			return err
		}
	}
	return nil
}

// DeleteAll forgets the configuration and all clients.
func (s *identityServer) DeleteAll(ctx context.Context, _ *identitypb.DeleteAllRequest) (*identitypb.DeleteAllResponse, error) {
	_, err := s.store.Update(ctx, func(tx *store.Txn) error {
		s.config.DeletePrefix(tx, "")
		s.clients.DeletePrefix(tx, "")
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("delete identities: %w", err)
	}
	return &identitypb.DeleteAllResponse{}, nil
}

// notServed answers calls about what there is none of.
func (s *identityServer) notServed() error {
	if !s.auth.Active() {
		return ErrNotActivated
	}
	return status.Error(codes.Unimplemented, "identity providers and their clients are not managed by this server: it keeps what CreateOIDCClient and SetIdentityServerConfig are given")
}

func (s *identityServer) CreateIDPConnector(context.Context, *identitypb.CreateIDPConnectorRequest) (*identitypb.CreateIDPConnectorResponse, error) {
	return nil, s.notServed()
}

func (s *identityServer) UpdateIDPConnector(context.Context, *identitypb.UpdateIDPConnectorRequest) (*identitypb.UpdateIDPConnectorResponse, error) {
	return nil, s.notServed()
}

func (s *identityServer) GetIDPConnector(context.Context, *identitypb.GetIDPConnectorRequest) (*identitypb.GetIDPConnectorResponse, error) {
	return nil, s.notServed()
}

func (s *identityServer) DeleteIDPConnector(context.Context, *identitypb.DeleteIDPConnectorRequest) (*identitypb.DeleteIDPConnectorResponse, error) {
	return nil, s.notServed()
}

func (s *identityServer) UpdateOIDCClient(context.Context, *identitypb.UpdateOIDCClientRequest) (*identitypb.UpdateOIDCClientResponse, error) {
	return nil, s.notServed()
}

func (s *identityServer) GetOIDCClient(context.Context, *identitypb.GetOIDCClientRequest) (*identitypb.GetOIDCClientResponse, error) {
	return nil, s.notServed()
}

func (s *identityServer) ListOIDCClients(context.Context, *identitypb.ListOIDCClientsRequest) (*identitypb.ListOIDCClientsResponse, error) {
	return nil, s.notServed()
}

func (s *identityServer) DeleteOIDCClient(context.Context, *identitypb.DeleteOIDCClientRequest) (*identitypb.DeleteOIDCClientResponse, error) {
	return nil, s.notServed()
}
