package server_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	adminpb "github.com/minipachd/minipachd/proto/admin_v2"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	enterprisepb "github.com/minipachd/minipachd/proto/enterprise_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
	versionpb "github.com/minipachd/minipachd/proto/versionpb_v2"
)

// TestStart_Refusals holds the sentences of a daemon that cannot start.
func TestStart_Refusals(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	newer := t.TempDir()
	if err := os.WriteFile(filepath.Join(newer, "FORMAT"), []byte(`{"version": 99, "id": "x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	inUse := t.TempDir()
	startPachd(t, inUse)
	for _, tc := range []struct {
		name, dir, want string
		args            []string
	}{
		{"port in use", t.TempDir(), "the port is in use", []string{"--listen", taken.Addr().String()}},
		{"newer format", newer, "has format 99, this pachd reads up to format 1", nil},
		{"directory in use", inUse, "is in use by another pachd (process ", nil},
		{"unknown bucket", t.TempDir(), "bucket ftp://x", []string{"--bucket", "ftp://x"}},
		{"unknown runtime", t.TempDir(), `runtime "vm" is not supported`, []string{"--runtime", "vm"}},
		{"unknown URL scheme", t.TempDir(), `URL scheme "ftp" is not supported, only http, https, s3, gs, azblob are`, []string{"--url-sources", "https,ftp"}},
		{"missing directory of URLs", t.TempDir(), `directory of file URLs`, []string{"--url-file-root", "/does/not/exist"}},
		{"bad log level", t.TempDir(), `log level "loud"`, []string{"--log-level", "loud"}},
		{"a grace period before it begins", t.TempDir(), "--grace-period must not be negative; 0 is none", []string{"--grace-period", "-1s"}},
		{"no pause", t.TempDir(), "--initial-backoff must not be 0", []string{"--initial-backoff", "0"}},
		{"an argument", t.TempDir(), `there is no argument "create"`, []string{"create", "pipeline"}},
		{"unknown flag", t.TempDir(), "unknown flag: --nope; pachd --help explains every flag", []string{"--nope"}},
		{"missing spec file", t.TempDir(), "no such file", []string{"--apply", "/does/not/exist.json"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := tryPachd(t, tc.dir, tc.args...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

// TestWithoutAuth holds what a server without auth answers to every client's
// first questions.
func TestWithoutAuth(t *testing.T) {
	p := startPachd(t, t.TempDir())
	ctx := within(t)
	pfs, pps, conn := dial(t, p.addr)

	v, err := versionpb.NewAPIClient(conn).GetVersion(ctx, &emptypb.Empty{})
	if err != nil || v.Major != 2 || v.Minor != 12 {
		t.Errorf("GetVersion: %v, %v", v, err)
	}
	admin := adminpb.NewAPIClient(conn)
	info, err := admin.InspectCluster(ctx, &adminpb.InspectClusterRequest{ClientVersion: v, CurrentProject: &pfspb.Project{Name: "default"}})
	if err != nil || info.DeploymentId == "" || !info.WarningsOk || len(info.Warnings) != 0 || info.Paused {
		t.Errorf("InspectCluster: %v, %v", info, err)
	}
	info, err = admin.InspectCluster(ctx, &adminpb.InspectClusterRequest{ClientVersion: v, CurrentProject: &pfspb.Project{Name: "nope"}})
	if err != nil || len(info.Warnings) != 1 || !strings.Contains(info.Warnings[0], `Could not inspect project "nope"`) {
		t.Errorf("InspectCluster of a missing project: %v, %v", info, err)
	}
	if h, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil || h.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
	if s, err := enterprisepb.NewAPIClient(conn).GetState(ctx, &enterprisepb.GetStateRequest{}); err != nil || s.State != enterprisepb.State_ACTIVE {
		t.Errorf("GetState: %v, %v", s, err)
	}
	if _, err := transactionpb.NewAPIClient(conn).DeleteAll(ctx, &transactionpb.DeleteAllRequest{}); err != nil {
		t.Errorf("transaction DeleteAll: %v", err)
	}
	inTransaction := metadata.AppendToOutgoingContext(ctx, "pach-transaction", "0123")
	withToken := metadata.AppendToOutgoingContext(ctx, "authn-token", "")
	if _, err := pfs.CreateRepo(withToken, &pfspb.CreateRepoRequest{Repo: repo("tokens")}); err != nil {
		t.Errorf("an empty token is ignored, got %v", err)
	}
	_, whoami := authpb.NewAPIClient(conn).WhoAmI(ctx, &authpb.WhoAmIRequest{})
	_, queued := pfs.CreateRepo(inTransaction, &pfspb.CreateRepoRequest{Repo: repo("queued")})
	_, unknown := pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: `{"pipeline":{"name":"p"},"spout":{},"transform":{"cmd":["true"]},"colour":"red"}`})
	old := conn.Invoke(ctx, "/pfs.API/ListRepo", &emptypb.Empty{}, &emptypb.Empty{})
	_, missing := pfs.InspectRepo(ctx, &pfspb.InspectRepoRequest{Repo: repo("missing")})
	for _, tc := range []struct {
		name string
		err  error
		code codes.Code
		text string
	}{
		{"whoami", whoami, codes.Unimplemented, "the auth service is not activated"},
		{"in a transaction", queued, codes.NotFound, `transaction "0123" not found`},
		{"unknown field", unknown, codes.InvalidArgument, "could not make effective spec"},
		{"1.x client", old, codes.Unknown, "this server is running pachyderm 2.x, but your client appears to be an older version - please upgrade"},
		{"missing repo", missing, codes.NotFound, "repo default/missing not found"},
	} {
		if status.Code(tc.err) != tc.code || !strings.Contains(status.Convert(tc.err).Message(), tc.text) {
			t.Errorf("%s: %v, want %v with %q", tc.name, tc.err, tc.code, tc.text)
		}
	}
}

// TestREST calls the gateway as curl would.
func TestREST(t *testing.T) {
	p := startPachd(t, t.TempDir())
	post := func(method, body string) (int, string) {
		req, err := http.NewRequestWithContext(within(t), http.MethodPost, "http://"+p.addr+"/api/"+method, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	const commit = `{"setCommit":{"repo":{"name":"r"},"branch":{"name":"master","repo":{"name":"r"}}}}`
	for _, tc := range []struct {
		method, body string
		code         int
		want         string
	}{
		{"pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`, 200, `{}`},
		{"pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`, 409, `already exists`},
		{"pfs_v2.API/ModifyFile", commit + "\n" + `{"addFile":{"path":"/a","raw":"aGkK"}}`, 200, `{}`},
		{"pfs_v2.API/GetFile", `{"file":{"path":"/a","commit":{"branch":{"name":"master","repo":{"name":"r"}}}}}`, 200, `{"result":"aGkK"}`},
		{"pfs_v2.API/ListRepo", `{}`, 200, `"sizeBytesUpperBound":"3"`},
		{"pfs_v2.API/InspectRepo", `{"repo":{"name":"nope"}}`, 404, `"code":5`},
		{"auth_v2.API/WhoAmI", `{}`, 501, `the auth service is not activated`},
		{"pfs_v2.API/Nonsense", `{}`, 404, `Not Found`},
	} {
		code, body := post(tc.method, tc.body)
		if code != tc.code || !strings.Contains(body, tc.want) {
			t.Errorf("%s %s: %d %s; want %d with %s", tc.method, tc.body, code, body, tc.code, tc.want)
		}
		if tc.code != 200 && tc.code != 404 && !json.Valid([]byte(body)) {
			t.Errorf("%s: the error is not JSON: %s", tc.method, body)
		}
	}
	resp, err := http.Get("http://" + p.addr + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != "healthy\n" {
		t.Errorf("healthz: %q", b)
	}
}

// TestModifyFile_CancelledStreamLeavesNothing cuts a stream off before its end.
func TestModifyFile_CancelledStreamLeavesNothing(t *testing.T) {
	p := startPachd(t, t.TempDir())
	ctx := within(t)
	pfs, _, _ := dial(t, p.addr)
	if _, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("r")}); err != nil {
		t.Fatal(err)
	}
	if err := put(ctx, pfs, "r", "/kept", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	cut, cancel := context.WithCancel(ctx)
	stream, err := pfs.ModifyFile(cut)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: head("r")}}); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := stream.RecvMsg(&emptypb.Empty{}); status.Code(err) != codes.Canceled {
		t.Errorf("cancelled stream: %v", err)
	}
	commits, err := collect(pfs.ListCommit(ctx, &pfspb.ListCommitRequest{Repo: repo("r")}))
	if err != nil || len(commits) != 1 {
		t.Errorf("%d commits, %v; want 1", len(commits), err)
	}
}
