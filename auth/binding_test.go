package auth

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
)

// TestGroups_MembersMayWhatGroupsMay changes members and groups: what somebody may
// follows at once.
func TestGroups_MembersMayWhatGroupsMay(t *testing.T) {
	e, root, _ := activated(t)
	res := Repo("default", "x")
	e.bind(res, "group:writers", RoleRepoWriter)
	e.bind(Project("default"), "group:readers", RoleRepoReader)
	e.reach()
	may := func(want ...string) {
		t.Helper()
		var got []string
		for _, subject := range []string{"user:a", "robot:b"} {
			for _, p := range []authpb.Permission{authpb.Permission_REPO_READ, authpb.Permission_REPO_WRITE} {
				if e.Check(e.as(subject), nil, res, p) == nil {
					got = append(got, subject+" "+p.String())
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	set := func(user string, groups ...string) {
		t.Helper()
		if _, err := e.SetGroupsForUser(root, &authpb.SetGroupsForUserRequest{Username: user, Groups: groups}); err != nil {
			t.Fatal(err)
		}
	}
	modify := func(group string, add, remove []string) {
		t.Helper()
		if _, err := e.ModifyMembers(root, &authpb.ModifyMembersRequest{Group: group, Add: add, Remove: remove}); err != nil {
			t.Fatal(err)
		}
	}
	groups := func(subject string, want ...string) {
		t.Helper()
		for what, get := range map[string]func() (*authpb.GetGroupsResponse, error){
			"by themselves": func() (*authpb.GetGroupsResponse, error) {
				return e.GetGroups(e.as(subject), &authpb.GetGroupsRequest{})
			},
			"by root": func() (*authpb.GetGroupsResponse, error) {
				return e.GetGroupsForPrincipal(root, &authpb.GetGroupsForPrincipalRequest{Principal: subject})
			},
		} {
			if g, err := get(); err != nil || !slices.Equal(g.GetGroups(), want) {
				t.Errorf("groups of %s, asked %s: %v, %v; want %v", subject, what, g, err, want)
			}
		}
	}
	may()
	set("user:a", "readers")
	may("user:a REPO_READ")
	modify("group:writers", []string{"user:a", "robot:b"}, nil)
	may("user:a REPO_READ", "user:a REPO_WRITE", "robot:b REPO_READ", "robot:b REPO_WRITE")
	groups("user:a", "group:readers", "group:writers")
	u, err := e.GetUsers(root, &authpb.GetUsersRequest{Group: "writers"})
	if err != nil || !slices.Equal(u.GetUsernames(), []string{"robot:b", "user:a"}) {
		t.Errorf("members: %v, %v", u, err)
	}
	// In both lists is removed; so is who was never in it.
	modify("writers", []string{"user:a"}, []string{"user:a", "user:nobody"})
	may("user:a REPO_READ", "robot:b REPO_READ", "robot:b REPO_WRITE")
	set("user:a", "writers") // and no others
	groups("user:a", "group:writers")
	may("user:a REPO_READ", "user:a REPO_WRITE", "robot:b REPO_READ", "robot:b REPO_WRITE")
	set("user:a")
	set("robot:b")
	groups("user:a")
	may()
	// One request is one change: with a member that cannot be, nothing of it is done.
	_, err = e.ModifyMembers(root, &authpb.ModifyMembersRequest{Group: "writers", Add: []string{"user:a", "nobody"}})
	wants(t, "a member that cannot be", err, codes.Unknown, "subject has no prefix")
	may()
	// A group is in no group, and everybody in none.
	for _, member := range []string{"group:readers", AllClusterUsers} {
		_, err = e.ModifyMembers(root, &authpb.ModifyMembersRequest{Group: "writers", Add: []string{member}})
		wants(t, member, err, codes.InvalidArgument, "validate request: ")
	}
}

// TestBindings_BadRequests holds code and text of what is refused.
func TestBindings_BadRequests(t *testing.T) {
	e, root, _ := activated(t)
	e.bind(Project("default"), AllClusterUsers, RoleProjectWriter)
	e.bind(Repo("default", "x"), "robot:owner", RoleRepoOwner)
	const cluster, project, repo, spec, job, none = authpb.ResourceType_CLUSTER, authpb.ResourceType_PROJECT, authpb.ResourceType_REPO,
		authpb.ResourceType_SPEC_REPO, authpb.ResourceType_JOB, authpb.ResourceType_RESOURCE_TYPE_UNKNOWN
	owner := e.as("robot:owner")
	for _, tc := range []struct {
		name            string
		ctx             context.Context
		on              authpb.ResourceType
		resource, whose string
		role            string
		code            codes.Code
		text            string
	}{
		{"fine", root, repo, "default/x", "robot:a", "repoReader", codes.OK, ""},
		{"by the owner", owner, repo, "default/x", "robot:a", "repoWriter", codes.OK, ""},
		{"of another repo", owner, repo, "default/y", "robot:owner", "repoOwner", codes.Unknown, "no role binding exists for REPO default/y"},
		{"of the project", owner, project, "default", "robot:owner", "projectOwner", codes.PermissionDenied, "robot:owner is not authorized to perform this operation - needs permissions [PROJECT_MODIFY_BINDINGS] on PROJECT default."},
		{"of the cluster", owner, cluster, "", "robot:owner", "clusterAdmin", codes.PermissionDenied, "robot:owner is not authorized to perform this operation - needs permissions [CLUSTER_MODIFY_BINDINGS] on CLUSTER."},
		{"of the cluster by a name", owner, cluster, "default/x", "robot:owner", "clusterAdmin", codes.PermissionDenied, "robot:owner is not authorized"},
		{"no type", root, none, "", "robot:a", "repoReader", codes.InvalidArgument, "validate request: the resource must have a type"},
		{"another type", root, 99, "x", "robot:a", "repoReader", codes.InvalidArgument, "validate request: the resource must have a type"},
		{"spec repo", root, spec, "default/x", "robot:a", "repoReader", codes.InvalidArgument, "validate request: roles are bound to the CLUSTER, a PROJECT or a REPO, not to a SPEC_REPO"},
		{"job", root, job, "x", "robot:a", "jobAdmin", codes.InvalidArgument, "validate request: roles are bound to the CLUSTER, a PROJECT or a REPO, not to a JOB"},
		{"no project", root, project, "", "robot:a", "projectViewer", codes.InvalidArgument, `validate request: "" is not the name of a project`},
		{"project with a slash", root, project, "a/b", "robot:a", "projectViewer", codes.InvalidArgument, `validate request: "a/b" is not the name of a project`},
		{"repo without a project", root, repo, "x", "robot:a", "repoReader", codes.InvalidArgument, `validate request: "x" does not name a repo; want <project>/<repo>`},
		{"repo with two slashes", root, repo, "a/b/c", "robot:a", "repoReader", codes.InvalidArgument, `validate request: "a/b/c" does not name a repo`},
		{"long", root, repo, "a/" + strings.Repeat("x", 2000), "robot:a", "repoReader", codes.InvalidArgument, "validate request: a resource's name of 2002 bytes is too long"},
		{"not there", root, project, "y", "robot:a", "projectViewer", codes.Unknown, "no role binding exists for PROJECT y"},
		{"role", root, repo, "default/x", "robot:a", "nope", codes.InvalidArgument, `unknown role "nope"`},
		{"role of the cluster", root, repo, "default/x", "robot:a", "clusterAdmin", codes.InvalidArgument, `validate request: role "clusterAdmin" cannot be bound to a REPO, but to: CLUSTER`},
		{"role of projects", root, repo, "default/x", "robot:a", "projectWriter", codes.InvalidArgument, `validate request: role "projectWriter" cannot be bound to a REPO, but to: CLUSTER, PROJECT`},
		{"no principal", root, repo, "default/x", "", "repoReader", codes.Unknown, "subject has no prefix"},
		{"principal without a prefix", root, repo, "default/x", "a", "repoReader", codes.Unknown, "subject has no prefix, must be of the form <type>:<name>"},
		{"principal with another prefix", root, repo, "default/x", "x:a", "repoReader", codes.Unknown, "subject has unrecognized prefix: x:"},
		{"principal without a name", root, repo, "default/x", "user:", "repoReader", codes.InvalidArgument, `validate request: subject "user:" has no name after its prefix`},
		{"the server itself", root, repo, "default/x", "internal:pfs", "repoReader", codes.InvalidArgument, `validate request: "internal:pfs" is the server itself`},
		{"root's own", root, cluster, "", "pach:root", "", codes.InvalidArgument, "cannot modify cluster role bindings for pach: users"},
	} {
		var roles []string
		if tc.role != "" {
			roles = []string{tc.role}
		}
		_, err := e.ModifyRoleBinding(tc.ctx, &authpb.ModifyRoleBindingRequest{
			Resource: &authpb.Resource{Type: tc.on, Name: tc.resource}, Principal: tc.whose, Roles: roles,
		})
		wants(t, tc.name, err, tc.code, tc.text)
	}
	b, err := e.GetRoleBinding(owner, &authpb.GetRoleBindingRequest{Resource: &authpb.Resource{Type: repo, Name: "default/x"}})
	if err != nil || len(b.GetBinding().GetEntries()) != 2 {
		t.Errorf("bound after all this: %v, %v", b, err)
	}
	if p, err := e.GetPermissions(e.as("robot:a"), &authpb.GetPermissionsRequest{Resource: &authpb.Resource{Type: repo, Name: "default/x"}}); err != nil || !slices.Equal(p.GetRoles(), []string{"repoWriter"}) {
		t.Errorf("roles: %v, %v", p, err)
	}
}

// TestInternal_IsNobodyOutside has no token of the server's own, however it is made.
func TestInternal_IsNobodyOutside(t *testing.T) {
	e, root, _ := activated(t)
	for _, robot := range []string{"internal:pfs", "pach:root"} {
		_, err := e.GetRobotToken(root, &authpb.GetRobotTokenRequest{Robot: robot})
		wants(t, robot, err, codes.InvalidArgument, "robot names cannot contain colons")
	}
	id, err := e.identity(&authpb.TokenInfo{Subject: "internal:pfs", HashedToken: hashOf("x")}, hashOf("x"))
	wants(t, "a record in etcd", err, codes.Unauthenticated, badToken)
	if id.Subject != "" {
		t.Errorf("it is %v", id)
	}
	// A resolver may answer nothing of the kind either: only this process says so.
	if err := e.Check(e.as("robot:internal"), nil, Cluster(), authpb.Permission_CLUSTER_DELETE_ALL); err == nil {
		t.Error("robot:internal may do everything")
	}
}
