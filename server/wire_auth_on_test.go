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
	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
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
	w := newWire(t)
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

// Test_AttackRevokedTokenOnOpenStream revokes a token under calls that are open: streams
// that wait for the server, for their own client and for lines of a log, and a call
// that waits for a commit to be finished. None goes on.
func Test_AttackRevokedTokenOnOpenStream(t *testing.T) {
	w := newWire(t)
	w.created(sleeper("p"))
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`)
	w.ok("pfs_v2.API/StartCommit", `{"branch":{"name":"master","repo":{"name":"r"}}}`)
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	// It may do everything: only the token's end is to matter.
	token := w.robot("one", `{"type":"CLUSTER"}`, "clusterAdmin")
	other := w.robot("two", `{"type":"CLUSTER"}`, "clusterAdmin")

	type open struct {
		what string
		end  func() error // returns why the call ended
	}
	begin := func(ctx context.Context) (all []open) {
		pfs, pps := pfspb.NewAPIClient(w.conn), ppspb.NewAPIClient(w.conn)
		sub, err := pfs.SubscribeCommit(ctx, &pfspb.SubscribeCommitRequest{Repo: repo("r"), State: pfspb.CommitState_FINISHED})
		if err != nil {
			t.Fatal(err)
		}
		logs, err := pps.GetLogs(ctx, &ppspb.GetLogsRequest{Pipeline: &ppspb.Pipeline{Name: "p"}, Follow: true})
		if err != nil {
			t.Fatal(err)
		}
		put, err := pfs.ModifyFile(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []*pfspb.ModifyFileRequest{
			{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: head("r")}},
			{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{Path: "/stolen", Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes([]byte("x"))}}}},
		} {
			if err := put.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		waiting := make(chan error, 1)
		go func() {
			_, err := pfs.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: head("r"), Wait: pfspb.CommitState_FINISHED})
			waiting <- err
		}()
		return []open{
			{"SubscribeCommit", func() error { _, err := sub.Recv(); return err }},
			{"GetLogs", func() error {
				for {
					if _, err := logs.Recv(); err != nil {
						return err
					}
				}
			}},
			{"ModifyFile", func() error { return put.RecvMsg(&emptypb.Empty{}) }},
			{"InspectCommit that waits", func() error { return <-waiting }},
		}
	}
	ctx, cancel := context.WithCancel(withTokens(within(t), other))
	defer cancel()
	mine, others := begin(withTokens(within(t), token)), begin(ctx)
	if a := w.as(token, "auth_v2.API/RevokeAuthToken", fmt.Sprintf(`{"token":%q}`, token)); a.err != nil || !strings.Contains(a.String(), `"number":"1"`) {
		t.Fatal(a)
	}
	start := time.Now()
	for _, o := range mine {
		if err := o.end(); status.Code(err) != codes.Unauthenticated || status.Convert(err).Message() != "provided auth token is corrupted or has expired (try logging in again)" {
			t.Errorf("%s after its token was revoked: %v", o.what, err)
		}
	}
	t.Logf("ended after %v", time.Since(start))
	if a := w.as(token, "pfs_v2.API/ListRepo", `{}`); status.Code(a.err) != codes.Unauthenticated {
		t.Errorf("a call with the token: %v", a)
	}
	if a := w.mustAs(other, "pfs_v2.API/GlobFile", `{"commit":{"branch":{"name":"master","repo":{"name":"r","type":"user"}}},"pattern":"/*"}`); len(a.messages) != 0 {
		t.Errorf("of the stream that was cut there is %v", a)
	}
	// Calls with another token went on till now.
	cancel()
	for _, o := range others {
		if err := o.end(); status.Code(err) != codes.Canceled {
			t.Errorf("%s with another token: %v", o.what, err)
		}
	}
}
