package server_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// denies tells whether an answer says that the caller may not.
func denies(a answer, text string) bool {
	return status.Code(a.err) == codes.PermissionDenied && strings.Contains(a.String(), "is not authorized to perform this operation - "+text) && len(a.messages) == 0
}

// TestWireAuth_Transactions has one robot try everything with a transaction of
// another, and with its own what it may not do by itself.
func TestWireAuth_Transactions(t *testing.T) {
	w := newWire(t)
	w.created(sleeper("p"))
	w.created(sleeper("q"))
	before := strings.Split(w.ok("transaction_v2.API/StartTransaction", `{}`).messages[0], `"`)[3]
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	w.mustAs("root", "pps_v2.API/ActivateAuth", `{}`)
	one, two := w.robot("one", `{"type":"REPO","name":"default/p"}`, "repoWriter"), w.robot("two", `{"type":"REPO","name":"default/p"}`, "repoOwner")

	start := w.mustAs(one, "transaction_v2.API/StartTransaction", `{}`)
	id := strings.Split(start.messages[0], `"`)[3]
	txn := fmt.Sprintf(`{"transaction":{"id":%q}}`, id)
	in := func(token, method, request string) answer {
		t.Helper()
		return w.call(metadata.AppendToOutgoingContext(withTokens(within(t), token), "pach-transaction", id), method, request)
	}
	const branch = `{"branch":{"name":"dev","repo":{"name":"p","type":"user","project":{"name":"default"}}}}`
	if a := in(one, "pfs_v2.API/CreateBranch", branch); a.err != nil {
		t.Fatal(a)
	}
	for _, tc := range []struct{ method, request string }{
		{"transaction_v2.API/InspectTransaction", txn},
		{"transaction_v2.API/FinishTransaction", txn},
		{"transaction_v2.API/DeleteTransaction", txn},
		{"transaction_v2.API/InspectTransaction", fmt.Sprintf(`{"transaction":{"id":%q}}`, before)},
	} {
		if a := w.as(two, tc.method, tc.request); !denies(a, "transaction ") {
			t.Errorf("%s of another's: %v", tc.method, a)
		}
	}
	if a := in(two, "pfs_v2.API/CreateBranch", strings.Replace(branch, "dev", "mine", 1)); !denies(a, "transaction "+id+" belongs to whoever started it") {
		t.Errorf("a call of another: %v", a)
	}
	for token, want := range map[string]int{one: 1, two: 0, "root": 2} {
		if a := w.mustAs(token, "transaction_v2.API/ListTransaction", `{}`); strings.Count(a.String(), `"started":`) != want {
			t.Errorf("the transactions that %.4s lists: %v; want %d", token, a, want)
		}
	}
	if a := w.mustAs("root", "transaction_v2.API/InspectTransaction", txn); !strings.Contains(a.String(), `"createdBy":"robot:one"`) {
		t.Errorf("as a cluster admin: %v", a)
	}

	// What a call needs is asked for when it is added. One that is refused is not kept.
	calls := []struct{ method, field, request, needs string }{
		{"pfs_v2.API/StartCommit", "startCommit", strings.ReplaceAll(branch, `"p"`, `"q"`), "needs permissions [REPO_WRITE] on REPO default/q"},
		{"pfs_v2.API/FinishCommit", "finishCommit", `{"commit":{"repo":{"name":"q","type":"user","project":{"name":"default"}},"branch":{"name":"master"}}}`, "needs permissions [REPO_WRITE] on REPO default/q"},
		{"pfs_v2.API/CreateBranch", "createBranch", strings.ReplaceAll(branch, `"p"`, `"q"`), "needs permissions [REPO_CREATE_BRANCH] on REPO default/q"},
		{"pfs_v2.API/CreateBranch", "createBranch", branch[:len(branch)-1] + `,"provenance":[{"name":"master","repo":{"name":"q","type":"user","project":{"name":"default"}}}]}`, "needs permissions [REPO_READ] on REPO default/q"},
		{"pfs_v2.API/DeleteBranch", "deleteBranch", strings.ReplaceAll(branch, `"p"`, `"q"`), "needs permissions [REPO_DELETE_BRANCH] on REPO default/q"},
		{"pps_v2.API/StopJob", "stopJob", `{"job":{"id":"0123456789ab4def0123456789abcdef","pipeline":{"name":"q"}}}`, "needs permissions [REPO_WRITE] on REPO default/q"},
		{"pps_v2.API/UpdateJobState", "updateJobState", `{"job":{"id":"0123456789ab4def0123456789abcdef","pipeline":{"name":"q"}}}`, "needs permissions [REPO_WRITE] on REPO default/q"},
		{"pps_v2.API/CreatePipelineV2", "", createRequest(sleeper("q"), `"update":true`), "needs permissions [REPO_WRITE] on REPO default/q"},
	}
	for _, c := range calls {
		if a := in(one, c.method, c.request); !denies(a, c.needs) {
			t.Errorf("%s in a transaction: %v; want a denial that says %q", c.method, a, c.needs)
		}
		request := fmt.Sprintf(`{"requests":[{%q:%s}]}`, c.field, c.request)
		if c.field == "" {
			request = fmt.Sprintf(`{"requests":[{"createPipelineV2":{"createPipelineRequest":{"update":true},"userJson":%q}}]}`, sleeper("q"))
		}
		a := w.as(one, "transaction_v2.API/BatchTransaction", request)
		if status.Code(a.err) != codes.PermissionDenied || !strings.Contains(a.String(), c.needs) {
			t.Errorf("a batch with %s: %v; want a denial that says %q", c.method, a, c.needs)
		}
	}
	// This one is passed over in silence, and must not run with the rights of an admin.
	if a := in(one, "pfs_v2.API/DeleteRepo", `{"repo":{"name":"q","type":"user","project":{"name":"default"}}}`); a.String() != `{}` {
		t.Errorf("DeleteRepo in a transaction: %v", a)
	}
	if a := w.mustAs(one, "transaction_v2.API/InspectTransaction", txn); strings.Count(a.String(), `"createBranch"`) != 1 || strings.Contains(a.String(), `"q"`) {
		t.Errorf("after calls that were refused: %v", a)
	}

	// And again when it runs, of who finishes.
	w.mustAs("root", "auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"REPO","name":"default/p"},"principal":"robot:one","roles":["repoReader"]}`)
	if a := w.as(one, "transaction_v2.API/FinishTransaction", txn); status.Code(a.err) != codes.PermissionDenied || !strings.Contains(a.String(), "REPO_CREATE_BRANCH") {
		t.Errorf("finished without the permission: %v", a)
	}
	w.mustAs("root", "transaction_v2.API/FinishTransaction", txn)
	w.mustAs("root", "pfs_v2.API/InspectBranch", branch)
	if a := w.as(one, "transaction_v2.API/DeleteAll", `{}`); !denies(a, "needs permissions [CLUSTER_DELETE_ALL] on CLUSTER") {
		t.Errorf("DeleteAll: %v", a)
	}

	// What is made in a transaction belongs to who makes it.
	creator := w.robot("creator", `{"type":"CLUSTER"}`, "projectWriter")
	w.mustAs(creator, "transaction_v2.API/BatchTransaction", `{"requests":[{"createRepo":{"repo":{"name":"new","type":"user","project":{"name":"default"}}}}]}`)
	if a := w.mustAs("root", "auth_v2.API/GetRoleBinding", `{"resource":{"type":"REPO","name":"default/new"}}`); !strings.Contains(a.String(), `"robot:creator":{"roles":{"repoOwner":true}}`) {
		t.Errorf("bindings of a repo of a transaction: %v", a)
	}
	if a := w.as(one, "transaction_v2.API/BatchTransaction", `{"requests":[{"createRepo":{"repo":{"name":"newer","type":"user","project":{"name":"other"}}}}]}`); a.err == nil {
		t.Errorf("a repo without permission: %v", a)
	}
}
