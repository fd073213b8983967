package server_test

import (
	"encoding/json"
	"fmt"
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

// Test_AttackWorkerChangesItsPipeline has the token of a worker, which may write to its
// output repo, try to become more: by another program or user in its own spec, by a
// pipeline of its own, by defaults, bindings and tokens. Even as the owner of the project
// it cannot choose what runs as whom.
func Test_AttackWorkerChangesItsPipeline(t *testing.T) {
	w := newWire(t)
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	w.mustAs("root", "pfs_v2.API/ActivateAuth", `{}`)
	w.mustAs("root", "pps_v2.API/CreatePipelineV2", createRequest(witness(t, "mine", "default", "")))
	var worker string
	for ctx := within(t); worker == ""; {
		a := w.call(withTokens(ctx, "root"), "pfs_v2.API/GetFile", `{"file":{"commit":{"branch":{"name":"master","repo":{"name":"mine","type":"user"}}},"path":"/seen"}}`)
		if text, err := unquoted(a); err == nil {
			if m := sessionToken.FindStringSubmatch(text); m != nil {
				worker = m[1]
			}
		}
		if ctx.Err() != nil {
			t.Fatal("the worker commits nothing")
		}
	}
	if a := w.mustAs(worker, "auth_v2.API/WhoAmI", `{}`); !strings.Contains(a.String(), "pipeline:default/mine") {
		t.Fatal(a)
	}
	evil := `{"pipeline":{"name":"mine"},"spout":{},"transform":{"cmd":["id"],"user":"root"}}`
	fresh := strings.Replace(evil, "mine", "fresh", 1)
	batch := fmt.Sprintf(`{"requests":[{"createPipelineV2":{"userJson":%q}}]}`, fresh)
	doors := []struct{ method, request string }{
		{"pps_v2.API/CreatePipelineV2", createRequest(evil, `"update":true`)},
		{"pps_v2.API/CreatePipelineV2", createRequest(fresh)},
		{"pps_v2.API/CreatePipelineV2", createRequest(fresh, `"dryRun":true`)},
		{"pps_v2.API/CreatePipeline", `{"pipeline":{"name":"mine"},"spout":{},"transform":{"cmd":["id"]},"update":true}`},
		{"transaction_v2.API/BatchTransaction", batch},
		{"transaction_v2.API/BatchTransaction", strings.Replace(batch, "}}]}", `,"createPipelineRequest":{"update":true}}}]}`, 1)},
		{"pps_v2.API/SetProjectDefaults", `{"project":{"name":"default"},"projectDefaultsJson":"{}"}`},
		{"pps_v2.API/SetClusterDefaults", `{"clusterDefaultsJson":"{}"}`},
		{"auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"REPO","name":"default/mine"},"principal":"pipeline:default/mine","roles":["repoOwner"]}`},
		{"auth_v2.API/GetRobotToken", `{"robot":"x"}`},
		{"auth_v2.API/RotateRootToken", `{}`},
		{"pps_v2.API/DeletePipeline", `{"pipeline":{"name":"mine"}}`},
	}
	for i, role := range []string{"", "projectOwner"} {
		if role != "" {
			w.mustAs("root", "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"PROJECT","name":"default"},"principal":"pipeline:default/mine","roles":["projectOwner"]}`)
			doors = doors[:6]
		}
		for _, d := range doors {
			if a := w.as(worker, d.method, d.request); status.Code(a.err) != codes.PermissionDenied {
				t.Errorf("round %d: %s %s: %v", i, d.method, d.request, a)
			}
		}
	}
	if info := w.mustAs("root", "pps_v2.API/InspectPipeline", `{"pipeline":{"name":"mine"},"details":true}`).String(); !strings.Contains(info, `"version":"1"`) {
		t.Errorf("the pipeline after all this: %v", info)
	}
}

// unquoted is the contents of a file that GetFile gave.
func unquoted(a answer) (string, error) {
	if a.err != nil || len(a.messages) == 0 {
		return "", fmt.Errorf("no file: %w", a.err)
	}
	var all []byte
	for _, m := range a.messages {
		var part []byte
		if err := json.Unmarshal([]byte(m), &part); err != nil {
			return "", err
		}
		all = append(all, part...)
	}
	return string(all), nil
}

// Test_AttackNameOfADeletedPipeline creates a pipeline with the name of one that was
// deleted: it has nothing of what that was granted elsewhere.
func Test_AttackNameOfADeletedPipeline(t *testing.T) {
	w := newWire(t)
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	w.mustAs("root", "pfs_v2.API/ActivateAuth", `{}`)
	w.mustAs("root", "pfs_v2.API/CreateRepo", `{"repo":{"name":"treasure","type":"user"}}`)
	w.mustAs("root", "pps_v2.API/CreatePipelineV2", createRequest(sleeper("p")))
	w.mustAs("root", "auth_v2.API/ModifyMembers", `{"group":"readers","add":["pipeline:default/p"]}`)
	w.mustAs("root", "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"REPO","name":"default/treasure"},"principal":"pipeline:default/p","roles":["repoReader"]}`)
	w.mustAs("root", "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"REPO","name":"default/treasure"},"principal":"pipeline:default/other","roles":["repoReader"]}`)
	w.mustAs("root", "pps_v2.API/DeletePipeline", `{"pipeline":{"name":"p"}}`)
	mallory := w.robot("mallory", "", "")
	w.mustAs(mallory, "pps_v2.API/CreatePipelineV2", createRequest(sleeper("p")))
	bound := w.mustAs("root", "auth_v2.API/GetRoleBinding", `{"resource":{"type":"REPO","name":"default/treasure"}}`).String()
	if strings.Contains(bound, "pipeline:default/p") || !strings.Contains(bound, "pipeline:default/other") {
		t.Errorf("bound afterwards: %s", bound)
	}
	if g := w.mustAs("root", "auth_v2.API/GetGroupsForPrincipal", `{"principal":"pipeline:default/p"}`).String(); strings.Contains(g, "readers") {
		t.Errorf("groups afterwards: %s", g)
	}
	if b := w.mustAs("root", "auth_v2.API/GetRoleBinding", `{"resource":{"type":"REPO","name":"default/p"}}`).String(); !strings.Contains(b, `"pipeline:default/p"`) || !strings.Contains(b, "robot:mallory") {
		t.Errorf("what it needs itself: %s", b)
	}
}
