package pps

import (
	"context"

	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/minipachd/minipachd/auth"
	"github.com/minipachd/minipachd/pfs"
	"github.com/minipachd/minipachd/pps/fence"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// StopPipeline implements pps_v2.API. A pipeline that is stopped, or missing
// unless must_exist, is no error.
func (s *Service) StopPipeline(ctx context.Context, req *ppspb.StopPipelineRequest) (*emptypb.Empty, error) {
	p, err := target(req.GetPipeline())
	if err != nil {
		return nil, err
	}
	err = s.pfs.Update(ctx, func(tx *pfs.Txn) error {
		rec, err := s.record(tx, p)
		if err != nil {
			return err
		}
		if err := s.permit(ctx, tx, p, authpb.Permission_REPO_WRITE); err != nil || rec.Info.Stopped {
			return err
		}
		if err := tx.SetCommitPolicy(outputRepo(p), nil); err != nil {
			return err
		}
		if err := disconnectBranch(tx, outputBranch(rec.Info)); err != nil {
			return err
		}
		return s.setStopped(tx, rec, true)
	})
	if err != nil && (req.GetMustExist() || !isNotFound(err)) {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// StartPipeline implements pps_v2.API. A pipeline that is not stopped is no error.
func (s *Service) StartPipeline(ctx context.Context, req *ppspb.StartPipelineRequest) (*emptypb.Empty, error) {
	p, err := target(req.GetPipeline())
	if err != nil {
		return nil, err
	}
	err = s.pfs.Update(ctx, func(tx *pfs.Txn) error {
		rec, err := s.record(tx, p)
		if err != nil {
			return err
		}
		if err := s.permit(ctx, tx, p, authpb.Permission_REPO_WRITE); err != nil || !rec.Info.Stopped {
			return err
		}
		if err := connectBranch(tx, p, outputBranch(rec.Info)); err != nil {
			return err
		}
		if err := s.setStopped(tx, rec, false); err != nil {
			return err
		}
		return setPolicy(tx, rec.Info)
	})
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func (s *Service) setStopped(tx *pfs.Txn, rec *recordpb.PipelineRecord, stopped bool) error {
	rec.Info.Stopped = stopped
	rec.Info.State = wantedState(stopped)
	rec.Generation = generation(tx, rec.Generation)
	return s.pipelines.Put(tx.Txn, key(rec.Info.Pipeline), rec)
}

// DeletePipeline implements pps_v2.API.
func (s *Service) DeletePipeline(ctx context.Context, req *ppspb.DeletePipelineRequest) (*emptypb.Empty, error) {
	if req.GetAll() {
		_, err := s.DeletePipelines(ctx, &ppspb.DeletePipelinesRequest{All: true, Force: req.GetForce(), KeepRepo: req.GetKeepRepo()})
		if err != nil {
			return nil, err
		}
		return &emptypb.Empty{}, nil
	}
	p, err := target(req.GetPipeline())
	if err != nil {
		return nil, err
	}
	err = s.delete(ctx, p, req.GetForce(), req.GetKeepRepo())
	if err != nil && (req.GetMustExist() || !isNotFound(err)) {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// DeletePipelines implements pps_v2.API, for the pipelines that the caller can
// see. They go newest first, each in a
// transaction of its own; after an error those before it are gone.
func (s *Service) DeletePipelines(ctx context.Context, req *ppspb.DeletePipelinesRequest) (*ppspb.DeletePipelinesResponse, error) {
	res := &ppspb.DeletePipelinesResponse{}
	projects := projectSet(req.GetProjects())
	if len(projects) == 0 && !req.GetAll() {
		return res, nil
	}
	if req.GetAll() {
		projects = nil
	}
	records, err := s.load(ctx, listQuery{projects: projects})
	if err != nil {
		return nil, err
	}
	if records, err = s.visible(ctx, records); err != nil {
		return nil, err
	}
	// One that the caller may not delete is found before any is gone.
	for _, rec := range records {
		if err := s.auth.Check(ctx, nil, outputResource(rec.Info.Pipeline), authpb.Permission_REPO_DELETE); err != nil {
			return nil, err
		}
	}
	for _, rec := range records {
		err := s.delete(ctx, rec.Info.Pipeline, req.GetForce(), req.GetKeepRepo())
		if isNotFound(err) {
			continue // somebody else was faster
		}
		if err != nil {
			return nil, err
		}
		res.Pipelines = append(res.Pipelines, rec.Info.Pipeline)
	}
	return res, nil
}

// DeleteAll implements pps_v2.API: it deletes all pipelines, whatever depends on
// them, and then all secrets.
func (s *Service) DeleteAll(ctx context.Context, _ *emptypb.Empty) (*emptypb.Empty, error) {
	if err := s.auth.Check(ctx, nil, auth.Cluster(), authpb.Permission_CLUSTER_DELETE_ALL); err != nil {
		return nil, err
	}
	if _, err := s.DeletePipelines(ctx, &ppspb.DeletePipelinesRequest{All: true, Force: true}); err != nil {
		return nil, err
	}
	_, err := s.store.Update(ctx, func(tx *store.Txn) error {
		s.secrets.DeleteAll(tx)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// delete removes a pipeline with everything that it made, and then its logs.
func (s *Service) delete(ctx context.Context, p *ppspb.Pipeline, force, keepRepo bool) error {
	err := s.pfs.Update(ctx, func(tx *pfs.Txn) error {
		rec, err := s.record(tx, p)
		if err != nil {
			return err
		}
		if err := s.permit(ctx, tx, p, authpb.Permission_REPO_DELETE); err != nil {
			return err
		}
		// The pipeline goes first: pfs refuses to delete the repos of one.
		s.pipelines.Delete(tx.Txn, key(p))
		s.statuses.Delete(tx.Txn, key(p))
		s.runners.Delete(tx.Txn, key(p)) // followers of the logs are told by it
		s.versions.DeletePrefix(tx.Txn, key(p)+"/")
		fence.ExpelAll(tx.Txn, key(p)) // whatever still runs writes to a kept repo no more
		movePort(tx, p, rec.Info.GetDetails().GetSpout(), nil)
		if err := tx.SetCommitPolicy(outputRepo(p), nil); err != nil {
			return err
		}
		if !rec.Info.Stopped {
			if err := disconnectBranch(tx, outputBranch(rec.Info)); err != nil {
				return err
			}
		}
		repo := outputRepo(p)
		if keepRepo {
			repo = specRepo(p)
		}
		if _, err = tx.DeleteRepo(repo, force); err != nil {
			return err
		}
		return s.unbind(tx, p, keepRepo)
	})
	if err != nil {
		return err
	}
	if err := s.logs.Delete(projectName(p.GetProject()), p.GetName()); err != nil {
		s.log.Warn("delete logs of pipeline", zap.String("pipeline", key(p)), zap.Error(err))
	}
	return nil
}
