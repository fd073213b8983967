package pfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/minipachd/minipachd/pfs/glob"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// checkCommit compares what a commit is and all that a walk of it finds.
func (r *modelRun) checkCommit(repo *mRepo, c *mCommit) {
	r.Helper()
	tree := c.content()
	info, err := r.m.InspectCommit(r.ctx, &pfspb.InspectCommitRequest{Commit: repo.commitRef(c)})
	r.do(info, err)
	if open := info.Finishing == nil; open != c.open || (info.Error != "") != c.failed {
		r.Fatalf("commit %s: open %v, error %q; want open %v, failed %v", c.id, open, info.Error, c.open, c.failed)
	}
	if !tree.valid() {
		return
	}
	if got, want := info.GetDetails().GetSizeBytes(), tree.size("/"); !c.open && got != want {
		r.Fatalf("commit %s has %d bytes, want %d", c.id, got, want)
	}
	infos, err := all(r.m.WalkFile(r.ctx, &pfspb.WalkFileRequest{File: &pfspb.File{Commit: repo.commitRef(c), Path: "/"}}))
	r.do(infos, err)
	want := tree.paths()
	if diff := cmp.Diff(want, filePaths(infos)); diff != "" {
		r.Fatalf("walk of %s (-want +got):\n%s", c.id, diff)
	}
	for _, info := range infos {
		r.checkInfo(tree, info)
	}
}

func filePaths(infos []*pfspb.FileInfo) []string {
	var paths []string
	for _, info := range infos {
		paths = append(paths, info.File.Path)
	}
	return paths
}

// checkInfo compares size and hash: equal content has one hash, in any commit.
func (r *modelRun) checkInfo(tree mTree, info *pfspb.FileInfo) {
	r.Helper()
	path := info.File.Path
	if want := tree.size(path); info.SizeBytes != want {
		r.Fatalf("%s has %d bytes, want %d", path, info.SizeBytes, want)
	}
	content, ok := tree.file(path)
	content = "file " + content
	if !ok {
		content = "dir"
		for _, p := range tree.paths() {
			if rest, inside := strings.CutPrefix(p, path); inside {
				data, _ := tree.file(p)
				content += "\n" + rest + ":" + data
			}
		}
	}
	hash := string(info.Hash)
	if known, ok := r.hashes[content]; ok && known != hash {
		r.Fatalf("%s: one content, two hashes", path)
	}
	r.hashes[content] = hash
}

func (r *modelRun) read(t *rapid.T) {
	repo := r.repo(t)
	c := r.anyCommit(t, repo)
	if c == nil || !c.content().valid() {
		return
	}
	path := modelPaths.Draw(t, "path")
	r.checkRead(t, repo.commitRef(c), c.content(), path)
}

func (r *modelRun) readHead(t *rapid.T) {
	repo, branch := r.repo(t), modelBranches.Draw(t, "branch")
	c := repo.branches[branch]
	if c == nil || !c.content().valid() {
		return
	}
	r.checkRead(t, commitOf(repo.name+"@"+branch), c.content(), modelPaths.Draw(t, "path"))
	infos, err := all(r.m.ListCommit(r.ctx, &pfspb.ListCommitRequest{Repo: repoOf(repo.name), To: commitOf(repo.name + "@" + branch)}))
	r.do(infos, err)
	if diff := cmp.Diff(c.line(), ids(infos)); diff != "" {
		r.Fatalf("line of %s (-want +got):\n%s", c.id, diff)
	}
}

func (r *modelRun) checkRead(t *rapid.T, c *pfspb.Commit, tree mTree, path string) {
	file := &pfspb.File{Commit: c, Path: path}
	want, ok := tree.file(path)
	info, err := r.m.InspectFile(r.ctx, &pfspb.InspectFileRequest{File: file})
	if !ok && !slices.Contains(tree.paths(), path+"/") {
		r.refused(info, err, "not found in repo")
		return
	}
	r.do(info, err)
	r.checkInfo(tree, info)
	offset := rapid.Int64Range(0, int64(len(want))).Draw(t, "offset")
	pieces, err := all(r.m.GetFile(r.ctx, &pfspb.GetFileRequest{File: file, Offset: offset}))
	if !ok {
		r.refused(pieces, err, "Use GetFileTAR instead")
		return
	}
	r.do(pieces, err)
	var got bytes.Buffer
	for _, p := range pieces {
		got.Write(p.Value)
	}
	if got.String() != want[offset:] {
		r.Fatalf("%s from %d: %d bytes, want %d, or others", path, offset, got.Len(), int64(len(want))-offset)
	}
}

func (r *modelRun) list(t *rapid.T) {
	repo := r.repo(t)
	c := r.anyCommit(t, repo)
	if c == nil || !c.content().valid() {
		return
	}
	dir := modelDirs.Draw(t, "dir")
	want := c.content().children(dir)
	req := &pfspb.ListFileRequest{File: &pfspb.File{Commit: repo.commitRef(c), Path: dir}}
	if req.Number = rapid.Int64Range(0, 3).Draw(t, "number"); req.Number > 0 {
		if req.Reverse = rapid.Bool().Draw(t, "reverse"); req.Reverse {
			slices.Reverse(want)
		}
		want = want[:min(len(want), int(req.Number))]
	}
	infos, err := all(r.m.ListFile(r.ctx, req))
	r.do(infos, err)
	if _, isFile := c.content().file(strings.TrimSuffix(dir, "/")); isFile {
		want = []string{strings.TrimSuffix(dir, "/")}
	}
	if diff := cmp.Diff(want, filePaths(infos)); diff != "" {
		r.Fatalf("list %s of %s (-want +got):\n%s", dir, c.id, diff)
	}
}

func (r *modelRun) tar(t *rapid.T) {
	repo := r.repo(t)
	c := r.anyCommit(t, repo)
	if c == nil || !c.content().valid() || len(c.content()) == 0 {
		return
	}
	tree := c.content()
	pieces, err := all(r.m.GetFileTAR(r.ctx, &pfspb.GetFileRequest{File: &pfspb.File{Commit: repo.commitRef(c), Path: "/"}}))
	r.do(pieces, err)
	var buf bytes.Buffer
	for _, p := range pieces {
		buf.Write(p.Value)
	}
	tr := tar.NewReader(&buf)
	var got []string
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		r.do(h, err)
		got = append(got, h.Name)
		data, err := io.ReadAll(tr)
		r.do(data, err)
		if want, _ := tree.file(h.Name); string(data) != want {
			r.Fatalf("tar entry %s has %d bytes, want %d, or others", h.Name, len(data), len(want))
		}
	}
	if diff := cmp.Diff(tree.paths(), got); diff != "" {
		r.Fatalf("tar of %s (-want +got):\n%s", c.id, diff)
	}
}

func (r *modelRun) diff(t *rapid.T) {
	repo := r.repo(t)
	a, b := r.anyCommit(t, repo), r.anyCommit(t, repo)
	if a == nil || !a.content().valid() || !b.content().valid() {
		return
	}
	root := func(c *mCommit) *pfspb.File { return &pfspb.File{Commit: repo.commitRef(c), Path: "/"} }
	pairs, err := all(r.m.DiffFile(r.ctx, &pfspb.DiffFileRequest{NewFile: root(a), OldFile: root(b)}))
	r.do(pairs, err)
	var got []string
	for _, p := range pairs {
		got = append(got, p.GetOldFile().GetFile().GetPath()+" "+p.GetNewFile().GetFile().GetPath())
	}
	newTree, oldTree := a.content(), b.content()
	var want []string
	for _, p := range slices.Sorted(maps.Keys(union(oldTree.paths(), newTree.paths()))) {
		inOld, inNew := slices.Contains(oldTree.paths(), p), slices.Contains(newTree.paths(), p)
		switch {
		case !inNew:
			want = append(want, p+" ")
		case !inOld:
			want = append(want, " "+p)
		case !sameBelow(oldTree, newTree, p):
			want = append(want, p+" "+p)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.Fatalf("diff of %s and %s (-want +got):\n%s", b.id, a.id, diff)
	}
}

func union(lists ...[]string) map[string]bool {
	u := map[string]bool{}
	for _, l := range lists {
		for _, s := range l {
			u[s] = true
		}
	}
	return u
}

// sameBelow tells whether two trees agree on a file, or on all in a directory.
func sameBelow(a, b mTree, path string) bool {
	cut := func(t mTree) map[string]string {
		m := map[string]string{}
		for k, v := range t {
			if k.path == path || strings.HasSuffix(path, "/") && strings.HasPrefix(k.path, path) {
				m[k.path] = v
			}
		}
		return m
	}
	return maps.Equal(cut(a), cut(b))
}

// glob compares what a pattern matches; package glob is tested by itself against
// a naive matcher, here it says which paths to expect.
func (r *modelRun) glob(t *rapid.T) {
	repo := r.repo(t)
	c := r.anyCommit(t, repo)
	if c == nil || !c.content().valid() {
		return
	}
	pattern := modelGlobs.Draw(t, "pattern")
	infos, err := all(r.m.GlobFile(r.ctx, &pfspb.GlobFileRequest{Commit: repo.commitRef(c), Pattern: pattern}))
	r.do(infos, err)
	g, err := glob.Compile(pattern)
	r.do(g, err)
	var want []string
	for _, p := range c.content().paths() {
		if g.Match(p) {
			want = append(want, p)
		}
	}
	if diff := cmp.Diff(want, filePaths(infos)); diff != "" {
		r.Fatalf("glob %s of %s (-want +got):\n%s", pattern, c.id, diff)
	}
}
