package server_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// as makes a call with a token.
func (w *wire) as(token, method, request string) answer {
	w.t.Helper()
	return w.call(withTokens(within(w.t), token), method, request)
}

// mustAs is as for a call that has to succeed.
func (w *wire) mustAs(token, method, request string) answer {
	w.t.Helper()
	a := w.as(token, method, request)
	if a.err != nil {
		w.t.Fatalf("%s %s: %v", method, request, a)
	}
	return a
}

// robot makes a token for a robot, with a role on a resource unless that is empty.
func (w *wire) robot(name, resource, role string) string {
	w.t.Helper()
	a := w.mustAs("root", "auth_v2.API/GetRobotToken", fmt.Sprintf(`{"robot":%q}`, name))
	if role != "" {
		w.mustAs("root", "auth_v2.API/ModifyRoleBinding", fmt.Sprintf(`{"resource":%s,"principal":"robot:%s","roles":[%q]}`, resource, name, role))
	}
	return strings.Split(a.messages[0], `"`)[3]
}

func createRequest(spec string, more ...string) string {
	return fmt.Sprintf(`{"createPipelineRequestJson":%q%s}`, spec, strings.Join(append([]string{""}, more...), ","))
}

// TestWireAuth_ReasonsAreForReaders has a program say something that its repo's readers
// alone may know.
func TestWireAuth_ReasonsAreForReaders(t *testing.T) {
	w := newWire(t)
	w.created(`{"pipeline":{"name":"p"},"spout":{"restart":{"initialBackoff":"3600s"}},"transform":{"cmd":["sh","-c","echo the password is x >&2; exit 1"]}}`)
	said := func(info any) bool { return strings.Contains(fmt.Sprint(at(info, "reason")), "the password") }
	w.waitFor("p", func(info map[string]any) bool { return said(info) })
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	w.mustAs("root", "pfs_v2.API/ActivateAuth", `{}`)
	w.mustAs("root", "pps_v2.API/ActivateAuth", `{}`)
	const p, project = `{"type":"REPO","name":"default/p"}`, `{"type":"PROJECT","name":"default"}`
	for role, c := range map[string]struct {
		token string
		reads bool
	}{
		"root": {"root", true}, "reader": {w.robot("reader", p, "repoReader"), true},
		"lister": {w.robot("lister", project, "projectViewer"), false}, "none": {w.robot("none", "", ""), false},
	} {
		inspected := w.mustAs(c.token, "pps_v2.API/InspectPipeline", `{"pipeline":{"name":"p"},"details":true}`).String()
		if strings.Contains(inspected, "the password") != c.reads || strings.Contains(inspected, "whoever has REPO_READ on repo default/p is told why") == c.reads {
			t.Errorf("%s is told %s", role, inspected)
		}
		if listed := w.mustAs(c.token, "pps_v2.API/ListPipeline", `{}`).String(); strings.Contains(listed, "the password") != c.reads {
			t.Errorf("%s is told in a list %s", role, listed)
		}
	}
}

// TestWireAuth_Pipelines goes through what every role may do with pipelines: each
// row is a call about a pipeline of its own, made by somebody with that role alone.
func TestWireAuth_Pipelines(t *testing.T) {
	w := newWire(t)
	const clusterRes = `{"type":"CLUSTER"}`
	// This one is from before auth was on.
	w.created(sleeper("p"))
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	w.mustAs("root", "pps_v2.API/ActivateAuth", `{}`)
	w.mustAs("root", "pps_v2.API/ActivateAuth", `{}`) // is idempotent
	b := w.mustAs("root", "auth_v2.API/GetRoleBinding", `{"resource":{"type":"REPO","name":"default/p"}}`)
	if !strings.Contains(b.String(), `{"pipeline:default/p":{"roles":{"repoWriter":true}}}`) {
		t.Fatalf("bindings after ActivateAuth: %v", b)
	}

	p := `{"type":"REPO","name":"default/p"}`
	tokens := map[string]string{
		"root": "root", "none": w.robot("none", "", ""),
		"repoReader": w.robot("reader", p, "repoReader"), "repoWriter": w.robot("writer", p, "repoWriter"), "repoOwner": w.robot("owner", p, "repoOwner"),
		"pachdLogReader": w.robot("logs", clusterRes, "pachdLogReader"), "secretAdmin": w.robot("secrets", clusterRes, "secretAdmin"),
		"creator": w.robot("creator", clusterRes, "projectOwner"),
	}
	const pipeline = `{"pipeline":{"name":"p"}}`
	for _, tc := range []struct {
		method, request string
		needs           string // what the denial names
		allowed         []string
	}{
		{"pps_v2.API/ActivateAuth", `{}`, "CLUSTER_AUTH_ACTIVATE", []string{"root"}},
		{"pps_v2.API/InspectPipeline", pipeline, "", []string{"root", "none", "repoReader", "repoWriter", "repoOwner", "pachdLogReader", "secretAdmin", "creator"}},
		{"pps_v2.API/GetLogs", pipeline, "REPO_READ", []string{"root", "repoReader", "repoWriter", "repoOwner", "creator"}},
		{"pps_v2.API/GetLogs", `{}`, "CLUSTER_GET_PACHD_LOGS", []string{"root", "pachdLogReader"}},
		{"pps_v2.API/StopPipeline", pipeline, "REPO_WRITE", []string{"root", "repoWriter", "repoOwner", "creator"}},
		{"pps_v2.API/StartPipeline", pipeline, "REPO_WRITE", []string{"root", "repoWriter", "repoOwner", "creator"}},
		{"pps_v2.API/RerunPipeline", pipeline, "REPO_WRITE", []string{"root", "repoWriter", "repoOwner", "creator"}},
		{"pps_v2.API/CreatePipelineV2", createRequest(sleeper("p"), `"update":true`), "REPO_WRITE", []string{"root", "repoWriter", "repoOwner", "creator"}},
		{"pps_v2.API/CreatePipelineV2", createRequest(sleeper("q"), `"dryRun":true`), "PROJECT_CREATE_REPO", []string{"root", "creator"}},
		{"pps_v2.API/CreatePipeline", sleeper("q")[:len(sleeper("q"))-1] + `,"dryRun":true}`, "PROJECT_CREATE_REPO", []string{"root", "creator"}},
		{"pps_v2.API/SetProjectDefaults", `{"project":{"name":"default"},"projectDefaultsJson":"{}"}`, "PROJECT_SET_DEFAULTS", []string{"root", "creator"}},
		{"pps_v2.API/SetClusterDefaults", `{"clusterDefaultsJson":"{}"}`, "CLUSTER_SET_DEFAULTS", []string{"root"}},
		{"pps_v2.API/ListSecret", `{}`, "CLUSTER_LIST_SECRETS", []string{"root", "secretAdmin"}},
	} {
		for role, token := range tokens {
			may := false
			for _, a := range tc.allowed {
				may = may || a == role
			}
			a := w.as(token, tc.method, tc.request)
			switch {
			case may && a.err != nil:
				t.Errorf("%s as %s: %v; it has the permission", tc.method, role, a)
			case !may && (status.Code(a.err) != codes.PermissionDenied && status.Code(a.err) != codes.Unknown ||
				!strings.Contains(a.String(), "needs permissions ["+tc.needs+"]") && !strings.Contains(a.String(), "no role binding exists for PROJECT default")):
				t.Errorf("%s %s as %s: %v; want a denial that names %s", tc.method, tc.request, role, a, tc.needs)
			}
		}
	}

	// A listing leaves out what the caller cannot see.
	for role, want := range map[string]bool{"root": true, "none": false, "repoReader": true, "creator": true, "secretAdmin": false} {
		if a := w.mustAs(tokens[role], "pps_v2.API/ListPipeline", `{}`); (len(a.messages) == 1) != want {
			t.Errorf("ListPipeline as %s: %v", role, a)
		}
	}

	// Whoever creates a pipeline owns it, and its workers may write.
	w.mustAs(tokens["creator"], "pps_v2.API/CreatePipelineV2", createRequest(sleeper("q")))
	b = w.mustAs("root", "auth_v2.API/GetRoleBinding", `{"resource":{"type":"REPO","name":"default/q"}}`)
	if !strings.Contains(b.String(), `"robot:creator":{"roles":{"repoOwner":true}}`) || !strings.Contains(b.String(), `"pipeline:default/q":{"roles":{"repoWriter":true}}`) {
		t.Errorf("bindings of a new pipeline: %v", b)
	}
	if a := w.mustAs("root", "pps_v2.API/InspectPipeline", `{"pipeline":{"name":"q"},"details":true}`); !strings.Contains(a.String(), `"createdBy":"robot:creator"`) {
		t.Errorf("created by: %v", a)
	}

	// Deleting needs its own permission, removes nothing when it is denied for one of
	// several, and takes the bindings along.
	for _, role := range []string{"none", "repoReader", "repoWriter"} {
		if a := w.as(tokens[role], "pps_v2.API/DeletePipeline", pipeline); status.Code(a.err) != codes.PermissionDenied || !strings.Contains(a.String(), "REPO_DELETE") {
			t.Errorf("DeletePipeline as %s: %v", role, a)
		}
	}
	w.mustAs("root", "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"REPO","name":"default/q"},"principal":"robot:owner","roles":["repoReader"]}`)
	if a := w.as(tokens["repoOwner"], "pps_v2.API/DeletePipelines", `{"all":true}`); status.Code(a.err) != codes.PermissionDenied {
		t.Errorf("DeletePipelines as owner of one and reader of another: %v", a)
	}
	if a := w.mustAs("root", "pps_v2.API/ListPipeline", `{}`); len(a.messages) != 2 {
		t.Errorf("after a delete that was denied: %v", a)
	}
	w.mustAs(tokens["repoOwner"], "pps_v2.API/DeletePipeline", pipeline)
	w.mustAs(tokens["creator"], "pps_v2.API/DeletePipeline", `{"pipeline":{"name":"q"},"keepRepo":true}`)
	b = w.mustAs("root", "auth_v2.API/GetRoleBinding", `{"resource":{"type":"REPO","name":"default/p"}}`)
	if strings.Contains(b.String(), "pipeline:") || strings.Contains(b.String(), "robot:") {
		t.Errorf("bindings of a deleted pipeline: %v", b)
	}
	b = w.mustAs("root", "auth_v2.API/GetRoleBinding", `{"resource":{"type":"REPO","name":"default/q"}}`)
	if strings.Contains(b.String(), "pipeline:") || !strings.Contains(b.String(), "robot:creator") {
		t.Errorf("bindings of a kept repo: %v", b)
	}
}

// TestWireAuth_PipelineSpecs has those who may not read a pipeline's repo look for
// what is in its spec and its program's last words: by each call that shows
// pipelines, and with filters, which see only what their caller does.
func TestWireAuth_PipelineSpecs(t *testing.T) {
	w := newWire(t)
	const secrets = `{"pipeline":{"name":"p"},"description":"for all","spout":{"liveness":{"exec":{"command":["hunter1"]}}},` +
		`"transform":{"cmd":["sh","-c","echo hunter2 >&2; sleep 1000"],"stdin":["hunter3"],"env":{"PASSWORD":"hunter4"}}%s}`
	w.created(fmt.Sprintf(secrets, ""))
	w.created(fmt.Sprintf(secrets, `,"datumTries":"4"`), "update")
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	w.mustAs("root", "pps_v2.API/ActivateAuth", `{}`)
	none, lister := w.robot("none", "", ""), w.robot("lister", `{"type":"CLUSTER"}`, "projectWriter")
	reader := w.robot("reader", `{"type":"REPO","name":"default/p"}`, "repoReader")
	for _, c := range []struct{ method, request string }{
		{"pps_v2.API/InspectPipeline", `{"pipeline":{"name":"p"},"details":true}`},
		{"pps_v2.API/InspectPipeline", `{"pipeline":{"name":"p^"},"details":true}`},
		{"pps_v2.API/ListPipeline", `{"details":true}`},
		{"pps_v2.API/ListPipeline", `{"history":"-1"}`},
		{"pps_v2.API/ListPipeline", `{"pipeline":{"name":"p"},"history":"1"}`},
		{"pps_v2.API/ListPipeline", `{"jqFilter":".details.transform.env.PASSWORD == \"hunter4\""}`},
	} {
		if a := w.mustAs(reader, c.method, c.request); !strings.Contains(a.String(), "hunter4") {
			t.Errorf("%s %s by a reader: %v", c.method, c.request, a)
		}
		filtered := strings.Contains(c.request, "jqFilter")
		for name, token := range map[string]string{"nobody": none, "a lister": lister} {
			a := w.mustAs(token, c.method, c.request)
			shows := len(a.messages) > 0
			want := !filtered && (name == "a lister" || !strings.Contains(c.method, "List"))
			if strings.Contains(a.String(), "hunter") || shows != want {
				t.Errorf("%s %s by %s: %v", c.method, c.request, name, a)
			}
			if shows && (!strings.Contains(a.String(), `"description":"for all"`) || !strings.Contains(a.String(), `"createdAt"`)) {
				t.Errorf("%s by %s says too little: %v", c.method, name, a)
			}
		}
	}
	// Logs and jobs: who may not know is told the same of what is there and what is not.
	const job = `"job":{"id":"0123456789ab4def0123456789abcdef","pipeline":{"name":"p"}}`
	for _, c := range []struct{ method, request, needs string }{
		{"pps_v2.API/GetLogs", `{"pipeline":{"name":"p"}}`, "REPO_READ"},
		{"pps_v2.API/GetLogs", `{` + job + `}`, "REPO_READ"},
		{"pps_v2.API/InspectJob", `{` + job + `}`, "PIPELINE_LIST_JOB"},
		{"pps_v2.API/ListJob", `{"pipeline":{"name":"p"}}`, "PIPELINE_LIST_JOB"},
		{"pps_v2.API/SubscribeJob", `{"pipeline":{"name":"p"}}`, "PIPELINE_LIST_JOB"},
		{"pps_v2.API/ListDatum", `{` + job + `}`, "PIPELINE_LIST_JOB"},
		{"pps_v2.API/InspectDatum", `{"datum":{` + job + `}}`, "PIPELINE_LIST_JOB"},
		{"pps_v2.API/StopJob", `{` + job + `}`, "REPO_WRITE"},
		{"pps_v2.API/DeleteJob", `{` + job + `}`, "REPO_WRITE"},
		{"pps_v2.API/UpdateJobState", `{` + job + `}`, "REPO_WRITE"},
		{"pps_v2.API/RestartDatum", `{` + job + `}`, "REPO_WRITE"},
		{"pps_v2.API/RunCron", `{"pipeline":{"name":"p"}}`, "REPO_WRITE"},
	} {
		if a := w.as(none, c.method, c.request); status.Code(a.err) != codes.PermissionDenied || !strings.Contains(a.String(), "needs permissions ["+c.needs+"] on REPO default/p") {
			t.Errorf("%s %s: %v; want a denial that names %s", c.method, c.request, a, c.needs)
		}
		missing := strings.ReplaceAll(c.request, `"p"`, `"nope"`)
		if a := w.as(none, c.method, missing); !strings.Contains(a.String(), "no role binding exists for REPO default/nope") {
			t.Errorf("%s %s: %v", c.method, missing, a)
		}
	}
}
