package auth

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	"github.com/minipachd/minipachd/store"
)

// published is the table of roles as it is published: what each grants, by names of
// permissions, classes of them and other roles. It shares nothing with roles.go.
const published = `
repoReader: REPO_READ REPO_INSPECT_COMMIT REPO_LIST_COMMIT REPO_LIST_BRANCH REPO_LIST_FILE REPO_INSPECT_FILE REPO_ADD_PIPELINE_READER REPO_REMOVE_PIPELINE_READER PIPELINE_LIST_JOB
repoWriter: repoReader REPO_WRITE REPO_DELETE_COMMIT REPO_CREATE_BRANCH REPO_DELETE_BRANCH REPO_ADD_PIPELINE_WRITER
repoOwner: repoWriter REPO_MODIFY_BINDINGS REPO_DELETE
projectViewer: PROJECT_LIST_REPO
projectWriter: projectViewer PROJECT_CREATE_REPO
projectOwner: repoOwner projectWriter PROJECT_DELETE PROJECT_MODIFY_BINDINGS PROJECT_SET_DEFAULTS
projectCreator: PROJECT_CREATE
robotUser: CLUSTER_AUTH_GET_ROBOT_TOKEN
secretAdmin: CLUSTER_CREATE_SECRET CLUSTER_LIST_SECRETS SECRET_INSPECT SECRET_DELETE
debugger: CLUSTER_DEBUG_DUMP CLUSTER_GET_PACHD_LOGS CLUSTER_GET_LOKI_LOGS
pachdLogReader: CLUSTER_GET_PACHD_LOGS
lokiLogReader: CLUSTER_GET_LOKI_LOGS
oidcAppAdmin: CLUSTER_IDENTITY_*_OIDC_CLIENT CLUSTER_IDENTITY_LIST_OIDC_CLIENTS
idpAdmin: CLUSTER_IDENTITY_*_IDP CLUSTER_IDENTITY_LIST_IDPS
identityAdmin: CLUSTER_IDENTITY_SET_CONFIG CLUSTER_IDENTITY_GET_CONFIG
licenseAdmin: CLUSTER_LICENSE_*
jobAdmin: JOB_SKIP_CTX
clusterAdmin: *
`

// oracle is who may do what, worked out by hand.
type oracle struct {
	grants map[string]map[string]bool            // permissions by role
	bound  map[string]map[string]map[string]bool // roles by resource and principal
	groups map[string]map[string]bool            // by subject
}

func newOracle() *oracle {
	o := &oracle{grants: map[string]map[string]bool{}, bound: map[string]map[string]map[string]bool{}, groups: map[string]map[string]bool{}}
	lines := strings.Split(strings.TrimSpace(published), "\n")
	for _, line := range lines {
		role, words, _ := strings.Cut(line, ": ")
		all := map[string]bool{}
		for _, w := range strings.Fields(words) {
			if other, ok := o.grants[w]; ok {
				maps.Copy(all, other)
			}
			before, after, _ := strings.Cut(w, "*")
			for _, p := range authpb.Permission_name {
				// PERMISSION_UNKNOWN is none, and the superuser of jobs is not granted in clusters.
				if p != "PERMISSION_UNKNOWN" && (p == w || strings.Contains(w, "*") && strings.HasPrefix(p, before) && strings.HasSuffix(p, after)) {
					all[p] = true
				}
			}
		}
		o.grants[role] = all
	}
	return o
}

// may tells whether a subject has a permission on a resource such as "REPO p/r".
func (o *oracle) may(subject, resource string, perm authpb.Permission) bool {
	name := authpb.Permission_name[int32(perm)]
	levels := []string{"CLUSTER"}
	kind, path, _ := strings.Cut(resource, " ")
	switch kind {
	case "PROJECT":
		levels = append(levels, resource)
	case "SPEC_REPO":
		if o.grants["repoReader"][name] {
			return true
		}
		fallthrough
	case "REPO":
		levels = append(levels, "PROJECT "+path[:strings.Index(path, "/")], "REPO "+path)
	}
	for _, level := range levels {
		for principal, roles := range o.bound[level] {
			if principal != subject && principal != "allClusterUsers" && !o.groups[subject][principal] {
				continue
			}
			for role := range roles {
				if o.grants[role][name] {
					return true
				}
			}
		}
	}
	return false
}

func TestRoles_AreThosePublished(t *testing.T) {
	o := newOracle()
	got := newRoles()
	if diff := cmp.Diff(slices.Sorted(maps.Keys(o.grants)), slices.Sorted(maps.Keys(got))); diff != "" {
		t.Fatal(diff)
	}
	for name, want := range o.grants {
		has := map[string]bool{}
		for _, p := range got[name].GetPermissions() {
			has[p.String()] = true
		}
		if diff := cmp.Diff(want, has); diff != "" {
			t.Errorf("%s (-published +ours):\n%s", name, diff)
		}
	}
}

// TestEvaluate_MemoryEtcdAndOracleAgree binds roles at random, on the cluster, projects
// and repos, to subjects, groups and everybody, and changes them. What the daemon
// answers from memory, and from etcd, is what the oracle says.
func TestEvaluate_MemoryEtcdAndOracleAgree(t *testing.T) {
	e, _, _ := activated(t)
	subjects := []string{"user:a", "robot:b", "pipeline:p/x", "user:a/b"}
	principals := append([]string{AllClusterUsers, "group:g", "group:h"}, subjects...)
	resources := []Resource{Cluster(), Project("p"), Project("q"), Repo("p", "x"), Repo("p", "y"), Repo("q", "x")}
	asked := append([]Resource{SpecRepo("p", "x"), SpecRepo("q", "none"), Repo("p", "none"), Project("none"), Repo("none", "x")}, resources...)
	var names []string
	for _, r := range roleTable {
		names = append(names, r.name)
	}
	var perms []authpb.Permission
	for _, p := range slices.Sorted(maps.Keys(authpb.Permission_name)) {
		perms = append(perms, authpb.Permission(p))
	}
	rapid.Check(t, func(rt *rapid.T) {
		o := newOracle()
		rev, err := e.store.Update(t.Context(), func(tx *store.Txn) error {
			e.records.DeletePrefix(tx, bindingPrefix)
			e.records.DeletePrefix(tx, groupsPrefix)
			return nil
		})
		if err != nil {
			rt.Fatal(err)
		}
		e.cache.await(t.Context().Done(), rev) // a round may change nothing
		for range rapid.IntRange(1, 3).Draw(rt, "rounds") {
			bound := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) [3]string {
				return [3]string{
					fmt.Sprint(rapid.IntRange(0, len(resources)-1).Draw(rt, "resource")),
					rapid.SampledFrom(principals).Draw(rt, "principal"), rapid.SampledFrom(append([]string{"", "unheard of"}, names...)).Draw(rt, "role"),
				}
			}), 0, 8).Draw(rt, "bound")
			members := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) [2]string {
				return [2]string{rapid.SampledFrom(subjects).Draw(rt, "member"), rapid.SampledFrom([]string{"", "group:g", "group:h"}).Draw(rt, "group")}
			}), 0, 4).Draw(rt, "members")
			rev, err = e.store.Update(t.Context(), func(tx *store.Txn) error { return change(e, tx, o, resources, bound, members) })
			if err != nil {
				rt.Fatal(err)
			}
			e.cache.await(t.Context().Done(), rev)
			err = e.store.View(t.Context(), func(tx *store.Txn) error {
				for _, subject := range subjects {
					for _, res := range asked {
						g, err := e.roles.evaluate(snapshot{e.records, tx}, subject, res)
						if err != nil {
							return err
						}
						for _, p := range perms {
							want := o.may(subject, res.String(), p)
							if memory := e.cache.allowed(subject, res, []authpb.Permission{p}); memory != want || g.has(p) != want {
								rt.Fatalf("%s, %v on %v: memory says %v, etcd %v, the oracle %v", subject, p, res, memory, g.has(p), want)
							}
						}
						some := rapid.SliceOfN(rapid.SampledFrom(perms), 1, 3).Draw(rt, "permissions")
						want := !slices.ContainsFunc(some, func(p authpb.Permission) bool { return !o.may(subject, res.String(), p) })
						if memory := e.cache.allowed(subject, res, some); memory != want || g.hasAll(some) != want {
							rt.Fatalf("%s, all of %v on %v: memory says %v, etcd %v, the oracle %v", subject, some, res, memory, g.hasAll(some), want)
						}
					}
				}
				return nil
			})
			if err != nil {
				rt.Fatal(err)
			}
		}
	})
}

// change makes the same changes in etcd and in the oracle. A role of "" takes all from
// the principal, a group of "" takes the member out of all.
func change(e *env, tx *store.Txn, o *oracle, resources []Resource, bound [][3]string, members [][2]string) error {
	o.bound, o.groups = maps.Clone(o.bound), maps.Clone(o.groups)
	for _, b := range bound {
		res := resources[b[0][0]-'0']
		rec, err := e.records.binding(tx, res)
		if err != nil {
			return err
		}
		if rec == nil {
			rec = &authpb.RoleBinding{}
		}
		all := map[string]bool{}
		level := maps.Clone(o.bound[res.String()])
		if level == nil {
			level = map[string]map[string]bool{}
		}
		roles := map[string]bool{}
		if b[2] != "" {
			maps.Copy(all, rec.GetEntries()[b[1]].GetRoles())
			all[b[2]] = true
			maps.Copy(roles, level[b[1]])
			roles[b[2]] = true
		}
		setRoles(rec, b[1], all)
		level[b[1]] = roles
		o.bound[res.String()] = level
		if err := e.records.putBinding(tx, res, rec); err != nil {
			return err
		}
	}
	for _, m := range members {
		g, err := e.records.groups(tx, m[0])
		if err != nil {
			return err
		}
		in := map[string]bool{}
		mine := map[string]bool{}
		if m[1] != "" {
			maps.Copy(in, g.GetGroups())
			in[m[1]] = true
			maps.Copy(mine, o.groups[m[0]])
			mine[m[1]] = true
		}
		o.groups[m[0]] = mine
		if err := e.records.putGroups(tx, m[0], &authpb.Groups{Groups: in}); err != nil {
			return err
		}
	}
	return nil
}

// BenchmarkCheck is what auth costs a call, with everything in memory: whose token it
// is, and what its subject may do by a group's role on the last of many repos.
func BenchmarkCheck(b *testing.B) {
	e, root, _ := activated(b)
	token := e.robot("r", 0)
	if _, err := e.SetGroupsForUser(root, &authpb.SetGroupsForUserRequest{Username: "robot:r", Groups: []string{"a", "b", "c", "d", "e", "f", "g", "h"}}); err != nil {
		b.Fatal(err)
	}
	for i := range 1000 {
		e.bind(Repo("default", fmt.Sprint("r", i)), "group:h", RoleRepoWriter)
	}
	e.reach()
	last := Repo("default", "r999")
	ctx := b.Context()
	for b.Loop() {
		id, err := e.Service.Authenticate(ctx, token)
		if err == nil {
			err = e.Check(WithIdentity(ctx, id, nil), nil, last, authpb.Permission_REPO_WRITE)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
