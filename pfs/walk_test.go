package pfs

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// text lists commits as "repo repo …".
func text(infos []*pfspb.CommitInfo) string {
	var got []string
	for _, info := range infos {
		got = append(got, info.Commit.Repo.Name)
	}
	return strings.Join(got, " ")
}

// TestWalk goes through a diamond with a tail: a → b, c → d → e.
func TestWalk(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("a", "b", "c", "d", "e")
	m.branch("b@master", "a@master")
	m.branch("c@master", "a@master")
	m.branch("d@master", "b@master", "c@master")
	m.branch("e@master", "d@master")
	m.commit("a@master")
	second := m.commit("a@master") // propagated commits are all open, and all the same
	pick := func(repos ...string) (start []*pfspb.CommitPicker) {
		for _, r := range repos {
			start = append(start, pickHead(r, "master"))
		}
		return start
	}
	ancestor := &pfspb.CommitPicker{Picker: &pfspb.CommitPicker_Ancestor{Ancestor: &pfspb.CommitPicker_AncestorOf{Offset: 1, Start: pickHead("a", "master")}}}
	root := &pfspb.CommitPicker{Picker: &pfspb.CommitPicker_BranchRoot_{BranchRoot: &pfspb.CommitPicker_BranchRoot{Offset: 3, Branch: pickBranchOf("a", "master")}}}
	for _, tc := range []struct {
		name string
		got  func() ([]*pfspb.CommitInfo, error)
		want string
	}{
		{"up", func() ([]*pfspb.CommitInfo, error) {
			return all(m.WalkCommitProvenance(ctx, &pfspb.WalkCommitProvenanceRequest{Start: pick("e")}))
		}, "d b c a"},
		{"up from two", func() ([]*pfspb.CommitInfo, error) {
			return all(m.WalkCommitProvenance(ctx, &pfspb.WalkCommitProvenanceRequest{Start: pick("b", "e")}))
		}, "a d b c"},
		{"up, few", func() ([]*pfspb.CommitInfo, error) {
			return all(m.WalkCommitProvenance(ctx, &pfspb.WalkCommitProvenanceRequest{Start: pick("e"), MaxCommits: 2}))
		}, "d b"},
		{"up, near", func() ([]*pfspb.CommitInfo, error) {
			return all(m.WalkCommitProvenance(ctx, &pfspb.WalkCommitProvenanceRequest{Start: pick("e"), MaxDepth: 2}))
		}, "d b c"},
		{"down", func() ([]*pfspb.CommitInfo, error) {
			return all(m.WalkCommitSubvenance(ctx, &pfspb.WalkCommitSubvenanceRequest{Start: pick("a")}))
		}, "b c d e"},
		{"down from an id", func() ([]*pfspb.CommitInfo, error) {
			return all(m.WalkCommitSubvenance(ctx, &pfspb.WalkCommitSubvenanceRequest{Start: []*pfspb.CommitPicker{pickID("c", second.Id)}}))
		}, "d e"},
		{"down from an ancestor", func() ([]*pfspb.CommitInfo, error) {
			return all(m.WalkCommitSubvenance(ctx, &pfspb.WalkCommitSubvenanceRequest{Start: []*pfspb.CommitPicker{ancestor}, MaxDepth: 1}))
		}, "b c"},
		{"down from a root", func() ([]*pfspb.CommitInfo, error) {
			return all(m.WalkCommitSubvenance(ctx, &pfspb.WalkCommitSubvenanceRequest{Start: []*pfspb.CommitPicker{root}, MaxCommits: 1}))
		}, "b"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			infos, err := tc.got()
			if err != nil || text(infos) != tc.want {
				t.Errorf("%q, %v; want %q", text(infos), err, tc.want)
			}
			for _, info := range infos {
				if info.Commit.Id != second.Id && tc.name != "down from an ancestor" {
					t.Errorf("a commit of another set: %v", info.Commit)
				}
			}
		})
	}
	branches := func(stream grpc.ServerStreamingClient[pfspb.BranchInfo], err error) string {
		infos, err := all(stream, err)
		if err != nil {
			t.Error(err)
		}
		var got []string
		for _, info := range infos {
			got = append(got, info.Branch.Repo.Name)
		}
		return strings.Join(got, " ")
	}
	start := []*pfspb.BranchPicker{pickBranchOf("c", "master")}
	if got := branches(m.WalkBranchSubvenance(ctx, &pfspb.WalkBranchSubvenanceRequest{Start: start})); got != "d e" {
		t.Errorf("downstream: %s", got)
	}
	start = []*pfspb.BranchPicker{pickBranchOf("e", "master")}
	if got := branches(m.WalkBranchProvenance(ctx, &pfspb.WalkBranchProvenanceRequest{Start: start})); got != "d b c a" {
		t.Errorf("upstream: %s", got)
	}
	if got := branches(m.WalkBranchProvenance(ctx, &pfspb.WalkBranchProvenanceRequest{Start: start, MaxBranches: 3, MaxDepth: 1})); got != "d" {
		t.Errorf("upstream, near: %s", got)
	}
}

func TestWalk_Errors(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	m.branch("r@master")
	commits := func(start ...*pfspb.CommitPicker) error {
		_, err := all(m.WalkCommitProvenance(ctx, &pfspb.WalkCommitProvenanceRequest{Start: start}))
		return err
	}
	branches := func(start ...*pfspb.BranchPicker) error {
		_, err := all(m.WalkBranchSubvenance(ctx, &pfspb.WalkBranchSubvenanceRequest{Start: start}))
		return err
	}
	const missing = "0123456789ab4def0123456789abcdef"
	for _, tc := range []struct {
		name string
		err  error
		code codes.Code
		text string
	}{
		{"nowhere", commits(), codes.InvalidArgument, "validate request: the commits to start at must be given"},
		{"empty", commits(&pfspb.CommitPicker{}), codes.InvalidArgument, "a commit picker must name"},
		{"no repo", commits(pickHead("", "master")), codes.InvalidArgument, "a repo picker must have a name"},
		{"no branch", commits(pickHead("r", "")), codes.InvalidArgument, "a branch picker must have a name"},
		{"missing repo", commits(pickHead("x", "master")), codes.NotFound, "repo default/x not found"},
		{"missing branch", commits(pickHead("r", "x")), codes.NotFound, `branch "x" not found in repo default/r`},
		{"missing commit", commits(pickID("r", missing)), codes.NotFound, "commit default/r@" + missing + " not found"},
		{"no offset", commits(&pfspb.CommitPicker{Picker: &pfspb.CommitPicker_BranchRoot_{BranchRoot: &pfspb.CommitPicker_BranchRoot{Branch: pickBranchOf("r", "master")}}}), codes.InvalidArgument, "the offset from a branch's root must be at least 1"},
		{"too far", commits(&pfspb.CommitPicker{Picker: &pfspb.CommitPicker_Ancestor{Ancestor: &pfspb.CommitPicker_AncestorOf{Offset: 7, Start: pickHead("r", "master")}}}), codes.Unknown, "invalid offset for ancestor of commit"},
		{"no branches", branches(), codes.InvalidArgument, "the branches to start at must be given"},
		{"branch missing", branches(pickBranchOf("r", "x")), codes.NotFound, `branch "x" not found in repo default/r`},
	} {
		t.Run(tc.name, func(t *testing.T) { wantError(t, tc.err, tc.code, tc.text) })
	}
}

// found is what FindCommits answers: numbers of commits in a list, and the last
// searched one after a slash.
func found(line []string, responses []*pfspb.FindCommitsResponse) string {
	var got []string
	for _, r := range responses {
		if c := r.GetFoundCommit(); c != nil {
			got = append(got, fmt.Sprint(slices.Index(line, c.Id)))
		} else {
			got = append(got, fmt.Sprintf("/ %d of %d", slices.Index(line, r.GetLastSearchedCommit().GetId()), r.CommitsSearched))
		}
	}
	return strings.Join(got, " ")
}

func TestFindCommits(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	var line []string
	for i, path := range []string{"/a", "/b", "/dir/c", "/a", "/b", "/b"} {
		line = append(line, m.put("r@master", path, fmt.Sprint(i)).Id)
	}
	line = append(line, m.commit("r@master").Id) // 6: empty
	bad := m.start("r@master")                   // 7: with an error, skipped by 8
	m.must(nil, m.write(bad, "/a", "bad"))
	m.finishWith(bad, "broken")
	line = append(line, bad.Id, m.put("r@master", "/b", "8").Id)
	remove, err := m.ModifyFile(ctx)
	m.must(remove, err)
	m.must(nil, remove.Send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: commitOf("r@master")}}))
	m.must(nil, remove.Send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_DeleteFile{DeleteFile: &pfspb.DeleteFile{Path: "/a"}}}))
	m.must(remove.CloseAndRecv())
	line = append(line, m.inspectBranch("r@master").Head.Id) // 9
	for _, tc := range []struct {
		start, path string
		limit       uint32
		want        string
	}{
		{"master", "/a", 0, "9 7 3 0 / 0 of 10"},
		{"master", "a", 2, "9 7 / 7 of 3"},
		{"master^", "/b", 0, "8 5 4 1 / 0 of 9"},
		{"master", "/dir", 0, "2 / 0 of 10"},
		{"master", "/dir/c", 1, "2 / 2 of 8"},
		{"master", "/none", 0, "/ 0 of 10"},
		{line[0], "/a", 0, "0 / 0 of 1"},
	} {
		got, err := all(m.FindCommits(ctx, &pfspb.FindCommitsRequest{Start: commitOf("r@" + tc.start), FilePath: tc.path, Limit: tc.limit}))
		if err != nil || found(line, got) != tc.want {
			t.Errorf("%s:%s limit %d: %s, %v; want %s", tc.start, tc.path, tc.limit, found(line, got), err, tc.want)
		}
	}
	open := m.start("r@master")
	_, err = all(m.FindCommits(ctx, &pfspb.FindCommitsRequest{Start: open, FilePath: "/a"}))
	wantError(t, err, codes.Unavailable, "commit default/r@"+open.Id+" not finished")
	if d := status.Convert(err).Details(); len(d) != 1 || d[0].(*errdetails.ResourceInfo).GetResourceName() != "default/r@"+open.Id {
		t.Errorf("details: %v", d)
	}
	_, err = all(m.FindCommits(ctx, &pfspb.FindCommitsRequest{Start: open}))
	wantError(t, err, codes.InvalidArgument, "validate request: the path of a file or directory must be given")
	_, err = all(m.FindCommits(ctx, &pfspb.FindCommitsRequest{FilePath: "/a"}))
	wantError(t, err, codes.Unknown, "commit cannot be nil")
}

// TestFindCommits_TimeIsUp says how far it came.
func TestFindCommits_TimeIsUp(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	var line []string
	for i := range 4 {
		line = append(line, m.put("r@master", "/a", fmt.Sprint(i)).Id)
	}
	search, stop := context.WithCancel(limit(t))
	var got []*pfspb.FindCommitsResponse
	err := m.svc.findCommits(limit(t), search, &pfspb.FindCommitsRequest{Start: commitOf("r@master"), FilePath: "/a"}, func(r *pfspb.FindCommitsResponse) error {
		got = append(got, r)
		if len(got) == 2 {
			stop()
		}
		return nil
	})
	if err != nil || found(line, got) != "3 2 / 2 of 2" {
		t.Errorf("%s, %v", found(line, got), err)
	}
}

// TestListCommit_LineSquashedMeanwhile goes on with what took the place of the
// next commit.
func TestListCommit_LineSquashedMeanwhile(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	var line []string
	for range 6 {
		line = append(line, m.commit("r@master").Id)
	}
	walk := lineWalk{repo: NormalizeRepo(repoOf("r")), at: line[5]}
	var got []string
	read := func(n int) (more bool) {
		m.must(nil, m.svc.View(limit(t), func(tx *Txn) error {
			recs, left, err := walk.page(tx, n)
			for _, rec := range recs {
				got = append(got, rec.Info.Commit.Id)
			}
			more = left
			return err
		}))
		return more
	}
	read(2)
	m.must(nil, m.squash(commitOf("r@"+line[3]), false))
	m.must(nil, m.squash(commitOf("r@"+line[2]), false))
	for read(1) {
	}
	want := []string{line[5], line[4], line[1], line[0]}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
