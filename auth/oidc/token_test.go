package oidc

import (
	"context"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/auth/oidc/oidctest"
)

// unsigned makes a token of algorithm none.
func unsigned(t testing.TB, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"none"}`)) + "." + part(payload) + "."
}

func TestVerify(t *testing.T) {
	e, i := configured(t)
	other := e.newIssuer()
	now := e.clock.Now()
	unix := func(d time.Duration) int64 { return now.Add(d).Unix() }
	type claims = map[string]any
	ann := func(groups ...string) User {
		return User{Email: "ann@example.com", Groups: groups, Expires: now.Add(time.Hour)}
	}
	some := i.Token(nil)
	parts := strings.Split(some, ".")
	public, err := i.Key().Key.(*ecdsa.PrivateKey).PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, token string
		want        User
		refused     string // empty: want
	}{
		{"good", some, ann(), ""},
		{"of several audiences", i.Token(claims{"aud": []string{"console", "pachd"}, "azp": "console"}), ann(), ""},
		{"asked for by us", i.Token(claims{"azp": "pachd"}), ann(), ""},
		{"email verified as a string", i.Token(claims{"email_verified": "true"}), ann(), ""},
		{"one group", i.Token(claims{"groups": "ops"}), ann("ops"), ""},
		{"no groups", i.Token(claims{"groups": []string{}}), ann([]string{}...), ""},
		{"groups left out", i.Token(claims{"groups": []string{"b", "", "a", "x\ny", strings.Repeat("g", 257), "a"}}), ann("a", "b"), ""},
		{"nonce of a login elsewhere", i.Token(claims{"nonce": "n"}), ann(), ""},
		{"issuer's clock ahead", i.Token(claims{"iat": unix(4 * time.Minute), "nbf": unix(4 * time.Minute)}), ann(), ""},
		{"expires now", i.Token(claims{"exp": unix(0)}), User{Email: "ann@example.com", Expires: now}, ""},

		{"empty", "", User{}, "not a signed token of three parts"},
		{"no token", "a.b.c", User{}, "malformed jwt"},
		{"JSON serialization", `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, User{}, "not a signed token of three parts"},
		{"of another issuer", other.Token(nil), User{}, "failed to verify signature"},
		{"of another issuer with our name", other.Token(claims{"iss": i.URL}), User{}, "failed to verify signature"},
		{"for another issuer", i.Token(claims{"iss": other.URL}), User{}, "issued by a different provider"},
		{"no issuer", i.Token(claims{"iss": nil}), User{}, "issued by a different provider"},
		{"for another audience", i.Token(claims{"aud": "console"}), User{}, "expected audience"},
		{"of several audiences that nobody asked for", i.Token(claims{"aud": []string{"console", "pachd"}}), User{}, "azp does not say which one"},
		{"azp of another type", i.Token(claims{"azp": 7}), User{}, "of the wrong type"},
		{"no audience", i.Token(claims{"aud": nil}), User{}, "expected audience"},
		{"expired", i.Token(claims{"exp": unix(-time.Second)}), User{}, "it expired at " + now.Add(-time.Second).UTC().Format(time.RFC3339)},
		{"no expiry", i.Token(claims{"exp": nil}), User{}, "it expired at "},
		{"not yet valid", i.Token(claims{"nbf": unix(6 * time.Minute)}), User{}, "not before"},
		{"issued in the future", i.Token(claims{"iat": unix(6 * time.Minute)}), User{}, "issued in the future: compare the clocks"},
		{"unsigned", unsigned(t, i.All(nil)), User{}, "malformed jwt"},
		{"signature taken off", parts[0] + "." + parts[1] + ".", User{}, "failed to verify signature"},
		{"signed with the client's secret", oidctest.Sign(t, jose.HS256, []byte(oidctest.ClientSecret+"32 bytes and more"), i.All(nil)), User{}, "unexpected signature algorithm"},
		{"signed with the public key", oidctest.Sign(t, jose.HS256, public, i.All(nil)), User{}, "unexpected signature algorithm"},
		{"payload exchanged", parts[0] + "." + strings.Split(i.Token(claims{"email": "bob@example.com"}), ".")[1] + "." + parts[2], User{}, "failed to verify signature"},
		{"no email", i.Token(claims{"email": nil}), User{}, `it has no email: ask for the scope "email"`},
		{"no address", i.Token(claims{"email": "root"}), User{}, "its email is not an address"},
		{"line break in the email", i.Token(claims{"email": "a\n@b"}), User{}, "its email is not an address"},
		{"email of another type", i.Token(claims{"email": 7}), User{}, "of the wrong type"},
		{"email not verified", i.Token(claims{"email_verified": false}), User{}, "the issuer has not verified the email"},
		{"nothing said of it", i.Token(claims{"email_verified": nil}), User{}, "the issuer has not verified the email"},
		{"groups of another type", i.Token(claims{"groups": claims{"a": 1}}), User{}, "of the wrong type"},
	} {
		got, err := e.Verify(t.Context(), tc.token)
		if tc.refused != "" {
			if status.Code(err) != codes.Unauthenticated || !strings.HasPrefix(status.Convert(err).Message(), "the ID token is not accepted: ") || !strings.Contains(err.Error(), tc.refused) {
				t.Errorf("%s: got %v, %v, want %s", tc.name, got, err, tc.refused)
			}
			continue
		}
		got.Expires = got.Expires.UTC()
		tc.want.Expires = tc.want.Expires.UTC()
		if err != nil || !cmp.Equal(got, tc.want) {
			t.Errorf("%s: %v, %s", tc.name, err, cmp.Diff(tc.want, got))
		}
	}
	_, err = e.Verify(t.Context(), strings.Repeat("x", maxToken+1))
	refused(t, err, codes.InvalidArgument, "the ID token has 65537 bytes, more than 65536")

	config := e.configFor(i)
	config.RequireEmailVerified = false
	if err := e.SetConfiguration(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Verify(t.Context(), i.Token(claims{"email_verified": false})); err != nil {
		t.Errorf("an email that need not be verified: %v", err)
	}
}

// TestVerify_KeyRotation goes on with a new key, and asks for keys a bounded number
// of times, whatever is sent.
func TestVerify_KeyRotation(t *testing.T) {
	e, i := configured(t)
	old := i.Token(nil)
	for range 3 {
		if _, err := e.Verify(t.Context(), old); err != nil {
			t.Fatal(err)
		}
	}
	if n := i.Asked("/keys"); n != 1 {
		t.Errorf("the keys were asked for %d times", n)
	}
	i.Rotate()
	// The key set answers just before it remembers: who comes in that moment is told
	// by the keys of before.
	verified := func(token string, want bool) (err error) {
		for end := time.Now().Add(time.Minute); time.Now().Before(end); {
			if _, err = e.Verify(t.Context(), token); (err == nil) == want {
				break
			}
		}
		return err
	}
	if err := verified(i.Token(nil), true); err != nil {
		t.Errorf("a token of the new key: %v", err)
	}
	err := verified(old, false)
	refused(t, err, codes.Unauthenticated, "failed to verify signature")

	start := time.Now()
	forged := e.newIssuer().Token(map[string]any{"iss": i.URL})
	for range 50 {
		_, err := e.Verify(t.Context(), forged)
		if status.Code(err) == codes.Unavailable {
			refused(t, err, codes.Unavailable, "it has been asked too often")
			continue
		}
		refused(t, err, codes.Unauthenticated, "failed to verify signature")
	}
	if n, most := i.Asked("/keys"), 11+int(time.Since(start)/time.Second); n > most {
		t.Errorf("the keys were asked for %d times, more than %d", n, most)
	}
	if _, err := e.Verify(t.Context(), i.Token(nil)); err != nil {
		t.Errorf("meanwhile a token of the known key: %v", err)
	}
}

// TestVerify_IssuerInTrouble tells the trouble from a bad token, and does not wait
// for it long.
func TestVerify_IssuerInTrouble(t *testing.T) {
	e, i := configured(t)
	token := i.Token(nil)
	fresh := func() *Logins { // one that knows nothing of the issuer yet
		return New(Config{Store: e.store, Clock: e.clock, Timeout: 100 * time.Millisecond})
	}
	for _, path := range []string{"/.well-known/openid-configuration", "/keys"} {
		release := make(chan struct{})
		hang := func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		i.Override(path, hang)
		_, err := fresh().Verify(t.Context(), token)
		refused(t, err, codes.Unavailable, "the OIDC issuer "+i.URL+" cannot be reached: ")

		ctx, cancel := context.WithCancel(t.Context())
		asked := i.Asked(path)
		i.Override(path, func(w http.ResponseWriter, r *http.Request) {
			cancel()
			hang(w, r)
		})
		_, err = New(Config{Store: e.store, Clock: e.clock}).Verify(ctx, token)
		if !errors.Is(err, context.Canceled) || i.Asked(path) != asked+1 {
			t.Errorf("%s: a caller that leaves got %v", path, err)
		}
		close(release)

		for code, want := range map[int]codes.Code{500: codes.Unavailable, 404: codes.Unavailable, 302: codes.Unavailable, 200: codes.FailedPrecondition} {
			i.Override(path, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", e.front.URL)
				w.WriteHeader(code)
				_, _ = w.Write([]byte(oidctest.ClientSecret))
			})
			_, err := fresh().Verify(t.Context(), token)
			refused(t, err, want, "the OIDC issuer "+i.URL+" cannot be")
			e.noSecrets(err.Error())
		}
		i.Override(path, nil)
	}

	// What it once said holds while it is down.
	if _, err := e.Verify(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	i.Server().Close()
	e.clock.Advance(rediscover - time.Hour/2)
	if _, err := e.Verify(t.Context(), token); err != nil {
		t.Errorf("with the issuer down, a known key: %v", err)
	}
	longer := i.Token(map[string]any{"exp": e.clock.Now().Add(24 * time.Hour).Unix()})
	e.clock.Advance(rediscover)
	if _, err := e.Verify(t.Context(), longer); err != nil {
		t.Errorf("when it is time to ask again: %v", err)
	}
	_, err := fresh().Verify(t.Context(), token)
	refused(t, err, codes.Unavailable, "cannot be reached: dial tcp")
}

// FuzzIDToken sends anything as an ID token. Nothing is accepted but what the issuer
// has signed.
func FuzzIDToken(f *testing.F) {
	e, i := configured(f)
	good := i.Token(nil)
	header := strings.SplitN(good, ".", 2)[0]
	if _, err := e.Verify(f.Context(), good); err != nil {
		f.Fatal(err)
	}
	for _, token := range []string{
		"", "..", "a.b.c", good, good + "x", good[1:], strings.ToUpper(good), header + "..", "{}", "....",
		unsigned(f, i.All(nil)), "\x00.\xff.\n", "e30.e30.e30", header + ".e30.AAAA",
		`{"payload":"e30","signatures":[{"protected":"` + header + `","signature":"AA"}]}`,
	} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		u, err := e.Verify(t.Context(), token)
		switch code := status.Code(err); {
		case err == nil && token == good:
		case err == nil:
			t.Errorf("%q is accepted as %v", token, u)
		case code != codes.Unauthenticated && code != codes.InvalidArgument && code != codes.Unavailable:
			t.Errorf("%q: %v", token, err)
		}
	})
}
