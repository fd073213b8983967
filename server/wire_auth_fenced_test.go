package server_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

var sessionToken = regexp.MustCompile(`"session_token": *"([^"]+)"`)

// workerToken is that of the worker of a witness.
func (w *wire) workerToken(name string) string {
	w.t.Helper()
	m := sessionToken.FindStringSubmatch(w.seen(name, "default").config)
	if m == nil {
		w.t.Fatal("the worker has no token")
	}
	return m[1]
}

// Test_AttackFencedWorker has a worker that was replaced go on with the token it had:
// what it left open ends, and no method takes the token any more, with a text that
// says why; once auth is off it may read, as everybody, and still not write.
func Test_AttackFencedWorker(t *testing.T) {
	w := newWire(t)
	w.created(witness(t, "mine", "default", ""))
	old := w.workerToken("mine")
	const mine = `{"branch":{"name":"master","repo":{"name":"mine","type":"user","project":{"name":"default"}}}}`
	fileSet := strings.Split(w.ok("pfs_v2.API/GetFileSet", `{"commit":`+mine+`}`).messages[0], `"`)[3]
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	w.mustAs("root", "pps_v2.API/ActivateAuth", `{}`)
	if a := w.mustAs(old, "auth_v2.API/WhoAmI", `{}`); !strings.Contains(a.String(), "pipeline:default/mine") {
		t.Fatalf("the worker is %v", a)
	}

	// What it has under way when it is replaced.
	txn := strings.Split(w.mustAs(old, "transaction_v2.API/StartTransaction", `{}`).messages[0], `"`)[3]
	inTxn := metadata.AppendToOutgoingContext(withTokens(within(t), old), "pach-transaction", txn)
	const dev = `{"branch":{"name":"dev","repo":{"name":"mine","type":"user","project":{"name":"default"}}}}`
	if a := w.call(inTxn, "pfs_v2.API/CreateBranch", dev); a.err != nil {
		t.Fatal(a)
	}
	ctx := withTokens(within(t), old)
	pfs := pfspb.NewAPIClient(w.conn)
	put, err := pfs.ModifyFile(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := put.Send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: head("mine")}}); err != nil {
		t.Fatal(err)
	}
	if err := put.Send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_DeleteFile{DeleteFile: &pfspb.DeleteFile{Path: "/seen"}}}); err != nil {
		t.Fatal(err)
	}
	sub, err := pfs.SubscribeCommit(ctx, &pfspb.SubscribeCommitRequest{Repo: repo("mine")})
	if err != nil {
		t.Fatal(err)
	}

	w.mustAs("root", "pps_v2.API/RerunPipeline", `{"pipeline":{"name":"mine"}}`)
	for err == nil {
		_, err = sub.Recv() // the commits there are, and then the end
	}
	const replaced = "was stopped or replaced, and the token that it had ended with it"
	ended := func(what string, err error) {
		t.Helper()
		text := status.Convert(err).Message()
		if status.Code(err) != codes.Unauthenticated || !strings.Contains(text, replaced) ||
			!strings.HasPrefix(text, `provided auth token is corrupted or has expired (try logging in again): worker 0 of pipeline "default/mine", incarnation "`) {
			t.Errorf("%s by a worker that was replaced: %v", what, err)
		}
	}
	ended("SubscribeCommit", err)
	ended("ModifyFile", put.RecvMsg(&emptypb.Empty{}))

	// Every method, without a request that makes sense, and all ways to write with one.
	open := []protoreflect.FullName{
		"versionpb_v2.API.GetVersion", "admin_v2.API.InspectCluster", "enterprise_v2.API.GetState", "license_v2.API.Heartbeat",
		"auth_v2.API.Activate", "auth_v2.API.Authenticate", "auth_v2.API.GetOIDCLogin", "pfs_v2.API.GetFileTAR",
	}
	for _, service := range reflected(within(t), t, w.conn) {
		if strings.HasPrefix(string(service.FullName()), "grpc.") {
			continue
		}
		for i := range service.Methods().Len() {
			if m := service.Methods().Get(i); !slices.Contains(open, m.FullName()) {
				ended(string(m.FullName()), callEmpty(withTokens(within(t), old), w.conn, m))
			}
		}
	}
	commit := `{"repo":{"name":"mine","type":"user","project":{"name":"default"}},"branch":{"name":"master"}}`
	writes := []struct{ method, request string }{
		{"pfs_v2.API/ModifyFile", `{"setCommit":` + mine + `}{"addFile":{"path":"/zombie","raw":"YQ=="}}`},
		{"pfs_v2.API/AddFileSet", `{"commit":` + mine + `,"fileSetId":"` + fileSet + `"}`},
		{"pfs_v2.API/StartCommit", mine},
		{"pfs_v2.API/FinishCommit", `{"commit":` + commit + `}`},
		{"pfs_v2.API/ClearCommit", `{"commit":` + commit + `}`},
		{"pfs_v2.API/CreateBranch", dev},
		{"pfs_v2.API/DeleteBranch", mine},
		{"pfs_v2.API/CreateRepo", `{"repo":{"name":"zombie","type":"user","project":{"name":"default"}}}`},
		{"pps_v2.API/StopPipeline", `{"pipeline":{"name":"mine"}}`},
		{"pps_v2.API/DeletePipeline", `{"pipeline":{"name":"mine"}}`},
		{"metadata.API/EditMetadata", `{"edits":[{"repo":{"name":{"name":"mine"}},"editKey":{"key":"zombie","value":"v"}}]}`},
		{"transaction_v2.API/FinishTransaction", `{"transaction":{"id":"` + txn + `"}}`},
		{"transaction_v2.API/BatchTransaction", `{"requests":[{"createBranch":` + dev + `}]}`},
	}
	for _, c := range writes {
		ended(c.method, w.as(old, c.method, c.request).err)
	}
	ended("GetFileTAR", w.as(old, "pfs_v2.API/GetFileTAR", `{"file":{"commit":`+mine+`,"path":"/"}}`).err)
	r := &rest{t: t, addr: w.proc.addr}
	if code, _, body := r.do("POST", "/api/pfs_v2.API/StartCommit", mine, "authn-token", old); code != 401 || !strings.Contains(body, replaced) {
		t.Errorf("REST by a worker that was replaced: %d %s", code, body)
	}
	// A token that nobody ever had is told no more.
	forged := old[:len(old)-4] + "0000"
	ended("a forged token", w.as(forged, "pfs_v2.API/StartCommit", mine).err)

	// The worker that runs now is not concerned.
	now := old
	for ctx := within(t); now == old; {
		a := w.call(withTokens(ctx, "root"), "pfs_v2.API/GetFile", `{"file":{"commit":`+mine+`,"path":"/seen"}}`)
		if a.err != nil {
			t.Fatal(a)
		}
		if m := sessionToken.FindStringSubmatch(w.content(a)); m != nil {
			now = m[1]
		}
		time.Sleep(20 * time.Millisecond) // paces the looks
	}
	if a := w.as(now, "pfs_v2.API/ModifyFile", `{"setCommit":`+mine+`}{"addFile":{"path":"/alive","raw":"YQ=="}}`); a.err != nil {
		t.Errorf("the worker that runs now: %v", a)
	}

	// Without auth everybody may write, but not who says that they are that worker.
	w.mustAs("root", "auth_v2.API/Deactivate", `{}`)
	for _, c := range writes {
		a := w.as(old, c.method, c.request)
		finished := status.Code(a.err) == codes.Unknown && strings.Contains(a.String(), "finished") // is found out before
		if !finished && (status.Code(a.err) != codes.PermissionDenied || !strings.Contains(a.String(), "may no longer write")) {
			t.Errorf("%s without auth by a worker that was replaced: %v", c.method, a)
		}
	}
	files := w.ok("pfs_v2.API/GlobFile", `{"commit":`+mine+`,"pattern":"/*"}`).String()
	for path, want := range map[string]bool{"/seen": true, "/alive": true, "/zombie": false} {
		if strings.Contains(files, fmt.Sprintf(`"path":%q`, path)) != want {
			t.Errorf("after all this the files are %s", files)
		}
	}
	if branches := w.ok("pfs_v2.API/ListBranch", `{"repo":{"name":"mine","type":"user","project":{"name":"default"}}}`); len(branches.messages) != 1 {
		t.Errorf("after all this the branches are %v", branches)
	}
}
