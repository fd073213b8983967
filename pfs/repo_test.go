package pfs

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

func TestRepo_CreateUpdateInspect(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.must(m.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repoOf("r"), Description: "one"}))
	m.must(m.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repoOf("r"), Description: "two", Update: true}))
	m.commit("r@master")
	m.branch("r@b")
	info, err := m.InspectRepo(ctx, &pfspb.InspectRepoRequest{Repo: repoOf("r")})
	m.must(info, err)
	if info.Description != "two" || info.Repo.Type != "user" || info.Repo.Project.Name != "default" || info.Details == nil || info.Created == nil || info.AuthInfo != nil {
		t.Errorf("repo: %v", info)
	}
	if diff := cmp.Diff([]string{"default/r@b", "default/r@master"}, names(info.Branches)); diff != "" {
		t.Error(diff)
	}
}

// TestRepo_Size is that of the newest finished commit on master.
func TestRepo_Size(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	setSize := func(c *pfspb.Commit, size int64) {
		m.must(nil, m.svc.Update(ctx, func(tx *Txn) error {
			rec, err := tx.resolve(c)
			if err != nil {
				return err
			}
			tx.setFinished(rec, size, tx.Now())
			return tx.putCommit(rec)
		}))
	}
	setSize(m.commit("r@master"), 100)
	setSize(m.commit("r@other"), 5000)
	m.start("r@master")
	info, err := m.InspectRepo(ctx, &pfspb.InspectRepoRequest{Repo: repoOf("r")})
	m.must(info, err)
	if info.SizeBytesUpperBound != 100 || info.Details.SizeBytes != 100 {
		t.Errorf("size: %v", info)
	}
	sums, err := m.ReposSummary(ctx, &pfspb.ReposSummaryRequest{Projects: []*pfspb.ProjectPicker{{Picker: &pfspb.ProjectPicker_Name{Name: "default"}}}})
	m.must(sums, err)
	if len(sums.Summaries) != 1 || sums.Summaries[0].UserRepoCount != 1 || sums.Summaries[0].SizeBytes != 100 {
		t.Errorf("summary: %v", sums)
	}
}

func TestListRepo_OrderAndPages(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	for _, p := range []string{"a-b", "a"} {
		m.must(m.CreateProject(ctx, &pfspb.CreateProjectRequest{Project: &pfspb.Project{Name: p}}))
	}
	m.repo("a-b/x", "a/y-1", "a/y", "y", "y.spec")
	list := func(req *pfspb.ListRepoRequest) []string {
		infos, err := all(m.ListRepo(ctx, req))
		m.must(infos, err)
		var got []string
		for _, info := range infos {
			got = append(got, RepoName(info.Repo))
		}
		return got
	}
	every := []string{"a/y", "a/y-1", "a-b/x", "default/y.spec", "default/y"}
	for _, tc := range []struct {
		req  *pfspb.ListRepoRequest
		want []string
	}{
		{&pfspb.ListRepoRequest{}, every},
		{&pfspb.ListRepoRequest{Type: "user"}, []string{"a/y", "a/y-1", "a-b/x", "default/y"}},
		{&pfspb.ListRepoRequest{Projects: []*pfspb.Project{{Name: "a"}}}, every[:2]},
		{&pfspb.ListRepoRequest{Page: &pfspb.RepoPage{PageSize: 2}}, every[:2]},
		{&pfspb.ListRepoRequest{Page: &pfspb.RepoPage{PageSize: 2, PageIndex: 2}}, every[4:]},
		{&pfspb.ListRepoRequest{Page: &pfspb.RepoPage{PageSize: 2, PageIndex: 3}}, nil},
		{&pfspb.ListRepoRequest{Page: &pfspb.RepoPage{PageSize: 1 << 60, PageIndex: 1 << 60}}, nil},
	} {
		if diff := cmp.Diff(tc.want, list(tc.req)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tc.req, diff)
		}
	}
}

// keysLeft lists all keys of package pfs but those of projects and of garbage collection.
func keysLeft(t *testing.T, m *metaServer) []string {
	t.Helper()
	var keys []string
	m.must(nil, m.svc.View(limit(t), func(tx *Txn) error {
		for kv, err := range tx.Scan("pfs/", store.ScanOptions{KeysOnly: true}) {
			if err != nil {
				return err
			}
			if !strings.HasPrefix(kv.Key, projectPrefix) && !strings.HasPrefix(kv.Key, "pfs/gc/") {
				keys = append(keys, kv.Key)
			}
		}
		return nil
	}))
	return keys
}

// TestDeleteRepo_LeavesNothing deletes a repo with more commits than one sweep
// takes, with its siblings, and looks for what is left.
func TestDeleteRepo_LeavesNothing(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("up", "r", "r.spec")
	m.branch("r@derived", "up@master")
	m.commit("up@master")
	m.commit("r.spec@master")
	for range sweepBatch + 3 {
		m.commit("r@master")
	}
	m.must(nil, m.svc.Update(ctx, func(tx *Txn) error {
		rec, err := tx.resolve(commitOf("r@master"))
		if err != nil {
			return err
		}
		rec.Layers = []*recordpb.LayerRef{{Id: []byte("0123456789abcdef"), Inline: true}}
		if err := m.svc.layers.Put(tx.Txn, layerKey(rec.Layers[0].Id), &recordpb.LayerRecord{}); err != nil {
			return err
		}
		return tx.putCommit(rec)
	}))
	last := m.inspect(commitOf("r@master")).Commit
	res, err := m.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repoOf("r")})
	if err != nil || !res.Deleted {
		t.Fatalf("delete: %v, %v", res, err)
	}
	_, err = m.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: last})
	wantError(t, err, codes.NotFound, "repo default/r not found")
	_, err = all(m.InspectCommitSet(ctx, &pfspb.InspectCommitSetRequest{CommitSet: &pfspb.CommitSet{Id: last.Id}}))
	wantError(t, err, codes.NotFound, "no commits found for commitset "+last.Id)
	if got := m.inspectBranch("up@master"); len(got.Subvenance) != 0 {
		t.Errorf("subvenance of a deleted branch is left: %v", got)
	}
	// The name is free at once, whether or not the sweep has run.
	m.repo("r")
	infos, err := all(m.ListCommit(ctx, &pfspb.ListCommitRequest{Repo: repoOf("r")}))
	if err != nil || len(infos) != 0 {
		t.Errorf("the new repo has commits: %v, %v", infos, err)
	}
	for _, name := range []string{"r", "up"} {
		m.must(m.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repoOf(name)}))
	}
	m.must(nil, m.svc.sweep(ctx))
	m.must(m.svc.CollectGarbage(ctx))
	if left := keysLeft(t, m); len(left) != 0 {
		t.Errorf("keys left: %v", left)
	}
}

// TestIndexEntryWithoutCommit counts as no commit at all.
func TestIndexEntryWithoutCommit(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	c := m.commit("r@master")
	m.commit("r@master")
	m.must(nil, m.svc.Update(ctx, func(tx *Txn) error {
		rec, err := tx.resolve(c)
		m.svc.commits.Delete(tx.Txn, commitKey(rec.GetInfo().GetCommit().GetRepo(), rec.GetOrder()))
		return err
	}))
	_, err := m.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: c})
	wantError(t, err, codes.NotFound, "commit default/r@"+c.Id+" not found")
}

// TestDeleteRepo_OfPipeline is refused; deleting the pipeline is the way.
func TestDeleteRepo_OfPipeline(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("p", "p.spec")
	m.must(nil, m.svc.Update(ctx, func(tx *Txn) error { tx.Put(pipelinePrefix+"default/p", nil); return nil }))
	for _, r := range []string{"p", "p.spec"} {
		_, err := m.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repoOf(r), Force: true})
		wantError(t, err, codes.Unknown, "cannot delete a repo associated with a pipeline - delete the pipeline instead")
	}
}

// TestDeleteRepos_TogetherWithWhatIsMadeFromThem needs no force.
func TestDeleteRepos_TogetherWithWhatIsMadeFromThem(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.must(m.CreateProject(ctx, &pfspb.CreateProjectRequest{Project: &pfspb.Project{Name: "p"}}))
	m.repo("p/a", "p/b", "c")
	m.branch("p/b@master", "p/a@master")
	m.branch("c@master", "p/b@master")
	req := &pfspb.DeleteReposRequest{Projects: []*pfspb.Project{{Name: "p"}}}
	_, err := m.DeleteRepos(ctx, req)
	wantError(t, err, codes.Unknown, `branch "p/b@master" cannot be deleted because it's in the direct provenance of [default/c@master]`)
	m.must(m.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repoOf("c")}))
	res, err := m.DeleteRepos(ctx, req)
	if err != nil || len(res.Repos) != 2 {
		t.Errorf("deleted %v, %v", res, err)
	}
	m.must(m.DeleteProject(ctx, &pfspb.DeleteProjectRequest{Project: &pfspb.Project{Name: "p"}}))
}

func TestProject_LifeCycle(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	p := &pfspb.Project{Name: "p"}
	m.must(m.CreateProject(ctx, &pfspb.CreateProjectRequest{Project: p, Description: "one"}))
	m.must(m.CreateProject(ctx, &pfspb.CreateProjectRequest{Project: p, Description: "two", Update: true}))
	info, err := m.InspectProject(ctx, &pfspb.InspectProjectRequest{Project: p})
	m.must(info, err)
	if info.Description != "two" || info.CreatedAt == nil {
		t.Errorf("project: %v", info)
	}
	v2, err := m.InspectProjectV2(ctx, &pfspb.InspectProjectV2Request{Project: p})
	if err != nil || v2.DefaultsJson != "{}" || v2.Info.Project.Name != "p" {
		t.Errorf("project: %v, %v", v2, err)
	}
	m.repo("p/r")
	m.must(m.DeleteProject(ctx, &pfspb.DeleteProjectRequest{Project: p, Force: true}))
	for _, req := range []*pfspb.DeleteProjectRequest{{Project: p}, {Project: p, Force: true}} {
		_, err = m.DeleteProject(ctx, req)
		wantError(t, err, codes.NotFound, `project "p" not found`)
	}
	m.must(m.DeleteProject(ctx, &pfspb.DeleteProjectRequest{Project: &pfspb.Project{Name: "default"}}))
	m.must(nil, m.svc.Init(context.WithoutCancel(ctx)))
	if _, err := m.InspectProject(ctx, &pfspb.InspectProjectRequest{Project: &pfspb.Project{Name: "default"}}); err != nil {
		t.Errorf("a store without projects gets the default one: %v", err)
	}
}
