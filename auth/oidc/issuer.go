package oidc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"go.uber.org/zap"
	"golang.org/x/oauth2"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/minipachd/minipachd/clock"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
)

// rediscover is after how long the issuer is asked again where its addresses are.
const rediscover = time.Hour

// issuer is what its discovery document says, for one configuration.
type issuer struct {
	config   *authpb.OIDCConfig
	client   *http.Client
	oauth    oauth2.Config
	verifier *gooidc.IDTokenVerifier
	read     time.Time
}

// issuer gives the issuer of config, from memory if it was asked not long ago.
func (l *Logins) issuer(ctx context.Context, config *authpb.OIDCConfig) (*issuer, error) {
	l.mu.Lock()
	known := l.current
	l.mu.Unlock()
	if known != nil && !proto.Equal(known.config, config) {
		known = nil
	}
	if known != nil && l.clock.Now().Sub(known.read) < rediscover {
		return known, nil
	}
	fresh, err := l.discover(ctx, config)
	if err != nil && known != nil && status.Code(err) == codes.Unavailable {
		l.log.Warn("the OIDC issuer is not there, going on with what it said before", zap.Error(err))
		return known, nil
	}
	return fresh, err
}

// discover asks the issuer where its addresses are. Callers who ask at the same
// time share one request.
func (l *Logins) discover(ctx context.Context, config *authpb.OIDCConfig) (*issuer, error) {
	key, err := proto.MarshalOptions{Deterministic: true}.Marshal(config)
	if err != nil {
		return nil, err
	}
	config = proto.CloneOf(config)
	shared := context.WithoutCancel(ctx) // whoever asked first may leave first
	ch := l.discovering.DoChan(string(key), func() (any, error) {
		i, err := newIssuer(shared, config, newTransport(config, l.roots, l.timeout), l.clock)
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		l.current = i
		l.mu.Unlock()
		return i, nil
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-ch:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*issuer), nil
	}
}

// newIssuer reads the discovery document.
func newIssuer(ctx context.Context, config *authpb.OIDCConfig, t *transport, clk clock.Clock) (*issuer, error) {
	i := &issuer{config: config, client: t.client(), read: clk.Now()}
	ctx = gooidc.ClientContext(ctx, i.client)
	provider, err := gooidc.NewProvider(ctx, config.GetIssuer())
	if err != nil {
		return nil, i.discoveryError(err)
	}
	var doc struct {
		JWKS        string   `json:"jwks_uri"`
		Algorithms  []string `json:"id_token_signing_alg_values_supported"`
		AuthMethods []string `json:"token_endpoint_auth_methods_supported"`
	}
	if err := provider.Claims(&doc); err != nil {
		return nil, i.refuse("its discovery document is malformed")
	}
	endpoint := provider.Endpoint()
	for _, field := range []struct{ name, value string }{
		{"authorization_endpoint", endpoint.AuthURL}, {"token_endpoint", endpoint.TokenURL}, {"jwks_uri", doc.JWKS},
	} {
		u, err := url.Parse(field.value)
		if err != nil || u.Hostname() == "" || (u.Scheme != "https" && (t.secure || u.Scheme != "http")) {
			return nil, i.refuse(fmt.Sprintf("its discovery document must have a %s that begins with https://", field.name))
		}
		if field.name == "authorization_endpoint" {
			if endpoint.AuthURL, err = accessible(u, config); err != nil {
				return nil, err
			}
		}
	}
	endpoint.AuthStyle = authStyle(config, doc.AuthMethods)
	scopes := config.GetScopes()
	if len(scopes) == 0 {
		scopes = defaultScopes
	}
	i.oauth = oauth2.Config{
		ClientID:     config.GetClientId(),
		ClientSecret: config.GetClientSecret(),
		Endpoint:     endpoint,
		RedirectURL:  config.GetRedirectUri(),
		Scopes:       scopes,
	}
	keys := gooidc.ClientContext(ctx, t.limited(rate.NewLimiter(1, 10)).client())
	i.verifier = gooidc.NewVerifier(config.GetIssuer(), keySet{gooidc.NewRemoteKeySet(keys, doc.JWKS)}, &gooidc.Config{
		ClientID:             config.GetClientId(),
		SupportedSigningAlgs: signatures(doc.Algorithms),
		Now:                  clk.Now,
	})
	return i, nil
}

// signatures gives those of the issuer's signature algorithms that prove that the
// issuer signed: with a key of its own, not with the client's secret, nor none.
func signatures(algs []string) []string {
	public := []string{
		gooidc.RS256, gooidc.RS384, gooidc.RS512, gooidc.ES256, gooidc.ES384, gooidc.ES512,
		gooidc.PS256, gooidc.PS384, gooidc.PS512, gooidc.EdDSA,
	}
	return slices.DeleteFunc(slices.Clone(algs), func(a string) bool { return !slices.Contains(public, a) })
}

// authStyle is how the client proves itself at the token endpoint. It is not found
// out by trying: a code may be used once.
func authStyle(config *authpb.OIDCConfig, methods []string) oauth2.AuthStyle {
	switch {
	case config.GetClientSecret() == "":
		return oauth2.AuthStyleInParams
	case len(methods) > 0 && !slices.Contains(methods, "client_secret_basic"):
		return oauth2.AuthStyleInParams
	}
	return oauth2.AuthStyleInHeader // the default of OIDC Discovery, section 3
}

// accessible gives the address at which browsers reach the authorization endpoint.
func accessible(u *url.URL, config *authpb.OIDCConfig) (string, error) {
	if h := config.GetUserAccessibleIssuerHost(); h != "" {
		host, err := accessibleHost(h)
		if err != nil {
			return "", err
		}
		u.Host = host.Host
		if host.Scheme != "" {
			u.Scheme = host.Scheme
		}
	}
	return u.String(), nil
}

// discoveryError says what is wrong with the issuer, without what it answered.
func (i *issuer) discoveryError(err error) error {
	var mismatch *gooidc.IssuerMismatchError
	switch {
	case errors.As(err, &mismatch):
		return i.refuse(fmt.Sprintf("it calls itself %.200q, and the two must be the same, also in the slash at the end", mismatch.Discovered))
	case unreachable(err) != nil:
		return i.unavailable(err)
	}
	return i.refuse("it has no discovery document that can be read at .well-known/openid-configuration")
}

func (i *issuer) refuse(why string) error {
	return status.Errorf(codes.FailedPrecondition, "the OIDC issuer %s cannot be used: %s", i.config.GetIssuer(), why)
}

func (i *issuer) unavailable(err error) error {
	return status.Errorf(codes.Unavailable, "the OIDC issuer %s cannot be reached: %.300v", i.config.GetIssuer(), unreachable(err))
}

// unreachable gives why a request has not come to an answer, nil if it has.
func unreachable(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return nil
}

// keySet keeps apart why a signature is not verified: go-oidc's verifier gives the
// text alone.
type keySet struct{ *gooidc.RemoteKeySet }

type keyFailure struct{}

// VerifySignature implements gooidc.KeySet.
func (k keySet) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	payload, err := k.RemoteKeySet.VerifySignature(ctx, jwt)
	if failed, ok := ctx.Value(keyFailure{}).(*error); ok && err != nil && strings.HasPrefix(err.Error(), "fetching keys") {
		*failed = err
	}
	return payload, err
}
