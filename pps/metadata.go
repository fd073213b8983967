package pps

import (
	"context"

	"github.com/minipachd/minipachd/pfs"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// EditPipelineMetadata replaces, as part of tx, the metadata of a pipeline by
// what edit makes of it, if the caller may write to its output repo. Its workers run
// on: they know nothing of it.
func (s *Service) EditPipelineMetadata(ctx context.Context, tx *pfs.Txn, picker *ppspb.PipelinePicker, edit func(map[string]string) (map[string]string, error)) error {
	p, err := target(&ppspb.Pipeline{
		Project: &pfspb.Project{Name: picker.GetName().GetProject().GetName()},
		Name:    picker.GetName().GetName(),
	})
	if err != nil {
		return err
	}
	if err := s.permit(ctx, tx, p, authpb.Permission_REPO_WRITE); err != nil {
		return err
	}
	rec, err := s.record(tx, p)
	if err != nil {
		return err
	}
	if rec.Info.Metadata, err = edit(rec.Info.Metadata); err != nil {
		return err
	}
	return s.pipelines.Put(tx.Txn, key(p), rec)
}
