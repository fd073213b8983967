package pfs

import (
	"maps"
	"slices"
	"strings"
)

// The model is what PFS promises, in memory and without anything clever: every
// commit holds a copy of all of its files.

// mKey names one file of one datum.
type mKey struct{ path, datum string }

// mTree is the content of a commit.
type mTree map[mKey]string

// mCommit is a commit of the model.
type mCommit struct {
	id     string
	parent *mCommit
	open   bool
	failed bool // it has an error: children do not build on it
	own    []func(mTree)
	tree   mTree // when finished
}

// mRepo is a repo of the model; branches name their heads.
type mRepo struct {
	name     string
	branches map[string]*mCommit
	commits  []*mCommit // in the order they were started
}

// base is what a commit builds on: the nearest ancestor without an error.
func (c *mCommit) base() mTree {
	for p := c.parent; p != nil; p = p.parent {
		if !p.failed {
			return p.content()
		}
	}
	return mTree{}
}

// content is what reading a commit gives.
func (c *mCommit) content() mTree {
	if !c.open {
		return c.tree
	}
	t := maps.Clone(c.base())
	for _, f := range c.own {
		f(t)
	}
	return t
}

// finish closes a commit; one whose files collide has an error.
func (c *mCommit) finish(failed bool) {
	c.tree = c.content()
	c.open, c.failed = false, failed || !c.tree.valid()
}

// size is the sum of all files below a directory, or of one file.
func (t mTree) size(path string) (n int64) {
	for k, v := range t {
		if k.path == path || strings.HasSuffix(path, "/") && strings.HasPrefix(k.path, path) {
			n += int64(len(v))
		}
	}
	return n
}

// paths lists what a walk finds: files, and directories with a slash, root
// included, in order.
func (t mTree) paths() []string {
	seen := map[string]bool{}
	for k := range t {
		seen[k.path] = true
		for i, r := range k.path {
			if r == '/' {
				seen[k.path[:i+1]] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// valid tells whether no path is a file twice or a file and a directory.
func (t mTree) valid() bool {
	paths := t.paths()
	files := map[string]int{}
	for k := range t {
		if files[k.path]++; files[k.path] > 1 {
			return false
		}
	}
	for _, p := range paths {
		if dir, ok := strings.CutSuffix(p, "/"); ok && files[dir] > 0 {
			return false
		}
	}
	return true
}

// file gives the content of a path in a valid tree.
func (t mTree) file(path string) (string, bool) {
	for k, v := range t {
		if k.path == path {
			return v, true
		}
	}
	return "", false
}

// children lists what is directly in a directory.
func (t mTree) children(dir string) []string {
	var found []string
	for _, p := range t.paths() {
		rest, ok := strings.CutPrefix(p, dir)
		if ok && rest != "" && !strings.Contains(strings.TrimSuffix(rest, "/"), "/") {
			found = append(found, p)
		}
	}
	return found
}

// add appends data to a file.
func (t mTree) add(path, datum, data string) { t[mKey{path, datum}] += data }

// remove deletes a file of one datum, or all below a directory.
func (t mTree) remove(path, datum string) {
	if !strings.HasSuffix(path, "/") {
		delete(t, mKey{path, datum})
		return
	}
	for k := range t {
		if strings.HasPrefix(k.path, path) {
			delete(t, k)
		}
	}
}

// copy copies a file or a directory of another tree.
func (t mTree) copy(src mTree, from, to, datum string, appendTo bool) {
	put := func(path, data string) {
		if !appendTo {
			t.remove(path, datum)
		}
		t.add(path, datum, data)
	}
	if data, ok := src.file(from); ok {
		put(to, data)
		return
	}
	dir := strings.TrimSuffix(from, "/") + "/"
	keys := slices.SortedFunc(maps.Keys(src), func(a, b mKey) int { return strings.Compare(a.path, b.path) })
	for _, k := range keys {
		if rest, ok := strings.CutPrefix(k.path, dir); ok {
			put(strings.TrimSuffix(to, "/")+"/"+rest, src[k])
		}
	}
}

// children are the commits whose parent is c.
func (repo *mRepo) children(c *mCommit) []*mCommit {
	var found []*mCommit
	for _, x := range repo.commits {
		if x.parent == c {
			found = append(found, x)
		}
	}
	return found
}

// heads are the branches that have c as their head.
func (repo *mRepo) heads(c *mCommit) []string {
	var names []string
	for name, head := range repo.branches {
		if head == c {
			names = append(names, name)
		}
	}
	return slices.Sorted(slices.Values(names))
}

// canSquash tells whether a commit may go without any data of a branch going.
func (repo *mRepo) canSquash(c *mCommit) bool {
	children := repo.children(c)
	if len(children) == 0 || len(repo.heads(c)) > 0 {
		return false
	}
	return repo.holdsAll(c, children)
}

// holdsAll tells whether commits, the children of c or those of failed children,
// keep what c has: they are finished, and no line of failed ones ends there or has
// a branch, since what is made there would begin with c.
func (repo *mRepo) holdsAll(c *mCommit, commits []*mCommit) bool {
	for _, x := range commits {
		if x.open {
			return false
		}
		if c.failed || !x.failed {
			continue
		}
		if next := repo.children(x); len(next) == 0 || len(repo.heads(x)) > 0 || !repo.holdsAll(c, next) {
			return false
		}
	}
	return true
}

// remove takes a commit out; its children become those of its parent.
func (repo *mRepo) remove(c *mCommit) {
	for _, x := range repo.children(c) {
		x.parent = c.parent
	}
	repo.commits = slices.DeleteFunc(repo.commits, func(x *mCommit) bool { return x == c })
}

// line is a commit and all its ancestors, newest first.
func (c *mCommit) line() []string {
	var ids []string
	for ; c != nil; c = c.parent {
		ids = append(ids, c.id)
	}
	return ids
}
