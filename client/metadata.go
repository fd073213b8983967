package client

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	metadatapb "github.com/minipachd/minipachd/proto/metadata"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// EditMetadata changes the metadata of projects, repos, branches, commits,
// pipelines and the cluster: all edits take effect together, or none.
func (c *Client) EditMetadata(ctx context.Context, edits ...*metadatapb.Edit) error {
	_, err := c.Metadata.EditMetadata(ctx, &metadatapb.EditMetadataRequest{Edits: edits})
	return err
}

// PickProject is how newer requests name a project.
func PickProject(name string) *pfspb.ProjectPicker {
	return &pfspb.ProjectPicker{Picker: &pfspb.ProjectPicker_Name{Name: NewProject(name).GetName()}}
}

// PickRepo is how newer requests name a repo.
func PickRepo(repo *pfspb.Repo) *pfspb.RepoPicker {
	return &pfspb.RepoPicker{Picker: &pfspb.RepoPicker_Name{Name: &pfspb.RepoPicker_RepoName{
		Project: PickProject(repo.GetProject().GetName()), Name: repo.GetName(), Type: repo.GetType(),
	}}}
}

// PickBranch is how newer requests name a branch.
func PickBranch(branch *pfspb.Branch) *pfspb.BranchPicker {
	return &pfspb.BranchPicker{Picker: &pfspb.BranchPicker_Name{Name: &pfspb.BranchPicker_BranchName{
		Repo: PickRepo(branch.GetRepo()), Name: branch.GetName(),
	}}}
}

// PickPipeline is how newer requests name a pipeline.
func PickPipeline(p *ppspb.Pipeline) *ppspb.PipelinePicker {
	return &ppspb.PipelinePicker{Picker: &ppspb.PipelinePicker_Name{Name: &ppspb.PipelinePicker_PipelineName{
		Project: PickProject(p.GetProject().GetName()), Name: p.GetName(),
	}}}
}

// PickCommit is how newer requests name a commit. Its id may have the ancestor
// suffixes that NewCommit describes.
func PickCommit(c *pfspb.Commit) (*pfspb.CommitPicker, error) {
	repo := c.GetRepo()
	if repo == nil {
		repo = c.GetBranch().GetRepo()
	}
	text := c.GetId()
	if !IsCommitID(text) {
		text = c.GetBranch().GetName() + text
	}
	base, rest := text, ""
	if i := strings.IndexAny(text, "^~."); i >= 0 {
		base, rest = text[:i], text[i:]
	}
	picker := &pfspb.CommitPicker{}
	branch := PickBranch(&pfspb.Branch{Repo: repo, Name: base})
	switch number, isNth := strings.CutPrefix(rest, "."); {
	case isNth:
		end := strings.IndexAny(number, "^~")
		if end < 0 {
			end = len(number)
		}
		n, err := strconv.ParseUint(number[:end], 10, 32)
		if err != nil || n == 0 {
			return nil, badAncestor(text)
		}
		rest = number[end:]
		picker.Picker = &pfspb.CommitPicker_BranchRoot_{BranchRoot: &pfspb.CommitPicker_BranchRoot{Branch: branch, Offset: uint32(n)}}
	case IsCommitID(base):
		picker.Picker = &pfspb.CommitPicker_Id{Id: &pfspb.CommitPicker_CommitByGlobalId{Repo: PickRepo(repo), Id: base}}
	default:
		picker.Picker = &pfspb.CommitPicker_BranchHead{BranchHead: branch}
	}
	back, err := ancestors(rest)
	if err != nil {
		return nil, badAncestor(text)
	}
	if back > 0 {
		picker = &pfspb.CommitPicker{Picker: &pfspb.CommitPicker_Ancestor{Ancestor: &pfspb.CommitPicker_AncestorOf{Start: picker, Offset: back}}}
	}
	return picker, nil
}

func badAncestor(text string) error {
	return fmt.Errorf("%q is not a commit: an ancestor is written x^, x^2 or x~2, the n-th commit of a branch x.n", text)
}

// ancestors adds up suffixes such as ^^ and ~2.
func ancestors(suffix string) (uint32, error) {
	var back uint64
	for suffix != "" {
		end := strings.IndexAny(suffix[1:], "^~.") + 1
		if end == 0 {
			end = len(suffix)
		}
		n := uint64(1)
		if digits := suffix[1:end]; digits != "" {
			var err error
			if n, err = strconv.ParseUint(digits, 10, 31); err != nil {
				return 0, err
			}
		}
		if suffix[0] == '.' {
			return 0, strconv.ErrSyntax
		}
		if back += n; back >= 1<<32 {
			return 0, strconv.ErrRange
		}
		suffix = suffix[end:]
	}
	return uint32(back), nil
}
