package pps

import (
	"context"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/minipachd/minipachd/pfs"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// The calls of this package that can be part of a transaction of several calls.

// CreatePipelineIn creates or updates a pipeline as part of tx. Its spec is
// user_json, or create_pipeline_request if there is none; the flags of both add
// up. It returns the call with the effective spec filled in, which means the same
// when it is made again. A call with dry_run set writes nothing.
func (s *Service) CreatePipelineIn(ctx context.Context, tx *pfs.Txn, call *ppspb.CreatePipelineTransaction) (*ppspb.CreatePipelineTransaction, error) {
	flags := call.GetCreatePipelineRequest()
	text := call.GetUserJson()
	if text == "" {
		b, err := protojson.Marshal(flags)
		if err != nil {
			return nil, &SpecError{Err: err}
		}
		text = string(b)
	}
	user, err := parseUserSpec(text)
	if err != nil {
		return nil, err
	}
	opt := putOptions{
		update:    flags.GetUpdate() || user.update,
		reprocess: flags.GetReprocess() || user.reprocess,
		dryRun:    flags.GetDryRun() || user.dryRun,
	}
	res, err := s.put(ctx, tx, user, opt)
	if err != nil {
		return nil, err
	}
	request := proto.CloneOf(res.spec.request)
	request.Update, request.Reprocess, request.DryRun = opt.update, opt.reprocess, opt.dryRun
	return &ppspb.CreatePipelineTransaction{
		CreatePipelineRequest: request,
		UserJson:              text,
		EffectiveJson:         res.spec.json,
		CreatedBy:             call.GetCreatedBy(),
	}, nil
}

// StopJobIn is StopJob as part of tx.
func (s *Service) StopJobIn(ctx context.Context, tx *pfs.Txn, req *ppspb.StopJobRequest) error {
	return s.jobMissing(ctx, tx.Txn, req.GetJob(), authpb.Permission_REPO_WRITE)
}

// UpdateJobStateIn is UpdateJobState as part of tx.
func (s *Service) UpdateJobStateIn(ctx context.Context, tx *pfs.Txn, req *ppspb.UpdateJobStateRequest) error {
	return s.jobMissing(ctx, tx.Txn, req.GetJob(), authpb.Permission_REPO_WRITE)
}
