package server_test

import (
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// TestWireAuth_BranchesAndCommits makes every call about branches and commits of a
// repo as a robot that may, one that may not, the worker of a pipeline, and nobody.
func TestWireAuth_BranchesAndCommits(t *testing.T) {
	w := newWire(t)
	w.created(witness(t, "w", "default", ""))
	m := regexp.MustCompile(`"session_token": *"([^"]+)"`).FindStringSubmatch(w.seen("w", "default").config)
	if m == nil {
		t.Fatal("the worker has no token")
	}
	worker := m[1]
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`)
	const repo = `{"name":"r","type":"user"}`
	const branch = `{"name":"b","repo":` + repo + `}`
	const head = `{"branch":` + branch + `}`
	const picked = `{"branchHead":{"name":{"name":"b","repo":{"name":{"name":"r"}}}}}`
	w.ok("pfs_v2.API/CreateBranch", `{"branch":`+branch+`}`)
	first := strings.Split(w.putCommit(`{"branch":`+branch+`}`, "/a"), "^")[0]
	for _, p := range []string{"/b", "/c", "/d"} {
		w.putCommit(head, p)
	}
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	w.mustAs("root", "pfs_v2.API/ActivateAuth", `{}`)
	w.mustAs("root", "pps_v2.API/ActivateAuth", `{}`)
	may := w.robot("may", `{"type":"REPO","name":"default/r"}`, "repoWriter")
	not := w.robot("not", "", "")
	look := func() string {
		return w.mustAs("root", "pfs_v2.API/ListBranch", `{"repo":`+repo+`}`).String() + w.mustAs("root", "pfs_v2.API/ListCommit", `{"repo":`+repo+`}`).String()
	}
	before := look()

	calls := []struct{ method, request, needs string }{
		{"CreateBranch", `{"branch":{"name":"b2","repo":` + repo + `},"head":` + head + `}`, "REPO_CREATE_BRANCH"},
		{"InspectBranch", `{"branch":` + branch + `}`, "REPO_LIST_BRANCH"},
		{"ListBranch", `{"repo":` + repo + `}`, "REPO_LIST_BRANCH"},
		{"WalkBranchProvenance", `{"start":[{"name":{"name":"b","repo":{"name":{"name":"r"}}}}]}`, "REPO_LIST_BRANCH"},
		{"WalkBranchSubvenance", `{"start":[{"name":{"name":"b","repo":{"name":{"name":"r"}}}}]}`, "REPO_LIST_BRANCH"},
		{"InspectCommit", `{"commit":` + head + `,"wait":"FINISHED"}`, "REPO_INSPECT_COMMIT"},
		{"ListCommit", `{"repo":` + repo + `}`, "REPO_LIST_COMMIT"},
		{"ListCommit", `{"to":` + head + `}`, "REPO_LIST_COMMIT"},
		{"FindCommits", `{"start":` + head + `,"filePath":"/a"}`, "REPO_LIST_COMMIT REPO_LIST_FILE"},
		{"WalkCommitProvenance", `{"start":[` + picked + `]}`, "REPO_INSPECT_COMMIT"},
		{"WalkCommitSubvenance", `{"start":[{"ancestor":{"start":` + picked + `,"offset":1}}]}`, "REPO_INSPECT_COMMIT"},
		{"StartCommit", `{"branch":{"name":"b3","repo":` + repo + `}}`, "REPO_WRITE"},
		{"ClearCommit", `{"commit":{"branch":{"name":"b3","repo":` + repo + `}}}`, "REPO_WRITE"},
		{"FinishCommit", `{"commit":{"branch":{"name":"b3","repo":` + repo + `}}}`, "REPO_WRITE"},
		{"SquashCommit", `{"commit":{"repo":` + repo + `,"id":"` + first + `"}}`, "REPO_DELETE_COMMIT"},
		{"ForgetCommit", `{"commit":` + picked + `}`, "REPO_DELETE_COMMIT"},
		{"DeleteBranch", `{"branch":{"name":"b2","repo":` + repo + `}}`, "REPO_DELETE_BRANCH"},
		{"DropCommit", `{"commit":` + head + `}`, "REPO_DELETE_COMMIT"},
		{"EditMetadata", `{"edits":[{"branch":{"name":{"name":"b","repo":{"name":{"name":"r"}}}},"editKey":{"key":"k","value":"v"}}]}`, "REPO_CREATE_BRANCH"},
		{"EditMetadata", `{"edits":[{"commit":` + picked + `,"editKey":{"key":"k","value":"v"}}]}`, "REPO_WRITE"},
	}
	name := func(method string) string {
		if method == "EditMetadata" {
			return "metadata.API/EditMetadata"
		}
		return "pfs_v2.API/" + method
	}
	for _, c := range calls {
		w.denies(not, name(c.method), c.request, c.needs+" on REPO default/r")
		w.denies(worker, name(c.method), c.request, c.needs+" on REPO default/r")
		w.refuse("x", name(c.method), c.request, codes.Unauthenticated, "")
		// A branch that is not there gives itself away no more than one that is.
		a, b := w.as(not, name(c.method), c.request), w.as(not, name(c.method), strings.ReplaceAll(c.request, `"name":"b"`, `"name":"nowhere"`))
		if a.String() != b.String() {
			t.Errorf("%s of a missing branch: %v; of one that is there: %v", c.method, b, a)
		}
	}
	w.denies(not, "pfs_v2.API/SubscribeCommit", `{"repo":`+repo+`}`, "REPO_LIST_COMMIT on REPO default/r")
	w.refuse("root", "pfs_v2.API/ListBranch", `{}`, codes.Unknown, "Cannot list branches from all repos with auth activated")
	if after := look(); after != before {
		t.Errorf("calls that were refused changed\n%s\nto\n%s", before, after)
	}
	for _, c := range calls {
		if a := w.as(may, name(c.method), c.request); a.err != nil && c.method != "ForgetCommit" {
			t.Errorf("%s %s as a writer: %v", c.method, c.request, a)
		} else if c.method == "ForgetCommit" && !strings.Contains(a.String(), "must be in an output repo") {
			t.Errorf("ForgetCommit as a writer: %v", a)
		}
	}
	if a := w.mustAs("root", "pfs_v2.API/InspectBranch", `{"branch":`+branch+`}`); !strings.Contains(a.String(), `"metadata":{"k":"v"}`) {
		t.Errorf("after the calls of the writer: %v", a)
	}

	// The worker does with its own repo what a writer may; everybody may look at specs.
	const own = `{"name":"master","repo":{"name":"w","type":"user"}}`
	w.mustAs(worker, "pfs_v2.API/StartCommit", `{"branch":`+own+`}`)
	w.mustAs(worker, "pfs_v2.API/FinishCommit", `{"commit":{"branch":`+own+`}}`)
	w.mustAs(worker, "pfs_v2.API/InspectCommit", `{"commit":{"branch":`+own+`}}`)
	w.mustAs(not, "pfs_v2.API/InspectCommit", `{"commit":{"branch":{"name":"master","repo":{"name":"w","type":"spec"}}}}`)
	w.denies(not, "pfs_v2.API/StartCommit", `{"branch":{"name":"master","repo":{"name":"w","type":"spec"}}}`, "REPO_WRITE on SPEC_REPO default/w")
}

// putCommit puts a file into a commit of its own and gives the commit's id.
func (w *wire) putCommit(target, path string) string {
	w.t.Helper()
	w.ok("pfs_v2.API/ModifyFile", `{"setCommit":`+target+`}`, `{"addFile":{"path":"`+path+`","raw":"YQ=="}}`)
	return regexp.MustCompile(`"id":"([0-9a-f]+)"`).FindStringSubmatch(w.ok("pfs_v2.API/InspectCommit", `{"commit":`+target+`}`).String())[1]
}

// TestWireAuth_AcrossRepos is about commits and branches that are related across
// repos of which a robot may know one.
func TestWireAuth_AcrossRepos(t *testing.T) {
	w := newWire(t)
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	w.mustAs("root", "pfs_v2.API/ActivateAuth", `{}`)
	one, two, three := w.robot("one", "", ""), w.robot("two", "", ""), w.robot("three", "", "")
	w.mustAs(one, "pfs_v2.API/CreateRepo", `{"repo":{"name":"up"}}`)
	w.mustAs(two, "pfs_v2.API/CreateRepo", `{"repo":{"name":"down"}}`)
	const up, down = `{"name":"master","repo":{"name":"up","type":"user"}}`, `{"name":"master","repo":{"name":"down","type":"user"}}`
	w.mustAs(one, "pfs_v2.API/CreateBranch", `{"branch":`+up+`}`)
	const follow = `{"branch":` + down + `,"provenance":[` + up + `]}`
	grant := func(robot, role string) {
		t.Helper()
		w.mustAs(one, "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"REPO","name":"default/up"},"principal":"robot:`+robot+`","roles":[`+role+`]}`)
	}

	// A branch is made only from what one may read, and from what is there.
	w.denies(two, "pfs_v2.API/CreateBranch", follow, "REPO_READ on REPO default/up")
	grant("two", `"repoReader"`)
	w.denies(two, "pfs_v2.API/CreateBranch", strings.Replace(follow, `[{"name":"master"`, `[{"name":"new"`, 1), "REPO_CREATE_BRANCH on REPO default/up")
	w.mustAs(two, "pfs_v2.API/CreateBranch", follow)

	// A commit upstream makes one downstream, also if its author knows nothing of it.
	c := w.mustAs(one, "pfs_v2.API/StartCommit", `{"branch":`+up+`}`)
	id := regexp.MustCompile(`"id":"([0-9a-f]+)"`).FindStringSubmatch(c.String())[1]
	w.mustAs(one, "pfs_v2.API/FinishCommit", `{"commit":{"branch":`+up+`}}`)
	set := `{"commitSet":{"id":"` + id + `"}}`
	const pick = `{"start":[{"branchHead":{"name":{"name":"master","repo":{"name":{"name":"up"}}}}}]}`
	const pickBranch = `{"start":[{"name":{"name":"master","repo":{"name":{"name":"up"}}}}]}`
	for _, tc := range []struct {
		token, method, request string
		want                   int // answers
	}{
		{one, "InspectCommitSet", set, 1},
		{two, "InspectCommitSet", set, 2},
		{one, "WalkCommitSubvenance", pick, 0},
		{two, "WalkCommitSubvenance", pick, 1},
		{one, "WalkBranchSubvenance", pickBranch, 0},
		{two, "WalkBranchSubvenance", pickBranch, 1},
		{three, "ListCommitSet", `{}`, 0},
		{three, "ListCommit", `{}`, 0},
		{one, "ListCommit", `{}`, 2},
		{two, "ListCommit", `{}`, 4},
	} {
		if a := w.mustAs(tc.token, "pfs_v2.API/"+tc.method, tc.request); len(a.messages) != tc.want {
			t.Errorf("%s: %d answers, want %d: %v", tc.method, len(a.messages), tc.want, a)
		}
	}
	if a := w.mustAs(one, "pfs_v2.API/ListCommitSet", `{}`); !strings.Contains(a.String(), id) || strings.Contains(a.String(), `"commit":{"repo":{"name":"down"`) {
		t.Errorf("ListCommitSet: %v", a)
	}
	// A set that one knows nothing of is as one that is not there.
	const none = "f00000000000400080000000000000ff"
	for _, method := range []string{"InspectCommitSet", "SquashCommitSet", "DropCommitSet"} {
		w.refuse(three, "pfs_v2.API/"+method, set, codes.NotFound, "no commits found for commitset "+id)
		w.refuse(three, "pfs_v2.API/"+method, strings.Replace(set, id, none, 1), codes.NotFound, "no commits found for commitset "+none)
	}

	// Commits are removed only with the right to all that go.
	const head = `{"commit":{"branch":` + up + `},"recursive":true}`
	for _, method := range []string{"SquashCommitSet", "DropCommitSet"} {
		w.denies(one, "pfs_v2.API/"+method, set, "REPO_DELETE_COMMIT on REPO default/down")
		w.denies(two, "pfs_v2.API/"+method, set, "REPO_DELETE_COMMIT on REPO default/up")
	}
	for _, method := range []string{"SquashCommit", "DropCommit"} {
		w.denies(one, "pfs_v2.API/"+method, head, "REPO_DELETE_COMMIT on REPO default/down")
		w.denies(two, "pfs_v2.API/"+method, head, "REPO_DELETE_COMMIT on REPO default/up")
	}
	w.denies(one, "transaction_v2.API/BatchTransaction", `{"requests":[{"squashCommitSet":`+set+`}]}`, "REPO_DELETE_COMMIT on REPO default/down")

	// Who subscribes gets no commit after the permission is gone.
	ctx := withTokens(within(t), two)
	sub, err := pfspb.NewAPIClient(w.conn).SubscribeCommit(ctx, &pfspb.SubscribeCommitRequest{Repo: repo("up"), State: pfspb.CommitState_FINISHED})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := sub.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	grant("two", "")
	w.mustAs(one, "pfs_v2.API/ModifyFile", `{"setCommit":{"branch":`+up+`}}{"addFile":{"path":"/a","raw":"YQ=="}}`)
	if c, err := sub.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a commit after the permission was taken away: %v, %v", c, err)
	}

	grant("two", `"repoWriter"`)
	w.mustAs(two, "pfs_v2.API/DropCommit", head)
}
