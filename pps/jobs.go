package pps

import (
	"context"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	"github.com/minipachd/minipachd/store"
)

// A spout has no jobs and no datums, so lists of them are empty and each one
// that is asked for is missing.

// jobMissing checks the form of a job, and that the caller has perm on its
// pipeline's output repo, and then says that it does not exist. tx may be nil.
func (s *Service) jobMissing(ctx context.Context, tx *store.Txn, job *ppspb.Job, perm authpb.Permission) error {
	if job == nil {
		return invalid("validate request: a job must be given")
	}
	p, err := target(job.GetPipeline())
	if err != nil {
		return err
	}
	if err := s.auth.Check(ctx, tx, outputResource(p), perm); err != nil {
		return err
	}
	return &JobNotFoundError{Job: job}
}

// listsJobs checks that the caller may know of the jobs of a pipeline, and then that
// there is one.
func (s *Service) listsJobs(ctx context.Context, p *ppspb.Pipeline) error {
	if err := s.auth.Check(ctx, nil, outputResource(p), authpb.Permission_PIPELINE_LIST_JOB); err != nil {
		return err
	}
	return s.exists(ctx, p)
}

// InspectJob implements pps_v2.API.
func (s *Service) InspectJob(ctx context.Context, req *ppspb.InspectJobRequest) (*ppspb.JobInfo, error) {
	return nil, s.jobMissing(ctx, nil, req.GetJob(), authpb.Permission_PIPELINE_LIST_JOB)
}

// InspectJobSet implements pps_v2.API.
func (s *Service) InspectJobSet(*ppspb.InspectJobSetRequest, ppspb.API_InspectJobSetServer) error {
	return nil
}

// ListJob implements pps_v2.API.
func (s *Service) ListJob(req *ppspb.ListJobRequest, stream ppspb.API_ListJobServer) error {
	if _, err := s.jq.Compile(req.GetJqFilter()); err != nil {
		return err
	}
	if req.GetPipeline().GetName() == "" {
		return nil
	}
	p, err := target(req.GetPipeline())
	if err != nil {
		return err
	}
	return s.listsJobs(stream.Context(), p)
}

// ListJobSet implements pps_v2.API.
func (s *Service) ListJobSet(req *ppspb.ListJobSetRequest, _ ppspb.API_ListJobSetServer) error {
	_, err := s.jq.Compile(req.GetJqFilter())
	return err
}

// SubscribeJob implements pps_v2.API: it waits for jobs until the client goes away.
func (s *Service) SubscribeJob(req *ppspb.SubscribeJobRequest, stream ppspb.API_SubscribeJobServer) error {
	p, err := target(req.GetPipeline())
	if err != nil {
		return err
	}
	ctx := stream.Context()
	if err := s.listsJobs(ctx, p); err != nil {
		return err
	}
	<-ctx.Done()
	return status.FromContextError(ctx.Err()).Err()
}

// StopJob implements pps_v2.API.
func (s *Service) StopJob(ctx context.Context, req *ppspb.StopJobRequest) (*emptypb.Empty, error) {
	return nil, s.jobMissing(ctx, nil, req.GetJob(), authpb.Permission_REPO_WRITE)
}

// DeleteJob implements pps_v2.API.
func (s *Service) DeleteJob(ctx context.Context, req *ppspb.DeleteJobRequest) (*emptypb.Empty, error) {
	return nil, s.jobMissing(ctx, nil, req.GetJob(), authpb.Permission_REPO_WRITE)
}

// UpdateJobState implements pps_v2.API.
func (s *Service) UpdateJobState(ctx context.Context, req *ppspb.UpdateJobStateRequest) (*emptypb.Empty, error) {
	return nil, s.jobMissing(ctx, nil, req.GetJob(), authpb.Permission_REPO_WRITE)
}

// RestartDatum implements pps_v2.API.
func (s *Service) RestartDatum(ctx context.Context, req *ppspb.RestartDatumRequest) (*emptypb.Empty, error) {
	return nil, s.jobMissing(ctx, nil, req.GetJob(), authpb.Permission_REPO_WRITE)
}

// InspectDatum implements pps_v2.API.
func (s *Service) InspectDatum(ctx context.Context, req *ppspb.InspectDatumRequest) (*ppspb.DatumInfo, error) {
	return nil, s.jobMissing(ctx, nil, req.GetDatum().GetJob(), authpb.Permission_PIPELINE_LIST_JOB)
}

// ListDatum implements pps_v2.API.
func (s *Service) ListDatum(req *ppspb.ListDatumRequest, stream ppspb.API_ListDatumServer) error {
	if req.GetInput() != nil {
		return unimplemented("datums of an input cannot be listed: this server runs only spouts, which have no input")
	}
	return s.jobMissing(stream.Context(), nil, req.GetJob(), authpb.Permission_PIPELINE_LIST_JOB)
}

// CreateDatum implements pps_v2.API.
func (s *Service) CreateDatum(ppspb.API_CreateDatumServer) error {
	return unimplemented("datums cannot be made: this server runs only spouts, which have no input")
}

// RunPipeline implements pps_v2.API.
func (s *Service) RunPipeline(context.Context, *ppspb.RunPipelineRequest) (*emptypb.Empty, error) {
	return nil, unimplemented("unimplemented: a spout runs all the time and cannot be run once; use RerunPipeline")
}

// RunCron implements pps_v2.API.
func (s *Service) RunCron(ctx context.Context, req *ppspb.RunCronRequest) (*emptypb.Empty, error) {
	p, err := target(req.GetPipeline())
	if err != nil {
		return nil, err
	}
	if err := s.auth.Check(ctx, nil, outputResource(p), authpb.Permission_REPO_WRITE); err != nil {
		return nil, err
	}
	if err := s.exists(ctx, p); err != nil {
		return nil, err
	}
	return nil, errNoCron
}
