package auth

import (
	"context"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/minipachd/minipachd/auth/oidc"
	"github.com/minipachd/minipachd/auth/oidc/oidctest"
	"github.com/minipachd/minipachd/clock/clocktest"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	"github.com/minipachd/minipachd/store"
)

// TestLogin_TokenAndGroups logs in with ID tokens: what they say decides whose token
// comes back, for how long and with which groups.
func TestLogin_TokenAndGroups(t *testing.T) {
	st, err := store.Open(t.Context(), store.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	clk := clocktest.New(time.Now().Truncate(time.Second))
	logins := oidc.New(oidc.Config{Store: st, Clock: clk})
	front := httptest.NewServer(logins)
	defer front.Close()
	issuer := oidctest.New(t)
	issuer.Now = clk.Now
	issuer.Claims = map[string]any{"email": "ann@example.com"}
	s := &authServer{Service: New(Config{Store: st, Clock: clk, Logins: logins})}
	if err := s.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused := func(err error, code codes.Code, text string) {
		t.Helper()
		if status.Code(err) != code || status.Convert(err).Message() != text {
			t.Errorf("got %v, want %s %s", err, code, text)
		}
	}
	login := func(claims map[string]any) (Identity, error) {
		resp, err := s.Authenticate(t.Context(), &authpb.AuthenticateRequest{IdToken: issuer.Token(claims)})
		if err != nil {
			return Identity{}, err
		}
		return s.Service.Authenticate(t.Context(), resp.GetPachToken())
	}

	const off = "the auth service is not activated"
	_, err = login(nil)
	refused(err, codes.Unimplemented, off)
	_, err = s.GetOIDCLogin(t.Context(), &authpb.GetOIDCLoginRequest{})
	refused(err, codes.Unimplemented, off)
	if _, err := s.Activate(t.Context(), &authpb.ActivateRequest{}); err != nil {
		t.Fatal(err)
	}
	s.cache.state.Store(on) // as Run would have it
	const none = "no authentication providers are configured"
	_, err = login(nil)
	refused(err, codes.FailedPrecondition, none)
	_, err = s.GetOIDCLogin(t.Context(), &authpb.GetOIDCLoginRequest{})
	refused(err, codes.FailedPrecondition, none)

	root := WithCaller(t.Context(), Caller{Subject: RootUser})
	ann := WithCaller(t.Context(), Caller{Subject: "user:ann@example.com"})
	set := &authpb.SetConfigurationRequest{Configuration: &authpb.OIDCConfig{
		Issuer: issuer.URL, ClientId: oidctest.ClientID, ClientSecret: oidctest.ClientSecret, RedirectUri: front.URL + oidc.CallbackPath,
	}}
	for _, ctx := range []context.Context{t.Context(), ann} {
		if _, err := s.SetConfiguration(ctx, set); err == nil {
			t.Error("somebody else sets the configuration")
		}
		if got, err := s.GetConfiguration(ctx, &authpb.GetConfigurationRequest{}); err == nil {
			t.Errorf("somebody else reads the configuration: %v", got)
		}
	}
	if n := issuer.Asked("/.well-known/openid-configuration"); n != 0 {
		t.Errorf("they made the daemon ask the issuer %d times", n)
	}
	if _, err := s.SetConfiguration(root, set); err != nil {
		t.Fatal(err)
	}
	got, err := s.GetConfiguration(root, &authpb.GetConfigurationRequest{})
	if err != nil || !cmp.Equal(got.GetConfiguration(), set.GetConfiguration(), protocmp.Transform()) {
		t.Errorf("configuration %v, %v", got, err)
	}

	for _, tc := range []struct{ idToken, state, want string }{
		{"", "", "validate request: an id_token must be given, or the oidc_state that GetOIDCLogin gave"},
		{"a", "b", "validate request: of id_token and oidc_state only one can be given"},
	} {
		_, err := s.Authenticate(t.Context(), &authpb.AuthenticateRequest{IdToken: tc.idToken, OidcState: tc.state})
		refused(err, codes.InvalidArgument, tc.want)
	}

	now := clk.Now()
	groups := func(names ...string) []string { return append([]string{}, names...) }
	for _, tc := range []struct {
		name   string
		claims map[string]any
		until  time.Time
		groups []string // of the user afterwards
	}{
		{"as long as the ID token", nil, now.Add(time.Hour), groups()},
		{"30 days at most", map[string]any{"exp": now.Add(31 * 24 * time.Hour).Unix()}, now.Add(30 * 24 * time.Hour), groups()},
		{"groups", map[string]any{"groups": []string{"b", "acme:a"}}, now.Add(time.Hour), groups("group:acme:a", "group:b")},
		{"nothing said of groups", nil, now.Add(time.Hour), groups("group:acme:a", "group:b")},
		{"other groups", map[string]any{"groups": []string{"c"}}, now.Add(time.Hour), groups("group:c")},
		{"no groups", map[string]any{"groups": []string{}}, now.Add(time.Hour), groups()},
	} {
		id, err := login(tc.claims)
		if err != nil || id.Subject != "user:ann@example.com" || !id.Expiration.Equal(tc.until) {
			t.Errorf("%s: %v, %v, want until %s", tc.name, id, err, tc.until)
		}
		got, err := s.GetGroups(ann, &authpb.GetGroupsRequest{})
		if diff := cmp.Diff(tc.groups, append([]string{}, got.GetGroups()...)); err != nil || diff != "" {
			t.Errorf("%s: groups %v %s", tc.name, err, diff)
		}
	}

	// What a group may, its member may.
	if _, err := login(map[string]any{"groups": []string{"acme:ops"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ModifyRoleBinding(root, &authpb.ModifyRoleBindingRequest{
		Resource: &authpb.Resource{Type: authpb.ResourceType_CLUSTER}, Principal: "group:acme:ops", Roles: []string{RoleClusterAdmin},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetConfiguration(ann, &authpb.GetConfigurationRequest{}); err != nil {
		t.Errorf("a member of the admins: %v", err)
	}

	// Turning auth off forgets it all.
	begun, err := s.GetOIDCLogin(t.Context(), &authpb.GetOIDCLoginRequest{})
	if err != nil {
		t.Fatal(err)
	}
	clk.Advance(time.Hour) // so that what is kept by mistake is not waited for
	if _, err := s.Deactivate(root, &authpb.DeactivateRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Activate(t.Context(), &authpb.ActivateRequest{}); err != nil {
		t.Fatal(err)
	}
	_, err = login(nil)
	refused(err, codes.FailedPrecondition, none)
	_, err = s.Authenticate(t.Context(), &authpb.AuthenticateRequest{OidcState: begun.GetState()})
	refused(err, codes.Unauthenticated, "the login is not known, has been used or has run out: begin a new one")
}
