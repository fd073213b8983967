package auth

import (
	"maps"
	"slices"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	"github.com/minipachd/minipachd/store"
)

// bindings is who has which roles, as one moment knew it.
type bindings interface {
	// binding gives nil if the resource has no record.
	binding(res Resource) (*authpb.RoleBinding, error)
	// groups lists the groups of a subject.
	groups(subject string) ([]string, error)
}

// granted is what a subject may do with a resource.
type granted struct {
	permissions
	roles map[string]bool // their names
	// missing says that the resource itself has no record.
	missing bool
}

// evaluate unites what the subject is granted on the cluster, the project and the
// resource itself, as what it is, as one of all and by its groups.
func (rs roles) evaluate(src bindings, subject string, res Resource) (g granted, err error) {
	g.roles = map[string]bool{}
	if res.Type == authpb.ResourceType_SPEC_REPO {
		rs.grant(&g, RoleRepoReader)
	}
	groups, err := src.groups(subject)
	if err != nil {
		return g, err
	}
	chain, n := res.chain()
	for _, on := range chain[:n] {
		b, err := src.binding(on)
		if err != nil {
			return g, err
		}
		g.missing = b == nil && on.Type != authpb.ResourceType_CLUSTER
		if b == nil {
			continue
		}
		rs.grantAll(&g, b.GetEntries()[subject])
		rs.grantAll(&g, b.GetEntries()[AllClusterUsers])
		for _, name := range groups {
			rs.grantAll(&g, b.GetEntries()[name])
		}
	}
	return g, nil
}

func (rs roles) grantAll(g *granted, to *authpb.Roles) {
	for name, on := range to.GetRoles() {
		if on {
			rs.grant(g, name)
		}
	}
}

func (rs roles) grant(g *granted, name string) {
	if r := rs[name]; r != nil {
		g.addAll(&r.grants)
		g.roles[name] = true
	}
}

// listed are the names of the roles that are shown for a type of resource.
func (rs roles) listed(g granted, t authpb.ResourceType) []string {
	if t == authpb.ResourceType_SPEC_REPO {
		t = authpb.ResourceType_REPO
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(g.roles)) {
		if slices.Contains(rs[name].GetReturnedFor(), t) {
			names = append(names, name)
		}
	}
	return names
}

// snapshot is the bindings that a transaction sees.
type snapshot struct {
	records
	tx *store.Txn
}

func (s snapshot) binding(res Resource) (*authpb.RoleBinding, error) {
	return s.records.binding(s.tx, res)
}

func (s snapshot) groups(subject string) ([]string, error) {
	g, err := s.records.groups(s.tx, subject)
	return membership(g), err
}

// membership lists the groups that are set.
func membership(g *authpb.Groups) []string {
	var names []string
	for name, in := range g.GetGroups() {
		if in {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
