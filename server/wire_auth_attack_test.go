package server_test

import (
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Test_AttackWorkerReadsAnotherRepo has the token of a worker try every way to the
// files of another pipeline's repo. None gives them, nor tells what is there.
func Test_AttackWorkerReadsAnotherRepo(t *testing.T) {
	w := newWire(t)
	w.created(witness(t, "mine", "default", ""))
	w.created(sleeper("other"))
	m := regexp.MustCompile(`"session_token": *"([^"]+)"`).FindStringSubmatch(w.seen("mine", "default").config)
	if m == nil {
		t.Fatal("the worker has no token")
	}
	const mine = `{"branch":{"name":"master","repo":{"name":"mine","type":"user"}}}`
	const other = `{"branch":{"name":"master","repo":{"name":"other","type":"user"}}}`
	if a := w.putAs(other, "/secret", "s3cret"); a.err != nil {
		t.Fatal(a)
	}
	fileSet := strings.Split(w.ok("pfs_v2.API/GetFileSet", `{"commit":`+mine+`}`).messages[0], `"`)[3]
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)

	file := func(commit string) string { return `{"file":{"commit":` + commit + `,"path":"/"}}` }
	doors := []struct{ method, request, needs string }{
		{"pfs_v2.API/GetFile", `{"file":{"commit":` + other + `,"path":"/secret"}}`, "REPO_READ"},
		{"pfs_v2.API/GetFileTAR", file(other), "REPO_READ"},
		{"pfs_v2.API/InspectFile", `{"file":{"commit":` + other + `,"path":"/secret"}}`, "REPO_INSPECT_FILE"},
		{"pfs_v2.API/ListFile", file(other), "REPO_LIST_FILE"},
		{"pfs_v2.API/WalkFile", file(other), "REPO_READ"},
		{"pfs_v2.API/GlobFile", `{"commit":` + other + `,"pattern":"/**"}`, "REPO_READ"},
		{"pfs_v2.API/DiffFile", `{"newFile":{"commit":` + other + `,"path":"/"}}`, "REPO_READ"},
		{"pfs_v2.API/DiffFile", `{"newFile":{"commit":` + mine + `,"path":"/"},"oldFile":{"commit":` + other + `,"path":"/"}}`, "REPO_READ"},
		{"pfs_v2.API/Egress", `{"commit":` + other + `,"objectStorage":{"url":"file:///tmp/x"}}`, "REPO_READ"},
		{"pfs_v2.API/GetFileSet", `{"commit":` + other + `}`, "REPO_READ"},
		{"pfs_v2.API/ModifyFile", `{"setCommit":` + mine + `}{"copyFile":{"dst":"/stolen","src":{"commit":` + other + `,"path":"/secret"}}}`, "REPO_READ"},
		{"pfs_v2.API/CreateFileSet", `{"copyFile":{"dst":"/stolen","src":{"commit":` + other + `,"path":"/secret"}}}`, "REPO_READ"},
		{"pfs_v2.API/ModifyFile", `{"setCommit":` + other + `}{"deleteFile":{"path":"/secret"}}`, "REPO_WRITE"},
		{"pfs_v2.API/AddFileSet", `{"commit":` + other + `,"fileSetId":"` + fileSet + `"}`, "REPO_WRITE"},
	}
	// The same answers come before the repos have bindings and after.
	for _, when := range []string{"Activate", "ActivateAuth"} {
		if when == "ActivateAuth" {
			w.mustAs("root", "pps_v2.API/ActivateAuth", `{}`)
		}
		for _, d := range doors {
			a := w.as(m[1], d.method, d.request)
			denied := status.Code(a.err) == codes.PermissionDenied && strings.Contains(a.String(), "needs permissions ["+d.needs+"] on REPO default/other")
			unbound := when == "Activate" && strings.Contains(a.String(), "no role binding exists for REPO default/")
			if len(a.messages) != 0 || !denied && !unbound {
				t.Errorf("%s %s after %s: %v", d.method, d.request, when, a)
			}
			if a := w.as("", d.method, d.request); status.Code(a.err) != codes.Unauthenticated || len(a.messages) != 0 {
				t.Errorf("%s %s with no known token after %s: %v", d.method, d.request, when, a)
			}
		}
		// A branch that is not there gives itself away no more than one that is.
		gone := strings.ReplaceAll(doors[0].request, "master", "nowhere")
		if a, b := w.as(m[1], doors[0].method, gone), w.as(m[1], doors[0].method, doors[0].request); a.String() != b.String() {
			t.Errorf("a missing branch: %v; one that is there: %v", a, b)
		}
		r := &rest{t: t, addr: w.proc.addr}
		if code, _, body := r.do("POST", "/api/pfs_v2.API/GetFile", doors[0].request, "authn-token", m[1]); code == 200 && !strings.Contains(body, "error") || strings.Contains(body, "czNjcmV0") {
			t.Errorf("REST after %s: %d %s", when, code, body)
		}
		// The worker's own work goes on.
		if a := w.as(m[1], "pfs_v2.API/ModifyFile", `{"setCommit":`+mine+`}{"addFile":{"path":"/n","raw":"YQ=="}}`); a.err != nil {
			t.Errorf("the worker's own commit after %s: %v", when, a)
		}
	}
	if a := w.mustAs("root", "pfs_v2.API/GetFile", doors[0].request); !strings.Contains(a.String(), "czNjcmV0") {
		t.Errorf("the file after all this: %v", a)
	}
}
