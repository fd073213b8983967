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
