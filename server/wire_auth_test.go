package server_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// TestWireAuth_Off holds what a server without auth answers to each call about
// it. Clients take the text to mean "auth is off", so it must be exact.
func TestWireAuth_Off(t *testing.T) {
	w := newWire(t)
	d, err := protoregistry.GlobalFiles.FindDescriptorByName("auth_v2.API")
	if err != nil {
		t.Fatal(err)
	}
	methods := d.(protoreflect.ServiceDescriptor).Methods()
	var rows []exchange
	for i := range methods.Len() {
		if name := methods.Get(i).Name(); name != "Activate" {
			rows = append(rows, exchange{"auth_v2.API/" + string(name), `{}`, codes.Unimplemented, "the auth service is not activated"})
		}
	}
	if len(rows) < 24 {
		t.Fatalf("auth_v2.API has only %d methods", len(rows)+1)
	}
	w.exchange(rows)
}

// TestWireAuth_LicencesAndIdentities holds the answers to older clients, which
// ask for a licence, and to those that set up logging in.
func TestWireAuth_LicencesAndIdentities(t *testing.T) {
	w := newWire(t)
	const never = `"9999-12-31T00:00:00Z"`
	w.exchange([]exchange{
		{"enterprise_v2.API/GetState", `{}`, codes.OK, `{"state":"ACTIVE","info":{"expires":` + never + `}}`},
		{"enterprise_v2.API/GetActivationCode", `{}`, codes.OK, `{"state":"ACTIVE","info":{"expires":` + never + `}}`},
		{"enterprise_v2.API/Activate", `{"licenseServer":"x","id":"y","secret":"z"}`, codes.OK, `{}`},
		{"enterprise_v2.API/Heartbeat", `{}`, codes.OK, `{}`},
		{"enterprise_v2.API/Deactivate", `{}`, codes.OK, `{}`},
		{"enterprise_v2.API/PauseStatus", `{}`, codes.OK, `{}`}, // UNPAUSED is 0
		{"enterprise_v2.API/Pause", `{}`, codes.Unimplemented, "pausing the cluster is not supported..."},
		{"enterprise_v2.API/Unpause", `{}`, codes.Unimplemented, "unpausing the cluster is not supported..."},
		{"license_v2.API/Activate", `{"activationCode":"x"}`, codes.OK, `{"info":{"expires":` + never + `}}`},
		{"license_v2.API/Activate", `{"activationCode":"x","expires":"2030-01-02T03:04:05Z"}`, codes.OK, `{"info":{"expires":"2030-01-02T03:04:05Z"}}`},
		{"license_v2.API/GetActivationCode", `{}`, codes.OK, `{"state":"ACTIVE","info":{"expires":` + never + `}}`},
		{"license_v2.API/AddCluster", `{"id":"c"}`, codes.OK, `{}`},
		{"license_v2.API/UpdateCluster", `{"id":"c"}`, codes.OK, `{}`},
		{"license_v2.API/ListClusters", `{}`, codes.OK, `{}`},
		{"license_v2.API/DeleteCluster", `{"id":"c"}`, codes.OK, `{}`},
		{"identity_v2.API/GetIdentityServerConfig", `{}`, codes.OK, `{"config":{}}`},
		{"identity_v2.API/SetIdentityServerConfig", `{}`, codes.InvalidArgument, "validate request: ..."},
		{"identity_v2.API/SetIdentityServerConfig", `{"config":{"issuer":"http://pachd:1658/","idTokenExpiry":"24h"}}`, codes.OK, `{}`},
		{"identity_v2.API/GetIdentityServerConfig", `{}`, codes.OK, `{"config":{"issuer":"http://pachd:1658/","idTokenExpiry":"24h"}}`},
		{"identity_v2.API/CreateOIDCClient", `{"client":{"id":"pachd","name":"pachd","redirectUris":["http://x/"],"secret":"given"}}`, codes.OK, `{"client":{"id":"pachd","redirectUris":["http://x/"],"name":"pachd","secret":"given"}}`},
		{"identity_v2.API/CreateOIDCClient", `{"client":{"id":"pachd"}}`, codes.AlreadyExists, `OIDC client "pachd" already exists`},
		{"identity_v2.API/CreateOIDCClient", `{"client":{"id":""}}`, codes.InvalidArgument, "validate request: ..."},
		{"identity_v2.API/CreateOIDCClient", `{}`, codes.InvalidArgument, "validate request: ..."},
		{"identity_v2.API/ListIDPConnectors", `{}`, codes.OK, `{}`},
		{"identity_v2.API/CreateIDPConnector", `{"connector":{"id":"x"}}`, codes.Unimplemented, "the auth service is not activated"},
		{"identity_v2.API/DeleteAll", `{}`, codes.OK, `{}`},
		{"identity_v2.API/GetIdentityServerConfig", `{}`, codes.OK, `{"config":{}}`},
	})
	secret := func() any {
		w.ok("identity_v2.API/DeleteAll", `{}`)
		return at(w.one("identity_v2.API/CreateOIDCClient", `{"client":{"id":"pachd"}}`), "client", "secret")
	}
	if one, two := secret(), secret(); one == nil || one == two || len(one.(string)) < 20 {
		t.Errorf("secrets %v and %v are not random", one, two)
	}
}

// TestWireAuth_TokensAreIgnored sends what clients send who do not know that
// auth is off.
func TestWireAuth_TokensAreIgnored(t *testing.T) {
	w := newWire(t)
	for _, pairs := range [][]string{
		{"authn-token", ""},
		{"authn-token", "0123456789abcdef0123456789abcdef"},
		{"authn-token", "a", "authn-token", "b"},
		{"userid", "u", "prefix", "user", "command", "pachctl list repo", "x-made-up", "1", "x-binary-bin", "\x00\xff"},
	} {
		ctx := metadata.AppendToOutgoingContext(within(t), pairs...)
		if a := w.call(ctx, "pfs_v2.API/ListRepo", `{}`); a.err != nil {
			t.Errorf("ListRepo with %q: %v", pairs, a)
		}
		if a := w.call(ctx, "auth_v2.API/WhoAmI", `{}`); !strings.Contains(a.String(), "the auth service is not activated") {
			t.Errorf("WhoAmI with %q: %v", pairs, a)
		}
	}
}
