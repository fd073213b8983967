package pfs

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	"github.com/minipachd/minipachd/store"
)

// fork makes a finished commit on parent, the first one of a branch.
func (m *metaServer) fork(name string, parent *pfspb.Commit) *pfspb.Commit {
	m.t.Helper()
	c, err := m.StartCommit(limit(m.t), &pfspb.StartCommitRequest{Branch: branchOf(name), Parent: parent})
	m.must(c, err)
	m.finishWith(c, "")
	return c
}

// wantChildren compares the children of a commit, in any order.
func (m *metaServer) wantChildren(c *pfspb.Commit, want ...*pfspb.Commit) {
	m.t.Helper()
	var got, ids []string
	for _, child := range m.inspect(c).ChildCommits {
		got = append(got, child.Id)
	}
	for _, child := range want {
		ids = append(ids, child.Id)
	}
	slices.Sort(got)
	slices.Sort(ids)
	if diff := cmp.Diff(ids, got); diff != "" {
		m.t.Errorf("children (-want +got):\n%s", diff)
	}
}

func TestChildren_ComeAndGo(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	root := m.put("r@master", "/f", "x")
	middle := m.put("r@master", "/g", "x")
	a, b, c := m.fork("r@a", middle), m.fork("r@b", middle), m.fork("r@c", middle)
	m.wantChildren(middle, a, b, c)
	m.must(nil, m.drop(a, false)) // the first one
	m.wantChildren(middle, b, c)
	d := m.fork("r@d", middle)
	m.wantChildren(middle, b, c, d)
	m.must(nil, m.drop(c, false))
	m.wantChildren(middle, b, d)
	m.sound()

	next := m.put("r@master", "/h", "x")
	for _, branch := range []string{"r@a", "r@c"} { // they went back to middle
		m.must(m.DeleteBranch(limit(t), &pfspb.DeleteBranchRequest{Branch: branchOf(branch)}))
	}
	m.must(nil, m.squash(middle, false))
	m.wantChildren(root, b, d, next)
	m.wantFiles("r@b", "/f=x /g=x")
	m.sound()
	for _, name := range []string{"r@b", "r@d", "r@master"} {
		m.must(nil, m.drop(m.head(name), false))
	}
	m.wantChildren(root)
	m.sound()
}

// TestChildren_WhoRemovesTheParentHears has a commit made on another while a transaction that
// depends on its having no such child is under way.
func TestChildren_WhoRemovesTheParentHears(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	parent := m.put("r@master", "/f", "x")
	normal := &pfspb.Commit{Repo: normalRepoOf("r"), Id: parent.Id}
	for had, branch := range []string{"r@first", "r@second"} {
		var seen []int
		_, err := m.svc.store.Update(limit(t), func(stx *store.Txn) error {
			tx := m.svc.newTxn(stx)
			children, err := tx.children(normal)
			if err != nil {
				return err
			}
			if seen = append(seen, len(children)); len(seen) == 1 {
				m.fork(branch, parent)
			}
			tx.Put("test", []byte(branch))
			return nil
		})
		m.must(nil, err)
		if diff := cmp.Diff([]int{had, had + 1}, seen); diff != "" {
			t.Errorf("%s: children seen in each attempt (-want +got):\n%s", branch, diff)
		}
	}
}

// TestChildren_AllBelowKeys is of a store in which the only child has a key of its own too.
func TestChildren_AllBelowKeys(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	var line []*pfspb.Commit
	for range 3 {
		line = append(line, m.put("r@master", "/f", "x"))
	}
	repo := normalRepoOf("r")
	_, err := m.svc.store.Update(limit(t), func(tx *store.Txn) error {
		for i, c := range line[:2] {
			value, _, err := tx.Get(idKey(c.Id, repo))
			if err != nil {
				return err
			}
			order, child := parseIDValue(value)
			if child != line[i+1].Id {
				t.Errorf("the index has the child %q of commit %d", child, i)
			}
			tx.Put(idKey(c.Id, repo), idValue(order, ""))
			tx.Put(childKey(repo, c.Id, child), nil)
		}
		return nil
	})
	m.must(nil, err)
	m.sound()
	m.wantChildren(line[0], line[1])
	m.must(nil, m.squash(line[1], false))
	m.wantChildren(line[0], line[2])
	m.sound()
	m.must(nil, m.drop(line[2], false))
	m.wantChildren(line[0])
	m.sound()
}
