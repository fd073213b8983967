package server_test

import (
	"maps"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	adminpb "github.com/minipachd/minipachd/proto/admin_v2"
	metadatapb "github.com/minipachd/minipachd/proto/metadata"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// Pickers of the objects that the tests make.

func pickProject(name string) *pfspb.ProjectPicker {
	return &pfspb.ProjectPicker{Picker: &pfspb.ProjectPicker_Name{Name: name}}
}

func pickRepo(name string) *pfspb.RepoPicker {
	return &pfspb.RepoPicker{Picker: &pfspb.RepoPicker_Name{Name: &pfspb.RepoPicker_RepoName{Project: pickProject("default"), Name: name}}}
}

func pickBranch(repo, name string) *pfspb.BranchPicker {
	return &pfspb.BranchPicker{Picker: &pfspb.BranchPicker_Name{Name: &pfspb.BranchPicker_BranchName{Repo: pickRepo(repo), Name: name}}}
}

func pickHead(repo string) *pfspb.CommitPicker {
	return &pfspb.CommitPicker{Picker: &pfspb.CommitPicker_BranchHead{BranchHead: pickBranch(repo, "master")}}
}

func pickID(repo, id string) *pfspb.CommitPicker {
	return &pfspb.CommitPicker{Picker: &pfspb.CommitPicker_Id{Id: &pfspb.CommitPicker_CommitByGlobalId{Repo: pickRepo(repo), Id: id}}}
}

func pickAncestor(of *pfspb.CommitPicker, offset uint32) *pfspb.CommitPicker {
	return &pfspb.CommitPicker{Picker: &pfspb.CommitPicker_Ancestor{Ancestor: &pfspb.CommitPicker_AncestorOf{Start: of, Offset: offset}}}
}

func pickNth(repo string, n uint32) *pfspb.CommitPicker {
	return &pfspb.CommitPicker{Picker: &pfspb.CommitPicker_BranchRoot_{BranchRoot: &pfspb.CommitPicker_BranchRoot{Branch: pickBranch(repo, "master"), Offset: n}}}
}

func pickPipeline(name string) *ppspb.PipelinePicker {
	return &ppspb.PipelinePicker{Picker: &ppspb.PipelinePicker_Name{Name: &ppspb.PipelinePicker_PipelineName{Name: name}}}
}

// on makes an edit of a target without saying what to do.
func on(target any) *metadatapb.Edit {
	switch t := target.(type) {
	case *pfspb.ProjectPicker:
		return &metadatapb.Edit{Target: &metadatapb.Edit_Project{Project: t}}
	case *pfspb.RepoPicker:
		return &metadatapb.Edit{Target: &metadatapb.Edit_Repo{Repo: t}}
	case *pfspb.BranchPicker:
		return &metadatapb.Edit{Target: &metadatapb.Edit_Branch{Branch: t}}
	case *pfspb.CommitPicker:
		return &metadatapb.Edit{Target: &metadatapb.Edit_Commit{Commit: t}}
	case *ppspb.PipelinePicker:
		return &metadatapb.Edit{Target: &metadatapb.Edit_Pipeline{Pipeline: t}}
	case *metadatapb.ClusterPicker:
		return &metadatapb.Edit{Target: &metadatapb.Edit_Cluster{Cluster: t}}
	}
	return &metadatapb.Edit{}
}

func add(target any, key, value string) *metadatapb.Edit {
	e := on(target)
	e.Op = &metadatapb.Edit_AddKey_{AddKey: &metadatapb.Edit_AddKey{Key: key, Value: value}}
	return e
}

func edit(target any, key, value string) *metadatapb.Edit {
	e := on(target)
	e.Op = &metadatapb.Edit_EditKey_{EditKey: &metadatapb.Edit_EditKey{Key: key, Value: value}}
	return e
}

func remove(target any, key string) *metadatapb.Edit {
	e := on(target)
	e.Op = &metadatapb.Edit_DeleteKey_{DeleteKey: &metadatapb.Edit_DeleteKey{Key: key}}
	return e
}

func replace(target any, all map[string]string) *metadatapb.Edit {
	e := on(target)
	e.Op = &metadatapb.Edit_Replace_{Replace: &metadatapb.Edit_Replace{Replacement: all}}
	return e
}

// TestEditMetadata edits every kind of object and holds the texts and codes of
// what is wrong.
func TestEditMetadata(t *testing.T) {
	dir := t.TempDir()
	p := startPachd(t, dir)
	ctx := within(t)
	pfs, pps, conn := dial(t, p.addr)
	call := func(edits ...*metadatapb.Edit) error {
		_, err := metadatapb.NewAPIClient(conn).EditMetadata(ctx, &metadatapb.EditMetadataRequest{Edits: edits})
		return err
	}
	if _, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("r")}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := put(ctx, pfs, "r", "/f", []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	commits, err := collect(pfs.ListCommit(ctx, &pfspb.ListCommitRequest{Repo: repo("r")})) // newest first
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{
		CreatePipelineRequestJson: `{"pipeline":{"name":"sp"},"spout":{},"transform":{"cmd":["sleep","1000000"]}}`,
	}); err != nil {
		t.Fatal(err)
	}
	cluster := &metadatapb.ClusterPicker{}
	targets := map[string]any{
		"project": pickProject("default"), "repo": pickRepo("r"), "branch": pickBranch("r", "master"),
		"commit": pickID("r", commits[1].Commit.Id), "pipeline": pickPipeline("sp"), "cluster": cluster,
	}
	// read gives the metadata of each target as its own API shows it.
	read := func() map[string]map[string]string {
		t.Helper()
		project, err1 := pfs.InspectProject(ctx, &pfspb.InspectProjectRequest{Project: &pfspb.Project{Name: "default"}})
		repos, err2 := collect(pfs.ListRepo(ctx, &pfspb.ListRepoRequest{Projects: []*pfspb.Project{{Name: "default"}}, Type: "user"}))
		br, err3 := pfs.InspectBranch(ctx, &pfspb.InspectBranchRequest{Branch: branch("r")})
		commit, err4 := pfs.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: commits[1].Commit})
		pipeline, err5 := pps.InspectPipeline(ctx, &ppspb.InspectPipelineRequest{Pipeline: &ppspb.Pipeline{Name: "sp"}})
		info, err6 := adminpb.NewAPIClient(conn).InspectCluster(ctx, &adminpb.InspectClusterRequest{})
		for _, err := range []error{err1, err2, err3, err4, err5, err6} {
			if err != nil {
				t.Fatal(err)
			}
		}
		all := map[string]map[string]string{
			"project": project.Metadata, "branch": br.Metadata, "commit": commit.Metadata,
			"pipeline": pipeline.Metadata, "cluster": info.Metadata,
		}
		for _, r := range repos {
			if r.Repo.Name == "r" {
				all["repo"] = r.Metadata
			}
		}
		return all
	}
	check := func(when string, want map[string]string) {
		t.Helper()
		for kind, got := range read() {
			if !maps.Equal(got, want) {
				t.Errorf("%s: metadata of the %s is %v, want %v", when, kind, got, want)
			}
		}
	}
	var first, second []*metadatapb.Edit
	for _, target := range targets {
		first = append(first, add(target, "a", "1"), edit(target, "b", "2"), edit(target, "a", "3"), remove(target, "b"), remove(target, "never"))
		second = append(second, replace(target, map[string]string{"x": "y"}), add(target, "z", ""))
	}
	if err := call(first...); err != nil {
		t.Fatal(err)
	}
	check("after edits", map[string]string{"a": "3"})
	if err := call(second...); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"x": "y", "z": ""}
	check("after a replacement", want)
	// What changes the objects otherwise leaves their metadata alone.
	if err := put(ctx, pfs, "r", "/f", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		func() error {
			_, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("r"), Update: true, Description: "d"})
			return err
		}(),
		func() error {
			_, err := pfs.CreateProject(ctx, &pfspb.CreateProjectRequest{Project: &pfspb.Project{Name: "default"}, Update: true, Description: "d"})
			return err
		}(),
		func() error {
			_, err := pps.StopPipeline(ctx, &ppspb.StopPipelineRequest{Pipeline: &ppspb.Pipeline{Name: "sp"}})
			return err
		}(),
		func() error {
			_, err := pps.RerunPipeline(ctx, &ppspb.RerunPipelineRequest{Pipeline: &ppspb.Pipeline{Name: "sp"}})
			return err
		}(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	check("after other changes", want)

	const none = "0123456789ab4def0123456789abcdef"
	long := strings.Repeat("v", 64<<10)
	r := pickRepo("r")
	for _, tc := range []struct {
		name  string
		edits []*metadatapb.Edit
		code  codes.Code
		text  string
	}{
		{"added key exists", []*metadatapb.Edit{add(r, "x", "2")}, codes.AlreadyExists, `edit 1: key "x" already exists: edit it instead of adding it`},
		{"added twice", []*metadatapb.Edit{add(r, "n", "1"), add(r, "n", "2")}, codes.AlreadyExists, `edit 2: key "n" already exists: edit it instead of adding it`},
		{"several wrong", []*metadatapb.Edit{edit(pickRepo("nope"), "k", "v"), edit(r, "k", "v"), add(r, "x", "2")}, codes.NotFound, "edit 1: repo default/nope not found\nedit 3: key \"x\" already exists: edit it instead of adding it"},
		{"no target", []*metadatapb.Edit{edit(nil, "k", "v")}, codes.InvalidArgument, "edit 1: validate request: the edit must have a target: a project, repo, branch, commit, pipeline or the cluster"},
		{"no operation", []*metadatapb.Edit{on(r)}, codes.InvalidArgument, "edit 1: validate request: the edit must replace all, or add, edit or delete a key"},
		{"no key", []*metadatapb.Edit{edit(r, "", "v")}, codes.InvalidArgument, "edit 1: validate request: a key must not be empty"},
		{"too large", []*metadatapb.Edit{edit(r, "k", long)}, codes.InvalidArgument, "edit 1: the metadata would have 65540 bytes of keys and values, and at most 65536 are possible"},
		{"project missing", []*metadatapb.Edit{edit(pickProject("nope"), "k", "v")}, codes.NotFound, `edit 1: project "nope" not found`},
		{"project unnamed", []*metadatapb.Edit{edit(&pfspb.ProjectPicker{}, "k", "v")}, codes.InvalidArgument, "edit 1: validate request: a project picker must have a name"},
		{"repo unnamed", []*metadatapb.Edit{edit(&pfspb.RepoPicker{}, "k", "v")}, codes.InvalidArgument, "edit 1: validate request: a repo picker must have a name"},
		{"branch missing", []*metadatapb.Edit{edit(pickBranch("r", "nope"), "k", "v")}, codes.NotFound, `edit 1: branch "nope" not found in repo default/r`},
		{"branch unnamed", []*metadatapb.Edit{edit(&pfspb.BranchPicker{}, "k", "v")}, codes.InvalidArgument, "edit 1: validate request: a branch picker must have a name"},
		{"commit missing", []*metadatapb.Edit{edit(pickID("r", none), "k", "v")}, codes.NotFound, "edit 1: commit default/r@" + none + " not found"},
		{"commit id malformed", []*metadatapb.Edit{edit(pickID("r", "master"), "k", "v")}, codes.InvalidArgument, "edit 1: validate request: \"master\" is no commit id: 32 lower-case hex digits, the 13th a 4"},
		{"commit unnamed", []*metadatapb.Edit{edit(&pfspb.CommitPicker{}, "k", "v")}, codes.InvalidArgument, "edit 1: validate request: a commit picker must name a branch head, an id, an ancestor or a branch root"},
		{"before the first commit", []*metadatapb.Edit{edit(pickAncestor(pickHead("r"), 4), "k", "v")}, codes.Unknown, "edit 1: invalid offset for ancestor of commit default/r@"},
		{"beyond the last commit", []*metadatapb.Edit{edit(pickNth("r", 5), "k", "v")}, codes.Unknown, "edit 1: invalid offset for ancestor of commit default/r@"},
		{"commit number 0", []*metadatapb.Edit{edit(pickNth("r", 0), "k", "v")}, codes.InvalidArgument, "edit 1: validate request: the offset from a branch's root must be at least 1, its first commit"},
		{"pipeline missing", []*metadatapb.Edit{edit(pickPipeline("nope"), "k", "v")}, codes.NotFound, `edit 1: pipeline "default/nope" not found`},
		{"pipeline unnamed", []*metadatapb.Edit{edit(&ppspb.PipelinePicker{}, "k", "v")}, codes.InvalidArgument, "edit 1: validate request: the pipeline must have a name"},
	} {
		err := call(append(tc.edits, edit(cluster, "not", "kept"))...)
		if status.Code(err) != tc.code || !strings.HasPrefix(status.Convert(err).Message(), tc.text) {
			t.Errorf("%s: %v, want %v %s", tc.name, err, tc.code, tc.text)
		}
	}
	check("after errors", want)

	// Every picker of a commit leads to the one in the middle.
	middle := []*pfspb.CommitPicker{pickAncestor(pickHead("r"), 2), pickAncestor(pickAncestor(pickID("r", commits[0].Commit.Id), 1), 0), pickNth("r", 2)}
	for i, picker := range middle {
		if err := call(edit(picker, string(rune('p'+i)), "")); err != nil {
			t.Error(err)
		}
	}
	p.kill()
	p = startPachd(t, dir)
	pfs, _, _ = dial(t, p.addr)
	info, err := pfs.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: commits[1].Commit})
	if want := map[string]string{"x": "y", "z": "", "p": "", "q": "", "r": ""}; err != nil || !maps.Equal(info.Metadata, want) {
		t.Errorf("metadata of the commit after a restart: %v, %v", info.GetMetadata(), err)
	}
}
