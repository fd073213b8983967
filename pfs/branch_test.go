package pfs

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

func names(branches []*pfspb.Branch) []string {
	var got []string
	for _, b := range branches {
		got = append(got, BranchName(b))
	}
	return got
}

// TestPropagation follows a commit through a DAG of four branches.
func TestPropagation(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("a", "b", "c", "d")
	m.branch("b@master", "a@master") // makes a@master
	m.branch("c@master", "a@master")
	m.branch("d@master", "b@master", "c@master")
	before := map[string]string{}
	for _, r := range []string{"a", "b", "c", "d"} {
		before[r] = m.inspectBranch(r + "@master").Head.Id
	}
	c := m.start("a@master")
	for _, r := range []string{"a", "b", "c", "d"} {
		info := m.inspect(commitOf(r + "@master"))
		if info.Commit.Id != c.Id || info.ParentCommit.GetId() != before[r] || info.Finished != nil {
			t.Errorf("head of %s after a commit to a: %v", r, info)
		}
	}
	d := m.inspect(commitOf("d@master"))
	var from []string
	for _, p := range d.DirectProvenance {
		from = append(from, BranchName(p.Branch)+"="+p.Id)
	}
	if diff := cmp.Diff([]string{"default/b@master=" + c.Id, "default/c@master=" + c.Id}, from); diff != "" {
		t.Errorf("provenance of d (-want +got):\n%s", diff)
	}
	if a := m.inspect(c); len(a.DirectSubvenance) != 2 || a.DirectSubvenance[0].Repo.Name != "b" {
		t.Errorf("subvenance of a: %v", a.DirectSubvenance)
	}
	info := m.inspectBranch("b@master")
	if diff := cmp.Diff([]string{"default/a@master"}, names(info.Provenance)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"default/d@master"}, names(info.Subvenance)); diff != "" {
		t.Error(diff)
	}
	if got := m.inspectBranch("d@master"); len(got.Provenance) != 3 || len(got.DirectProvenance) != 2 {
		t.Errorf("d: %v", got)
	}
	// Not READY before what it comes from is FINISHED.
	ready := make(chan error, 1)
	go func() {
		_, err := m.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: commitOf("b@master"), Wait: pfspb.CommitState_READY})
		ready <- err
	}()
	select {
	case err := <-ready:
		t.Errorf("READY while its provenance is open: %v", err)
	default:
	}
	m.must(m.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: c}))
	m.must(nil, <-ready)
	// Two commits of one transaction reach d once, in one set.
	m.must(m.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repoOf("e")}))
	m.branch("e@master", "d@master")
	m.must(nil, m.svc.Update(ctx, func(tx *Txn) error {
		_, err := tx.StartCommit(branchOf("a@master"), nil, "")
		return err
	}))
	heads := map[string]bool{}
	for _, r := range []string{"a", "b", "c", "d", "e"} {
		heads[m.inspectBranch(r+"@master").Head.Id] = true
	}
	if len(heads) != 1 {
		t.Errorf("heads after one commit to a: %v", heads)
	}
}

// TestPropagation_Never stops at a branch that does not want it.
func TestPropagation_Never(t *testing.T) {
	m := newMeta(t)
	m.repo("a", "b", "c")
	m.must(m.CreateBranch(limit(t), &pfspb.CreateBranchRequest{
		Branch: branchOf("b@master"), Provenance: []*pfspb.Branch{branchOf("a@master")},
		BranchPropagationSpecs: []*pfspb.BranchPropagationSpec{{Branch: branchOf("a@master"), PropagationSpec: &pfspb.PropagationSpec{Never: true}}},
	}))
	m.branch("c@master", "b@master")
	b, c := m.inspectBranch("b@master").Head.Id, m.inspectBranch("c@master").Head.Id
	m.commit("a@master")
	if m.inspectBranch("b@master").Head.Id != b || m.inspectBranch("c@master").Head.Id != c {
		t.Error("a commit went past a branch that is never to be propagated to")
	}
}

// TestSpoutBranch writes as a spout does: to a branch made from a spec branch only.
func TestSpoutBranch(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("s", "s.spec", "down", "in")
	var spec *pfspb.Commit
	m.must(nil, m.svc.Update(ctx, func(tx *Txn) error {
		var err error
		if spec, err = tx.PutSpecCommit(repoOf("s.spec")); err != nil {
			return err
		}
		if err = tx.CreateBranch(&pfspb.CreateBranchRequest{Branch: branchOf("s@master"), Provenance: []*pfspb.Branch{branchOf("s.spec@master")}}); err != nil {
			return err
		}
		return tx.FinishCommit(commitOf("s@master"), "close spout commit", "", false)
	}))
	first := m.inspect(commitOf("s@master"))
	if first.Commit.Id != spec.Id || first.Finished == nil || first.Description != "close spout commit" || first.Origin.Kind != pfspb.OriginKind_AUTO {
		t.Errorf("first commit: %v", first)
	}
	m.branch("down@master", "s@master")
	c := m.commit("s@master")
	info := m.inspect(c)
	if info.ParentCommit.Id != first.Commit.Id || len(info.DirectProvenance) != 1 || info.DirectProvenance[0].Id != spec.Id || info.Origin.Kind != pfspb.OriginKind_USER {
		t.Errorf("spout commit: %v", info)
	}
	if got := m.inspect(commitOf("down@master")); got.Commit.Id != c.Id {
		t.Errorf("downstream of the spout: %v", got.Commit)
	}
	if got := m.inspect(commitOf("s.spec@" + c.Id)); got.Commit.Id != spec.Id || len(got.DirectSubvenance) != 0 {
		t.Errorf("spec commit by alias: %v", got)
	}
	// A new version moves the spec branch and leaves the output alone.
	var newer *pfspb.Commit
	m.must(nil, m.svc.Update(ctx, func(tx *Txn) (err error) {
		newer, err = tx.PutSpecCommit(repoOf("s.spec"))
		return err
	}))
	if got := m.inspectBranch("s@master").Head.Id; got != c.Id {
		t.Errorf("a spec commit was propagated: head %s", got)
	}
	if got := m.inspect(m.commit("s@master")).DirectProvenance[0].Id; got != newer.Id {
		t.Errorf("provenance after an update: %s, want %s", got, newer.Id)
	}
	m.branch("s@master", "s.spec@master", "in@master") // what a transform's output looks like
	_, err := m.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branchOf("s@master")})
	wantError(t, err, codes.Unknown, "cannot start a commit on an output branch: default/s@master")
	m.branch("s@master")
	m.must(m.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: commitOf("s@master")}))
	if info := m.inspect(m.commit("s@master")); len(info.DirectProvenance) != 0 {
		t.Errorf("commit without provenance: %v", info)
	}
}

func TestCreateBranch_Head(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	one, two := m.commit("r@master"), m.commit("r@master")
	for head, want := range map[*pfspb.Commit]string{
		one:                   one.Id,
		commitOf("r@master"):  two.Id,
		commitOf("r@master^"): one.Id,
		{Repo: repoOf("r"), Id: "master", Branch: &pfspb.Branch{Repo: repoOf("r")}}: two.Id,
		{Id: one.Id}: one.Id,
	} {
		m.must(m.CreateBranch(ctx, &pfspb.CreateBranchRequest{Branch: branchOf("r@copy"), Head: head}))
		if got := m.inspectBranch("r@copy").Head; got.Id != want || got.Branch != nil {
			t.Errorf("head %v: %v, want %s", head, got, want)
		}
	}
	m.must(m.CreateBranch(ctx, &pfspb.CreateBranchRequest{Branch: branchOf("r@master")}))
	if got := m.inspectBranch("r@master").Head.Id; got != two.Id {
		t.Errorf("an update without a head moved it to %s", got)
	}
	fork, err := m.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branchOf("r@master"), Parent: one})
	m.must(fork, err)
	if got := m.inspect(commitOf("r@master")); got.Commit.Id != fork.Id || got.ParentCommit.Id != one.Id {
		t.Errorf("fork: %v", got)
	}
}

func TestListBranch(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r", "other")
	for _, b := range []string{"r@c", "r@a", "r@b", "other@x"} {
		m.branch(b)
	}
	list := func(req *pfspb.ListBranchRequest) []string {
		infos, err := all(m.ListBranch(ctx, req))
		m.must(infos, err)
		var got []string
		for _, info := range infos {
			got = append(got, info.Branch.Repo.Name+"@"+info.Branch.Name)
		}
		return got
	}
	if diff := cmp.Diff([]string{"r@b", "r@a", "r@c"}, list(&pfspb.ListBranchRequest{Repo: repoOf("r")})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"r@c", "r@a", "r@b", "other@x"}, list(&pfspb.ListBranchRequest{Reverse: true})); diff != "" {
		t.Error(diff)
	}
	m.must(m.DeleteBranch(ctx, &pfspb.DeleteBranchRequest{Branch: branchOf("r@a")}))
	if diff := cmp.Diff([]string{"r@b", "r@c"}, list(&pfspb.ListBranchRequest{Repo: repoOf("r")})); diff != "" {
		t.Error(diff)
	}
}

// TestDeleteBranch_Force takes the branch out of what was made from it.
func TestDeleteBranch_Force(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("a", "b")
	m.branch("b@master", "a@master")
	head := m.inspectBranch("a@master").Head
	m.must(m.DeleteBranch(ctx, &pfspb.DeleteBranchRequest{Branch: branchOf("a@master"), Force: true}))
	if got := m.inspectBranch("b@master"); len(got.DirectProvenance) != 0 {
		t.Errorf("provenance left: %v", got)
	}
	if got := m.inspect(&pfspb.Commit{Repo: repoOf("a"), Id: head.Id}); got.Finished == nil {
		t.Errorf("the commits of a deleted branch stay: %v", got)
	}
}

// TestCreateBranch_ReplacesProvenance by another branch of the same repo, with
// something downstream.
func TestCreateBranch_ReplacesProvenance(t *testing.T) {
	m := newMeta(t)
	m.repo("a", "b", "c")
	m.branch("b@master", "a@one")
	m.branch("c@master", "b@master")
	m.branch("b@master", "a@two")
	if diff := cmp.Diff([]string{"default/a@two", "default/b@master"}, names(m.inspectBranch("c@master").Provenance)); diff != "" {
		t.Errorf("provenance of c (-want +got):\n%s", diff)
	}
	if got := m.inspectBranch("a@one"); len(got.Subvenance) != 0 {
		t.Errorf("subvenance of a@one: %v", got.Subvenance)
	}
	b, c := m.inspect(commitOf("b@master")), m.inspect(commitOf("c@master"))
	if b.DirectProvenance[0].Branch.Name != "two" || b.ParentCommit == nil || c.Commit.Id != b.Commit.Id {
		t.Errorf("heads: %v, %v", b, c)
	}
}

// TestCreateBranch_TwoBranchesOfARepoFromOneSource is refused: no commit could be
// made at the source afterwards.
func TestCreateBranch_TwoBranchesOfARepoFromOneSource(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("a", "b", "d", "s", "s.spec")
	m.branch("b@master", "a@master")
	m.branch("d@x", "a@master")
	for _, from := range []string{"a@master", "b@master"} {
		_, err := m.CreateBranch(ctx, &pfspb.CreateBranchRequest{Branch: branchOf("d@y"), Provenance: []*pfspb.Branch{branchOf(from)}})
		wantError(t, err, codes.Unknown, `multiple branches from the same repo, "default/d", cannot participate in a DAG`)
	}
	m.branch("d@y", "a@other")
	m.commit("a@master")
	// Nothing is propagated to what spouts write.
	m.branch("s@x", "s.spec@master")
	m.branch("s@y", "s.spec@master")
	m.commit("s.spec@master")
}
