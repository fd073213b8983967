package oidc

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/minipachd/minipachd/auth/oidc/oidctest"
)

func TestCallback_Malformed(t *testing.T) {
	e, i := configured(t)
	loginURL, _ := e.begin()
	u, err := url.Parse(loginURL)
	if err != nil {
		t.Fatal(err)
	}
	state := u.Query().Get("state")
	for _, query := range []string{
		"", "code=x", "state=" + state, "state=&code=x", "state=short&code=x",
		"state=" + state + "&code=x&error=access_denied",
		"state=" + state + "&state=" + state + "&code=x", "state=" + state + "&code=x&code=y",
		"state=" + state + "&code=" + strings.Repeat("x", maxCode+1),
		"state=" + state + "&code=%zz", "state=" + state + ";code=x",
		"state=" + state + "%3D&code=x",
	} {
		if page := browse(t, e.front.URL+CallbackPath+"?"+query); page.code != http.StatusBadRequest || !strings.Contains(page.body, textMalformed) {
			t.Errorf("%.100s: got %d %s", query, page.code, page.body)
		}
	}
	if page := browse(t, e.front.URL+CallbackPath+"?code=x&state="+random()); page.code != http.StatusBadRequest || !strings.Contains(page.body, textUnknown) {
		t.Errorf("a state that nobody made: got %d %s", page.code, page.body)
	}
	for _, method := range []string{http.MethodPost, http.MethodHead, http.MethodPut} {
		req, err := http.NewRequestWithContext(t.Context(), method, e.front.URL+CallbackPath+"?code=x&state="+state, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := e.front.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: got %s", method, resp.Status)
		}
	}
	if n := i.Asked("/token"); n != 0 {
		t.Errorf("the issuer was asked %d times", n)
	}
	// None of it has used up the login.
	if page := browse(t, loginURL); page.code != http.StatusOK {
		t.Errorf("afterwards: %d %s", page.code, page.body)
	}
}

// TestCallback_Fails lets the issuer misbehave in every way: the browser and whoever
// waits learn why, in words of ours, and nobody is logged in.
func TestCallback_Fails(t *testing.T) {
	e, i := configured(t)
	answering := func(code int, contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(code)
			_, _ = w.Write([]byte(body))
		}
	}
	refusing := func(params string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Query().Get("redirect_uri")+"?state="+r.URL.Query().Get("state")+"&"+params, http.StatusFound)
		}
	}
	const json = "application/json"
	thief := e.newIssuer()
	for _, tc := range []struct {
		name, path string
		handler    http.HandlerFunc
		claims     map[string]any
		code       int
		text       string
	}{
		{"user declines", "/authorize", refusing("error=access_denied&error_description=%3Cscript%3E"), nil, 403, "The issuer has refused the login: access_denied."},
		{"unknown error", "/authorize", refusing("error=%3Cscript%3E"), nil, 403, "The issuer has refused the login: for another reason."},
		{"other issuer answers", "/authorize", refusing("code=x&iss=https%3A%2F%2Fevil.example"), nil, 403, "The answer is that of another issuer."},
		{"forged code", "/authorize", refusing("code=x"), nil, 403, "The issuer has refused the code: invalid_grant."},
		{"secret in the error", "/token", answering(400, json, `{"error":"`+oidctest.ClientSecret+`","error_description":"`+oidctest.ClientSecret+`"}`), nil, 403, "The issuer has refused the code: for another reason."},
		{"not JSON", "/token", answering(200, json, oidctest.ClientSecret), nil, 502, "answer to the code is malformed"},
		{"no ID token", "/token", answering(200, json, `{"access_token":"a","token_type":"Bearer"}`), nil, 502, "gave no ID token"},
		{"ID token of another type", "/token", answering(200, json, `{"access_token":"a","token_type":"Bearer","id_token":7}`), nil, 502, "gave no ID token"},
		{"server error", "/token", answering(503, json, oidctest.ClientSecret), nil, 502, "The issuer cannot be reached."},
		{"huge", "/token", answering(200, json, strings.Repeat("x", maxAnswer+1)), nil, 502, "The issuer cannot be reached."},
		{"redirects", "/token", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, thief.URL+"/token", http.StatusTemporaryRedirect)
		}, nil, 403, "The issuer has refused the code: for another reason."},
		{"wrong nonce", "", nil, map[string]any{"nonce": random()}, 403, "it was made for another login"},
		{"no nonce", "", nil, map[string]any{"nonce": nil}, 403, "it was made for another login"},
		{"unverified email", "", nil, map[string]any{"email_verified": false}, 403, "the issuer has not verified the email"},
		{"markup in a claim", "", nil, map[string]any{"iss": "<script>"}, 403, "issued by a different provider"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			usual := i.Claims
			defer func() { i.Claims = usual }()
			i.Claims = i.All(tc.claims)
			if v, ok := tc.claims["nonce"]; ok {
				i.Claims["nonce"] = v
			}
			i.Override(tc.path, tc.handler)
			defer i.Override(tc.path, nil)
			loginURL, state := e.begin()
			waits := e.redeeming(t.Context(), state)
			page := browse(t, loginURL)
			if page.code != tc.code || !strings.Contains(page.body, tc.text) || strings.Contains(page.body, "<script") {
				t.Errorf("the browser got %d %s, want %d %s", page.code, page.body, tc.code, tc.text)
			}
			r := <-waits
			refused(t, r.err, codes.Unauthenticated, "logging in: ")
			refused(t, r.err, codes.Unauthenticated, tc.text)
			refused(t, e.redeem(t.Context(), state).err, codes.Unauthenticated, "the login is not known")
			e.noSecrets(page.body, r.err.Error())
			if thief.Asked("/token") != 0 {
				t.Error("the code went elsewhere")
			}
		})
	}
}

// TestCallback_IssuerGone has the issuer go away between the login's begin and its
// end.
func TestCallback_IssuerGone(t *testing.T) {
	e, i := configured(t)
	loginURL, state := e.begin()
	u, err := url.Parse(loginURL)
	if err != nil {
		t.Fatal(err)
	}
	i.Server().Close()
	page := browse(t, e.front.URL+CallbackPath+"?code=x&state="+u.Query().Get("state"))
	if page.code != http.StatusBadGateway || !strings.Contains(page.body, "The issuer cannot be reached.") {
		t.Errorf("the browser got %d %s", page.code, page.body)
	}
	refused(t, e.redeem(t.Context(), state).err, codes.Unauthenticated, "The issuer cannot be reached.")
}

// FuzzCallback sends any query. Nothing but a code of the issuer's logs anybody in.
func FuzzCallback(f *testing.F) {
	e, _ := configured(f)
	loginURL, _ := e.begin()
	u, err := url.Parse(loginURL)
	if err != nil {
		f.Fatal(err)
	}
	state := u.Query().Get("state")
	for _, query := range []string{
		"", "code=x&state=" + state, "error=access_denied&state=" + state, "code=x&state=" + random(),
		"state=%00&code=%ff", "state=" + state + "&code=" + strings.Repeat("a", 100), "a;b&=&&", "iss=x&code=y&state=" + state,
		"error=%3Cscript%3Ealert(1)%3C/script%3E&state=" + random(),
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		o := e.callback(t.Context(), query)
		switch o.code {
		case http.StatusBadRequest, http.StatusForbidden:
		default:
			t.Errorf("%q: %d %s", query, o.code, o.text)
		}
		if o.user != nil {
			t.Errorf("%q logged in %v", query, o.user)
		}
	})
}
