package pps

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minipachd/minipachd/pfs"
	"github.com/minipachd/minipachd/pps/scheduler"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// Output tells a scheduler what becomes of the repos that workers write to.
type Output struct{ PFS *pfs.Service }

// Head names the newest commit of a pipeline's output branch, open or not, and of one
// that puts are collected in also the newest put.
func (o Output) Head(ctx context.Context, info *ppspb.PipelineInfo) (string, error) {
	var name string
	err := o.PFS.View(ctx, func(tx *pfs.Txn) (err error) {
		name, err = tx.Progress(outputBranch(info))
		return err
	})
	return name, err
}

// DropOpen removes the commits of the pipeline's output repo that the writers of
// which left is true have opened and not finished. A repo that is gone has none.
func (o Output) DropOpen(ctx context.Context, pipeline string, left func(writer string) bool) error {
	project, name, _ := strings.Cut(pipeline, "/")
	return o.PFS.DropOpen(ctx, outputRepo(&ppspb.Pipeline{Project: &pfspb.Project{Name: project}, Name: name}), left)
}

// Retainer returns what squashes the commits of the pipeline's output branch that its
// spec does not keep; nil if it keeps all, as a stopped pipeline does.
func (o Output) Retainer(info *ppspb.PipelineInfo) scheduler.Retainer {
	keep := info.GetDetails().GetSpout().GetRetention()
	if keep == nil || info.GetStopped() {
		return nil
	}
	return o.PFS.Retainer(outputBranch(info), pfs.Retention{Commits: keep.GetCommits(), Age: keep.GetAge().AsDuration()})
}

// lastCommits fills in when the newest commit of each pipeline's output branch was
// made. The empty one that is made with the pipeline does not count.
func lastCommits(tx *pfs.Txn, records []*recordpb.PipelineRecord) error {
	branches := make([]*pfspb.Branch, len(records))
	for i, rec := range records {
		branches[i] = outputBranch(rec.Info)
	}
	heads, err := tx.Heads(branches)
	if err != nil {
		return err
	}
	for i, h := range heads {
		if h.ID != "" && !slices.Contains(records[i].SpecCommits, h.ID) {
			records[i].Info.Details.LastCommit = timestamppb.New(h.Started)
		}
	}
	return nil
}
