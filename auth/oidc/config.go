package oidc

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	"github.com/minipachd/minipachd/store"
)

// CallbackPath is where the daemon takes the browser back from the issuer.
const CallbackPath = "/authorization-code/callback"

// secretName is what the client's secret is sealed for.
const secretName = "OIDC client_secret"

// maxConfig bounds a configuration, in bytes.
const maxConfig = 16 << 10

// ErrNotConfigured answers logins while there is no issuer. Clients take the text to
// mean that they need a token instead.
var ErrNotConfigured = status.Error(codes.FailedPrecondition, "no authentication providers are configured")

// defaultScopes are asked for when the configuration names none. Groups are not
// among them: some issuers refuse a scope that they do not know.
var defaultScopes = []string{"openid", "email", "profile"}

// CheckConfiguration refuses a configuration that PutConfiguration must not be
// given: it is incomplete, or its issuer does not answer. It asks the issuer.
func (l *Logins) CheckConfiguration(ctx context.Context, config *authpb.OIDCConfig) error {
	if empty(config) {
		return nil
	}
	if err := validate(config); err != nil {
		return err
	}
	if config.GetLocalhostIssuer() {
		return nil // it may come up after this daemon
	}
	if _, err := l.discover(ctx, config); err != nil {
		return fmt.Errorf("set OIDC configuration: nothing was changed: %w", err)
	}
	return nil
}

// PutConfiguration keeps a configuration in place of the one before; nil or an empty
// one removes it. Logins that have begun end.
func (l *Logins) PutConfiguration(tx *store.Txn, config *authpb.OIDCConfig) error {
	l.Clear(tx)
	if empty(config) {
		return nil
	}
	return l.put(tx, config)
}

// put keeps a configuration with its secret encrypted.
func (l *Logins) put(tx *store.Txn, config *authpb.OIDCConfig) error {
	config = proto.CloneOf(config)
	if l.sealer != nil && config.GetClientSecret() != "" {
		config.ClientSecret = l.sealer.SealText(secretName, config.GetClientSecret())
	}
	return l.config.Put(tx, configKey, config)
}

// SealConfiguration encrypts the secret of a configuration that an earlier daemon kept
// as it was.
func (l *Logins) SealConfiguration(tx *store.Txn) error {
	config, ok, err := l.config.Get(tx, configKey)
	if err != nil || !ok || l.sealer == nil || config.GetClientSecret() == "" {
		return err
	}
	if _, sealed, _ := l.sealer.OpenText(secretName, config.GetClientSecret()); sealed {
		return nil // if it cannot be opened, whoever needs it is told
	}
	return l.put(tx, config)
}

func empty(config *authpb.OIDCConfig) bool {
	return config == nil || proto.Equal(config, &authpb.OIDCConfig{})
}

// Configuration gives the configuration with its secret, an empty one if there is
// none.
func (l *Logins) Configuration(tx *store.Txn) (*authpb.OIDCConfig, error) {
	config, ok, err := l.config.Get(tx, configKey)
	if err != nil || !ok {
		return &authpb.OIDCConfig{}, err
	}
	if l.sealer != nil && config.GetClientSecret() != "" {
		config = proto.CloneOf(config)
		if config.ClientSecret, _, err = l.sealer.OpenText(secretName, config.GetClientSecret()); err != nil {
			return nil, status.Errorf(codes.FailedPrecondition, "the client_secret of the OIDC configuration cannot be read: %v, or set the configuration again", err)
		}
	}
	return config, nil
}

// configured gives the configuration to logins, which need one.
func (l *Logins) configured(ctx context.Context) (config *authpb.OIDCConfig, err error) {
	err = l.store.View(ctx, func(tx *store.Txn) error {
		config, err = l.Configuration(tx)
		return err
	})
	if err == nil && empty(config) {
		err = ErrNotConfigured
	}
	return config, err
}

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, "validate OIDC configuration: "+format, args...)
}

// validate checks what can be checked without asking the issuer.
func validate(c *authpb.OIDCConfig) error {
	if size := proto.Size(c); size > maxConfig {
		return invalid("it has %d bytes, more than %d", size, maxConfig)
	}
	issuer, err := webURL("issuer", c.GetIssuer())
	if err != nil {
		return err
	}
	switch {
	case issuer.RawQuery != "" || issuer.ForceQuery:
		return invalid("issuer %q must not have a query", c.GetIssuer())
	case issuer.Scheme == "http" && !c.GetLocalhostIssuer() && !loopback(issuer.Hostname()):
		return invalid("issuer %q must begin with https://: over http anybody on the way could log in as anyone; http:// is for an issuer on this machine, see localhost_issuer", c.GetIssuer())
	}
	if !printable(c.GetClientId()) || c.GetClientId() == "" {
		return invalid("client_id must be given, of printable characters: it is what the issuer calls this server")
	}
	if !utf8.ValidString(c.GetClientSecret()) {
		return invalid("client_secret must be UTF-8")
	}
	redirect, err := webURL("redirect_uri", c.GetRedirectUri())
	if err != nil {
		return err
	}
	if !strings.HasSuffix(redirect.Path, CallbackPath) {
		return invalid("redirect_uri %q must end in %s, where this server takes the browser back", c.GetRedirectUri(), CallbackPath)
	}
	for _, s := range c.GetScopes() {
		if !isScope(s) {
			return invalid("scope %q must be of printable ASCII characters other than space, quote and backslash", s)
		}
	}
	if len(c.GetScopes()) > 0 && !slices.Contains(c.GetScopes(), "openid") {
		return invalid(`scopes must hold "openid", without which there is no ID token`)
	}
	if h := c.GetUserAccessibleIssuerHost(); h != "" {
		if _, err := accessibleHost(h); err != nil {
			return err
		}
	}
	return nil
}

// webURL reads an absolute URL of http or https.
func webURL(field, s string) (*url.URL, error) {
	if s == "" {
		return nil, invalid("%s must be given", field)
	}
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "" {
		return nil, invalid("%s %q must be an absolute URL that begins with https:// or http://", field, s)
	}
	if u.User != nil {
		return nil, invalid("%s must not hold a user or password", field)
	}
	if u.Fragment != "" || strings.Contains(s, "#") {
		return nil, invalid("%s %q must not have a fragment", field, s)
	}
	return u, nil
}

// accessibleHost reads where users reach the issuer: <host>, <host>:<port>, or
// either with a scheme before it.
func accessibleHost(s string) (*url.URL, error) {
	text := s
	if !strings.Contains(s, "://") {
		text = "//" + s
	}
	u, err := url.Parse(text)
	switch {
	case err != nil, u.Hostname() == "", u.User != nil, strings.Trim(u.Path, "/") != "", u.RawQuery != "", u.Fragment != "",
		u.Scheme != "" && u.Scheme != "https" && u.Scheme != "http":
		return nil, invalid("user_accessible_issuer_host %q must be <host>, <host>:<port>, or one of them after https:// or http://", s)
	}
	return u, nil
}

// loopback tells a name of this machine that nobody else can answer for.
func loopback(host string) bool {
	if ip := net.ParseIP(host); ip != nil {
		return ip.IsLoopback()
	}
	return host == "localhost"
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// isScope is a scope-token of RFC 6749, section 3.3.
func isScope(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || r == '"' || r == '\\'
	})
}
