package pfs

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// A repo can have a policy of when puts become commits. A put is a ModifyFile on a
// branch whose head nobody has left open. Under a policy it goes into a commit that
// the server itself opens, the branch's policy commit, and finishes when the policy
// says so. The record of a policy commit is complete after every put: its layers are
// all of its content, checked and folded as those of a one-shot commit are, so it is
// finished by one write, in whatever transaction wants that.

const (
	policyPrefix = "pfs/policy/"
	duePrefix    = "pfs/due/"
)

// CommitPolicy says when a policy commit is finished: at the first of these. Zero
// means no such limit; one at least must be set.
type CommitPolicy struct {
	Interval time.Duration // since its first put
	Bytes    int64         // at least, of its puts
	Files    int64         // at least, that its puts wrote; one written twice counts twice
}

// SetCommitPolicy replaces the policy of a repo; nil removes it. The policy commits
// that are open are finished, whatever the policy was.
func (tx *Txn) SetCommitPolicy(repo *pfspb.Repo, p *CommitPolicy) error {
	repo = NormalizeRepo(repo)
	_, had, err := tx.s.policies.Get(tx.Txn, repoKey(repo))
	if err != nil || !had && p == nil {
		return err
	}
	if had {
		if err := tx.finishPolicyCommits(repo); err != nil {
			return err
		}
	}
	if p == nil {
		tx.s.policies.Delete(tx.Txn, repoKey(repo))
		return nil
	}
	rec := &recordpb.CommitPolicy{Bytes: p.Bytes, Files: p.Files}
	if p.Interval > 0 {
		rec.Interval = durationpb.New(p.Interval)
	}
	return tx.s.policies.Put(tx.Txn, repoKey(repo), rec)
}

// finishPolicyCommits finishes the open policy commits of all branches of a repo. The
// transaction conflicts with new ones.
func (tx *Txn) finishPolicyCommits(repo *pfspb.Repo) error {
	var heads []*recordpb.BranchRecord
	for item, err := range tx.s.branches.Scan(tx.Txn, repoKey(repo)+"/", store.ScanOptions{Check: true}) {
		if err != nil {
			return err
		}
		heads = append(heads, item.Value)
	}
	for _, brec := range heads {
		if err := tx.finishPolicyCommit(brec); err != nil {
			return err
		}
	}
	return nil
}

// finishPolicyCommit finishes the policy commit that is a branch's head, if it is one.
func (tx *Txn) finishPolicyCommit(brec *recordpb.BranchRecord) error {
	head := brec.GetInfo().GetHead()
	if head == nil {
		return nil
	}
	rec, ok, err := tx.lookup(brec.Info.Branch.Repo, head.Id)
	if err != nil || !ok || rec.Policy == nil {
		return err
	}
	return tx.finish(rec, "", "")
}

// endPolicyCommits finishes what would otherwise stay open below a new commit on a
// branch, or beside it: the branch's policy commit, and a parent that is one. It
// returns the parent, nil if nil was given.
func (tx *Txn) endPolicyCommits(brec *recordpb.BranchRecord, parent *recordpb.CommitRecord) (*recordpb.CommitRecord, error) {
	if parent != nil && parent.Policy == nil && parent.Info.Commit.Id == brec.GetInfo().GetHead().GetId() {
		return parent, nil
	}
	if err := tx.finishPolicyCommit(brec); err != nil || parent == nil {
		return nil, err
	}
	// The branch's head may be the parent, and finished by now.
	parent, err := tx.commit(parent.Info.Commit.Repo, parent.Info.Commit.Id)
	if err == nil && parent.Policy != nil {
		err = tx.finish(parent, "", "")
	}
	return parent, err
}

// Progress names the head of a branch, and if that is a policy commit also how many
// puts it has; empty if there is no head. It changes with every commit and put.
func (tx *Txn) Progress(branch *pfspb.Branch) (string, error) {
	brec, ok, err := tx.branch(NormalizeBranch(branch))
	if err != nil || !ok || brec.Info.Head == nil {
		return "", err
	}
	id := brec.Info.Head.Id
	rec, ok, err := tx.lookup(brec.Info.Branch.Repo, id)
	if err == nil && ok && rec.Policy != nil {
		id += "/" + strconv.FormatInt(rec.Policy.Files, 10)
	}
	return id, err
}

// complete tells whether the layers of a commit's record are all of its content.
func complete(rec *recordpb.CommitRecord) bool {
	return state(rec.Info) == pfspb.CommitState_FINISHED || rec.Policy != nil
}

// setPolicyFinished makes the record of a policy commit, for the caller to store, that
// of a FINISHED one.
func (tx *Txn) setPolicyFinished(rec *recordpb.CommitRecord) {
	size := rec.Policy.SizeBytes
	tx.s.dues.Delete(tx.Txn, dueKey(rec))
	rec.Policy = nil
	tx.setFinished(rec, size, time.Unix(0, max(tx.Now().UnixNano(), orderTime(rec.Order))))
}

// clearPolicyCommit says that a policy commit has the content of its base again.
func clearPolicyCommit(rec, base *recordpb.CommitRecord) {
	if p := rec.Policy; p != nil {
		p.Bytes, p.Files, p.SizeBytes = 0, 0, base.GetInfo().GetDetails().GetSizeBytes()
	}
}

// dueKey is the key of a policy commit in s.dues: that in s.commits.
func dueKey(rec *recordpb.CommitRecord) string {
	return commitKey(rec.Info.Commit.Repo, rec.Order)
}

// runDue finishes policy commits that are due until ctx ends.
func (s *Service) runDue(ctx context.Context) error {
	return s.runTimetable(ctx, "finish a commit by its policy", func(ctx context.Context, t *timetable) error {
		return s.dues.Watch(ctx, s.store, "", func(e store.Event[*recordpb.CommitDue]) error {
			t.hear(e.Key, e.Value.GetAt(), e.Deleted, e.Synced)
			return nil
		})
	}, s.finishDue)
}

// finishDue finishes the policy commit with a key if it is due by now, and returns
// when it is otherwise. One that was finished or removed meanwhile has no key.
func (s *Service) finishDue(ctx context.Context, key string, now time.Time) (next time.Time, err error) {
	err = s.Update(ctx, func(tx *Txn) error {
		next = time.Time{}
		due, ok, err := s.dues.Get(tx.Txn, key)
		if err != nil || !ok {
			return err
		}
		if at := due.At.AsTime(); at.After(now) {
			next = at
			return nil
		}
		rec, ok, err := s.commits.Get(tx.Txn, key)
		if err != nil {
			return err
		}
		if !ok || rec.Policy == nil {
			s.dues.Delete(tx.Txn, key) // of a repo that is being deleted
			return nil
		}
		return tx.finish(rec, "", "")
	})
	return next, err
}
