package server_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// withTokens is a context whose calls carry tokens.
func withTokens(ctx context.Context, tokens ...string) context.Context {
	for _, token := range tokens {
		ctx = metadata.AppendToOutgoingContext(ctx, "authn-token", token)
	}
	return ctx
}

// TestWireAuth_On holds what calls with good tokens, bad ones and none get once auth
// is on, and that it goes off again.
func TestWireAuth_On(t *testing.T) {
	w := newWire(t, "--auth-preview")
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	robot := func(name string) string {
		t.Helper()
		a := w.call(withTokens(within(t), "root"), "auth_v2.API/GetRobotToken", fmt.Sprintf(`{"robot":%q}`, name))
		if a.err != nil {
			t.Fatal(a)
		}
		return strings.Split(a.messages[0], `"`)[3]
	}
	one := robot("one")
	const bad, denied = "provided auth token is corrupted or has expired (try logging in again)", "is not authorized to perform this operation - needs permissions ["
	for _, tc := range []struct {
		tokens          []string
		method, request string
		code            codes.Code
		text            string
	}{
		{nil, "auth_v2.API/Activate", `{}`, codes.Unimplemented, "the auth service is already activated"},
		{nil, "pfs_v2.API/ListRepo", `{}`, codes.Unauthenticated, "no authentication token (try logging in)"},
		{[]string{""}, "pfs_v2.API/ListRepo", `{}`, codes.Unauthenticated, "no authentication token (try logging in)"},
		{[]string{"x"}, "pfs_v2.API/ListRepo", `{}`, codes.Unauthenticated, bad},
		{[]string{"x"}, "auth_v2.API/WhoAmI", `{}`, codes.Unauthenticated, bad},
		{[]string{"root", "root"}, "pfs_v2.API/ListRepo", `{}`, codes.Unknown, "multiple authentication token keys found in context"},
		{nil, "versionpb_v2.API/GetVersion", `{}`, codes.OK, ""},
		{nil, "admin_v2.API/InspectCluster", `{}`, codes.OK, ""},
		{nil, "enterprise_v2.API/GetState", `{}`, codes.OK, ""},
		{[]string{one}, "pfs_v2.API/ListRepo", `{}`, codes.OK, ""},
		{[]string{one}, "auth_v2.API/WhoAmI", `{}`, codes.OK, `{"username":"robot:one"}`},
		{[]string{one}, "auth_v2.API/Deactivate", `{}`, codes.PermissionDenied, "robot:one " + denied + "CLUSTER_AUTH_DEACTIVATE] on CLUSTER"},
		{[]string{one}, "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"CLUSTER"},"principal":"robot:one","roles":["clusterAdmin"]}`, codes.PermissionDenied, denied},
		{[]string{"root"}, "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"REPO","name":"default/r"},"principal":"robot:one","roles":["repoReader"]}`, codes.Unknown, "no role binding exists for REPO default/r"},
		{[]string{"root"}, "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"CLUSTER"},"principal":"one","roles":["repoReader"]}`, codes.Unknown, "subject has no prefix, must be of the form <type>:<name>"},
		{[]string{"root"}, "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"CLUSTER"},"principal":"x:one","roles":["repoReader"]}`, codes.Unknown, "subject has unrecognized prefix: x:"},
		{[]string{"root"}, "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"CLUSTER"},"principal":"robot:one","roles":["nope"]}`, codes.InvalidArgument, `unknown role "nope"`},
		{[]string{"root"}, "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"CLUSTER"},"principal":"pach:root","roles":[]}`, codes.InvalidArgument, "cannot modify cluster role bindings for pach: users"},
		{[]string{"root"}, "auth_v2.API/RestoreAuthToken", `{"token":{"subject":"robot:two","hashedToken":"` + strings.Repeat("0", 64) + `","expiration":"2020-01-01T00:00:00Z"}}`, codes.Internal, "token expiration is in the past"},
		{[]string{"root"}, "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"CLUSTER"},"principal":"group:g","roles":["robotUser"]}`, codes.OK, ""},
		{[]string{one}, "auth_v2.API/GetRobotToken", `{"robot":"two"}`, codes.PermissionDenied, denied},
		{[]string{"root"}, "auth_v2.API/ModifyMembers", `{"group":"g","add":["robot:one"]}`, codes.OK, ""},
		{[]string{one}, "auth_v2.API/GetRobotToken", `{"robot":"two"}`, codes.OK, "token"},
		{[]string{one}, "auth_v2.API/GetGroups", `{}`, codes.OK, `{"groups":["group:g"]}`},
	} {
		a := w.call(withTokens(within(t), tc.tokens...), tc.method, tc.request)
		got := a.String()
		if a.err != nil {
			got = status.Convert(a.err).Message()
		}
		if status.Code(a.err) != tc.code || !strings.Contains(got, tc.text) {
			t.Errorf("%q %s %s: %v; want %v %q", tc.tokens, tc.method, tc.request, a, tc.code, tc.text)
		}
	}
	r := &rest{t: t, addr: w.proc.addr}
	for _, headers := range [][]string{{"Authorization", "Bearer " + one}, {"authn-token", one}} {
		if code, _, body := r.do("POST", "/api/auth_v2.API/WhoAmI", `{}`, headers...); code != 200 || !strings.Contains(body, "robot:one") {
			t.Errorf("REST with %q: %d %s", headers, code, body)
		}
	}
	if code, _, body := r.do("POST", "/api/pfs_v2.API/ListRepo", `{}`); code != 401 {
		t.Errorf("REST without a token: %d %s", code, body)
	}
	if a := w.call(withTokens(within(t), "root"), "auth_v2.API/Deactivate", `{}`); a.err != nil {
		t.Fatal(a)
	}
	w.ok("pfs_v2.API/ListRepo", `{}`)
}

// TestWireAuth_RevokedTokenEndsStreams revokes a token under streams that wait, one
// for the server and one for its own client.
func TestWireAuth_RevokedTokenEndsStreams(t *testing.T) {
	w := newWire(t, "--auth-preview")
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`)
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	a := w.call(withTokens(within(t), "root"), "auth_v2.API/GetRobotToken", `{"robot":"one"}`)
	if a.err != nil {
		t.Fatal(a)
	}
	token := strings.Split(a.messages[0], `"`)[3]
	// It may do everything: only the token's end is to matter.
	for _, res := range []string{`"roles":["clusterAdmin"]`} {
		if a := w.call(withTokens(within(t), "root"), "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"CLUSTER"},"principal":"robot:one",`+res+`}`); a.err != nil {
			t.Fatal(a)
		}
	}
	ctx := withTokens(within(t), token)
	pfs := pfspb.NewAPIClient(w.conn)
	sub, err := pfs.SubscribeCommit(ctx, &pfspb.SubscribeCommitRequest{Repo: repo("r")})
	if err != nil {
		t.Fatal(err)
	}
	put, err := pfs.ModifyFile(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := put.Send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: head("r")}}); err != nil {
		t.Fatal(err)
	}
	if a := w.call(withTokens(within(t), token), "auth_v2.API/RevokeAuthToken", fmt.Sprintf(`{"token":%q}`, token)); a.err != nil || !strings.Contains(a.String(), `"number":"1"`) {
		t.Fatal(a)
	}
	start := time.Now()
	_, err = sub.Recv()
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("SubscribeCommit: %v", err)
	}
	if err := put.RecvMsg(&emptypb.Empty{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("ModifyFile: %v", err)
	}
	t.Logf("ended after %v", time.Since(start))
	if a := w.call(withTokens(within(t), token), "pfs_v2.API/ListRepo", `{}`); status.Code(a.err) != codes.Unauthenticated {
		t.Errorf("a call with the token: %v", a)
	}
}
