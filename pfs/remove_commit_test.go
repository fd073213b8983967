package pfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	"github.com/minipachd/minipachd/store"
)

// write appends to a file in one stream: a commit of its own on "repo@branch",
// or part of an open one.
func (m *metaServer) write(c *pfspb.Commit, path, content string) error {
	stream, err := m.ModifyFile(limit(m.t))
	if err != nil {
		return err
	}
	for _, req := range []*pfspb.ModifyFileRequest{
		{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: c}},
		{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{Path: path, Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes([]byte(content))}}}},
	} {
		if err := stream.Send(req); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	_, err = stream.CloseAndRecv()
	return err
}

// put makes a commit of one file on "repo@branch".
func (m *metaServer) put(name, path, content string) *pfspb.Commit {
	m.t.Helper()
	m.must(nil, m.write(commitOf(name), path, content))
	return m.inspectBranch(name).Head
}

// files reads all of a commit: "path=content", in order.
func (m *metaServer) files(c *pfspb.Commit) string {
	m.t.Helper()
	infos, err := all(m.WalkFile(limit(m.t), &pfspb.WalkFileRequest{File: &pfspb.File{Commit: c, Path: "/"}}))
	m.must(infos, err)
	var got []string
	for _, info := range infos {
		if info.FileType != pfspb.FileType_FILE {
			continue
		}
		parts, err := all(m.GetFile(limit(m.t), &pfspb.GetFileRequest{File: &pfspb.File{Commit: c, Path: info.File.Path}}))
		m.must(parts, err)
		var b bytes.Buffer
		for _, p := range parts {
			b.Write(p.Value)
		}
		got = append(got, info.File.Path+"="+b.String())
	}
	return strings.Join(got, " ")
}

func (m *metaServer) wantFiles(name, want string) {
	m.t.Helper()
	if got := m.files(commitOf(name)); got != want {
		m.t.Errorf("%s has %q, want %q", name, got, want)
	}
}

// sound fails the test if anything that is recorded does not fit together.
func (m *metaServer) sound() {
	m.t.Helper()
	m.must(nil, m.svc.Check(limit(m.t), true, func(fault error) error {
		m.t.Errorf("fault: %v", fault)
		return nil
	}))
}

// list gives the line of a branch, oldest first.
func (m *metaServer) list(name string) []string {
	m.t.Helper()
	infos, err := all(m.ListCommit(limit(m.t), &pfspb.ListCommitRequest{Repo: branchOf(name).Repo, To: commitOf(name)}))
	m.must(infos, err)
	got := ids(infos)
	for i, j := 0, len(got)-1; i < j; i, j = i+1, j-1 {
		got[i], got[j] = got[j], got[i]
	}
	return got
}

func (m *metaServer) squash(c *pfspb.Commit, recursive bool) error {
	_, err := m.SquashCommit(limit(m.t), &pfspb.SquashCommitRequest{Commit: c, Recursive: recursive})
	return err
}

func (m *metaServer) squashSet(id string) error {
	_, err := m.SquashCommitSet(limit(m.t), &pfspb.SquashCommitSetRequest{CommitSet: &pfspb.CommitSet{Id: id}})
	return err
}

func (m *metaServer) drop(c *pfspb.Commit, recursive bool) error {
	_, err := m.DropCommit(limit(m.t), &pfspb.DropCommitRequest{Commit: c, Recursive: recursive})
	return err
}

func (m *metaServer) dropSet(id string) error {
	_, err := m.DropCommitSet(limit(m.t), &pfspb.DropCommitSetRequest{CommitSet: &pfspb.CommitSet{Id: id}})
	return err
}

// finishWith finishes an open commit with an error, "" for none.
func (m *metaServer) finishWith(c *pfspb.Commit, text string) {
	m.t.Helper()
	m.must(m.FinishCommit(limit(m.t), &pfspb.FinishCommitRequest{Commit: c, Error: text}))
	m.must(m.InspectCommit(limit(m.t), &pfspb.InspectCommitRequest{Commit: c, Wait: pfspb.CommitState_FINISHED}))
}

// TestSquash_ChildrenKeepTheData in the middle of a line, at its root, and where
// it forks.
func TestSquash_ChildrenKeepTheData(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	var line []string
	for i := range 6 {
		line = append(line, m.put("r@master", fmt.Sprintf("/%d", i), "x").Id)
	}
	fork, err := m.StartCommit(limit(t), &pfspb.StartCommitRequest{Branch: branchOf("r@fork"), Parent: commitOf("r@" + line[2])})
	m.must(fork, err)
	m.finishWith(fork, "")
	for _, i := range []int{2, 0, 3} {
		m.must(nil, m.squash(commitOf("r@"+line[i]), false))
		_, err := m.InspectCommit(limit(t), &pfspb.InspectCommitRequest{Commit: commitOf("r@" + line[i])})
		wantError(t, err, codes.NotFound, "commit default/r@"+line[i]+" not found")
	}
	if diff := cmp.Diff([]string{line[1], line[4], line[5]}, m.list("r@master")); diff != "" {
		t.Errorf("master (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{line[1], fork.Id}, m.list("r@fork")); diff != "" {
		t.Errorf("fork (-want +got):\n%s", diff)
	}
	m.wantFiles("r@"+line[1], "/0=x /1=x")
	m.wantFiles("r@"+line[4], "/0=x /1=x /2=x /3=x /4=x")
	m.wantFiles("r@fork", "/0=x /1=x /2=x")
	root := m.inspect(commitOf("r@" + line[1]))
	if root.ParentCommit != nil || len(root.ChildCommits) != 2 {
		t.Errorf("the new root: %v", root)
	}
	for text, want := range map[string]string{
		"master.1": line[1], "master.2": line[4], "master.3": line[5], "master.3^2": line[1],
		"master^": line[4], "master^2": line[1], line[4] + "^": line[1], "fork.2": fork.Id,
	} {
		if got := m.inspect(commitOf("r@" + text)).Commit.Id; got != want {
			t.Errorf("%s is %s, want %s", text, got, want)
		}
	}
	for _, text := range []string{"master.4", "master^3", "master^5", "fork^2"} {
		_, err := m.InspectCommit(limit(t), &pfspb.InspectCommitRequest{Commit: commitOf("r@" + text)})
		wantError(t, err, codes.Unknown, "invalid offset for ancestor of commit")
	}
	m.put("r@master", "/6", "x")
	m.wantFiles("r@master", "/0=x /1=x /2=x /3=x /4=x /5=x /6=x")
	m.sound()
}

// TestSquashCommitSet takes a set out of every repo of a DAG.
func TestSquashCommitSet(t *testing.T) {
	m := newMeta(t)
	m.repo("a", "b", "side")
	m.branch("b@master", "a@master")
	m.finishWith(commitOf("b@master"), "")
	var sets []string
	for i := range 3 {
		c := m.start("a@master")
		m.must(nil, m.write(c, fmt.Sprintf("/%d", i), "x"))
		m.finishWith(c, "")
		m.must(nil, m.write(commitOf("b@"+c.Id), fmt.Sprintf("/out%d", i), "y"))
		m.finishWith(commitOf("b@"+c.Id), "")
		sets = append(sets, c.Id)
	}
	m.must(nil, m.squashSet(sets[1]))
	_, err := all(m.InspectCommitSet(limit(t), &pfspb.InspectCommitSetRequest{CommitSet: &pfspb.CommitSet{Id: sets[1]}}))
	wantError(t, err, codes.NotFound, "no commits found for commitset "+sets[1])
	m.wantFiles("a@master", "/0=x /1=x /2=x")
	m.wantFiles("b@master", "/out0=y /out1=y /out2=y")
	m.wantFiles("b@master^", "/out0=y")
	// One whose repos others were made from in sets of their own.
	m.branch("side@master", "a@master")
	wantError(t, m.squashSet(sets[2]), codes.Unknown, "cannot be dropped because it has subvenant commit sets: [")
	m.sound()
}

// TestSquash_Recursive takes along what was made from the commit in other sets.
func TestSquash_Recursive(t *testing.T) {
	m := newMeta(t)
	m.repo("a", "other", "down")
	a := m.commit("a@master")
	m.commit("other@master")
	m.branch("down@master", "a@master", "other@master")
	m.finishWith(commitOf("down@master"), "")
	first := m.inspectBranch("down@master").Head
	second := m.commit("other@master") // down comes from a once more
	m.finishWith(commitOf("down@master"), "")
	wantError(t, m.squash(a, false), codes.Unknown, "cannot squash commit (default/a@"+a.Id+") with subvenance without recursive")
	wantError(t, m.squash(a, true), codes.Unknown, "cannot squash a commit that has no children")
	m.commit("a@master")
	wantError(t, m.squash(a, true), codes.Unknown, "cannot squash until child commit default/down@"+m.inspectBranch("down@master").Head.Id+" is finished")
	m.finishWith(commitOf("down@master"), "")
	head := m.inspectBranch("down@master").Head.Id
	m.must(nil, m.squash(a, true))
	if diff := cmp.Diff([]string{head}, m.list("down@master")); diff != "" {
		t.Errorf("down (-want +got), %s and %s squashed:\n%s", first.Id, second.Id, diff)
	}
	if got := m.list("a@master"); len(got) != 1 {
		t.Errorf("a: %v", got)
	}
	m.sound()
}

// TestSquash_ErroredChildrenKeepNothing: their children skip them, and so would
// lose what the squashed commit had.
func TestSquash_ErroredChildrenKeepNothing(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	m.put("r@master", "/a", "x")
	b := m.put("r@master", "/b", "x")
	bad := m.start("r@master")
	m.must(nil, m.write(bad, "/bad", "x"))
	m.finishWith(bad, "broken")
	wantError(t, m.squash(b, false), codes.Unknown, "as that would cause data loss, use the drop operation instead: default/r@"+b.Id)
	open := m.start("r@master")
	wantError(t, m.squash(b, false), codes.Unknown, "cannot squash until child commit default/r@"+open.Id+" is finished")
	wantError(t, m.squash(bad, false), codes.Unknown, "cannot squash until child commit default/r@"+open.Id+" is finished")
	m.finishWith(open, "")
	// Also where the one with the error has a good child, but a branch of its own.
	m.must(m.CreateBranch(limit(t), &pfspb.CreateBranchRequest{Branch: branchOf("r@bad"), Head: bad}))
	wantError(t, m.squash(b, false), codes.Unknown, "cannot squash commit default/r@"+b.Id+" because the next commits on branches [default/r@bad] would lose its data")
	m.must(m.DeleteBranch(limit(t), &pfspb.DeleteBranchRequest{Branch: branchOf("r@bad")}))
	m.must(nil, m.squash(b, false))
	m.wantFiles("r@"+open.Id, "/a=x /b=x")
	m.wantFiles("r@"+bad.Id, "/a=x /b=x /bad=x")
	m.must(nil, m.squash(bad, false))
	m.put("r@master", "/c", "x")
	m.wantFiles("r@master", "/a=x /b=x /c=x")
	m.sound()
}

func TestDrop_HeadsMoveToTheParent(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	a := m.put("r@master", "/a", "x")
	b := m.put("r@master", "/b", "x")
	m.must(m.CreateBranch(limit(t), &pfspb.CreateBranchRequest{Branch: branchOf("r@same"), Head: b}))
	open := m.start("r@master")
	m.must(nil, m.write(open, "/c", "x"))
	m.must(nil, m.drop(open, false))
	m.wantFiles("r@master", "/a=x /b=x")
	m.must(nil, m.drop(commitOf("r@same"), false))
	if m.inspectBranch("r@master").Head.Id != a.Id || m.inspectBranch("r@same").Head.Id != a.Id {
		t.Errorf("heads: %v, %v", m.inspectBranch("r@master").Head, m.inspectBranch("r@same").Head)
	}
	m.put("r@master", "/d", "x")
	m.wantFiles("r@master", "/a=x /d=x")
	if info := m.inspect(a); len(info.ChildCommits) != 1 {
		t.Errorf("children of %v", info)
	}
	m.sound()
}

// TestDrop_LastCommitLeavesAnEmptyOne on every branch that had it, downstream too.
func TestDrop_LastCommitLeavesAnEmptyOne(t *testing.T) {
	m := newMeta(t)
	m.repo("a", "b")
	root := m.put("a@master", "/a", "x")
	m.must(m.CreateBranch(limit(t), &pfspb.CreateBranchRequest{Branch: branchOf("a@same"), Head: root}))
	m.branch("b@master", "a@master")
	m.finishWith(commitOf("b@master"), "")
	wantError(t, m.dropSet(root.Id), codes.Unknown, `commit set "`+root.Id+`" cannot be dropped because it has subvenant commit sets: [`+m.inspectBranch("b@master").Head.Id+"]")
	m.must(nil, m.drop(root, true))
	master, b := m.inspectBranch("a@master").Head, m.inspect(commitOf("b@master"))
	if master.Id == root.Id || m.inspectBranch("a@same").Head.Id != master.Id {
		t.Errorf("heads: %v, %v", master, m.inspectBranch("a@same").Head)
	}
	if info := m.inspect(master); info.Finished == nil || info.ParentCommit != nil || info.Origin.Kind != pfspb.OriginKind_AUTO {
		t.Errorf("new head: %v", info)
	}
	if b.Commit.Id != master.Id || b.Finishing != nil || b.ParentCommit != nil || len(b.DirectProvenance) != 1 || b.DirectProvenance[0].Id != master.Id {
		t.Errorf("downstream: %v", b)
	}
	m.wantFiles("a@master", "")
	m.sound()
}

// TestDrop_WhileFinishing lets a stream that waits for the dropped commit go on
// with the branch as it is then.
func TestDrop_WhileFinishing(t *testing.T) {
	svc, stop := openService(t, t.TempDir()) // nothing runs in the background
	defer stop()
	svc.finishAtOnce = 0
	ctx := limit(t)
	if _, err := svc.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repoOf("r")}); err != nil {
		t.Fatal(err)
	}
	c, err := svc.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branchOf("r@master")})
	if err != nil {
		t.Fatal(err)
	}
	w := svc.files.NewWriter(ctx)
	if err := w.Append("/a", DefaultDatum, []byte("x")); err != nil {
		t.Fatal(err)
	}
	layers, err := w.Finish()
	if err == nil {
		err = svc.appendOpen(ctx, &pfspb.Commit{Repo: NormalizeRepo(c.Repo), Id: c.Id}, layers)
	}
	if err == nil {
		_, err = svc.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: c})
	}
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- svc.commitOneShot(ctx, NormalizeBranch(branchOf("r@master")), nil) }()
	if _, err := svc.DropCommit(ctx, &pfspb.DropCommitRequest{Commit: c}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("a commit on one that was dropped: %v", err)
	}
	if err := svc.View(ctx, func(tx *Txn) error {
		for kv, err := range tx.Scan(finishingPrefix, store.ScanOptions{}) {
			if err != nil {
				return err
			}
			t.Errorf("a mark is left: %s", kv.Key)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestRemoveCommit_Errors holds the texts of squash, drop and forget.
func TestRemoveCommit_Errors(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r", "down", "s", "s.spec")
	var spec *pfspb.Commit
	m.must(nil, m.svc.Update(ctx, func(tx *Txn) (err error) {
		if spec, err = tx.PutSpecCommit(repoOf("s.spec")); err != nil {
			return err
		}
		if err = tx.CreateBranch(&pfspb.CreateBranchRequest{Branch: branchOf("s@master"), Provenance: []*pfspb.Branch{branchOf("s.spec@master")}}); err != nil {
			return err
		}
		if err = tx.FinishCommit(commitOf("s@master"), "", "", false); err != nil {
			return err
		}
		tx.Put(pipelinePrefix+"default/s", []byte{})
		return nil
	}))
	a := m.commit("r@master")
	m.must(m.CreateBranch(ctx, &pfspb.CreateBranchRequest{Branch: branchOf("r@old"), Head: a}))
	head := m.commit("r@master")
	m.branch("down@master", "r@master")
	made := m.inspectBranch("down@master").Head.Id
	open := m.start("r@open")
	const missing = "0123456789ab4def0123456789abcdef"
	forget := func(p *pfspb.CommitPicker) error {
		_, err := m.ForgetCommit(ctx, &pfspb.ForgetCommitRequest{Commit: p})
		return err
	}
	for _, tc := range []struct {
		name string
		err  error
		code codes.Code
		text string
	}{
		{"squash head", m.squash(open, false), codes.Unknown, "cannot squash a commit that has no children as that would cause data loss, use the drop operation instead: default/r@" + open.Id},
		{"squash set of a head", m.squashSet(open.Id), codes.Unknown, "cannot squash a commit that has no children as that would cause data loss, use the drop operation instead: default/r@" + open.Id},
		{"squash a branch's head", m.squash(a, false), codes.Unknown, "cannot squash commit default/r@" + a.Id + " because the next commits on branches [default/r@old] would lose its data: move or delete them first"},
		{"squash with subvenance", m.squash(head, false), codes.Unknown, "cannot squash commit (default/r@" + head.Id + ") with subvenance without recursive"},
		{"squash set with subvenance", m.squashSet(head.Id), codes.Unknown, `commit set "` + head.Id + `" cannot be dropped because it has subvenant commit sets: [` + made + "]"},
		{"squash spec commit", m.squash(spec, false), codes.Unknown, "cannot squash commit default/s.spec@" + spec.Id + " because it updated a pipeline"},
		{"squash set of a spec commit", m.squashSet(spec.Id), codes.Unknown, "cannot squash commit default/s.spec@" + spec.Id + " because it updated a pipeline"},
		{"squash missing", m.squash(commitOf("r@"+missing), false), codes.NotFound, "commit default/r@" + missing + " not found"},
		{"squash nil", m.squash(nil, false), codes.Unknown, "commit cannot be nil"},
		{"squash missing set", m.squashSet(missing), codes.NotFound, "no commits found for commitset " + missing},
		{"squash what is no set", m.squashSet("master"), codes.NotFound, "no commits found for commitset master"},
		{"squash no set", m.squashSet(""), codes.InvalidArgument, "validate request: a commit set must be given"},
		{"drop with children", m.drop(a, false), codes.Unknown, "cannot drop a commit that has children: default/r@" + a.Id},
		{"drop set with children", m.dropSet(a.Id), codes.Unknown, "cannot drop a commit that has children: default/r@" + a.Id},
		{"drop with subvenance", m.drop(head, false), codes.Unknown, "cannot drop commit (default/r@" + head.Id + ") with subvenance without recursive"},
		{"drop set with subvenance", m.dropSet(head.Id), codes.Unknown, `commit set "` + head.Id + `" cannot be dropped because it has subvenant commit sets: [` + made + "]"},
		{"drop spec commit", m.drop(spec, true), codes.Unknown, "cannot drop commit default/s.spec@" + spec.Id + " because it updated a pipeline"},
		{"drop missing set", m.dropSet(missing), codes.NotFound, "no commits found for commitset " + missing},
		{"forget input", forget(pickID("r", a.Id)), codes.Unknown, "the commit to be forgotten must be in an output repo"},
		{"forget open", forget(pickID("down", made)), codes.Unavailable, "commit default/down@" + made + " not finished"},
		{"forget what a spout builds on", forget(pickHead("s", "master")), codes.Unknown, "the next commit on branch default/s@master would begin with its content"},
		{"forget nothing", forget(nil), codes.InvalidArgument, "validate request: a commit picker must name"},
		{"forget bad id", forget(pickID("r", "master")), codes.InvalidArgument, `"master" is no commit id`},
		{"forget a head named like an id", forget(pickHead("r", missing)), codes.Unknown, "looks like a commit id"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wantError(t, tc.err, tc.code, tc.text)
		})
	}
	m.must(nil, m.svc.Update(ctx, func(tx *Txn) error { tx.Delete(pipelinePrefix + "default/s"); return nil }))
	wantError(t, m.squash(spec, false), codes.Unknown, "because branches are made from its repo: [default/s@master]")
	m.sound()
}

func pickRepoOf(repo string) *pfspb.RepoPicker {
	return &pfspb.RepoPicker{Picker: &pfspb.RepoPicker_Name{Name: &pfspb.RepoPicker_RepoName{Name: repo}}}
}

func pickBranchOf(repo, branch string) *pfspb.BranchPicker {
	return &pfspb.BranchPicker{Picker: &pfspb.BranchPicker_Name{Name: &pfspb.BranchPicker_BranchName{Repo: pickRepoOf(repo), Name: branch}}}
}

func pickHead(repo, branch string) *pfspb.CommitPicker {
	return &pfspb.CommitPicker{Picker: &pfspb.CommitPicker_BranchHead{BranchHead: pickBranchOf(repo, branch)}}
}

func pickID(repo, id string) *pfspb.CommitPicker {
	return &pfspb.CommitPicker{Picker: &pfspb.CommitPicker_Id{Id: &pfspb.CommitPicker_CommitByGlobalId{Repo: pickRepoOf(repo), Id: id}}}
}

// TestForgetCommit gives up the content of one output commit alone.
func TestForgetCommit(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("in", "out")
	m.branch("out@master", "in@master")
	m.must(nil, m.write(commitOf("out@master"), "/a", "x"))
	m.finishWith(commitOf("out@master"), "")
	a := m.inspectBranch("out@master").Head
	m.commit("in@master")
	b := m.inspectBranch("out@master").Head
	_, err := m.ForgetCommit(ctx, &pfspb.ForgetCommitRequest{Commit: pickID("out", a.Id)})
	wantError(t, err, codes.Unknown, "direct descendants must be closed")
	m.must(nil, m.write(b, "/b", "x"))
	m.finishWith(b, "")
	for range 2 {
		m.must(m.ForgetCommit(ctx, &pfspb.ForgetCommitRequest{Commit: pickID("out", a.Id)}))
	}
	_, err = all(m.ListFile(ctx, &pfspb.ListFileRequest{File: &pfspb.File{Commit: a, Path: "/"}}))
	wantError(t, err, codes.Unknown, "the commit is forgotten")
	m.wantFiles("out@"+b.Id, "/a=x /b=x")
	if info := m.inspect(a); info.Details.GetSizeBytes() != 1 || info.Finished == nil {
		t.Errorf("the forgotten commit: %v", info)
	}
	// An output commit may begin with nothing, users' commits may not.
	m.must(m.ForgetCommit(ctx, &pfspb.ForgetCommitRequest{Commit: pickHead("out", "master")}))
	m.commit("in@master")
	m.must(nil, m.write(commitOf("out@master"), "/c", "x"))
	m.finishWith(commitOf("out@master"), "")
	m.wantFiles("out@master", "/c=x")
	_, err = m.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branchOf("out@fork"), Parent: b})
	wantError(t, err, codes.Unknown, "the commit is forgotten")
	m.sound()
}

// TestSquash_BesideWriters squashes all it can while clients commit.
func TestSquash_BesideWriters(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	const writers, each = 4, 15
	ctx, cancel := context.WithCancel(limit(t))
	var wg, squashing sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for j := range each {
				if err := m.write(commitOf("r@master"), fmt.Sprintf("/%d-%02d", i, j), "x"); err != nil {
					t.Errorf("write: %v", err)
				}
			}
		})
	}
	squashed := 0
	squashing.Go(func() {
		for ctx.Err() == nil {
			infos, err := all(m.ListCommit(limit(t), &pfspb.ListCommitRequest{Repo: repoOf("r"), Number: 3}))
			if err != nil {
				t.Errorf("list: %v", err)
				return
			}
			if len(infos) < 3 {
				continue
			}
			if err := m.squash(infos[2].Commit, false); err == nil {
				squashed++
			}
		}
	})
	wg.Wait()
	cancel()
	squashing.Wait()
	infos, err := all(m.ListCommit(limit(t), &pfspb.ListCommitRequest{Repo: repoOf("r"), To: commitOf("r@master")}))
	m.must(infos, err)
	if squashed == 0 || len(infos)+squashed != writers*each {
		t.Errorf("%d commits are left of %d, %d squashed", len(infos), writers*each, squashed)
	}
	if got := strings.Count(m.files(commitOf("r@master")), "=x"); got != writers*each {
		t.Errorf("%d files, want %d", got, writers*each)
	}
	m.sound()
}

// TestRemoveCommit_BesideWhoPointsAtIt races squash and drop with branches and
// commits made at the commit: one of both gets through, or one after the other.
func TestRemoveCommit_BesideWhoPointsAtIt(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	both := func(f, g func() error) (ferr, gerr error) {
		var wg sync.WaitGroup
		wg.Go(func() { ferr = f() })
		wg.Go(func() { gerr = g() })
		wg.Wait()
		return ferr, gerr
	}
	for i := range 20 {
		branch := fmt.Sprintf("r@b%d", i)
		a, b := m.commit(branch), m.commit(branch)
		made, squashed := both(func() error {
			_, err := m.CreateBranch(ctx, &pfspb.CreateBranchRequest{Branch: branchOf(branch + "x"), Head: a})
			return err
		}, func() error { return m.squash(a, false) })
		if (made == nil) == (squashed == nil) {
			t.Errorf("a branch made: %v; its head squashed: %v", made, squashed)
		}
		_, dropped := both(func() error {
			_, err := m.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branchOf(branch + "y"), Parent: b})
			return err
		}, func() error { return m.drop(b, false) })
		if _, err := m.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: b}); (err != nil) != (dropped == nil) {
			t.Errorf("dropped: %v, and then found: %v", dropped, err)
		}
	}
	m.sound()
}
