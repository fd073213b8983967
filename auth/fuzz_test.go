package auth

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	"github.com/minipachd/minipachd/store"
)

// FuzzToken sends anything as a token, and revokes it: nothing is taken but what was
// given out.
func FuzzToken(f *testing.F) {
	e, root, first := activated(f)
	robot := e.robot("r", 0)
	for _, token := range []string{
		"", first, robot, robot[1:], robot + " ", strings.ToUpper(robot), hashOf(robot), hashOf(first), "\x00", "../activation",
		strings.Repeat("a", 64), "activation", "token/" + hashOf(robot), robot + robot, "w.1.x", "\xff\xfe",
	} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		e.t = t
		id, err := e.Service.Authenticate(t.Context(), token)
		want := map[string]string{first: RootUser, robot: "robot:r"}[token]
		if id.Subject != want || (err == nil) != (want != "") || err != nil && status.Code(err) != codes.Unauthenticated {
			t.Fatalf("%q is the token of %q, %v; want %q", token, id.Subject, err, want)
		}
		if want != "" || !utf8.ValidString(token) {
			return // what is no UTF-8 does not get this far
		}
		if a, err := e.RevokeAuthToken(e.as("robot:x"), &authpb.RevokeAuthTokenRequest{Token: token}); err != nil || a.GetNumber() != 0 {
			t.Fatalf("revoking %q: %v, %v", token, a, err)
		}
		if _, err := e.RotateRootToken(root, &authpb.RotateRootTokenRequest{RootToken: first}); err != nil {
			t.Fatal(err)
		}
		if e.whose(first) != RootUser || e.whose(robot) != "robot:r" {
			t.Fatalf("after revoking %q the others are good no more", token)
		}
	})
}

// FuzzBinding binds any role to any principal on any resource, and makes any subject a
// member of any group. What is not of the documented form is refused with a code of
// ours; what is taken changes one record, and gives no right beyond its own resource.
func FuzzBinding(f *testing.F) {
	e, root, _ := activated(f)
	e.bind(Project("default"), "")
	e.bind(Repo("default", "x"), "")
	for _, s := range [][4]string{
		{"default/x", "robot:a", "repoReader", "g"},
		{"", "group:g", "clusterAdmin", ""},
		{"default", AllClusterUsers, "projectViewer", "group:g"},
		{"default/x/../y", "user:a@b", "repoOwner", "a:b"},
		{"/", "pach:root", "", "\x00"},
		{"default/", "internal:x", "nope", "../binding/CLUSTER/"},
		{"default/x\x00", "pipeline:default/x", "repoWriter", strings.Repeat("g", 2000)},
		{"*", ":", "*", "*"},
		{"default%2Fx", "a:", "repoReader ", " "},
	} {
		for kind := range int32(6) {
			f.Add(kind, s[0], s[1], s[2], s[3])
		}
	}
	allowed := []codes.Code{codes.OK, codes.InvalidArgument, codes.Unknown}
	f.Fuzz(func(t *testing.T, kind int32, name, principal, role, group string) {
		e.t = t
		for _, s := range []string{name, principal, role, group} {
			if !utf8.ValidString(s) {
				return
			}
		}
		before := e.accessRecords()
		_, err := e.ModifyRoleBinding(root, &authpb.ModifyRoleBindingRequest{
			Resource:  &authpb.Resource{Type: authpb.ResourceType(kind), Name: name},
			Principal: principal, Roles: []string{role},
		})
		if !slices.Contains(allowed, status.Code(err)) {
			t.Fatalf("binding: %v", err)
		}
		after := e.accessRecords()
		if len(after) != len(before) {
			t.Fatalf("binding made or removed records: %q, %q before", after, before)
		}
		if err == nil {
			on := authpb.ResourceType(kind)
			cluster := on == authpb.ResourceType_CLUSTER
			known := cluster || on == authpb.ResourceType_PROJECT && name == "default" || on == authpb.ResourceType_REPO && name == "default/x"
			if !known || e.roles[role] == nil || strings.HasPrefix(principal, "internal:") || cluster && strings.HasPrefix(principal, "pach:") {
				t.Fatalf("%v %q: role %q is bound to %q", on, name, role, principal)
			}
			if _, err := e.ModifyRoleBinding(root, &authpb.ModifyRoleBindingRequest{
				Resource: &authpb.Resource{Type: authpb.ResourceType(kind), Name: name}, Principal: principal,
			}); err != nil {
				t.Fatalf("taking it back: %v", err)
			}
		}
		_, err = e.ModifyMembers(root, &authpb.ModifyMembersRequest{Group: group, Add: []string{principal}})
		if !slices.Contains(allowed, status.Code(err)) {
			t.Fatalf("membership: %v", err)
		}
		if err == nil {
			want := append(slices.Clone(before), groupsPrefix+principal)
			slices.Sort(want)
			if got := e.accessRecords(); !slices.Equal(got, want) {
				t.Fatalf("%q in %q made %q, %q before", principal, group, got, before)
			}
			if _, err := e.ModifyMembers(root, &authpb.ModifyMembersRequest{Group: group, Remove: []string{principal}}); err != nil {
				t.Fatal(err)
			}
		}
		if got := e.accessRecords(); !slices.Equal(got, before) {
			t.Fatalf("left behind: %q, %q before", got, before)
		}
		for _, p := range []string{principal, "robot:bystander"} {
			if p != RootUser && e.Check(e.as(p), nil, Cluster(), authpb.Permission_CLUSTER_MODIFY_BINDINGS) == nil && !strings.HasPrefix(p, internalPrefix) {
				t.Fatalf("%q may do everything", p)
			}
		}
	})
}

// accessRecords are the keys of all records of who may do what.
func (e *env) accessRecords() (keys []string) {
	e.t.Helper()
	err := e.store.View(e.ctx, func(tx *store.Txn) error {
		keys = nil
		for item, err := range e.records.Scan(tx, "", store.ScanOptions{}) {
			if err != nil {
				return err
			}
			keys = append(keys, item.Key)
		}
		return nil
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return keys
}
