package auth

import (
	"strings"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
)

// Resource is what permissions are about.
type Resource struct {
	Type authpb.ResourceType
	// Name is empty for the cluster, <project> or <project>/<repo>.
	Name string
}

// Cluster is the whole cluster.
func Cluster() Resource { return Resource{Type: authpb.ResourceType_CLUSTER} }

// Project is a project.
func Project(project string) Resource {
	return Resource{Type: authpb.ResourceType_PROJECT, Name: project}
}

// Repo is a repo of type user, and the meta repo of the same name.
func Repo(project, repo string) Resource {
	return Resource{Type: authpb.ResourceType_REPO, Name: project + "/" + repo}
}

// SpecRepo is a repo of type spec. Everybody may read it; for anything else it is
// as the repo of type user.
func SpecRepo(project, repo string) Resource {
	return Resource{Type: authpb.ResourceType_SPEC_REPO, Name: project + "/" + repo}
}

// String is how messages name it: REPO default/r.
func (r Resource) String() string {
	if r.Name == "" {
		return r.Type.String()
	}
	return r.Type.String() + " " + r.Name
}

// project is the name of the project that a repo lies in.
func (r Resource) project() string {
	p, _, _ := strings.Cut(r.Name, "/")
	return p
}

// record is the resource that has the bindings of r: spec repos share those of the
// repo of type user.
func (r Resource) record() Resource {
	if r.Type == authpb.ResourceType_SPEC_REPO {
		r.Type = authpb.ResourceType_REPO
	}
	return r
}

// chain lists whose bindings count for r, its own last.
func (r Resource) chain() (all [3]Resource, n int) {
	all[0] = Cluster()
	n = 1
	switch r.Type {
	case authpb.ResourceType_REPO, authpb.ResourceType_SPEC_REPO:
		all[1], all[2], n = Project(r.project()), r.record(), 3
	case authpb.ResourceType_PROJECT, authpb.ResourceType_JOB:
		all[1], n = r, 2
	}
	return all, n
}

// resourceOf reads what a client sent.
func resourceOf(r *authpb.Resource) (Resource, error) {
	res := Resource{Type: r.GetType(), Name: r.GetName()}
	if len(res.Name) > maxName {
		return res, invalid("a resource's name of %d bytes is too long, at most %d are possible", len(res.Name), maxName)
	}
	switch res.Type {
	case authpb.ResourceType_CLUSTER:
		res.Name = ""
	case authpb.ResourceType_PROJECT:
		if res.Name == "" || strings.Contains(res.Name, "/") {
			return res, invalid("%q is not the name of a project", res.Name)
		}
	case authpb.ResourceType_REPO, authpb.ResourceType_SPEC_REPO:
		project, repo, ok := strings.Cut(res.Name, "/")
		if !ok || project == "" || repo == "" || strings.Contains(repo, "/") {
			return res, invalid("%q does not name a repo; want <project>/<repo>", res.Name)
		}
	case authpb.ResourceType_JOB:
		if res.Name == "" {
			return res, invalid("a job must have a name")
		}
	default:
		return res, invalid("the resource must have a type: CLUSTER, PROJECT, REPO, SPEC_REPO or JOB")
	}
	return res, nil
}
