package auth

import (
	"context"
	"net/http"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minipachd/minipachd/auth/oidc"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	"github.com/minipachd/minipachd/store"
)

// maxLogin is the longest life of a token that a user gets by logging in, however
// long the issuer's word lasts.
const maxLogin = 30 * 24 * time.Hour

// LoginCallback takes browsers back from the issuer; it is served at
// oidc.CallbackPath.
func (s *Service) LoginCallback() http.Handler { return s.logins }

// GetConfiguration gives the configuration that was set, an empty one if none was.
// It holds the client's secret: who may read it may set it too.
func (s *authServer) GetConfiguration(ctx context.Context, _ *authpb.GetConfigurationRequest) (*authpb.GetConfigurationResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	var config *authpb.OIDCConfig
	err := s.view(ctx, Cluster(), authpb.Permission_CLUSTER_AUTH_GET_CONFIG, func(tx *store.Txn) (err error) {
		config, err = s.logins.Configuration(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &authpb.GetConfigurationResponse{Configuration: config}, nil
}

// SetConfiguration keeps a configuration in place of the one before, if its issuer
// answers; an empty one removes it.
func (s *authServer) SetConfiguration(ctx context.Context, req *authpb.SetConfigurationRequest) (*authpb.SetConfigurationResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	const perm = authpb.Permission_CLUSTER_AUTH_SET_CONFIG
	// Nobody else has this daemon ask an address of their choice.
	if err := s.view(ctx, Cluster(), perm, func(*store.Txn) error { return nil }); err != nil {
		return nil, err
	}
	if err := s.logins.CheckConfiguration(ctx, req.GetConfiguration()); err != nil {
		return nil, err
	}
	_, err := s.store.Update(ctx, func(tx *store.Txn) error {
		if err := s.require(ctx, tx, Cluster(), perm); err != nil {
			return err
		}
		return s.logins.PutConfiguration(tx, req.GetConfiguration())
	})
	if err != nil {
		return nil, err
	}
	s.log.Info("OIDC is configured", zap.String("issuer", req.GetConfiguration().GetIssuer()))
	return &authpb.SetConfigurationResponse{}, nil
}

// GetOIDCLogin begins a login: the user goes to the address, and Authenticate with
// the state waits until that is done.
func (s *authServer) GetOIDCLogin(ctx context.Context, _ *authpb.GetOIDCLoginRequest) (*authpb.GetOIDCLoginResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	loginURL, state, err := s.logins.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return &authpb.GetOIDCLoginResponse{LoginUrl: loginURL, State: state}, nil
}

// Authenticate gives a user a token: for the issuer's ID token at once, or for the
// state of a login when the user has logged in.
func (s *authServer) Authenticate(ctx context.Context, req *authpb.AuthenticateRequest) (*authpb.AuthenticateResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	token := newToken()
	var subject string
	grant := func(tx *store.Txn, u oidc.User) error {
		subject = userPrefix + u.Email
		return s.putLogin(tx, subject, u, token)
	}
	var rev int64
	var err error
	switch {
	case req.GetIdToken() != "" && req.GetOidcState() != "":
		return nil, invalid("of id_token and oidc_state only one can be given")
	case req.GetIdToken() != "":
		var u oidc.User
		if u, err = s.logins.Verify(ctx, req.GetIdToken()); err == nil {
			rev, err = s.store.Update(ctx, func(tx *store.Txn) error { return grant(tx, u) })
		}
	case req.GetOidcState() != "":
		rev, err = s.logins.Redeem(ctx, req.GetOidcState(), grant)
	default:
		return nil, invalid("an id_token must be given, or the oidc_state that GetOIDCLogin gave")
	}
	if err != nil {
		return nil, err
	}
	s.cache.await(ctx.Done(), rev)
	s.log.Info("logged in", zap.String("subject", subject))
	return &authpb.AuthenticateResponse{PachToken: token}, nil
}

// putLogin makes token that of a user who has logged in. The groups become those
// that the issuer told, if it told of any or of none.
func (s *Service) putLogin(tx *store.Txn, subject string, u oidc.User, token string) error {
	if err := s.records.on(tx); err != nil {
		return err
	}
	if err := checkSubject(subject); err != nil {
		return err
	}
	expires := s.clock.Now().Add(maxLogin)
	if u.Expires.Before(expires) {
		expires = u.Expires
	}
	if u.Groups != nil {
		g := &authpb.Groups{Groups: map[string]bool{}}
		for _, name := range u.Groups {
			g.Groups[groupPrefix+name] = true // may have colons, unlike those that we name
		}
		if err := s.records.putGroups(tx, subject, g); err != nil {
			return err
		}
	}
	return s.records.putToken(tx, &authpb.TokenInfo{
		Subject: subject, HashedToken: hashOf(token), Expiration: timestamppb.New(expires),
	})
}
