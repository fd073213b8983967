package pfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/types/known/wrapperspb"
	"pgregory.net/rapid"

	"github.com/minipachd/minipachd/clock/clocktest"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// modelSteps is how many random steps a run takes at least; fewer with the race
// detector, which is there for another purpose.
const modelSteps = 10000 / (1 + 4*raceFactor)

// TestModel drives a real service and the model with the same random operations
// and compares everything that can be read: once with commits that are finished by the
// transaction which ends their writing, and once by the finisher alone.
func TestModel(t *testing.T) {
	for name, atOnce := range map[string]bool{"finished at once": true, "finished later": false} {
		t.Run(name, func(t *testing.T) {
			clock := clocktest.New(time.Now())
			m, _ := startMeta(t, t.TempDir(), withClock(clock))
			if !atOnce {
				m.svc.finishAtOnce = 0
			}
			testModel(t, m, clock)
		})
	}
}

func testModel(t *testing.T, m *metaServer, clock *clocktest.Clock) {
	steps, round := 0, 0
	for steps < modelSteps/2 {
		rapid.Check(t, func(rt *rapid.T) {
			round++
			r := &modelRun{
				T: rt, ctx: t.Context(), m: m, clock: clock, prefix: fmt.Sprintf("m%d-", round),
				repos: map[string]*mRepo{}, hashes: map[string]string{}, retainers: map[string]*Retainer{},
			}
			actions := r.actions()
			for name, action := range actions {
				actions[name] = func(rt *rapid.T) {
					steps++
					r.T = rt
					action(rt)
				}
			}
			rt.Repeat(actions)
			for _, repo := range r.repos {
				r.do(m.DeleteRepo(r.ctx, &pfspb.DeleteRepoRequest{Repo: repoOf(repo.name)}))
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d steps in %d runs", steps, round)
	faults, err := all(m.Fsck(t.Context(), &pfspb.FsckRequest{}))
	if err != nil || len(faults) > 0 {
		t.Errorf("fsck: %v, %v", faults, err)
	}
}

// modelRun is one run of the model against the service.
type modelRun struct {
	*rapid.T
	ctx       context.Context
	m         *metaServer
	repos     map[string]*mRepo
	hashes    map[string]string // content -> hash, over all commits of the run
	prefix    string
	clock     *clocktest.Clock
	retainers map[string]*Retainer // by repo@branch
}

var (
	modelRepos    = rapid.SampledFrom([]string{"r", "s"})
	modelBranches = rapid.SampledFrom([]string{"master", "b"})
	modelPaths    = rapid.SampledFrom([]string{"/a", "/a/x", "/b/y", "/b/z", "/c-d", "/c/d/e", "/c/d/f", "/e"})
	modelDirs     = rapid.SampledFrom([]string{"/", "/a/", "/b/", "/c/", "/c/d/", "/none/"})
	modelDatums   = rapid.SampledFrom([]string{"", "", "", "", "", "", "d2"})
	modelGlobs    = rapid.SampledFrom([]string{"/*", "/**", "/?/*", "/c/**", "/{a,b}/*", "/[ab]", "/!(a|b)", "/c*", "/+(a|b)/@(x|y)"})
	// Data crosses the border of what is kept in etcd now and then.
	modelData = rapid.Custom(func(t *rapid.T) string {
		if rapid.IntRange(0, 19).Draw(t, "large") == 0 {
			return strings.Repeat(string(rune('a'+rapid.IntRange(0, 25).Draw(t, "letter"))), 30<<10)
		}
		return rapid.StringOfN(rapid.RuneFrom([]rune("xyz")), 0, 5, -1).Draw(t, "data")
	})
)

// do fails the run on an error that the model does not expect.
func (r *modelRun) do(_ any, err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// refused fails the run unless err says text.
func (r *modelRun) refused(_ any, err error, text string) {
	r.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		r.Fatalf("got %v, want an error with %q", err, text)
	}
}

// repo gives a repo of the model, which it makes if need be.
func (r *modelRun) repo(t *rapid.T) *mRepo {
	name := r.prefix + modelRepos.Draw(t, "repo")
	repo, ok := r.repos[name]
	if !ok {
		r.do(r.m.CreateRepo(r.ctx, &pfspb.CreateRepoRequest{Repo: repoOf(name)}))
		repo = &mRepo{name: name, branches: map[string]*mCommit{}}
		r.repos[name] = repo
	}
	return repo
}

// anyCommit draws a commit of a repo; nil if it has none.
func (r *modelRun) anyCommit(t *rapid.T, repo *mRepo) *mCommit {
	if len(repo.commits) == 0 {
		return nil
	}
	return rapid.SampledFrom(repo.commits).Draw(t, "commit")
}

// begin opens a commit of the model on a branch.
func (repo *mRepo) begin(branch, id string, parent *mCommit) *mCommit {
	c := &mCommit{id: id, parent: parent, open: true}
	repo.branches[branch] = c
	repo.commits = append(repo.commits, c)
	return c
}

func (repo *mRepo) commitRef(c *mCommit) *pfspb.Commit {
	return &pfspb.Commit{Repo: repoOf(repo.name), Id: c.id}
}

func (r *modelRun) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"modify":       r.modify,
		"modify again": r.modify,
		"modify more":  r.modify,
		"abort":        r.abort,
		"start":        r.start,
		"finish":       r.finish,
		"clear":        r.clear,
		"squash":       r.squash,
		"drop":         r.drop,
		"retain":       r.retain,
		"branch":       r.branch,
		"unbranch":     r.unbranch,
		"delete repo":  r.deleteRepo,
		"read":         func(t *rapid.T) { r.read(t) },
		"read head":    r.readHead,
		"glob":         r.glob,
		"diff":         r.diff,
		"tar":          r.tar,
		"list":         r.list,
	}
}

// change is one operation of a stream, on the wire and in the model.
type change struct {
	messages []*pfspb.ModifyFileRequest
	apply    func(mTree)
}

func defaultDatum(d string) string {
	if d == "" {
		return "default"
	}
	return d
}

func (r *modelRun) drawChange(t *rapid.T) change {
	path, datum := modelPaths.Draw(t, "path"), modelDatums.Draw(t, "datum")
	key := defaultDatum(datum)
	add := func(data string) []*pfspb.ModifyFileRequest {
		var ms []*pfspb.ModifyFileRequest
		for _, piece := range []string{data[:len(data)/2], data[len(data)/2:]} {
			ms = append(ms, &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{
				Path: path, Datum: datum, Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes([]byte(piece))},
			}}})
		}
		return ms
	}
	remove := func(path, datum string) *pfspb.ModifyFileRequest {
		return &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_DeleteFile{DeleteFile: &pfspb.DeleteFile{Path: path, Datum: datum}}}
	}
	switch kind := rapid.SampledFrom([]string{"append", "append", "put", "put", "put", "delete", "delete tree", "copy"}).Draw(t, "kind"); kind {
	case "append":
		data := modelData.Draw(t, "data")
		return change{add(data), func(c mTree) { c.add(path, key, data) }}
	case "put":
		data := modelData.Draw(t, "data")
		return change{append([]*pfspb.ModifyFileRequest{remove(path, datum)}, add(data)...), func(c mTree) {
			c.remove(path, key)
			c.add(path, key, data)
		}}
	case "delete":
		return change{[]*pfspb.ModifyFileRequest{remove(path, datum)}, func(c mTree) { c.remove(path, key) }}
	case "copy":
		repo := r.repo(t)
		src := r.anyCommit(t, repo)
		if src == nil || src.open || !src.tree.valid() {
			return change{nil, func(mTree) {}}
		}
		from := rapid.OneOf(modelPaths, modelDirs).Draw(t, "from")
		appendTo := rapid.Bool().Draw(t, "append")
		tree := maps.Clone(src.tree)
		return change{[]*pfspb.ModifyFileRequest{{Body: &pfspb.ModifyFileRequest_CopyFile{CopyFile: &pfspb.CopyFile{
			Dst: path, Datum: datum, Append: appendTo, Src: &pfspb.File{Commit: repo.commitRef(src), Path: from},
		}}}}, func(c mTree) { c.copy(tree, strings.TrimSuffix(from, "/"), path, key, appendTo) }}
	default:
		dir := modelDirs.Draw(t, "dir")
		return change{[]*pfspb.ModifyFileRequest{remove(dir, "")}, func(c mTree) { c.remove(dir, "") }}
	}
}

// stream sends changes to a branch; it is half-closed only if it is to count.
func (r *modelRun) stream(repo *mRepo, branch string, changes []change, complete bool) error {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	s, err := r.m.ModifyFile(ctx)
	if err != nil {
		return err
	}
	messages := []*pfspb.ModifyFileRequest{{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: commitOf(repo.name + "@" + branch)}}}
	for _, c := range changes {
		messages = append(messages, c.messages...)
	}
	for _, m := range messages {
		if err := s.Send(m); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	if !complete {
		return nil
	}
	_, err = s.CloseAndRecv()
	return err
}

func (r *modelRun) drawChanges(t *rapid.T) []change {
	return rapid.SliceOfN(rapid.Custom(r.drawChange), 0, 4).Draw(t, "changes")
}

func (r *modelRun) modify(t *rapid.T) {
	repo, branch, changes := r.repo(t), modelBranches.Draw(t, "branch"), r.drawChanges(t)
	r.do(nil, r.stream(repo, branch, changes, true))
	head := repo.branches[branch]
	oneShot := head == nil || !head.open
	if oneShot {
		info, err := r.m.InspectCommit(r.ctx, &pfspb.InspectCommitRequest{Commit: commitOf(repo.name + "@" + branch), Wait: pfspb.CommitState_FINISHED})
		r.do(info, err)
		head = repo.begin(branch, info.Commit.Id, head)
	}
	for _, c := range changes {
		head.own = append(head.own, c.apply)
	}
	if oneShot {
		head.finish(false)
	}
	r.checkCommit(repo, head)
}

// abort sends a stream that never ends properly: nothing of it counts.
func (r *modelRun) abort(t *rapid.T) {
	repo, branch := r.repo(t), modelBranches.Draw(t, "branch")
	r.do(nil, r.stream(repo, branch, r.drawChanges(t), false))
	if head := repo.branches[branch]; head != nil {
		r.checkCommit(repo, head)
	}
}

func (r *modelRun) start(t *rapid.T) {
	repo, branch := r.repo(t), modelBranches.Draw(t, "branch")
	parent := repo.branches[branch]
	req := &pfspb.StartCommitRequest{Branch: branchOf(repo.name + "@" + branch)}
	if other := r.anyCommit(t, repo); other != nil && rapid.IntRange(0, 3).Draw(t, "fork") == 0 {
		parent, req.Parent = other, repo.commitRef(other)
	}
	c, err := r.m.StartCommit(r.ctx, req)
	if parent != nil && parent.open {
		r.refused(c, err, "has not been finished")
		return
	}
	r.do(c, err)
	r.checkCommit(repo, repo.begin(branch, c.Id, parent))
}

// openCommit finds an open commit; nil if there is none.
func (repo *mRepo) openCommit() *mCommit {
	for _, c := range repo.commits {
		if c.open {
			return c
		}
	}
	return nil
}

func (r *modelRun) finish(t *rapid.T) {
	repo := r.repo(t)
	c := repo.openCommit()
	if c == nil {
		if c = r.anyCommit(t, repo); c != nil {
			_, err := r.m.FinishCommit(r.ctx, &pfspb.FinishCommitRequest{Commit: repo.commitRef(c)})
			r.refused(nil, err, "has already finished")
		}
		return
	}
	req := &pfspb.FinishCommitRequest{Commit: repo.commitRef(c)}
	if rapid.IntRange(0, 4).Draw(t, "fail") == 0 {
		req.Error = "it was to fail"
	}
	r.do(r.m.FinishCommit(r.ctx, req))
	c.finish(req.Error != "")
	r.do(r.m.InspectCommit(r.ctx, &pfspb.InspectCommitRequest{Commit: repo.commitRef(c), Wait: pfspb.CommitState_FINISHED}))
	r.checkCommit(repo, c)
}

func (r *modelRun) clear(t *rapid.T) {
	repo := r.repo(t)
	if c := repo.openCommit(); c != nil {
		r.do(r.m.ClearCommit(r.ctx, &pfspb.ClearCommitRequest{Commit: repo.commitRef(c)}))
		c.own = nil
		r.checkCommit(repo, c)
	}
}

func (r *modelRun) squash(t *rapid.T) {
	repo := r.repo(t)
	c := r.anyCommit(t, repo)
	if c == nil {
		return
	}
	_, err := r.m.SquashCommit(r.ctx, &pfspb.SquashCommitRequest{Commit: repo.commitRef(c)})
	if !repo.canSquash(c) {
		r.refused(nil, err, "squash")
		return
	}
	r.do(nil, err)
	repo.remove(c)
	r.checkRepo(repo)
}

func (r *modelRun) drop(t *rapid.T) {
	repo := r.repo(t)
	c := r.anyCommit(t, repo)
	if c == nil {
		return
	}
	_, err := r.m.DropCommit(r.ctx, &pfspb.DropCommitRequest{Commit: repo.commitRef(c)})
	if len(repo.children(c)) > 0 {
		r.refused(nil, err, "cannot drop a commit that has children")
		return
	}
	r.do(nil, err)
	heads := repo.heads(c)
	repo.remove(c)
	for _, branch := range heads {
		repo.branches[branch] = c.parent
		if c.parent != nil {
			continue
		}
		// Without a parent there is a new empty commit; branches may share it.
		info, err := r.m.InspectCommit(r.ctx, &pfspb.InspectCommitRequest{Commit: commitOf(repo.name + "@" + branch), Wait: pfspb.CommitState_FINISHED})
		r.do(info, err)
		i := slices.IndexFunc(repo.commits, func(x *mCommit) bool { return x.id == info.Commit.Id })
		if i < 0 {
			repo.begin(branch, info.Commit.Id, nil).finish(false)
			continue
		}
		repo.branches[branch] = repo.commits[i]
	}
	r.checkRepo(repo)
}

// checkRepo compares the commits of a repo, and what each holds.
func (r *modelRun) checkRepo(repo *mRepo) {
	r.Helper()
	infos, err := all(r.m.ListCommit(r.ctx, &pfspb.ListCommitRequest{Repo: repoOf(repo.name), All: true, Reverse: true}))
	r.do(infos, err)
	var want []string
	for _, c := range repo.commits {
		want = append(want, c.id)
	}
	if diff := cmp.Diff(want, ids(infos), cmpopts.EquateEmpty()); diff != "" {
		r.Fatalf("commits of %s (-want +got):\n%s", repo.name, diff)
	}
	for _, c := range repo.commits {
		r.checkCommit(repo, c)
	}
}

// branch sets a branch to some commit.
func (r *modelRun) branch(t *rapid.T) {
	repo, branch := r.repo(t), modelBranches.Draw(t, "branch")
	if c := r.anyCommit(t, repo); c != nil {
		r.do(r.m.CreateBranch(r.ctx, &pfspb.CreateBranchRequest{Branch: branchOf(repo.name + "@" + branch), Head: repo.commitRef(c)}))
		repo.branches[branch] = c
	}
}

func (r *modelRun) unbranch(t *rapid.T) {
	repo, branch := r.repo(t), modelBranches.Draw(t, "branch")
	_, err := r.m.DeleteBranch(r.ctx, &pfspb.DeleteBranchRequest{Branch: branchOf(repo.name + "@" + branch)})
	if repo.branches[branch] == nil {
		r.refused(nil, err, "not found in repo")
		return
	}
	r.do(nil, err)
	delete(repo.branches, branch)
}

func (r *modelRun) deleteRepo(t *rapid.T) {
	if rapid.IntRange(0, 5).Draw(t, "really") > 0 {
		return
	}
	repo := r.repo(t)
	r.do(r.m.DeleteRepo(r.ctx, &pfspb.DeleteRepoRequest{Repo: repoOf(repo.name)}))
	delete(r.repos, repo.name)
}
