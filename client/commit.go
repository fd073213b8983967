package client

import (
	"context"
	"iter"

	"google.golang.org/grpc"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// StartCommit opens a commit on a branch, which it makes if need be. The parent
// is the head of the branch.
func (c *Client) StartCommit(ctx context.Context, branch *pfspb.Branch, description string) (*pfspb.Commit, error) {
	return c.StartCommitFrom(ctx, branch, nil, description)
}

// StartCommitFrom opens a commit whose parent is another commit than the head.
func (c *Client) StartCommitFrom(ctx context.Context, branch *pfspb.Branch, parent *pfspb.Commit, description string) (*pfspb.Commit, error) {
	return c.PFS.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branch, Parent: parent, Description: description})
}

// FinishCommit closes a commit. A description that is not empty replaces the one
// it was started with.
func (c *Client) FinishCommit(ctx context.Context, commit *pfspb.Commit, description string) error {
	_, err := c.PFS.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: commit, Description: description})
	return err
}

// InspectCommit describes a commit as it is now.
func (c *Client) InspectCommit(ctx context.Context, commit *pfspb.Commit) (*pfspb.CommitInfo, error) {
	return c.PFS.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: commit, Wait: pfspb.CommitState_STARTED})
}

// WaitCommit waits until a commit is finished: its size is known, reads do not
// block. CommitInfo.Error is set if it finished with an error.
func (c *Client) WaitCommit(ctx context.Context, commit *pfspb.Commit) (*pfspb.CommitInfo, error) {
	return c.PFS.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: commit, Wait: pfspb.CommitState_FINISHED})
}

// ListCommitOption narrows ListCommit.
type ListCommitOption func(*pfspb.ListCommitRequest)

// To lists commit and its ancestors only.
func To(commit *pfspb.Commit) ListCommitOption {
	return func(r *pfspb.ListCommitRequest) { r.To = commit }
}

// From stops before commit; it needs To.
func From(commit *pfspb.Commit) ListCommitOption {
	return func(r *pfspb.ListCommitRequest) { r.From = commit }
}

// CommitLimit lists at most n commits; 0 is all.
func CommitLimit(n int64) ListCommitOption {
	return func(r *pfspb.ListCommitRequest) { r.Number = n }
}

// OldestFirst turns the order around.
func OldestFirst() ListCommitOption {
	return func(r *pfspb.ListCommitRequest) { r.Reverse = true }
}

// AllOrigins includes commits that nobody asked for, such as propagated ones.
func AllOrigins() ListCommitOption {
	return func(r *pfspb.ListCommitRequest) { r.All = true }
}

// Origin lists commits of one origin only.
func Origin(kind pfspb.OriginKind) ListCommitOption {
	return func(r *pfspb.ListCommitRequest) { r.OriginKind = kind }
}

// ListCommit lists the commits of a repo, newest first.
func (c *Client) ListCommit(ctx context.Context, repo *pfspb.Repo, opts ...ListCommitOption) iter.Seq2[*pfspb.CommitInfo, error] {
	req := &pfspb.ListCommitRequest{Repo: repo}
	for _, o := range opts {
		o(req)
	}
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[pfspb.CommitInfo], error) {
		return c.PFS.ListCommit(ctx, req)
	})
}

// SubscribeCommit gives the commits of a repo that come after from (nil: all
// there are, and then) as they reach state, oldest first, without end. branch
// "" is any.
func (c *Client) SubscribeCommit(ctx context.Context, repo *pfspb.Repo, branch string, from *pfspb.Commit, state pfspb.CommitState) iter.Seq2[*pfspb.CommitInfo, error] {
	req := &pfspb.SubscribeCommitRequest{Repo: repo, Branch: branch, From: from, State: state}
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[pfspb.CommitInfo], error) {
		return c.PFS.SubscribeCommit(ctx, req)
	})
}

// InspectCommitSet gives the commits that were made together under id, and the
// older ones they depend on, provenance first; with wait each when it is finished.
func (c *Client) InspectCommitSet(ctx context.Context, id string, wait bool) iter.Seq2[*pfspb.CommitInfo, error] {
	req := &pfspb.InspectCommitSetRequest{CommitSet: &pfspb.CommitSet{Id: id}, Wait: wait}
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[pfspb.CommitInfo], error) {
		return c.PFS.InspectCommitSet(ctx, req)
	})
}

// ListCommitSet lists the commit sets of a project, newest first.
func (c *Client) ListCommitSet(ctx context.Context, project string) iter.Seq2[*pfspb.CommitSetInfo, error] {
	req := &pfspb.ListCommitSetRequest{Project: NewProject(project)}
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[pfspb.CommitSetInfo], error) {
		return c.PFS.ListCommitSet(ctx, req)
	})
}

// SquashCommitSet removes the commits of a set; their children keep the data.
func (c *Client) SquashCommitSet(ctx context.Context, id string) error {
	_, err := c.PFS.SquashCommitSet(ctx, &pfspb.SquashCommitSetRequest{CommitSet: &pfspb.CommitSet{Id: id}})
	return err
}

// DropCommitSet removes the commits of a set with their data; none may have children.
func (c *Client) DropCommitSet(ctx context.Context, id string) error {
	_, err := c.PFS.DropCommitSet(ctx, &pfspb.DropCommitSetRequest{CommitSet: &pfspb.CommitSet{Id: id}})
	return err
}

// FindCommits walks from a commit back to the first and gives those that added
// or deleted path; limit 0 is no limit. The last element tells where it ended.
func (c *Client) FindCommits(ctx context.Context, start *pfspb.Commit, path string, limit uint32) iter.Seq2[*pfspb.FindCommitsResponse, error] {
	req := &pfspb.FindCommitsRequest{Start: start, FilePath: path, Limit: limit}
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[pfspb.FindCommitsResponse], error) {
		return c.PFS.FindCommits(ctx, req)
	})
}
