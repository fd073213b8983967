package pps

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/auth"
	"github.com/minipachd/minipachd/pps/logs"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// defaultSince is how far back GetLogs looks unless told otherwise.
const defaultSince = 24 * time.Hour

// GetLogs implements pps_v2.API for the lines of a pipeline's workers, from every
// daemon that has run it, or of this daemon if neither pipeline nor job is named.
// Lines match either value of master and come back with the value asked for. With
// follow the stream ends when the client goes away or the pipeline is deleted.
func (s *Service) GetLogs(req *ppspb.GetLogsRequest, stream ppspb.API_GetLogsServer) error {
	err := s.getLogs(stream.Context(), req, stream)
	if err != nil && stream.Context().Err() != nil {
		return status.FromContextError(stream.Context().Err()).Err()
	}
	if errors.Is(err, logs.ErrClosed) {
		return status.Error(codes.Unavailable, err.Error())
	}
	return err
}

func (s *Service) getLogs(ctx context.Context, req *ppspb.GetLogsRequest, stream ppspb.API_GetLogsServer) error {
	hasPipeline, hasJob := req.GetPipeline().GetName() != "", req.GetJob().GetId() != ""
	ofDatum := req.GetDatum().GetId() != "" || len(req.GetDataFilters()) > 0
	switch {
	case !hasPipeline && !hasJob && ofDatum:
		return errors.New("must specify the Job or Pipeline that the datum is from to get logs for it")
	case hasJob:
		return s.jobLogs(ctx, req)
	}
	query := logs.Query{Pipeline: logs.Daemon, Tail: req.GetTail(), Follow: req.GetFollow()}
	var p *ppspb.Pipeline
	if hasPipeline {
		var err error
		if p, err = target(req.GetPipeline()); err != nil {
			return err
		}
		if err := s.auth.Check(ctx, nil, outputResource(p), authpb.Permission_REPO_READ); err != nil {
			return err
		}
		if err := s.exists(ctx, p); err != nil {
			return fmt.Errorf("could not get pipeline information for %s: %w", key(p), err)
		}
		query.Project, query.Pipeline = projectName(p.GetProject()), p.GetName()
	}
	if !hasPipeline {
		if err := s.auth.Check(ctx, nil, auth.Cluster(), authpb.Permission_CLUSTER_GET_PACHD_LOGS); err != nil {
			return err
		}
	}
	since := defaultSince
	if d := req.GetSince(); d != nil {
		if err := d.CheckValid(); err != nil {
			return invalid("get logs: since: %v", err)
		}
		if d.AsDuration() > 0 {
			since = d.AsDuration()
		}
	}
	if ofDatum && !req.GetFollow() {
		return nil // no line of a spout is about a datum
	}
	query.Since = time.Now().Add(-since)
	if !hasPipeline {
		return s.logs.Read(ctx, query, func(msg *ppspb.LogMessage) error {
			return stream.Send(&ppspb.LogMessage{Ts: msg.GetTs(), Message: msg.GetMessage()})
		})
	}
	if since, id, ok := askedByPeer(ctx); ok {
		query.Since = since
		return s.serveLogs(id, query, stream)
	}
	return s.gather(ctx, p, query, func(msg *ppspb.LogMessage) error {
		if ofDatum {
			return nil
		}
		msg.Master = req.GetMaster()
		return stream.Send(msg)
	})
}

// jobLogs answers a request for the logs of a job, which no spout has.
func (s *Service) jobLogs(ctx context.Context, req *ppspb.GetLogsRequest) error {
	job := req.GetJob()
	if job.GetPipeline().GetName() == "" {
		return errors.New("pipeline must be specified for the given job")
	}
	if req.GetPipeline().GetName() != "" && key(req.GetPipeline()) != key(job.GetPipeline()) {
		return errors.New("job is from the wrong pipeline")
	}
	if err := s.auth.Check(ctx, nil, outputResource(job.GetPipeline()), authpb.Permission_REPO_READ); err != nil {
		return err
	}
	return &JobNotFoundError{Job: job}
}
