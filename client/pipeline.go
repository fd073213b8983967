package client

import (
	"context"
	"iter"

	"google.golang.org/grpc"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// PipelineOption changes CreatePipeline.
type PipelineOption func(*ppspb.CreatePipelineV2Request)

// Update makes a new version of a pipeline that is there.
func Update() PipelineOption {
	return func(r *ppspb.CreatePipelineV2Request) { r.Update = true }
}

// Reprocess makes an updated pipeline do its old data again.
func Reprocess() PipelineOption {
	return func(r *ppspb.CreatePipelineV2Request) { r.Reprocess = true }
}

// DryRun checks the spec and stores nothing.
func DryRun() PipelineOption {
	return func(r *ppspb.CreatePipelineV2Request) { r.DryRun = true }
}

// CreatePipeline makes the pipeline of a JSON spec and gives the spec after
// defaults. ErrAlreadyExists if it is there and Update is not given.
func (c *Client) CreatePipeline(ctx context.Context, specJSON string, opts ...PipelineOption) (effectiveJSON string, err error) {
	req := &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: specJSON}
	for _, o := range opts {
		o(req)
	}
	resp, err := c.PPS.CreatePipelineV2(ctx, req)
	return resp.GetEffectiveCreatePipelineRequestJson(), err
}

// UpdatePipeline is CreatePipeline with Update.
func (c *Client) UpdatePipeline(ctx context.Context, specJSON string, opts ...PipelineOption) (effectiveJSON string, err error) {
	return c.CreatePipeline(ctx, specJSON, append([]PipelineOption{Update()}, opts...)...)
}

// InspectPipeline describes a pipeline, spec and workers included. Its name may
// have a suffix ^ or ~2 for an older version.
func (c *Client) InspectPipeline(ctx context.Context, pipeline *ppspb.Pipeline) (*ppspb.PipelineInfo, error) {
	return c.PPS.InspectPipeline(ctx, &ppspb.InspectPipelineRequest{Pipeline: pipeline, Details: true})
}

// ListPipeline lists the pipelines of projects, newest first, of all projects
// if none is named.
func (c *Client) ListPipeline(ctx context.Context, projects ...string) iter.Seq2[*ppspb.PipelineInfo, error] {
	req := &ppspb.ListPipelineRequest{Details: true}
	for _, p := range projects {
		req.Projects = append(req.Projects, NewProject(p))
	}
	return c.ListPipelineBy(ctx, req)
}

// ListPipelineBy lists the pipelines that a request asks for.
func (c *Client) ListPipelineBy(ctx context.Context, req *ppspb.ListPipelineRequest) iter.Seq2[*ppspb.PipelineInfo, error] {
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[ppspb.PipelineInfo], error) {
		return c.PPS.ListPipeline(ctx, req)
	})
}

// StartPipeline lets a stopped pipeline run again.
func (c *Client) StartPipeline(ctx context.Context, pipeline *ppspb.Pipeline) error {
	_, err := c.PPS.StartPipeline(ctx, &ppspb.StartPipelineRequest{Pipeline: pipeline})
	return err
}

// StopPipeline stops the workers of a pipeline until StartPipeline; ErrNotFound
// if there is none.
func (c *Client) StopPipeline(ctx context.Context, pipeline *ppspb.Pipeline) error {
	_, err := c.PPS.StopPipeline(ctx, &ppspb.StopPipelineRequest{Pipeline: pipeline, MustExist: true})
	return err
}

// DeletePipeline deletes a pipeline and, unless keepRepo, its output; ErrNotFound
// if there is none. force deletes it although other pipelines read from it.
func (c *Client) DeletePipeline(ctx context.Context, pipeline *ppspb.Pipeline, force, keepRepo bool) error {
	_, err := c.PPS.DeletePipeline(ctx, &ppspb.DeletePipelineRequest{Pipeline: pipeline, Force: force, KeepRepo: keepRepo, MustExist: true})
	return err
}

// DeletePipelines deletes the pipelines of a project and lists them.
func (c *Client) DeletePipelines(ctx context.Context, project string, force, keepRepo bool) ([]*ppspb.Pipeline, error) {
	resp, err := c.PPS.DeletePipelines(ctx, &ppspb.DeletePipelinesRequest{Projects: []*pfspb.Project{NewProject(project)}, Force: force, KeepRepo: keepRepo})
	return resp.GetPipelines(), err
}

// RerunPipeline makes a new version of a pipeline from its present spec.
func (c *Client) RerunPipeline(ctx context.Context, pipeline *ppspb.Pipeline, reprocess bool) error {
	_, err := c.PPS.RerunPipeline(ctx, &ppspb.RerunPipelineRequest{Pipeline: pipeline, Reprocess: reprocess})
	return err
}

// ListJob lists the jobs that a request asks for, newest first. Spouts have none.
func (c *Client) ListJob(ctx context.Context, req *ppspb.ListJobRequest) iter.Seq2[*ppspb.JobInfo, error] {
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[ppspb.JobInfo], error) {
		return c.PPS.ListJob(ctx, req)
	})
}

// ListJobSet lists the job sets that a request asks for, newest first.
func (c *Client) ListJobSet(ctx context.Context, req *ppspb.ListJobSetRequest) iter.Seq2[*ppspb.JobSetInfo, error] {
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[ppspb.JobSetInfo], error) {
		return c.PPS.ListJobSet(ctx, req)
	})
}

// InspectJobSet gives the jobs of a set; with wait each when it has ended.
func (c *Client) InspectJobSet(ctx context.Context, id string, wait bool) iter.Seq2[*ppspb.JobInfo, error] {
	req := &ppspb.InspectJobSetRequest{JobSet: &ppspb.JobSet{Id: id}, Wait: wait, Details: true}
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[ppspb.JobInfo], error) {
		return c.PPS.InspectJobSet(ctx, req)
	})
}
