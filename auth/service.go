package auth

import (
	"context"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	enterprisepb "github.com/minipachd/minipachd/proto/enterprise_v2"
	identitypb "github.com/minipachd/minipachd/proto/identity_v2"
	licensepb "github.com/minipachd/minipachd/proto/license_v2"
	"github.com/minipachd/minipachd/store"
)

// Config is what a Service works with.
type Config struct {
	Store *store.Store
	// Logger gets what background work has to say; nil discards it.
	Logger *zap.Logger
}

// Identity is what a token says of whoever sends it.
type Identity struct {
	Subject    string
	Expiration time.Time // zero if the token does not expire
}

// Service is the auth domain. A nil *Service is one with auth off. Its methods may
// be called concurrently.
type Service struct {
	store *store.Store
	log   *zap.Logger
}

// New returns the service. It starts nothing.
func New(cfg Config) *Service {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	return &Service{store: cfg.Store, log: cfg.Logger}
}

// Register adds the auth, identity, enterprise and license services to r.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	authpb.RegisterAPIServer(r, &authServer{})
	identitypb.RegisterAPIServer(r, newIdentityServer(s.store))
	enterprisepb.RegisterAPIServer(r, &enterpriseServer{})
	licensepb.RegisterAPIServer(r, &licenseServer{})
}

// Active tells whether auth is on.
func (s *Service) Active() bool { return false }

// Check answers nil when auth is off, or when the caller of ctx has all of perms on
// res; otherwise with the error that its client is to see. What the daemon
// remembers may be a moment old, so a denial is only given after the state in
// etcd, as tx sees it, has said the same; tx may be nil.
func (s *Service) Check(ctx context.Context, tx *store.Txn, res Resource, perms ...authpb.Permission) error {
	return nil
}

// Allows is Check for listings: it answers false instead of a denial, from memory
// alone.
func (s *Service) Allows(ctx context.Context, res Resource, perms ...authpb.Permission) (bool, error) {
	return true, nil
}

// Bind gives a principal roles on res in addition to those that it has, and makes
// the record of res if there is none. Without a principal it only does the latter.
// While auth is off it does nothing.
func (s *Service) Bind(ctx context.Context, tx *store.Txn, res Resource, principal string, roles ...string) error {
	return nil
}

// Unbind removes the record of res.
func (s *Service) Unbind(tx *store.Txn, res Resource) error { return nil }

// UnbindPrincipal takes all its roles on res from a principal.
func (s *Service) UnbindPrincipal(tx *store.Txn, res Resource, principal string) error { return nil }
