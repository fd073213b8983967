package pfs

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// Clients tell errors apart by their texts, so the texts below are part of the
// protocol. Errors without a GRPCStatus method reach clients with code Unknown.

func withCode(code codes.Code, err error) *status.Status { return status.New(code, err.Error()) }

// InvalidRequestError reports a request that lacks something it must have.
type InvalidRequestError struct {
	Stream bool   // it came in a client stream
	Why    string // a sentence
}

func (e *InvalidRequestError) Error() string {
	if e.Stream {
		return "validate recv: " + e.Why
	}
	return "validate request: " + e.Why
}

// GRPCStatus makes it InvalidArgument.
func (e *InvalidRequestError) GRPCStatus() *status.Status { return withCode(codes.InvalidArgument, e) }

func invalidRequest(why string) error { return &InvalidRequestError{Why: why} }

// UnsupportedError reports a feature of the protocol that this server does not have yet.
type UnsupportedError struct{ What string }

func (e *UnsupportedError) Error() string { return e.What + " not supported yet" }

// GRPCStatus makes it Unimplemented.
func (e *UnsupportedError) GRPCStatus() *status.Status { return withCode(codes.Unimplemented, e) }

// ProjectNotFoundError reports a project that does not exist.
type ProjectNotFoundError struct{ Project string }

func (e *ProjectNotFoundError) Error() string { return fmt.Sprintf("project %q not found", e.Project) }

// GRPCStatus makes it NotFound.
func (e *ProjectNotFoundError) GRPCStatus() *status.Status { return withCode(codes.NotFound, e) }

// ProjectExistsError reports a project that was to be created and is there already.
type ProjectExistsError struct{ Project string }

func (e *ProjectExistsError) Error() string { return "project " + e.Project + " already exists" }

// GRPCStatus makes it AlreadyExists.
func (e *ProjectExistsError) GRPCStatus() *status.Status { return withCode(codes.AlreadyExists, e) }

// ProjectNotEmptyError reports a project that was to be deleted and has repos.
type ProjectNotEmptyError struct {
	Project string
	Repos   []*pfspb.Repo
}

func (e *ProjectNotEmptyError) Error() string {
	lines := make([]string, len(e.Repos))
	for i, r := range e.Repos {
		lines[i] = fmt.Sprintf("cannot delete project %s: repo %s still exists", e.Project, RepoName(r))
	}
	return strings.Join(lines, "\n")
}

// GRPCStatus makes it FailedPrecondition.
func (e *ProjectNotEmptyError) GRPCStatus() *status.Status {
	return withCode(codes.FailedPrecondition, e)
}

// RepoNotFoundError reports a repo that does not exist.
type RepoNotFoundError struct{ Repo *pfspb.Repo }

func (e *RepoNotFoundError) Error() string { return "repo " + RepoName(e.Repo) + " not found" }

// GRPCStatus makes it NotFound.
func (e *RepoNotFoundError) GRPCStatus() *status.Status { return withCode(codes.NotFound, e) }

// RepoExistsError reports a repo that was to be created and is there already.
type RepoExistsError struct{ Repo *pfspb.Repo }

func (e *RepoExistsError) Error() string { return "repo " + RepoName(e.Repo) + " already exists" }

// GRPCStatus makes it AlreadyExists.
func (e *RepoExistsError) GRPCStatus() *status.Status { return withCode(codes.AlreadyExists, e) }

// RepoDroppedError reports a repo that was to be created in the transaction that
// deletes the one of its name.
type RepoDroppedError struct{ Repo *pfspb.Repo }

func (e *RepoDroppedError) Error() string {
	return "repo " + RepoName(e.Repo) + " is deleted in this transaction and cannot be created in the same one: finish the transaction first"
}

// GRPCStatus makes it FailedPrecondition.
func (e *RepoDroppedError) GRPCStatus() *status.Status { return withCode(codes.FailedPrecondition, e) }

// PipelineRepoError reports a repo that only goes together with its pipeline.
type PipelineRepoError struct{ Repo *pfspb.Repo }

func (e *PipelineRepoError) Error() string {
	return "cannot delete a repo associated with a pipeline - delete the pipeline instead"
}

// BranchNotFoundError reports a branch that does not exist in an existing repo.
type BranchNotFoundError struct{ Branch *pfspb.Branch }

func (e *BranchNotFoundError) Error() string {
	return fmt.Sprintf("branch %q not found in repo %s", e.Branch.GetName(), RepoName(e.Branch.GetRepo()))
}

// GRPCStatus makes it NotFound.
func (e *BranchNotFoundError) GRPCStatus() *status.Status { return withCode(codes.NotFound, e) }

// BranchInUseError reports a branch that others are made from.
type BranchInUseError struct {
	Branch     *pfspb.Branch
	Subvenance []*pfspb.Branch
}

func (e *BranchInUseError) Error() string {
	return fmt.Sprintf("branch %q cannot be deleted because it's in the direct provenance of [%s]",
		BranchName(e.Branch), joinBranches(e.Subvenance))
}

func joinBranches(branches []*pfspb.Branch) string {
	names := make([]string, len(branches))
	for i, b := range branches {
		names[i] = BranchName(b)
	}
	return strings.Join(names, " ")
}

// CommitNotFoundError reports a commit that does not exist.
type CommitNotFoundError struct{ Commit *pfspb.Commit }

func (e *CommitNotFoundError) Error() string { return "commit " + CommitName(e.Commit) + " not found" }

// GRPCStatus makes it NotFound.
func (e *CommitNotFoundError) GRPCStatus() *status.Status { return withCode(codes.NotFound, e) }

// ParentNotFoundError reports that the parent named for a commit does not exist.
type ParentNotFoundError struct{ Parent *pfspb.Commit }

func (e *ParentNotFoundError) Error() string {
	return "parent commit " + CommitName(e.Parent) + " not found"
}

// GRPCStatus makes it NotFound.
func (e *ParentNotFoundError) GRPCStatus() *status.Status { return withCode(codes.NotFound, e) }

// ParentOpenError reports a commit to be made on one that is still written to.
type ParentOpenError struct{ Parent *pfspb.Commit }

func (e *ParentOpenError) Error() string {
	return "parent commit " + CommitName(e.Parent) + " has not been finished"
}

// AncestorError reports an ancestor beyond the root of a commit's line.
type AncestorError struct {
	Commit *pfspb.Commit
	Offset uint64 // how many parents back
}

func (e *AncestorError) Error() string {
	return fmt.Sprintf("invalid offset for ancestor of commit %s: it has fewer than %d ancestors", CommitName(e.Commit), e.Offset)
}

// CommitFinishedError reports a write to a commit that takes none any more.
type CommitFinishedError struct{ Commit *pfspb.Commit }

func (e *CommitFinishedError) Error() string {
	return "commit " + CommitName(e.Commit) + " has already finished"
}

// CommitErrorError reports a commit that finished with an error.
type CommitErrorError struct{ Commit *pfspb.Commit }

func (e *CommitErrorError) Error() string {
	return "commit " + CommitName(e.Commit) + " finished with an error"
}

// CommitDeletedError reports a commit that went away while it was waited for.
type CommitDeletedError struct{ Commit *pfspb.Commit }

func (e *CommitDeletedError) Error() string { return "commit " + CommitName(e.Commit) + " was deleted" }

// CommitNotFinishedError reports a commit that would have to be finished.
type CommitNotFinishedError struct{ Commit *pfspb.Commit }

func (e *CommitNotFinishedError) Error() string {
	return "commit " + CommitName(e.Commit) + " not finished"
}

// GRPCStatus makes it Unavailable, with the commit as the resource.
func (e *CommitNotFinishedError) GRPCStatus() *status.Status {
	st := withCode(codes.Unavailable, e)
	detailed, err := st.WithDetails(&errdetails.ResourceInfo{ResourceType: "pfs:commit", ResourceName: CommitName(e.Commit), Description: "not finished"})
	if err != nil {
		return st
	}
	return detailed
}

// BaseUnfinishedError reports an open commit that cannot be read because what it
// builds on is open too.
type BaseUnfinishedError struct{ Base, Commit *pfspb.Commit }

func (e *BaseUnfinishedError) Error() string {
	return "base commit " + CommitName(e.Base) + " for commit " + CommitName(e.Commit) + " unfinished"
}

// OutputBranchError reports a commit to be started on a branch with provenance.
type OutputBranchError struct{ Branch *pfspb.Branch }

func (e *OutputBranchError) Error() string {
	return "cannot start a commit on an output branch: " + BranchName(e.Branch)
}

// SecondCommitError reports two commits of one repo in one transaction.
type SecondCommitError struct{ Branch *pfspb.Branch }

func (e *SecondCommitError) Error() string {
	return fmt.Sprintf("inconsistent dependencies: cannot create commit from %s; repo (%s) already has a commit in this transaction",
		BranchName(e.Branch), e.Branch.GetRepo().GetName())
}

// CommitSetNotFoundError reports a commit set without commits.
type CommitSetNotFoundError struct{ ID string }

func (e *CommitSetNotFoundError) Error() string { return "no commits found for commitset " + e.ID }

// GRPCStatus makes it NotFound.
func (e *CommitSetNotFoundError) GRPCStatus() *status.Status { return withCode(codes.NotFound, e) }

// FileNotFoundError reports a path that a commit does not have.
type FileNotFoundError struct {
	Path   string // as it was asked for
	Commit *pfspb.Commit
}

func (e *FileNotFoundError) Error() string {
	return fmt.Sprintf("file %s not found in repo %s at commit %s", e.Path, RepoName(e.Commit.GetRepo()), e.Commit.GetId())
}

// GRPCStatus makes it NotFound.
func (e *FileNotFoundError) GRPCStatus() *status.Status { return withCode(codes.NotFound, e) }

// BadNameError reports a name with characters that names cannot have.
type BadNameError struct{ Name string }

func (e *BadNameError) Error() string {
	return fmt.Sprintf("name (%s) invalid: only alphanumeric characters, underscores, and dashes are allowed", e.Name)
}

// CycleError reports provenance that would lead back to its own branch.
type CycleError struct{ Branch, Provenance *pfspb.Branch }

func (e *CycleError) Error() string {
	return fmt.Sprintf("cycle detected because branch %s is already in the provenance of %s", BranchName(e.Branch), BranchName(e.Provenance))
}

// GRPCStatus makes it Internal.
func (e *CycleError) GRPCStatus() *status.Status { return withCode(codes.Internal, e) }

// SharedRepoError reports a DAG that two branches of one repo would take part in.
type SharedRepoError struct{ Repo *pfspb.Repo }

func (e *SharedRepoError) Error() string {
	return fmt.Sprintf("multiple branches from the same repo, %q, cannot participate in a DAG", RepoName(e.Repo))
}

// LayerNotFoundError reports that a layer of a commit is gone.
type LayerNotFoundError struct{ ID []byte }

func (e *LayerNotFoundError) Error() string { return fmt.Sprintf("layer %x not found", e.ID) }

// GRPCStatus makes it DataLoss.
func (e *LayerNotFoundError) GRPCStatus() *status.Status { return withCode(codes.DataLoss, e) }

// errForgotten reports a read of, or a commit on, content that was given up.
var errForgotten = errors.New("the commit is forgotten")

// BranchTriggerError reports a branch that takes part in a trigger, by which it
// follows others or others follow it.
type BranchTriggerError struct {
	Branch  *pfspb.Branch
	Follows bool // Branch follows Others; else they follow it
	Others  []*pfspb.Branch
}

func (e *BranchTriggerError) Error() string {
	how := "triggers"
	if e.Follows {
		how = "is triggered by"
	}
	return fmt.Sprintf("branch %q cannot be deleted because it %s branches [%s]", BranchName(e.Branch), how, joinBranches(e.Others))
}

// SubvenantSetsError reports a commit set that others come from.
type SubvenantSetsError struct {
	ID   string
	Sets []string // ids
}

func (e *SubvenantSetsError) Error() string {
	return fmt.Sprintf("commit set %q cannot be dropped because it has subvenant commit sets: [%s]", e.ID, strings.Join(e.Sets, " "))
}

// PipelineCommitError reports a commit that cannot be removed because it is a
// version of a pipeline.
type PipelineCommitError struct {
	Verb   string // squash or drop
	Commit *pfspb.Commit
}

func (e *PipelineCommitError) Error() string {
	return "cannot " + e.Verb + " commit " + CommitName(e.Commit) + " because it updated a pipeline"
}

// removed tells whether a commit that was waited for was removed meanwhile.
func removed(err error) bool {
	var deleted *CommitDeletedError
	var missing *CommitNotFoundError
	return errors.As(err, &deleted) || errors.As(err, &missing)
}
