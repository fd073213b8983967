package client

import (
	"context"
	"iter"

	"google.golang.org/grpc"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// CreateProject makes a project; ErrAlreadyExists if it is there.
func (c *Client) CreateProject(ctx context.Context, name, description string) error {
	_, err := c.PFS.CreateProject(ctx, &pfspb.CreateProjectRequest{Project: NewProject(name), Description: description})
	return err
}

// UpdateProject sets the description of a project.
func (c *Client) UpdateProject(ctx context.Context, name, description string) error {
	_, err := c.PFS.CreateProject(ctx, &pfspb.CreateProjectRequest{Project: NewProject(name), Description: description, Update: true})
	return err
}

// InspectProject describes a project and its pipeline defaults.
func (c *Client) InspectProject(ctx context.Context, name string) (*pfspb.InspectProjectV2Response, error) {
	return c.PFS.InspectProjectV2(ctx, &pfspb.InspectProjectV2Request{Project: NewProject(name)})
}

// ListProject lists all projects.
func (c *Client) ListProject(ctx context.Context) iter.Seq2[*pfspb.ProjectInfo, error] {
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[pfspb.ProjectInfo], error) {
		return c.PFS.ListProject(ctx, &pfspb.ListProjectRequest{})
	})
}

// DeleteProject deletes a project; ErrNotEmpty if it has repos and force is not set.
func (c *Client) DeleteProject(ctx context.Context, name string, force bool) error {
	_, err := c.PFS.DeleteProject(ctx, &pfspb.DeleteProjectRequest{Project: NewProject(name), Force: force})
	return err
}

// CreateRepo makes a repo; ErrAlreadyExists if it is there.
func (c *Client) CreateRepo(ctx context.Context, repo *pfspb.Repo, description string) error {
	_, err := c.PFS.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo, Description: description})
	return err
}

// UpdateRepo makes a repo or sets its description.
func (c *Client) UpdateRepo(ctx context.Context, repo *pfspb.Repo, description string) error {
	_, err := c.PFS.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo, Description: description, Update: true})
	return err
}

// InspectRepo describes a repo, its exact size included.
func (c *Client) InspectRepo(ctx context.Context, repo *pfspb.Repo) (*pfspb.RepoInfo, error) {
	return c.PFS.InspectRepo(ctx, &pfspb.InspectRepoRequest{Repo: repo})
}

// ListRepo lists the user repos of projects, of all projects if none is named.
func (c *Client) ListRepo(ctx context.Context, projects ...string) iter.Seq2[*pfspb.RepoInfo, error] {
	return c.ListRepoByType(ctx, UserRepo, projects...)
}

// ListRepoByType lists repos of one type, of every type if kind is empty.
func (c *Client) ListRepoByType(ctx context.Context, kind string, projects ...string) iter.Seq2[*pfspb.RepoInfo, error] {
	req := &pfspb.ListRepoRequest{Type: kind}
	for _, p := range projects {
		req.Projects = append(req.Projects, NewProject(p))
	}
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[pfspb.RepoInfo], error) {
		return c.PFS.ListRepo(ctx, req)
	})
}

// DeleteRepo deletes a repo with all its commits. It is false if there was none
// that the caller may delete; force deletes what other branches depend on.
func (c *Client) DeleteRepo(ctx context.Context, repo *pfspb.Repo, force bool) (bool, error) {
	resp, err := c.PFS.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repo, Force: force})
	return resp.GetDeleted(), err
}

// DeleteRepos deletes the repos of a project and lists them.
func (c *Client) DeleteRepos(ctx context.Context, project string, force bool) ([]*pfspb.Repo, error) {
	resp, err := c.PFS.DeleteRepos(ctx, &pfspb.DeleteReposRequest{Projects: []*pfspb.Project{NewProject(project)}, Force: force})
	return resp.GetRepos(), err
}

// CreateBranch makes a branch or changes it. head may be nil, which keeps the
// head of a branch and gives a new one an empty commit.
func (c *Client) CreateBranch(ctx context.Context, branch *pfspb.Branch, head *pfspb.Commit, provenance ...*pfspb.Branch) error {
	_, err := c.PFS.CreateBranch(ctx, &pfspb.CreateBranchRequest{Branch: branch, Head: head, Provenance: provenance})
	return err
}

// InspectBranch describes a branch.
func (c *Client) InspectBranch(ctx context.Context, branch *pfspb.Branch) (*pfspb.BranchInfo, error) {
	return c.PFS.InspectBranch(ctx, &pfspb.InspectBranchRequest{Branch: branch})
}

// ListBranch lists the branches of a repo, newest first.
func (c *Client) ListBranch(ctx context.Context, repo *pfspb.Repo) iter.Seq2[*pfspb.BranchInfo, error] {
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[pfspb.BranchInfo], error) {
		return c.PFS.ListBranch(ctx, &pfspb.ListBranchRequest{Repo: repo})
	})
}

// DeleteBranch deletes a branch; its commits stay. ErrNotEmpty if other branches
// depend on it and force is not set.
func (c *Client) DeleteBranch(ctx context.Context, branch *pfspb.Branch, force bool) error {
	_, err := c.PFS.DeleteBranch(ctx, &pfspb.DeleteBranchRequest{Branch: branch, Force: force})
	return err
}
