package pps

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/auth"
	"github.com/minipachd/minipachd/pfs"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// What one may do with a pipeline goes by its output repo, in which it and its spec
// repo have their role bindings.

func outputResource(p *ppspb.Pipeline) auth.Resource {
	return auth.Repo(projectName(p.GetProject()), p.GetName())
}

// principal is who the workers of a pipeline are.
func principal(p *ppspb.Pipeline) string { return "pipeline:" + key(p) }

// permit checks, as tx sees it, that the caller has perm on the pipeline's output repo.
func (s *Service) permit(ctx context.Context, tx *pfs.Txn, p *ppspb.Pipeline, perm authpb.Permission) error {
	return s.auth.Check(ctx, tx.Txn, outputResource(p), perm)
}

// permitPut checks that the caller may create a pipeline or, if it is an update,
// make a new version of one. A worker may do neither, whatever roles it has: it would
// choose the user that its program runs as, and the secrets that it gets.
func (s *Service) permitPut(ctx context.Context, tx *pfs.Txn, p *ppspb.Pipeline, update bool) error {
	if by := s.auth.Subject(ctx); auth.IsPipeline(by) {
		return status.Errorf(codes.PermissionDenied, "%s is not authorized to perform this operation - workers create and update no pipelines", by)
	}
	if update {
		return s.permit(ctx, tx, p, authpb.Permission_REPO_WRITE)
	}
	return s.auth.Check(ctx, tx.Txn, auth.Project(projectName(p.GetProject())), authpb.Permission_PROJECT_CREATE_REPO)
}

// bindCreator makes the caller the owner of a new pipeline's repos, and its workers
// their writers.
func (s *Service) bindCreator(ctx context.Context, tx *pfs.Txn, p *ppspb.Pipeline) error {
	// The daemon itself, which applies specs, needs no roles.
	if by := s.auth.Subject(ctx); by != "" && !auth.IsInternal(by) {
		if err := s.auth.Bind(ctx, tx.Txn, outputResource(p), by, "repoOwner"); err != nil {
			return err
		}
	}
	return s.auth.Bind(ctx, tx.Txn, outputResource(p), principal(p), "repoWriter")
}

// unbind removes what a deleted pipeline was granted, wherever that was, so that the
// next one of its name has nothing of it, and all bindings of its repo unless that is
// kept.
func (s *Service) unbind(tx *pfs.Txn, p *ppspb.Pipeline, keepRepo bool) error {
	if err := s.auth.Forget(tx.Txn, principal(p)); err != nil || keepRepo {
		return err
	}
	return s.auth.Unbind(tx.Txn, outputResource(p))
}

// visible leaves out the pipelines that the caller may not know of: those whose
// output repo it can neither read nor find in a listing of the project.
func (s *Service) visible(ctx context.Context, records []*recordpb.PipelineRecord) ([]*recordpb.PipelineRecord, error) {
	if !s.auth.Active() {
		return records, nil
	}
	var seen []*recordpb.PipelineRecord
	for _, rec := range records {
		p := rec.Info.Pipeline
		ok, err := s.auth.Allows(ctx, auth.Project(projectName(p.GetProject())), authpb.Permission_PROJECT_LIST_REPO)
		if err == nil && !ok {
			ok, err = s.auth.Allows(ctx, outputResource(p), authpb.Permission_REPO_READ)
		}
		if err != nil {
			return nil, err
		}
		if ok {
			seen = append(seen, rec)
		}
	}
	return seen, nil
}

// untold stands for the reason of a state, which quotes what the program said.
func untold(info *ppspb.PipelineInfo) string {
	if info.GetReason() == "" {
		return ""
	}
	return "whoever has REPO_READ on repo " + key(info.GetPipeline()) + " is told why"
}

// outline is what everybody with a token may know of a pipeline, whose spec and
// condition may hold secrets: values of its environment, arguments, what its program
// said last. All that is not named here is left out.
func outline(info *ppspb.PipelineInfo) *ppspb.PipelineInfo {
	d := info.GetDetails()
	return &ppspb.PipelineInfo{
		Pipeline:     info.GetPipeline(),
		Version:      info.GetVersion(),
		SpecCommit:   info.GetSpecCommit(),
		Stopped:      info.GetStopped(),
		State:        info.GetState(),
		Reason:       untold(info),
		LastJobState: info.GetLastJobState(),
		Parallelism:  info.GetParallelism(),
		Type:         info.GetType(),
		Details: &ppspb.PipelineInfo_Details{
			Transform:        &ppspb.Transform{Image: d.GetTransform().GetImage()},
			Spout:            &ppspb.Spout{},
			Description:      d.GetDescription(),
			CreatedAt:        d.GetCreatedAt(),
			CreatedBy:        d.GetCreatedBy(),
			UpdatedAt:        d.GetUpdatedAt(),
			OutputBranch:     d.GetOutputBranch(),
			WorkersRequested: d.GetWorkersRequested(),
			WorkersAvailable: d.GetWorkersAvailable(),
			WorkersStartedAt: d.GetWorkersStartedAt(),
		},
	}
}

// allowed is permit with a word instead of a denial.
func (s *Service) allowed(ctx context.Context, tx *pfs.Txn, p *ppspb.Pipeline, perm authpb.Permission) (bool, error) {
	err := s.permit(ctx, tx, p, perm)
	if auth.Refused(err) {
		return false, nil
	}
	return err == nil, err
}

// ActivateAuth implements pps_v2.API: it lets the workers of every pipeline there is
// write to its output repo. Their tokens are as before, so they run on. It may be
// called again; each pipeline is a transaction of its own.
func (s *Service) ActivateAuth(ctx context.Context, _ *ppspb.ActivateAuthRequest) (*ppspb.ActivateAuthResponse, error) {
	if !s.auth.Active() {
		return nil, auth.ErrNotActivated
	}
	var all []*ppspb.Pipeline
	err := s.pfs.View(ctx, func(tx *pfs.Txn) error {
		all = nil
		for item, err := range s.pipelines.Scan(tx.Txn, "", store.ScanOptions{}) {
			if err != nil {
				return err
			}
			all = append(all, item.Value.Info.Pipeline)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		err := s.pfs.Update(ctx, func(tx *pfs.Txn) error {
			if _, err := s.record(tx, p); err != nil {
				return err
			}
			return s.auth.Bind(ctx, tx.Txn, outputResource(p), principal(p), "repoWriter")
		})
		if err != nil && !isNotFound(err) { // a deleted one needs nothing
			return nil, err
		}
	}
	return &ppspb.ActivateAuthResponse{}, nil
}
