package server_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestWireAuth_Metadata edits each kind of object by those who may and those who may
// not, also as one of several edits of a call.
func TestWireAuth_Metadata(t *testing.T) {
	w := newWire(t)
	w.created(sleeper("p"))
	w.created(sleeper("q"))
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	w.mustAs("root", "pps_v2.API/ActivateAuth", `{}`)
	const project = `{"name":"default"}`
	repo := `{"name":{"project":` + project + `,"name":"p","type":"user"}}`
	spec := strings.Replace(repo, "user", "spec", 1)
	branch := `{"name":{"repo":` + repo + `,"name":"master"}}`
	reader, writer := w.robot("reader", `{"type":"REPO","name":"default/p"}`, "repoReader"), w.robot("writer", `{"type":"REPO","name":"default/p"}`, "repoWriter")
	owner := w.robot("owner", `{"type":"CLUSTER"}`, "projectOwner")
	edit := func(target string) string { return `{` + target + `,"editKey":{"key":"k","value":"v"}}` }
	head := strings.Split(w.mustAs("root", "pfs_v2.API/InspectCommit", `{"commit":{"repo":{"name":"p","type":"user","project":{"name":"default"}},"branch":{"name":"master"}}}`).messages[0], `"id":"`)[1][:32]
	for _, tc := range []struct {
		target, needs string
		allowed       string
	}{
		{`"project":` + project, "PROJECT_SET_DEFAULTS] on PROJECT default", "owner root"},
		{`"repo":` + repo, "REPO_WRITE] on REPO default/p", "writer owner root"},
		{`"repo":` + spec, "REPO_WRITE] on SPEC_REPO default/p", "writer owner root"},
		{`"branch":` + branch, "REPO_CREATE_BRANCH] on REPO default/p", "writer owner root"},
		{`"commit":{"branchHead":` + branch + `}`, "REPO_WRITE] on REPO default/p", "writer owner root"},
		{`"commit":{"id":{"repo":` + repo + `,"id":"` + head + `"}}`, "REPO_WRITE] on REPO default/p", "writer owner root"},
		{`"commit":{"ancestor":{"start":{"ancestor":{"start":{"branchHead":` + branch + `}}}}}`, "REPO_WRITE] on REPO default/p", "writer owner root"},
		{`"commit":{"branchRoot":{"branch":` + branch + `,"offset":1}}`, "REPO_WRITE] on REPO default/p", "writer owner root"},
		{`"pipeline":{"name":{"project":` + project + `,"name":"p"}}`, "REPO_WRITE] on REPO default/p", "writer owner root"},
		{`"cluster":{}`, "CLUSTER_EDIT_CLUSTER_METADATA] on CLUSTER", "root"},
	} {
		for name, token := range map[string]string{"reader": reader, "writer": writer, "owner": owner, "root": "root"} {
			a := w.as(token, "metadata.API/EditMetadata", `{"edits":[`+edit(tc.target)+`]}`)
			may := strings.Contains(tc.allowed, name)
			if may && a.err != nil {
				t.Errorf("%s as %s: %v", tc.target, name, a)
			}
			unbound := strings.Contains(tc.target, `"project":{"name":"default"}`) && strings.Contains(a.String(), "no role binding exists for PROJECT default")
			if !may && (status.Code(a.err) != codes.PermissionDenied || !strings.Contains(a.String(), "needs permissions ["+tc.needs)) && !unbound {
				t.Errorf("%s as %s: %v; want a denial that names %s", tc.target, name, a, tc.needs)
			}
		}
	}
	// One edit that may not be made is none made; what is named is not looked up before.
	a := w.as(writer, "metadata.API/EditMetadata", fmt.Sprintf(`{"edits":[{"repo":%s,"addKey":{"key":"new","value":"v"}},%s]}`, repo, edit(`"repo":`+strings.Replace(repo, `"p"`, `"q"`, 1))))
	if status.Code(a.err) != codes.PermissionDenied || !strings.Contains(a.String(), "edit 2: robot:writer is not authorized") {
		t.Errorf("one of two: %v", a)
	}
	if a := w.mustAs("root", "pfs_v2.API/InspectRepo", `{"repo":{"name":"p","type":"user","project":{"name":"default"}}}`); strings.Contains(a.String(), `"new"`) {
		t.Errorf("the other of the two: %v", a)
	}
	if a := w.as(writer, "metadata.API/EditMetadata", `{"edits":[`+edit(`"branch":`+strings.NewReplacer(`"p"`, `"q"`, "master", "none").Replace(branch))+`]}`); status.Code(a.err) != codes.PermissionDenied {
		t.Errorf("a branch that is not there: %v", a)
	}
	if a := w.as(reader, "metadata.API/EditMetadata", `{"edits":[{"editKey":{"key":"k"}},{"repo":{}},{"commit":{}},{"pipeline":{}},{"project":{}}]}`); status.Code(a.err) != codes.InvalidArgument {
		t.Errorf("edits of nothing: %v", a)
	}
}
