package pps

import (
	"github.com/minipachd/minipachd/pfs"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// EditPipelineMetadata replaces, as part of tx, the metadata of a pipeline by
// what edit makes of it. Its workers run on: they know nothing of it.
func (s *Service) EditPipelineMetadata(tx *pfs.Txn, picker *ppspb.PipelinePicker, edit func(map[string]string) (map[string]string, error)) error {
	p, err := target(&ppspb.Pipeline{
		Project: &pfspb.Project{Name: picker.GetName().GetProject().GetName()},
		Name:    picker.GetName().GetName(),
	})
	if err != nil {
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
