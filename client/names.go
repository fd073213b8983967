package client

import (
	"fmt"
	"strings"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// UserRepo is the type of repos that hold data, as opposed to "spec" and "meta".
const UserRepo = "user"

// NewProject names a project; empty is the default one.
func NewProject(name string) *pfspb.Project {
	if name == "" {
		name = DefaultProject
	}
	return &pfspb.Project{Name: name}
}

// NewRepo names a user repo.
func NewRepo(project, name string) *pfspb.Repo {
	return &pfspb.Repo{Project: NewProject(project), Name: name, Type: UserRepo}
}

// NewBranch names a branch.
func NewBranch(project, repo, name string) *pfspb.Branch {
	return &pfspb.Branch{Repo: NewRepo(project, repo), Name: name}
}

// NewCommit names a commit by what stands after the @ in text: a branch (its
// head), a commit id, or either with an ancestor suffix (^, ^2, ~3, .1).
func NewCommit(project, repo, ref string) *pfspb.Commit {
	return commitOf(NewRepo(project, repo), ref)
}

// NewFile names a file of a commit.
func NewFile(commit *pfspb.Commit, path string) *pfspb.File {
	return &pfspb.File{Commit: commit, Path: path}
}

// NewPipeline names a pipeline.
func NewPipeline(project, name string) *ppspb.Pipeline {
	return &ppspb.Pipeline{Project: NewProject(project), Name: name}
}

// Repo names a user repo of the client's project.
func (c *Client) Repo(name string) *pfspb.Repo { return NewRepo(c.project, name) }

// Branch names a branch of the client's project.
func (c *Client) Branch(repo, name string) *pfspb.Branch { return NewBranch(c.project, repo, name) }

// Commit names a commit of the client's project; see NewCommit for ref.
func (c *Client) Commit(repo, ref string) *pfspb.Commit { return NewCommit(c.project, repo, ref) }

// Pipeline names a pipeline of the client's project.
func (c *Client) Pipeline(name string) *ppspb.Pipeline { return NewPipeline(c.project, name) }

func commitOf(repo *pfspb.Repo, ref string) *pfspb.Commit {
	commit := &pfspb.Commit{Repo: repo, Branch: &pfspb.Branch{Repo: repo}}
	if IsCommitID(ref) || strings.ContainsAny(ref, "^~.") {
		commit.Id = ref
	} else {
		commit.Branch.Name = ref
	}
	return commit
}

// IsCommitID tells whether s has the form of a commit id: a version 4 UUID of 32
// lower case hex digits without dashes.
func IsCommitID(s string) bool {
	if len(s) != 32 || s[12] != '4' {
		return false
	}
	for _, r := range s {
		if (r < '0' || r > '9') && (r < 'a' || r > 'f') {
			return false
		}
	}
	return true
}

// ParseRepo reads [project/]repo[.spec|.meta]; project is that of a text
// without one. Whether the names are well-formed is for the server to say.
func ParseRepo(project, s string) (*pfspb.Repo, error) {
	if strings.ContainsAny(s, "@:") {
		return nil, fmt.Errorf("%q is not a repo: want <repo>", s)
	}
	name := s
	if p, rest, ok := strings.Cut(s, "/"); ok {
		project, name = p, rest
	}
	kind := UserRepo
	if base, suffix, ok := strings.Cut(name, "."); ok && (suffix == "spec" || suffix == "meta") {
		name, kind = base, suffix
	}
	if name == "" {
		return nil, fmt.Errorf("%q has no repo name", s)
	}
	return &pfspb.Repo{Project: NewProject(project), Name: name, Type: kind}, nil
}

// ParseBranch reads <repo>@<branch>.
func ParseBranch(project, s string) (*pfspb.Branch, error) {
	repo, name, ok := strings.Cut(s, "@")
	if !ok || name == "" {
		return nil, fmt.Errorf("%q has no branch: want <repo>@<branch>", s)
	}
	if strings.ContainsAny(name, ":=^~@") {
		return nil, fmt.Errorf("%q is not a branch: want <repo>@<branch>", s)
	}
	r, err := ParseRepo(project, repo)
	if err != nil {
		return nil, err
	}
	return &pfspb.Branch{Repo: r, Name: name}, nil
}

// ParseCommit reads <repo>@<branch-or-commit>, with an optional ancestor suffix,
// or <repo>@<branch>=<commit>.
func ParseCommit(project, s string) (*pfspb.Commit, error) {
	repo, ref, ok := strings.Cut(s, "@")
	if !ok || ref == "" {
		return nil, fmt.Errorf("%q has no branch or commit: want <repo>@<branch-or-commit>", s)
	}
	if strings.ContainsAny(ref, ":@") {
		return nil, fmt.Errorf("%q is not a commit: want <repo>@<branch-or-commit>", s)
	}
	r, err := ParseRepo(project, repo)
	if err != nil {
		return nil, err
	}
	if branch, id, ok := strings.Cut(ref, "="); ok {
		if branch == "" || id == "" {
			return nil, fmt.Errorf("%q: want <repo>@<branch>=<commit>", s)
		}
		return &pfspb.Commit{Repo: r, Id: id, Branch: &pfspb.Branch{Repo: r, Name: branch}}, nil
	}
	return commitOf(r, ref), nil
}

// ParseFile reads <repo>@<branch-or-commit>[:<path>].
func ParseFile(project, s string) (*pfspb.File, error) {
	repo, rest, ok := strings.Cut(s, "@")
	if !ok {
		return nil, fmt.Errorf("%q has no branch or commit: want <repo>@<branch-or-commit>:<path>", s)
	}
	ref, path, _ := strings.Cut(rest, ":")
	commit, err := ParseCommit(project, repo+"@"+ref)
	if err != nil {
		return nil, fmt.Errorf("%q: want <repo>@<branch-or-commit>:<path>", s)
	}
	return &pfspb.File{Commit: commit, Path: path}, nil
}

// RepoName is the text form [project/]repo[.type] that ParseRepo reads; the
// project is always there.
func RepoName(r *pfspb.Repo) string {
	name := NewProject(r.GetProject().GetName()).Name + "/" + r.GetName()
	if t := r.GetType(); t != "" && t != UserRepo {
		name += "." + t
	}
	return name
}

// BranchName is the text form project/repo@branch.
func BranchName(b *pfspb.Branch) string { return RepoName(b.GetRepo()) + "@" + b.GetName() }

// CommitName is the text form project/repo@id, or @branch if there is no id.
func CommitName(c *pfspb.Commit) string {
	repo := c.GetRepo()
	if repo == nil {
		repo = c.GetBranch().GetRepo()
	}
	if c.GetId() == "" {
		return RepoName(repo) + "@" + c.GetBranch().GetName()
	}
	return RepoName(repo) + "@" + c.GetId()
}
