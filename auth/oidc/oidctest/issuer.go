// Package oidctest is an OpenID Connect issuer for tests: a real one, over HTTP,
// that logs everybody in without asking, and can be made to misbehave.
package oidctest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
)

// What clients are registered with.
const (
	ClientID     = "pachd"
	ClientSecret = "the client's secret: never shown"
)

// Issuer is an issuer. Its fields may be set before it is asked, the methods called
// at any time.
type Issuer struct {
	// URL is what it calls itself.
	URL string
	// Claims are those of its ID tokens in addition to the required ones, which they
	// may override.
	Claims map[string]any
	// Now is its clock.
	Now func() time.Time

	t      testing.TB
	server *httptest.Server

	mu       sync.Mutex
	key      jose.JSONWebKey
	codes    map[string]url.Values // what the login asked for, by the code given for it
	override map[string]http.HandlerFunc
	asked    map[string]int
	keys     int
}

// New starts an issuer that lasts as long as the test.
func New(t testing.TB) *Issuer { return start(t, httptest.NewServer) }

// NewTLS starts one that speaks https, with a certificate that Server().Client()
// trusts.
func NewTLS(t testing.TB) *Issuer { return start(t, httptest.NewTLSServer) }

func start(t testing.TB, serve func(http.Handler) *httptest.Server) *Issuer {
	i := &Issuer{
		Claims: map[string]any{"email": "ann@example.com", "email_verified": true},
		Now:    time.Now, t: t,
		codes: map[string]url.Values{}, override: map[string]http.HandlerFunc{}, asked: map[string]int{},
	}
	i.Rotate()
	i.server = serve(i)
	i.URL = i.server.URL
	t.Cleanup(i.server.Close)
	return i
}

// Server is where it listens.
func (i *Issuer) Server() *httptest.Server { return i.server }

// Rotate signs with a new key from now on, and publishes no other.
func (i *Issuer) Rotate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys++
	i.key = jose.JSONWebKey{Key: key, KeyID: fmt.Sprint("key-", i.keys), Algorithm: string(jose.ES256), Use: "sig"}
}

// Key is the one that it signs with.
func (i *Issuer) Key() jose.JSONWebKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.key
}

// Override answers a path in the issuer's place; nil ends that.
func (i *Issuer) Override(path string, h http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.override[path] = h
}

// Asked tells how often a path was asked for.
func (i *Issuer) Asked(path string) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked[path]
}

// Token gives an ID token with these claims over the usual ones.
func (i *Issuer) Token(claims map[string]any) string {
	return Sign(i.t, jose.ES256, i.Key(), i.All(claims))
}

// Sign makes a token of any claims.
func Sign(t testing.TB, alg jose.SignatureAlgorithm, key any, claims map[string]any) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// All gives the claims of a token that has these over the usual ones; those that
// are nil are left out.
func (i *Issuer) All(over map[string]any) map[string]any {
	now := i.Now()
	all := map[string]any{
		"iss": i.URL, "sub": "1", "aud": ClientID,
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	maps.Copy(all, i.Claims)
	maps.Copy(all, over)
	for name, value := range all {
		if value == nil {
			delete(all, name)
		}
	}
	return all
}

// ServeHTTP implements http.Handler.
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.asked[r.URL.Path]++
	override := i.override[r.URL.Path]
	i.mu.Unlock()
	if override != nil {
		override(w, r)
		return
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		Answer(w, http.StatusOK, i.Discovery())
	case "/keys":
		key := i.Key()
		Answer(w, http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{key.Public()}})
	case "/authorize":
		i.authorize(w, r)
	case "/token":
		i.token(w, r)
	default:
		http.NotFound(w, r)
	}
}

// Discovery is the discovery document.
func (i *Issuer) Discovery() map[string]any {
	return map[string]any{
		"issuer":                                i.URL,
		"authorization_endpoint":                i.URL + "/authorize",
		"token_endpoint":                        i.URL + "/token",
		"jwks_uri":                              i.URL + "/keys",
		"id_token_signing_alg_values_supported": []string{"ES256", "HS256", "none"},
	}
}

// authorize sends the browser back with a code at once.
func (i *Issuer) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	back, err := url.Parse(q.Get("redirect_uri"))
	if err != nil || q.Get("client_id") != ClientID || q.Get("response_type") != "code" ||
		q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == "" || q.Get("nonce") == "" {
		http.Error(w, "this is no request for a code with PKCE", http.StatusBadRequest)
		return
	}
	code := rand.Text()
	i.mu.Lock()
	i.codes[code] = q
	i.mu.Unlock()
	back.RawQuery = url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {i.URL}}.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

// token exchanges a code, once.
func (i *Issuer) token(w http.ResponseWriter, r *http.Request) {
	id, secret, _ := r.BasicAuth()
	if secret, err := url.QueryUnescape(secret); err != nil || id != ClientID || secret != ClientSecret {
		Answer(w, http.StatusUnauthorized, map[string]any{"error": "invalid_client"})
		return
	}
	i.mu.Lock()
	asked, ok := i.codes[r.PostFormValue("code")]
	delete(i.codes, r.PostFormValue("code"))
	i.mu.Unlock()
	challenge := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	if !ok || r.PostFormValue("redirect_uri") != asked.Get("redirect_uri") ||
		asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(challenge[:]) {
		Answer(w, http.StatusBadRequest, map[string]any{"error": "invalid_grant"})
		return
	}
	nonce, ok := i.Claims["nonce"] // nil leaves it out
	if !ok {
		nonce = asked.Get("nonce")
	}
	Answer(w, http.StatusOK, map[string]any{
		"access_token": rand.Text(), "token_type": "Bearer",
		"id_token": i.Token(map[string]any{"nonce": nonce}),
	})
}

// Answer answers with JSON.
func Answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}
