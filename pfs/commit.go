package pfs

import (
	"errors"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// commitOptions say what a new commit is like.
type commitOptions struct {
	origin      pfspb.OriginKind
	description string
	provenance  []*pfspb.Commit // direct, each with its branch
	// fill completes the record before it is stored; nil leaves it open and without
	// layers of its own.
	fill func(*recordpb.CommitRecord)
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
	return tx.startCommitOn(brec, parent, commitOptions{description: description})
}

// startCommitOn is startCommit for a branch whose record is at hand; it fills in where
// the commit comes from.
func (tx *Txn) startCommitOn(brec *recordpb.BranchRecord, parent *recordpb.CommitRecord, opt commitOptions) (*recordpb.CommitRecord, error) {
	provenance, err := tx.writerProvenance(brec)
	if err != nil {
		return nil, err
	}
	if parent, err = tx.endPolicyCommits(brec, parent); err != nil {
		return nil, err
	}
	if head := brec.GetInfo().GetHead(); parent == nil && head != nil {
		if parent, err = tx.commit(brec.Info.Branch.GetRepo(), head.GetId()); err != nil {
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
	opt.origin, opt.provenance = pfspb.OriginKind_USER, provenance
	return tx.makeCommit(brec, parent, opt)
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
		if err := tx.addChild(repo, parent.Info.Commit.Id, id); err != nil {
			return nil, err
		}
	}
	rec.Layers = base.GetLayers()
	rec.Info.SizeBytesUpperBound = base.GetInfo().GetSizeBytesUpperBound()
	if opt.fill != nil {
		opt.fill(rec)
	}
	if err := tx.putCommit(rec); err != nil {
		return nil, err
	}
	tx.Put(idKey(id, repo), idValue(rec.Order, ""))
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
	commits := make([]*pfspb.Commit, len(recs))
	prefixes := make([]string, 2*len(recs))
	for i, rec := range recs {
		c := rec.Info.Commit
		commits[i] = c
		prefixes[i], prefixes[len(recs)+i] = childKey(c.Repo, c.Id, ""), subvPrefix+repoKey(c.Repo)+"/"+c.Id+"/"
	}
	below, err := tx.Below(prefixes, false)
	if err != nil {
		return nil, err
	}
	children, subvenance := below[:len(recs)], below[len(recs):]
	if err := tx.addFirst(commits, children, false); err != nil {
		return nil, err
	}
	infos := make([]*pfspb.CommitInfo, len(recs))
	for i, rec := range recs {
		info := proto.CloneOf(rec.Info)
		repo := info.Commit.Repo
		info.Commit, info.ParentCommit = stripCommit(info.Commit), stripCommit(info.ParentCommit)
		for _, id := range children[i] {
			info.ChildCommits = append(info.ChildCommits, &pfspb.Commit{Repo: repo, Id: id})
		}
		for _, key := range subvenance[i] {
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
