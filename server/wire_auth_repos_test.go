package server_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// refuse checks that a call is refused with a code and text.
func (w *wire) refuse(token, method, request string, code codes.Code, text string) {
	w.t.Helper()
	if a := w.as(token, method, request); status.Code(a.err) != code || !strings.Contains(status.Convert(a.err).Message(), text) || len(a.messages) != 0 {
		w.t.Errorf("%s %s: %v; want %v %q", method, request, a, code, text)
	}
}

// denies checks that a call is refused because the caller lacks permissions.
func (w *wire) denies(token, method, request, needs string) {
	w.t.Helper()
	w.refuse(token, method, request, codes.PermissionDenied, " is not authorized to perform this operation - needs permissions ["+needs[:strings.Index(needs, " on ")]+"]"+needs[strings.Index(needs, " on "):]+".")
}

// bindings are the role bindings of a resource, as JSON.
func (w *wire) bindings(resource, name string) string {
	w.t.Helper()
	return w.mustAs("root", "auth_v2.API/GetRoleBinding", fmt.Sprintf(`{"resource":{"type":%q,"name":%q}}`, resource, name)).String()
}

// TestWireAuth_ReposAndProjects has two robots make, change, look at and delete
// projects and repos, their own and each other's.
func TestWireAuth_ReposAndProjects(t *testing.T) {
	w := newWire(t)
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"old"}}`)
	w.ok("pfs_v2.API/CreateProject", `{"project":{"name":"before"}}`)
	w.refuse("", "pfs_v2.API/ActivateAuth", `{}`, codes.Unimplemented, "the auth service is not activated")
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	one, two := w.robot("one", "", ""), w.robot("two", "", "")
	w.refuse(one, "pfs_v2.API/CreateRepo", `{"repo":{"name":"d"}}`, codes.Unknown, "no role binding exists for PROJECT default")
	w.denies(one, "pfs_v2.API/ActivateAuth", `{}`, "CLUSTER_AUTH_ACTIVATE on CLUSTER")

	// Activating makes the bindings of what there is, and leaves alone those there are.
	w.mustAs("root", "pfs_v2.API/ActivateAuth", `{}`)
	if b := w.bindings("PROJECT", "default"); b != `{"binding":{"entries":{"allClusterUsers":{"roles":{"projectWriter":true}}}}}` {
		t.Errorf("bindings of the project default: %s", b)
	}
	for _, res := range []string{`{"type":"REPO","name":"default/old"}`, `{"type":"PROJECT","name":"before"}`, `{"type":"PROJECT","name":"default"}`} {
		w.mustAs("root", "auth_v2.API/ModifyRoleBinding", `{"resource":`+res+`,"principal":"robot:three","roles":["repoReader"]}`)
	}
	w.mustAs("root", "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"PROJECT","name":"default"},"principal":"allClusterUsers"}`)
	w.mustAs("root", "pfs_v2.API/ActivateAuth", `{}`)
	for _, res := range [][2]string{{"REPO", "default/old"}, {"PROJECT", "before"}, {"PROJECT", "default"}} {
		if b := w.bindings(res[0], res[1]); b != `{"binding":{"entries":{"robot:three":{"roles":{"repoReader":true}}}}}` {
			t.Errorf("bindings of %v after ActivateAuth again: %s", res, b)
		}
	}
	w.mustAs("root", "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"PROJECT","name":"default"},"principal":"allClusterUsers","roles":["projectWriter"]}`)

	// Whoever makes a project or repo owns it; others do not.
	w.mustAs(one, "pfs_v2.API/CreateProject", `{"project":{"name":"p"}}`)
	w.mustAs(one, "pfs_v2.API/CreateRepo", `{"repo":{"name":"r","project":{"name":"p"}}}`)
	w.mustAs(two, "pfs_v2.API/CreateRepo", `{"repo":{"name":"d"}}`)
	for _, res := range [][3]string{{"PROJECT", "p", `"robot:one":{"roles":{"projectOwner":true}}`}, {"REPO", "p/r", `"robot:one":{"roles":{"repoOwner":true}}`}, {"REPO", "default/d", `"robot:two":{"roles":{"repoOwner":true}}`}} {
		if b := w.bindings(res[0], res[1]); b != `{"binding":{"entries":{`+res[2]+`}}}` {
			t.Errorf("bindings of %v: %s", res[1], b)
		}
	}
	const repo = `{"name":"r","project":{"name":"p"}}`
	w.refuse(two, "pfs_v2.API/CreateProject", `{"project":{"name":"p"}}`, codes.AlreadyExists, "project p already exists")
	w.denies(two, "pfs_v2.API/CreateProject", `{"project":{"name":"p"},"update":true,"description":"x"}`, "PROJECT_SET_DEFAULTS on PROJECT p")
	w.denies(two, "pfs_v2.API/CreateRepo", `{"repo":`+repo+`}`, "PROJECT_CREATE_REPO on PROJECT p")
	w.denies(two, "pfs_v2.API/CreateRepo", `{"repo":{"name":"new","project":{"name":"p"}},"update":true}`, "PROJECT_CREATE_REPO on PROJECT p")
	w.denies(two, "pfs_v2.API/CreateRepo", `{"repo":`+repo+`,"update":true,"description":"x"}`, "REPO_WRITE on REPO p/r")
	w.denies(one, "pfs_v2.API/CreateRepo", `{"repo":{"name":"d","type":"spec"}}`, "REPO_WRITE on SPEC_REPO default/d")
	w.refuse(two, "pfs_v2.API/CreateRepo", `{"repo":{"name":"r","project":{"name":"none"}}}`, codes.NotFound, `cannot find project "none"`)
	w.denies(two, "pfs_v2.API/DeleteProject", `{"project":{"name":"p"}}`, "PROJECT_DELETE PROJECT_MODIFY_BINDINGS on PROJECT p")
	w.denies(two, "pfs_v2.API/DeleteProject", `{"project":{"name":"p"},"force":true}`, "PROJECT_DELETE PROJECT_MODIFY_BINDINGS on PROJECT p")
	w.refuse(two, "pfs_v2.API/DeleteProject", `{"project":{"name":"none"}}`, codes.NotFound, `project "none" not found`)
	w.denies(two, "pfs_v2.API/DeleteAll", `{}`, "CLUSTER_DELETE_ALL on CLUSTER")
	w.denies(two, "metadata.API/EditMetadata", `{"edits":[{"project":{"name":"p"},"editKey":{"key":"k","value":"v"}}]}`, "PROJECT_SET_DEFAULTS on PROJECT p")
	w.denies(two, "metadata.API/EditMetadata", `{"edits":[{"repo":{"name":{"name":"r","project":{"name":"p"}}},"editKey":{"key":"k","value":"v"}}]}`, "REPO_WRITE on REPO p/r")
	w.mustAs(one, "pfs_v2.API/CreateProject", `{"project":{"name":"p"},"update":true,"description":"mine"}`)
	w.mustAs(one, "pfs_v2.API/CreateRepo", `{"repo":`+repo+`,"update":true,"description":"mine"}`)
	w.mustAs(one, "metadata.API/EditMetadata", `{"edits":[{"repo":{"name":{"name":"r","project":{"name":"p"}}},"editKey":{"key":"k","value":"v"}}]}`)

	// A repo is shown to those who may read it or list its project, with what they may do.
	w.denies(two, "pfs_v2.API/InspectRepo", `{"repo":`+repo+`}`, "REPO_READ on REPO p/r")
	for _, tc := range []struct{ token, request, want string }{
		{one, `{"repo":` + repo + `}`, `"roles":["projectOwner","repoOwner"]`},
		{one, `{"repo":{"name":"d"}}`, `"authInfo":{"permissions":["PROJECT_CREATE","PROJECT_LIST_REPO","PROJECT_CREATE_REPO"]}`},
		{two, `{"repo":{"name":"d"}}`, `"roles":["repoOwner"]`},
	} {
		if a := w.mustAs(tc.token, "pfs_v2.API/InspectRepo", tc.request); !strings.Contains(a.String(), tc.want) || strings.Contains(tc.want, "repoOwner") != strings.Contains(a.String(), `"REPO_DELETE"`) {
			t.Errorf("InspectRepo %s: %v; want %s", tc.request, a, tc.want)
		}
	}
	for token, want := range map[string]bool{one: true, two: false, "root": true} {
		a := w.mustAs(token, "pfs_v2.API/ListRepo", `{}`).String()
		if strings.Contains(a, `"name":"r"`) != want || !strings.Contains(a, `"name":"d"`) || !strings.Contains(a, `"authInfo"`) {
			t.Errorf("ListRepo, project p visible %v:\n%s", want, a)
		}
		if a := w.mustAs(token, "pfs_v2.API/ReposSummary", `{"projects":[{"name":"p"}]}`).String(); strings.Contains(a, `"userRepoCount":"1"`) != want {
			t.Errorf("ReposSummary, project p visible %v: %s", want, a)
		}
	}
	for _, method := range []string{"InspectProject", "InspectProjectV2"} {
		if a := w.mustAs(one, "pfs_v2.API/"+method, `{"project":{"name":"p"}}`); !strings.Contains(a.String(), `"PROJECT_DELETE"`) || !strings.Contains(a.String(), `"createdBy":"robot:one"`) {
			t.Errorf("%s as its owner: %v", method, a)
		}
		if a := w.mustAs(two, "pfs_v2.API/"+method, `{"project":{"name":"p"}}`); !strings.Contains(a.String(), `"authInfo":{`) || strings.Contains(a.String(), `"PROJECT_`) && !strings.Contains(a.String(), "PROJECT_CREATE\"") {
			t.Errorf("%s as somebody else: %v", method, a)
		}
	}
	if a := w.mustAs(two, "pfs_v2.API/ListProject", `{}`); len(a.messages) != 3 || strings.Contains(a.String(), "PROJECT_DELETE") || !strings.Contains(a.String(), "PROJECT_CREATE_REPO") {
		t.Errorf("ListProject: %v", a)
	}

	// Deleting leaves what one may not delete, and takes the bindings along.
	if a := w.mustAs(two, "pfs_v2.API/DeleteRepo", `{"repo":`+repo+`,"force":true}`); a.String() != `{}` {
		t.Errorf("DeleteRepo of somebody else's: %v", a)
	}
	if a := w.mustAs(two, "pfs_v2.API/DeleteRepos", `{"projects":[{"name":"p"}],"force":true}`); a.String() != `{}` {
		t.Errorf("DeleteRepos of somebody else's: %v", a)
	}
	if a := w.mustAs(two, "pfs_v2.API/DeleteRepos", `{"all":true}`); a.String() != `{"repos":[{"name":"d","type":"user","project":{"name":"default"}}]}` {
		t.Errorf("DeleteRepos deleted %v", a)
	}
	w.mustAs(one, "pfs_v2.API/DeleteProject", `{"project":{"name":"p"},"force":true}`)
	for _, res := range [][2]string{{"REPO", "default/d"}, {"REPO", "p/r"}, {"PROJECT", "p"}} {
		if b := w.bindings(res[0], res[1]); strings.Contains(b, "robot") {
			t.Errorf("bindings of %v, which is deleted: %s", res, b)
		}
		w.refuse("root", "auth_v2.API/ModifyRoleBinding", fmt.Sprintf(`{"resource":{"type":%q,"name":%q},"principal":"robot:two","roles":["repoReader"]}`, res[0], res[1]), codes.Unknown, "no role binding exists for "+res[0]+" "+res[1])
	}
	// Nothing of it comes back with what has the same name.
	w.mustAs(two, "pfs_v2.API/CreateProject", `{"project":{"name":"p"}}`)
	w.mustAs(two, "pfs_v2.API/CreateRepo", `{"repo":`+repo+`}`)
	w.denies(one, "pfs_v2.API/InspectRepo", `{"repo":`+repo+`}`, "REPO_READ on REPO p/r")

	// The same checks hold in a transaction, which sees the bindings that it makes.
	const batch = `{"requests":[{"createRepo":{"repo":{"name":%q}}},{"startCommit":{"branch":{"name":"master","repo":{"name":%q,"project":{"name":%q}}}}}]}`
	w.mustAs(one, "transaction_v2.API/BatchTransaction", fmt.Sprintf(batch, "x", "x", "default"))
	w.denies(one, "transaction_v2.API/BatchTransaction", fmt.Sprintf(batch, "y", "r", "p"), "REPO_WRITE on REPO p/r")
	w.refuse("root", "pfs_v2.API/InspectRepo", `{"repo":{"name":"y"}}`, codes.NotFound, "repo default/y not found")

	w.mustAs("root", "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"PROJECT","name":"default"},"principal":"allClusterUsers"}`)
	w.mustAs("root", "pfs_v2.API/DeleteAll", `{}`)
	for _, res := range [][2]string{{"REPO", "default/x"}, {"REPO", "p/r"}, {"PROJECT", "p"}} {
		if b := w.bindings(res[0], res[1]); strings.Contains(b, "robot") {
			t.Errorf("bindings of %v after DeleteAll: %s", res, b)
		}
	}
	w.mustAs(one, "pfs_v2.API/CreateRepo", `{"repo":{"name":"d"}}`)
}
