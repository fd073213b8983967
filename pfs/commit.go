package pfs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// commitOptions say what a new commit is like.
type commitOptions struct {
	origin      pfspb.OriginKind
	description string
	provenance  []*pfspb.Commit // direct, each with its branch
}

// startCommit opens a commit of a user on a normalized branch, which it makes if
// it is missing, and moves the branch's head to it. The parent is the head if
// nil is given. The new record has the layers of its base, the nearest ancestor
// without an error, and none of its own; the caller may change it further and
// store it again with putCommit.
func (tx *Txn) startCommit(branch *pfspb.Branch, parent *recordpb.CommitRecord, description string) (*recordpb.CommitRecord, error) {
	if branch.GetName() == "" {
		return nil, errors.New("branch must be specified")
	}
	if err := checkBranchName(branch.GetName()); err != nil {
		return nil, err
	}
	brec, err := tx.openBranch(branch)
	if err != nil {
		return nil, err
	}
	provenance, err := tx.writerProvenance(brec)
	if err != nil {
		return nil, err
	}
	if parent, err = tx.endPolicyCommits(brec, parent); err != nil {
		return nil, err
	}
	if head := brec.GetInfo().GetHead(); parent == nil && head != nil {
		if parent, err = tx.commit(branch.GetRepo(), head.GetId()); err != nil {
			return nil, err
		}
	}
	if parent != nil && state(parent.GetInfo()) < pfspb.CommitState_FINISHING {
		return nil, &ParentOpenError{Parent: parent.Info.Commit}
	}
	if good, err := tx.goodAncestor(parent); err != nil {
		return nil, err
	} else if good.GetForgotten() {
		return nil, errForgotten // a commit on it would lack what it seems to build on
	}
	return tx.makeCommit(brec, parent, commitOptions{origin: pfspb.OriginKind_USER, description: description, provenance: provenance})
}

// openBranch returns the record of a branch of an existing repo, a fresh one
// without a head if there is none.
func (tx *Txn) openBranch(branch *pfspb.Branch) (*recordpb.BranchRecord, error) {
	// One round trip for both; the calls below find them read.
	if _, err := tx.GetMulti([]string{repoPrefix + repoKey(branch.GetRepo()), branchPrefix + branchKey(branch)}, false); err != nil {
		return nil, err
	}
	if err := tx.repoExists(branch.GetRepo()); err != nil {
		return nil, err
	}
	brec, ok, err := tx.branch(branch)
	if err != nil {
		return nil, err
	}
	if !ok {
		brec = &recordpb.BranchRecord{Info: &pfspb.BranchInfo{Branch: branch, CreatedAt: stamp(tx.Now()), CreatedBy: tx.author}}
	}
	return brec, nil
}

// writerProvenance returns the direct provenance of commits that users start on
// a branch. Branches with provenance are written by propagation alone, except
// for those made from one spec branch only: a spout writes to them.
func (tx *Txn) writerProvenance(brec *recordpb.BranchRecord) ([]*pfspb.Commit, error) {
	if len(brec.GetInfo().GetDirectProvenance()) == 0 {
		return nil, nil
	}
	if !isSpoutBranch(brec) {
		return nil, &OutputBranchError{Branch: brec.Info.Branch}
	}
	return tx.heads(brec.Info.DirectProvenance)
}

// isSpoutBranch tells whether a branch is made from exactly one spec branch.
func isSpoutBranch(brec *recordpb.BranchRecord) bool {
	p := brec.GetInfo().GetDirectProvenance()
	return len(p) == 1 && p[0].GetRepo().GetType() == SpecType
}

// heads returns the head of each branch, with the branch filled in.
func (tx *Txn) heads(branches []*pfspb.Branch) ([]*pfspb.Commit, error) {
	heads := make([]*pfspb.Commit, 0, len(branches))
	for _, b := range branches {
		rec, err := tx.mustBranch(b)
		if err != nil {
			return nil, err
		}
		heads = append(heads, &pfspb.Commit{Repo: b.GetRepo(), Id: rec.Info.Head.GetId(), Branch: b})
	}
	return heads, nil
}

// makeCommit makes a commit with the id of the current set, open, as the head of
// a branch. parent may be nil and may be open.
func (tx *Txn) makeCommit(brec *recordpb.BranchRecord, parent *recordpb.CommitRecord, opt commitOptions) (*recordpb.CommitRecord, error) {
	branch := brec.Info.Branch
	repo := branch.GetRepo()
	if tx.made[repoKey(repo)] {
		return nil, &SecondCommitError{Branch: branch}
	}
	// Everything that can fail comes before the first write: whoever groups commits
	// goes on with the next one after an error.
	base, err := tx.base(nil, parent)
	if err != nil {
		return nil, err
	}
	tx.made[repoKey(repo)] = true
	id := tx.SetID()
	// Orders grow along every line of parents whatever the clock does, and those of
	// one transaction are distinct.
	ns := max(tx.Now().UnixNano(), tx.last[repoKey(repo)]+1)
	if parent != nil {
		ns = max(ns, orderTime(parent.Order)+1)
	}
	tx.last[repoKey(repo)] = ns
	started := stamp(time.Unix(0, ns))
	rec := &recordpb.CommitRecord{
		Info: &pfspb.CommitInfo{
			Commit:           &pfspb.Commit{Repo: repo, Id: id},
			Origin:           &pfspb.CommitOrigin{Kind: opt.origin},
			Description:      opt.description,
			Started:          started,
			CreatedAt:        started,
			CreatedBy:        tx.author,
			DirectProvenance: opt.provenance,
		},
		Branch:  branch.GetName(),
		Order:   orderOf(time.Unix(0, ns), id),
		Ordinal: parent.GetOrdinal() + 1,
	}
	if parent != nil {
		rec.Info.ParentCommit = &pfspb.Commit{Repo: repo, Id: parent.Info.Commit.Id}
		tx.Put(childKey(repo, parent.Info.Commit.Id, id), nil)
	}
	rec.Layers = base.GetLayers()
	rec.Info.SizeBytesUpperBound = base.GetInfo().GetSizeBytesUpperBound()
	if err := tx.putCommit(rec); err != nil {
		return nil, err
	}
	tx.Put(idKey(id, repo), []byte(rec.Order))
	for _, p := range opt.provenance {
		// Every commit of a spout comes from its spec commit: an index of these would
		// be a second list of the output repo's commits, so direct_subvenance of a
		// spec commit leaves them out.
		if p.GetRepo().GetType() != SpecType {
			tx.Put(subvKey(p, rec.Info.Commit), nil)
		}
	}
	brec.Info.Head = &pfspb.Commit{Repo: repo, Id: id}
	tx.touched[branchKey(branch)] = branch
	return rec, tx.putBranch(brec)
}

// base returns the commit that rec builds on: its nearest ancestor without an
// error, nil if there is none or its content was forgotten. parent may be given
// if it is at hand; rec may then be nil.
func (tx *Txn) base(rec, parent *recordpb.CommitRecord) (*recordpb.CommitRecord, error) {
	if p := rec.GetInfo().GetParentCommit(); parent == nil && p != nil {
		var err error
		if parent, err = tx.commit(p.GetRepo(), p.GetId()); err != nil {
			return nil, err
		}
	}
	good, err := tx.goodAncestor(parent)
	if good.GetForgotten() {
		good = nil
	}
	return good, err
}

// goodAncestor returns the nearest commit without an error, beginning with rec
// itself; nil if there is none.
func (tx *Txn) goodAncestor(rec *recordpb.CommitRecord) (*recordpb.CommitRecord, error) {
	for rec.GetInfo().GetError() != "" {
		p := rec.Info.ParentCommit
		if p == nil {
			return nil, nil
		}
		var err error
		if rec, err = tx.commit(p.GetRepo(), p.GetId()); err != nil {
			return nil, err
		}
	}
	return rec, nil
}

// finish ends the writing of an open commit. One with little or no data of its own
// on a FINISHED base is FINISHED at once; others are marked for the finisher, which
// looks below finishingPrefix and removes the mark when it is done.
func (tx *Txn) finish(rec *recordpb.CommitRecord, description, errText string) error {
	if state(rec.Info) >= pfspb.CommitState_FINISHING {
		return &CommitFinishedError{Commit: rec.Info.Commit}
	}
	if description != "" {
		rec.Info.Description = description
	}
	rec.Info.Error, rec.Writer = errText, ""
	rec.Info.Finishing = stamp(time.Unix(0, max(tx.Now().UnixNano(), orderTime(rec.Order))))
	if rec.Policy != nil {
		tx.setPolicyFinished(rec)
		return tx.putCommit(rec)
	}
	if rec.OwnLayers == 0 {
		base, err := tx.base(rec, nil)
		if err != nil {
			return err
		}
		if base == nil || state(base.Info) == pfspb.CommitState_FINISHED {
			rec.Layers = base.GetLayers() // the parent may have got an error since the start
			tx.setFinished(rec, base.GetInfo().GetDetails().GetSizeBytes(), rec.Info.Finishing.AsTime())
			return tx.putCommit(rec)
		}
	}
	if done, err := tx.finishSmall(rec); done || err != nil {
		return err
	}
	tx.Put(finishingKey(rec), nil)
	return tx.putCommit(rec)
}

// setFinished makes a record, for the caller to store, that of a FINISHED commit
// of a known size in bytes. Its error, if any, is known before.
func (tx *Txn) setFinished(rec *recordpb.CommitRecord, size int64, at time.Time) {
	if rec.Info.Finishing == nil {
		rec.Info.Finishing = stamp(at)
	}
	rec.Info.Finished = stamp(at)
	rec.Info.SizeBytesUpperBound = size
	rec.Info.Details = &pfspb.CommitInfo_Details{SizeBytes: size}
	if rec.Info.Error == "" {
		tx.settled = append(tx.settled, &pfspb.Branch{Repo: rec.Info.Commit.Repo, Name: rec.Branch})
	}
}

// StartCommit opens a commit on a branch, which it creates if it is missing. A
// nil parent means the branch's head. The result has no branch.
func (tx *Txn) StartCommit(branch *pfspb.Branch, parent *pfspb.Commit, description string) (*pfspb.Commit, error) {
	branch = NormalizeBranch(branch)
	if branch.GetName() == "" {
		return nil, errors.New("branch must be specified")
	}
	if branch.GetRepo() == nil {
		return nil, invalidRequest("the branch must have a repo")
	}
	var prec *recordpb.CommitRecord
	if parent != nil {
		if err := tx.repoExists(branch.GetRepo()); err != nil {
			return nil, err
		}
		if commitRepo(parent) == nil {
			parent = &pfspb.Commit{Repo: branch.GetRepo(), Id: parent.GetId(), Branch: parent.GetBranch()}
		}
		if repoKey(NormalizeRepo(commitRepo(parent))) != repoKey(branch.GetRepo()) {
			return nil, errors.New("parent commit " + CommitName(parent) + " is not in repo " + RepoName(branch.GetRepo()))
		}
		var err error
		prec, err = tx.resolve(parent)
		var nf *CommitNotFoundError
		if errors.As(err, &nf) {
			return nil, &ParentNotFoundError{Parent: parent}
		}
		if err != nil {
			return nil, err
		}
	}
	rec, err := tx.startCommit(branch, prec, description)
	if err != nil {
		return nil, err
	}
	if w := writerOf(tx.Context()); w != nil {
		rec.Writer = w.ID
		if err := tx.putCommit(rec); err != nil {
			return nil, err
		}
	}
	return stripCommit(rec.Info.Commit), nil
}

// FinishCommit ends the writing of an open commit, with an error unless errText
// is empty. A description that is not empty replaces the one of the start. force
// allows it for commits that a pipeline finishes by itself.
func (tx *Txn) FinishCommit(c *pfspb.Commit, description, errText string, force bool) error {
	rec, err := tx.resolve(c)
	if err != nil {
		return err
	}
	if rec.Info.Commit.Repo.Type == MetaType && !force {
		return errors.New("cannot finish a pipeline output or meta commit, use 'stop job' instead")
	}
	return tx.finish(rec, description, errText)
}

// PutSpecCommit makes an empty finished commit on the branch master of a repo.
func (tx *Txn) PutSpecCommit(repo *pfspb.Repo) (*pfspb.Commit, error) {
	rec, err := tx.startCommit(&pfspb.Branch{Repo: NormalizeRepo(repo), Name: defaultMasterName}, nil, "")
	if err != nil {
		return nil, err
	}
	if err := tx.finish(rec, "", ""); err != nil {
		return nil, err
	}
	return stripCommit(rec.Info.Commit), nil
}

// ClearCommit discards what was written to an open commit.
func (tx *Txn) ClearCommit(c *pfspb.Commit) error {
	rec, err := tx.resolve(c)
	if err != nil {
		return err
	}
	if state(rec.Info) >= pfspb.CommitState_FINISHING {
		return errors.New("cannot clear finished commit")
	}
	base, err := tx.base(rec, nil)
	if err != nil {
		return err
	}
	rec.Layers, rec.OwnLayers = base.GetLayers(), 0
	rec.Info.SizeBytesUpperBound = base.GetInfo().GetSizeBytesUpperBound()
	clearPolicyCommit(rec, base)
	return tx.putCommit(rec)
}

// stripCommit leaves the branch out, as all answers do.
func stripCommit(c *pfspb.Commit) *pfspb.Commit {
	if c == nil {
		return nil
	}
	return &pfspb.Commit{Repo: c.GetRepo(), Id: c.GetId()}
}

// commitInfo is a record as clients see it.
func (tx *Txn) commitInfo(rec *recordpb.CommitRecord) (*pfspb.CommitInfo, error) {
	infos, err := tx.commitInfos([]*recordpb.CommitRecord{rec})
	if err != nil {
		return nil, err
	}
	return infos[0], nil
}

// commitInfos is commitInfo for several commits, whose relations it reads at once.
func (tx *Txn) commitInfos(recs []*recordpb.CommitRecord) ([]*pfspb.CommitInfo, error) {
	prefixes := make([]string, 0, 2*len(recs))
	for _, rec := range recs {
		c := rec.Info.Commit
		prefixes = append(prefixes, childKey(c.Repo, c.Id, ""), subvPrefix+repoKey(c.Repo)+"/"+c.Id+"/")
	}
	below, err := tx.Below(prefixes, false)
	if err != nil {
		return nil, err
	}
	infos := make([]*pfspb.CommitInfo, len(recs))
	for i, rec := range recs {
		info := proto.CloneOf(rec.Info)
		repo := info.Commit.Repo
		info.Commit, info.ParentCommit = stripCommit(info.Commit), stripCommit(info.ParentCommit)
		for _, id := range below[2*i] {
			info.ChildCommits = append(info.ChildCommits, &pfspb.Commit{Repo: repo, Id: id})
		}
		for _, key := range below[2*i+1] {
			if sub, key, ok := strings.Cut(key, "/"); ok {
				info.DirectSubvenance = append(info.DirectSubvenance, &pfspb.Commit{Repo: parseRepoKey(key), Id: sub})
			}
		}
		infos[i] = info
	}
	return infos, nil
}

// errReached ends a watch that has seen what it waits for.
var errReached = errors.New("reached")

// waitCommit blocks until a commit, given by its id in a normalized repo, is in
// a state or a later one, and returns it as it is then. A commit that goes away
// meanwhile gives *CommitDeletedError.
func (s *Service) waitCommit(ctx context.Context, repo *pfspb.Repo, id string, want pfspb.CommitState) (*recordpb.CommitRecord, error) {
	var rec *recordpb.CommitRecord
	err := s.View(ctx, func(tx *Txn) error {
		var err error
		rec, err = tx.commit(repo, id)
		return err
	})
	if err != nil || want <= max(state(rec.GetInfo()), pfspb.CommitState_STARTED) {
		return rec, err
	}
	if want == pfspb.CommitState_READY {
		return s.waitProvenance(ctx, rec)
	}
	return s.await(ctx, rec, want)
}

// await is the part of waitCommit that follows the look at the commit as it was.
func (s *Service) await(ctx context.Context, rec *recordpb.CommitRecord, want pfspb.CommitState) (*recordpb.CommitRecord, error) {
	seen := false
	err := s.commits.Watch(ctx, s.store, commitKey(rec.Info.Commit.Repo, rec.Order), func(e store.Event[*recordpb.CommitRecord]) error {
		switch {
		case e.Deleted, e.Synced && !seen:
			return &CommitDeletedError{Commit: rec.Info.Commit}
		case e.Synced:
			return nil
		}
		seen = true
		if state(e.Value.Info) < want {
			return nil
		}
		rec = e.Value
		return errReached
	})
	if !errors.Is(err, errReached) {
		return nil, err
	}
	return rec, nil
}

// waitProvenance waits until all that a commit comes from is FINISHED. What has
// been deleted is not waited for.
func (s *Service) waitProvenance(ctx context.Context, rec *recordpb.CommitRecord) (*recordpb.CommitRecord, error) {
	for _, p := range rec.Info.DirectProvenance {
		_, err := s.waitCommit(ctx, p.GetRepo(), p.GetId(), pfspb.CommitState_FINISHED)
		var noCommit *CommitNotFoundError
		var noRepo *RepoNotFoundError
		var deleted *CommitDeletedError
		if err != nil && !errors.As(err, &noCommit) && !errors.As(err, &noRepo) && !errors.As(err, &deleted) {
			return nil, err
		}
	}
	return s.waitCommit(ctx, rec.Info.Commit.Repo, rec.Info.Commit.Id, pfspb.CommitState_STARTED)
}

// StartCommitIn is the call StartCommit as part of tx.
func (s *Service) StartCommitIn(tx *Txn, req *pfspb.StartCommitRequest) (*pfspb.Commit, error) {
	if err := tx.permitted(req.GetBranch().GetRepo(), authpb.Permission_REPO_WRITE); err != nil {
		return nil, err
	}
	return tx.StartCommit(req.GetBranch(), req.GetParent(), req.GetDescription())
}

// StartCommit implements pfs_v2.API.
func (s *Service) StartCommit(ctx context.Context, req *pfspb.StartCommitRequest) (*pfspb.Commit, error) {
	var c *pfspb.Commit
	err := s.Update(ctx, func(tx *Txn) error {
		var err error
		c, err = s.StartCommitIn(tx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// FinishCommitIn is the call FinishCommit as part of tx.
func (s *Service) FinishCommitIn(tx *Txn, req *pfspb.FinishCommitRequest) error {
	if err := tx.permitted(commitRepo(req.GetCommit()), authpb.Permission_REPO_WRITE); err != nil {
		return err
	}
	return tx.FinishCommit(req.GetCommit(), req.GetDescription(), req.GetError(), req.GetForce())
}

// FinishCommit implements pfs_v2.API.
func (s *Service) FinishCommit(ctx context.Context, req *pfspb.FinishCommitRequest) (*emptypb.Empty, error) {
	return done(s.Update(ctx, func(tx *Txn) error { return s.FinishCommitIn(tx, req) }))
}

// ClearCommit implements pfs_v2.API.
func (s *Service) ClearCommit(ctx context.Context, req *pfspb.ClearCommitRequest) (*emptypb.Empty, error) {
	return done(s.Update(ctx, func(tx *Txn) error {
		if err := tx.permitted(commitRepo(req.GetCommit()), authpb.Permission_REPO_WRITE); err != nil {
			return err
		}
		return tx.ClearCommit(req.GetCommit())
	}))
}

// checkState refuses a state that no commit ever reaches.
func checkState(field string, state pfspb.CommitState) error {
	if _, ok := pfspb.CommitState_name[int32(state)]; !ok {
		return invalidRequest(fmt.Sprintf("%s is %d, which is no state of a commit: want 1 (STARTED) to 4 (FINISHED)", field, state))
	}
	return nil
}

// InspectCommit implements pfs_v2.API.
func (s *Service) InspectCommit(ctx context.Context, req *pfspb.InspectCommitRequest) (*pfspb.CommitInfo, error) {
	if err := checkState("wait", req.GetWait()); err != nil {
		return nil, err
	}
	var info *pfspb.CommitInfo
	var rec *recordpb.CommitRecord
	err := s.View(ctx, func(tx *Txn) error {
		err := tx.permitted(commitRepo(req.GetCommit()), authpb.Permission_REPO_INSPECT_COMMIT)
		if err != nil {
			return err
		}
		if rec, err = tx.resolve(req.GetCommit()); err != nil || req.GetWait() > max(state(rec.Info), pfspb.CommitState_STARTED) {
			return err
		}
		info, err = tx.commitInfo(rec)
		return err
	})
	if err != nil || info != nil {
		return info, err
	}
	if rec, err = s.waitCommit(ctx, rec.Info.Commit.Repo, rec.Info.Commit.Id, req.GetWait()); err != nil {
		return nil, err
	}
	// Once more: the permission may have been taken away meanwhile.
	if err := s.permitRepo(ctx, nil, rec.Info.Commit.Repo, authpb.Permission_REPO_INSPECT_COMMIT); err != nil {
		return nil, err
	}
	return s.inspectRecord(ctx, rec)
}

// done turns the outcome of an RPC without an answer into its answer.
func done(err error) (*emptypb.Empty, error) {
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
