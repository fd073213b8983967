package pfs

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

func checkBranchName(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if IsCommitID(name) {
		return fmt.Errorf("branch name %q looks like a commit id", name)
	}
	return nil
}

// CreateBranch makes a branch or changes an existing one: a given head becomes
// the head, provenance and trigger replace the old ones. A new branch without a head
// gets an empty commit, finished unless the branch has provenance; provenance
// that changes to something gives an open commit on top of the head.
// new_commit_set makes no difference: every transaction has a set of its own.
func (tx *Txn) CreateBranch(req *pfspb.CreateBranchRequest) error {
	branch := NormalizeBranch(req.GetBranch())
	if branch.GetRepo() == nil {
		return invalidRequest("the branch and its repo must be given")
	}
	if err := checkBranchName(branch.GetName()); err != nil {
		return err
	}
	brec, err := tx.openBranch(branch)
	if err != nil {
		return err
	}
	if err := tx.finishPolicyCommit(brec); err != nil {
		return err
	}
	head, err := tx.newHead(branch, req.GetHead())
	if err != nil {
		return err
	}
	if head == nil && brec.Info.Head != nil {
		if head, err = tx.commit(branch.Repo, brec.Info.Head.Id); err != nil {
			return err
		}
	}
	trigger := req.GetTrigger()
	if err := tx.checkTrigger(branch, trigger, req.GetProvenance()); err != nil {
		return err
	}
	if err := tx.setTrigger(brec, trigger); err != nil {
		return err
	}
	if head == nil && trigger != nil {
		// A trunk made just now has the empty commit that this branch would need.
		trunk, err := tx.mustBranch(&pfspb.Branch{Repo: branch.Repo, Name: trigger.Branch})
		if err != nil {
			return err
		}
		if trunk.Info.Head.GetId() == tx.setID {
			if head, err = tx.commit(branch.Repo, tx.setID); err != nil {
				return err
			}
		}
	}
	changed, err := tx.setProvenance(brec, req.GetProvenance())
	if err != nil {
		return err
	}
	if err := tx.setPropagation(brec, req.GetBranchPropagationSpecs()); err != nil {
		return err
	}
	if head != nil && head.Info.Commit.Id != brec.Info.Head.GetId() {
		if err := tx.setHead(brec, branch.Repo, head.Info.Commit.Id); err != nil {
			return err
		}
		tx.touched[branchKey(branch)] = branch
	}
	if len(brec.Info.DirectProvenance) > 0 && (changed || head == nil) {
		provenance, err := tx.heads(brec.Info.DirectProvenance)
		if err != nil {
			return err
		}
		_, err = tx.makeCommit(brec, head, commitOptions{origin: pfspb.OriginKind_AUTO, provenance: provenance})
		return err
	}
	if head == nil {
		rec, err := tx.makeCommit(brec, nil, commitOptions{origin: pfspb.OriginKind_AUTO})
		if err != nil {
			return err
		}
		return tx.finish(rec, "", "")
	}
	return tx.putBranch(brec)
}

// newHead finds the commit that a request wants as head; nil if it names none.
func (tx *Txn) newHead(branch *pfspb.Branch, c *pfspb.Commit) (*recordpb.CommitRecord, error) {
	if c == nil {
		return nil, nil
	}
	if commitRepo(c) == nil {
		c = &pfspb.Commit{Repo: branch.Repo, Id: c.GetId(), Branch: c.GetBranch()}
	}
	if repoKey(NormalizeRepo(commitRepo(c))) != repoKey(branch.Repo) {
		return nil, errors.New("branch and head commit must belong to the same repo")
	}
	head, err := tx.resolve(c)
	if err != nil {
		return nil, fmt.Errorf("unable to inspect %s: %w", CommitName(c), err)
	}
	return head, nil
}

// setProvenance replaces the direct provenance of a branch, keeps the other
// side of it up to date, and tells whether it changed. brec is not stored.
func (tx *Txn) setProvenance(brec *recordpb.BranchRecord, provenance []*pfspb.Branch) (changed bool, err error) {
	branch := brec.Info.Branch
	var want []*pfspb.Branch
	for _, p := range provenance {
		p = NormalizeBranch(p)
		if p.GetRepo() == nil {
			return false, invalidRequest("each branch of the provenance must have a repo")
		}
		if repoKey(p.Repo) == repoKey(branch.Repo) {
			return false, fmt.Errorf("repo %s cannot be in the provenance of its own branch", RepoName(p.Repo))
		}
		if !containsBranch(want, p) {
			want = append(want, p)
		}
	}
	old := brec.Info.DirectProvenance
	for _, p := range old {
		if containsBranch(want, p) {
			continue
		}
		changed = true
		if err := tx.changeSubvenance(p, func(s []*pfspb.Branch) []*pfspb.Branch { return withoutBranch(s, branch) }); err != nil {
			return false, err
		}
	}
	brec.Info.DirectProvenance = want
	for _, p := range want {
		if containsBranch(old, p) {
			continue
		}
		changed = true
		_, ok, err := tx.branch(p)
		if err == nil && !ok {
			err = tx.CreateBranch(&pfspb.CreateBranchRequest{Branch: p})
		}
		if err == nil {
			err = tx.changeSubvenance(p, func(s []*pfspb.Branch) []*pfspb.Branch { return append(s, branch) })
		}
		if err != nil {
			return false, err
		}
	}
	if changed && len(want) > 0 {
		return true, tx.checkDAG(brec)
	}
	return changed, nil
}

// changeSubvenance edits the direct subvenance of a branch, if it exists.
func (tx *Txn) changeSubvenance(b *pfspb.Branch, edit func([]*pfspb.Branch) []*pfspb.Branch) error {
	rec, ok, err := tx.branch(b)
	if err != nil || !ok {
		return err
	}
	rec.DirectSubvenance = edit(rec.DirectSubvenance)
	return tx.s.branches.Put(tx.Txn, branchKey(b), rec)
}

// checkDAG refuses provenance that leads back to its own branch, and DAGs that
// hold two branches of one repo: a commit at their common source would have to
// make two of one repo, or one of them be made from both. It stores brec, whose provenance is new, for the
// walks to see.
func (tx *Txn) checkDAG(brec *recordpb.BranchRecord) error {
	branch := brec.Info.Branch
	if err := tx.putBranch(brec); err != nil {
		return err
	}
	below, err := tx.downstream([]*pfspb.Branch{branch})
	if err != nil {
		return err
	}
	for _, b := range append([]*pfspb.Branch{branch}, branchNames(below)...) {
		above, err := tx.upstream([]*pfspb.Branch{b})
		if err != nil {
			return err
		}
		if sources := branchNames(above); containsBranch(sources, b) {
			return &CycleError{Branch: branch, Provenance: brec.Info.DirectProvenance[0]}
		} else if err := oneBranchPerRepo(append(sources, b)); err != nil {
			return err
		}
	}
	above, err := tx.upstream([]*pfspb.Branch{branch})
	if err != nil {
		return err
	}
	for _, b := range append([]*pfspb.Branch{branch}, branchNames(above)...) {
		moved, err := tx.movedBy(b)
		if err != nil {
			return err
		}
		if err := oneBranchPerRepo(append(moved, b)); err != nil {
			return err
		}
	}
	return nil
}

func oneBranchPerRepo(branches []*pfspb.Branch) error {
	names := map[string]string{}
	for _, b := range branches {
		key := repoKey(b.Repo)
		if name, ok := names[key]; ok && name != b.Name {
			return &SharedRepoError{Repo: b.Repo}
		}
		names[key] = b.Name
	}
	return nil
}

// setPropagation replaces the propagation specs of a branch that has its new provenance.
func (tx *Txn) setPropagation(brec *recordpb.BranchRecord, specs []*pfspb.BranchPropagationSpec) error {
	brec.Info.BranchPropagationSpecs = nil
	if len(specs) == 0 {
		return nil
	}
	provenant := slices.Clone(brec.Info.DirectProvenance)
	above, err := tx.upstream(provenant)
	if err != nil {
		return err
	}
	for _, rec := range above {
		provenant = append(provenant, rec.Info.Branch)
	}
	for _, spec := range specs {
		b := NormalizeBranch(spec.GetBranch())
		if b.GetRepo() == nil {
			return invalidRequest("each branch propagation spec must name a branch and its repo")
		}
		if !containsBranch(provenant, b) {
			return fmt.Errorf("branch propagation spec must reference provenant branch (referenced branch: %s)", BranchName(b))
		}
		brec.Info.BranchPropagationSpecs = append(brec.Info.BranchPropagationSpecs,
			&pfspb.BranchPropagationSpec{Branch: b, PropagationSpec: spec.GetPropagationSpec()})
	}
	return nil
}

func containsBranch(list []*pfspb.Branch, b *pfspb.Branch) bool {
	return slices.ContainsFunc(list, func(x *pfspb.Branch) bool { return branchKey(x) == branchKey(b) })
}

func withoutBranch(list []*pfspb.Branch, b *pfspb.Branch) []*pfspb.Branch {
	return slices.DeleteFunc(list, func(x *pfspb.Branch) bool { return branchKey(x) == branchKey(b) })
}

// InspectBranch describes a branch with all that it is made from and leads to.
func (tx *Txn) InspectBranch(b *pfspb.Branch) (*pfspb.BranchInfo, error) {
	b = NormalizeBranch(b)
	if b.GetRepo() == nil {
		return nil, invalidRequest("the branch and its repo must be given")
	}
	rec, err := tx.mustBranch(b)
	if err != nil {
		return nil, err
	}
	info := proto.CloneOf(rec.Info)
	info.Head = stripCommit(info.Head)
	if len(info.DirectProvenance) > 0 {
		above, err := tx.upstream([]*pfspb.Branch{b})
		if err != nil {
			return nil, err
		}
		info.Provenance = branchNames(above)
	}
	if len(rec.DirectSubvenance) > 0 {
		below, err := tx.downstream([]*pfspb.Branch{b})
		if err != nil {
			return nil, err
		}
		info.Subvenance = branchNames(below)
	}
	return info, nil
}

func branchNames(recs []*recordpb.BranchRecord) []*pfspb.Branch {
	names := make([]*pfspb.Branch, len(recs))
	for i, rec := range recs {
		names[i] = rec.Info.Branch
	}
	return names
}

// DeleteBranch removes a branch; its commits stay. Branches made from it, and
// triggers that it takes part in, forbid it unless force is set, which takes it
// out of their provenance and ends the triggers.
func (tx *Txn) DeleteBranch(b *pfspb.Branch, force bool) error {
	b = NormalizeBranch(b)
	if b.GetRepo() == nil {
		return invalidRequest("the branch and its repo must be given")
	}
	rec, err := tx.mustBranch(b)
	if err != nil {
		return err
	}
	if len(rec.DirectSubvenance) > 0 && !force {
		return &BranchInUseError{Branch: b, Subvenance: rec.DirectSubvenance}
	}
	if trunk := rec.Info.GetTrigger().GetBranch(); trunk != "" && !force {
		return &BranchTriggerError{Branch: b, Follows: true, Others: []*pfspb.Branch{{Repo: b.Repo, Name: trunk}}}
	}
	if len(rec.Triggers) > 0 && !force {
		e := &BranchTriggerError{Branch: b}
		for _, name := range rec.Triggers {
			e.Others = append(e.Others, &pfspb.Branch{Repo: b.Repo, Name: name})
		}
		return e
	}
	return tx.deleteBranch(rec)
}

// deleteBranch removes a branch and its traces in the branches around it.
func (tx *Txn) deleteBranch(rec *recordpb.BranchRecord) error {
	b := rec.Info.Branch
	if err := tx.finishPolicyCommit(rec); err != nil {
		return err
	}
	if err := tx.cutTriggers(rec); err != nil {
		return err
	}
	for _, p := range rec.Info.DirectProvenance {
		if err := tx.changeSubvenance(p, func(s []*pfspb.Branch) []*pfspb.Branch { return withoutBranch(s, b) }); err != nil {
			return err
		}
	}
	for _, sub := range rec.DirectSubvenance {
		srec, ok, err := tx.branch(sub)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		srec.Info.DirectProvenance = withoutBranch(srec.Info.DirectProvenance, b)
		srec.Info.BranchPropagationSpecs = slices.DeleteFunc(srec.Info.BranchPropagationSpecs,
			func(spec *pfspb.BranchPropagationSpec) bool { return branchKey(spec.Branch) == branchKey(b) })
		if err := tx.putBranch(srec); err != nil {
			return err
		}
	}
	tx.s.branches.Delete(tx.Txn, branchKey(b))
	tx.s.once.DeletePrefix(tx.Txn, branchKey(b)+"/")
	delete(tx.touched, branchKey(b))
	return nil
}
