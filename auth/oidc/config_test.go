package oidc

import (
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/minipachd/minipachd/auth/oidc/oidctest"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	"github.com/minipachd/minipachd/store"
)

func TestSetConfiguration(t *testing.T) {
	e := newEnv(t)
	i := e.newIssuer()
	for range 2 {
		_, _, err := e.Begin(t.Context())
		refused(t, err, codes.FailedPrecondition, "no authentication providers are configured")
		_, err = e.Verify(t.Context(), i.Token(nil))
		refused(t, err, codes.FailedPrecondition, "no authentication providers are configured")

		want := e.configFor(i)
		if err := e.SetConfiguration(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		got, err := e.stored(t.Context())
		if err != nil || !cmp.Equal(got, want, protocmp.Transform()) {
			t.Errorf("kept %v, %v", got, err)
		}
		_, state := e.begin()
		// An empty one removes it, and ends what has begun.
		if err := e.SetConfiguration(t.Context(), &authpb.OIDCConfig{}); err != nil {
			t.Fatal(err)
		}
		if got, err := e.stored(t.Context()); err != nil || !cmp.Equal(got, &authpb.OIDCConfig{}, protocmp.Transform()) {
			t.Errorf("after removal: %v, %v", got, err)
		}
		refused(t, e.redeem(t.Context(), state).err, codes.Unauthenticated, "the login is not known")
	}
}

func TestSetConfiguration_Refused(t *testing.T) {
	e, i := configured(t)
	before := e.configFor(i)
	gone := e.newIssuer()
	gone.Server().Close()
	other := e.newIssuer()
	other.Override("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"issuer":"` + i.URL + `","authorization_endpoint":"` + i.URL + `/authorize","token_endpoint":"` + i.URL + `/token","jwks_uri":"` + i.URL + `/keys"}`))
	})
	half := e.newIssuer()
	half.Override("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"issuer":"` + half.URL + `"}`))
	})
	for _, tc := range []struct {
		change func(*authpb.OIDCConfig)
		code   codes.Code
		text   string
	}{
		{func(c *authpb.OIDCConfig) { c.Issuer = "" }, codes.InvalidArgument, "issuer must be given"},
		{func(c *authpb.OIDCConfig) { c.Issuer = "accounts.example.com" }, codes.InvalidArgument, "must be an absolute URL"},
		{func(c *authpb.OIDCConfig) { c.Issuer = "file:///etc/passwd" }, codes.InvalidArgument, "must be an absolute URL"},
		{func(c *authpb.OIDCConfig) { c.Issuer = "http://accounts.example.com" }, codes.InvalidArgument, "must begin with https://"},
		{func(c *authpb.OIDCConfig) { c.Issuer = "http://localhost.example.com" }, codes.InvalidArgument, "must begin with https://"},
		{func(c *authpb.OIDCConfig) { c.Issuer = "https://u:p@example.com" }, codes.InvalidArgument, "must not hold a user or password"},
		{func(c *authpb.OIDCConfig) { c.Issuer = "https://example.com/?a" }, codes.InvalidArgument, "must not have a query"},
		{func(c *authpb.OIDCConfig) { c.Issuer = "https://example.com/#" }, codes.InvalidArgument, "must not have a fragment"},
		{func(c *authpb.OIDCConfig) { c.ClientId = "" }, codes.InvalidArgument, "client_id must be given"},
		{func(c *authpb.OIDCConfig) { c.ClientId = "a\nb" }, codes.InvalidArgument, "client_id must be given"},
		{func(c *authpb.OIDCConfig) { c.RedirectUri = "" }, codes.InvalidArgument, "redirect_uri must be given"},
		{func(c *authpb.OIDCConfig) { c.RedirectUri = "javascript:alert(1)" }, codes.InvalidArgument, "must be an absolute URL"},
		{func(c *authpb.OIDCConfig) { c.RedirectUri = "https://pachd.example.com/" }, codes.InvalidArgument, "must end in /authorization-code/callback"},
		{func(c *authpb.OIDCConfig) { c.Scopes = []string{"email"} }, codes.InvalidArgument, `scopes must hold "openid"`},
		{func(c *authpb.OIDCConfig) { c.Scopes = []string{"openid", "a b"} }, codes.InvalidArgument, `scope "a b" must be`},
		{func(c *authpb.OIDCConfig) { c.UserAccessibleIssuerHost = "https://h/path" }, codes.InvalidArgument, "user_accessible_issuer_host"},
		{func(c *authpb.OIDCConfig) { c.UserAccessibleIssuerHost = "javascript://h" }, codes.InvalidArgument, "user_accessible_issuer_host"},
		{func(c *authpb.OIDCConfig) { c.ClientId = strings.Repeat("x", maxConfig) }, codes.InvalidArgument, "bytes, more than 16384"},
		{func(c *authpb.OIDCConfig) { c.Issuer = gone.URL }, codes.Unavailable, "nothing was changed: "},
		{func(c *authpb.OIDCConfig) { c.Issuer = i.URL + "/" }, codes.FailedPrecondition, "also in the slash at the end"},
		{func(c *authpb.OIDCConfig) { c.Issuer = other.URL }, codes.FailedPrecondition, "it calls itself"},
		{func(c *authpb.OIDCConfig) { c.Issuer = half.URL }, codes.FailedPrecondition, "must have a authorization_endpoint"},
		{func(c *authpb.OIDCConfig) { c.Issuer = e.front.URL }, codes.Unavailable, "it answered 400 Bad Request"},
	} {
		config := e.configFor(i)
		tc.change(config)
		err := e.SetConfiguration(t.Context(), config)
		refused(t, err, tc.code, tc.text)
		e.noSecrets(err.Error())
		if got, err := e.stored(t.Context()); err != nil || !cmp.Equal(got, before, protocmp.Transform()) {
			t.Fatalf("%s: kept %v, %v", tc.text, got, err)
		}
	}
}

// TestIssuer_TLS trusts an issuer by its certificate alone, and lets it name no
// address without TLS.
func TestIssuer_TLS(t *testing.T) {
	e := newEnv(t)
	i := oidctest.NewTLS(t)
	i.Server().Config.ErrorLog = nil
	config := e.configFor(i)
	refused(t, e.SetConfiguration(t.Context(), config), codes.Unavailable, "certificate signed by unknown authority")

	roots := x509.NewCertPool()
	roots.AddCert(i.Server().Certificate())
	trusting := &env{Logins: New(Config{Store: e.store, Clock: e.clock, RootCAs: roots})}
	if err := trusting.SetConfiguration(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if _, err := trusting.Verify(t.Context(), i.Token(map[string]any{"exp": e.clock.Now().Add(time.Hour).Unix()})); err != nil {
		t.Error(err)
	}

	plain := e.newIssuer()
	for _, field := range []string{"authorization_endpoint", "token_endpoint", "jwks_uri"} {
		i.Override("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
			doc := i.Discovery()
			doc[field] = plain.URL
			oidctest.Answer(w, http.StatusOK, doc)
		})
		refused(t, trusting.SetConfiguration(t.Context(), config), codes.FailedPrecondition, field+" that begins with https://")
	}
}

// TestIssuer_Localhost reaches an issuer on this machine whose name only others
// know, and sends users to where they reach it.
func TestIssuer_Localhost(t *testing.T) {
	e := newEnv(t)
	i := e.newIssuer()
	_, port, err := net.SplitHostPort(i.Server().Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	i.URL = "http://issuer.invalid:" + port
	config := e.configFor(i)
	refused(t, e.SetConfiguration(t.Context(), config), codes.InvalidArgument, "http:// is for an issuer on this machine, see localhost_issuer")
	config.LocalhostIssuer = true
	config.UserAccessibleIssuerHost = "127.0.0.1:" + port
	if err := e.SetConfiguration(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	loginURL, state := e.begin()
	if u, err := url.Parse(loginURL); err != nil || u.Host != config.UserAccessibleIssuerHost || u.Path != "/authorize" {
		t.Errorf("users log in at %s", loginURL)
	}
	browse(t, loginURL)
	if r := e.redeem(t.Context(), state); r.err != nil || r.user.Email != "ann@example.com" {
		t.Errorf("logged in: %v", r)
	}

	// One that is not there yet is no mistake.
	config.Issuer = "http://issuer.invalid:1"
	config.UserAccessibleIssuerHost = "https://login.example.com"
	if err := e.SetConfiguration(t.Context(), config); err != nil {
		t.Error(err)
	}
	_, _, err = e.Begin(t.Context())
	refused(t, err, codes.Unavailable, "the OIDC issuer http://issuer.invalid:1 cannot be reached: ")
}

// TestConfiguration_SecretIsSealed keeps no secret that others can read: what an
// earlier daemon kept as it was is sealed, and one with another key says so.
func TestConfiguration_SecretIsSealed(t *testing.T) {
	e, i := configured(t) // without a sealer
	with := func(key string) *env {
		d := newDaemon(t, e.store, func(c *Config) { c.Sealer, c.Clock = rotation(key), e.clock })
		d.clock = e.clock
		return d
	}
	sealing := with("one")
	e.front = sealing.front // of which the issuer is told
	if err := e.SetConfiguration(t.Context(), e.configFor(i)); err != nil {
		t.Fatal(err)
	}
	raw := func() string {
		t.Helper()
		var secret string
		err := e.store.View(t.Context(), func(tx *store.Txn) error {
			config, _, err := e.config.Get(tx, configKey)
			secret = config.GetClientSecret()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	readable := func(when string) {
		t.Helper()
		if secret := raw(); !strings.HasPrefix(secret, "sealed:") || strings.Contains(secret, oidctest.ClientSecret) {
			t.Errorf("%s, etcd has %q", when, secret)
		}
		got, err := sealing.stored(t.Context())
		if err != nil || !cmp.Equal(got, sealing.configFor(i), protocmp.Transform()) {
			t.Errorf("%s: %v, %v", when, got, err)
		}
	}
	if raw() != oidctest.ClientSecret {
		t.Fatalf("without a sealer it is %q", raw())
	}
	before := ""
	for range 2 { // the second time nothing is left to do
		if _, err := e.store.Update(t.Context(), sealing.SealConfiguration); err != nil {
			t.Fatal(err)
		}
		readable("after migration")
		if before != "" && raw() != before {
			t.Error("it was sealed twice")
		}
		before = raw()
	}
	if err := sealing.SetConfiguration(t.Context(), sealing.configFor(i)); err != nil {
		t.Fatal(err)
	}
	readable("after it was set")
	loginURL, state := sealing.begin()
	browse(t, loginURL)
	if r := sealing.redeem(t.Context(), state); r.err != nil || r.user.Email != "ann@example.com" {
		t.Errorf("logged in: %v", r)
	}

	other := with("two")
	if _, err := e.store.Update(t.Context(), other.SealConfiguration); err != nil {
		t.Error(err)
	}
	_, err := other.stored(t.Context())
	refused(t, err, codes.FailedPrecondition, "the client_secret of the OIDC configuration cannot be read: it is sealed with another key")
	if err := other.SetConfiguration(t.Context(), other.configFor(i)); err != nil {
		t.Errorf("setting it again: %v", err)
	}
	if got, err := other.stored(t.Context()); err != nil || got.GetClientSecret() != oidctest.ClientSecret {
		t.Errorf("after that: %v", err)
	}
}

// rotation is a Sealer with a key, that hides nothing from whoever looks closely.
type rotation string

func (k rotation) SealText(name, text string) string {
	return "sealed:" + string(k) + ":" + name + ":" + strings.Map(func(r rune) rune { return r ^ 1 }, text)
}

func (k rotation) OpenText(name, sealed string) (string, bool, error) {
	if !strings.HasPrefix(sealed, "sealed:") {
		return sealed, false, nil
	}
	text, ok := strings.CutPrefix(sealed, "sealed:"+string(k)+":"+name+":")
	if !ok {
		return "", true, errors.New("it is sealed with another key")
	}
	return strings.Map(func(r rune) rune { return r ^ 1 }, text), true, nil
}
