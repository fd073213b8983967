package pfs

import (
	"strings"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// Which commits were made on a commit stands in two places: the first one in the id
// index, behind the commit's order, and others below its child key. Nearly all commits have one
// child, and a key of its own takes more of etcd's memory than the few bytes do there.

// idValue is what the id index has of a commit.
func idValue(order, firstChild string) []byte {
	if firstChild == "" {
		return []byte(order)
	}
	return []byte(order + " " + firstChild)
}

// parseIDValue is the inverse of idValue.
func parseIDValue(value []byte) (order, firstChild string) {
	order, firstChild, _ = strings.Cut(string(value), " ")
	return order, firstChild
}

// addChild records that child was made on parent. The transaction conflicts with one
// that removes the parent.
func (tx *Txn) addChild(repo *pfspb.Repo, parent, child string) error {
	key := idKey(parent, repo)
	value, ok, err := tx.Get(key)
	if err != nil {
		return err
	}
	if order, first := parseIDValue(value); ok && first == "" {
		tx.Put(key, idValue(order, child))
	} else {
		tx.Put(childKey(repo, parent, child), nil)
	}
	return nil
}

// dropChild is the opposite of addChild. The parent may be gone.
func (tx *Txn) dropChild(repo *pfspb.Repo, parent, child string) error {
	key := idKey(parent, repo)
	value, ok, err := tx.Get(key)
	if err != nil {
		return err
	}
	if order, first := parseIDValue(value); ok && first == child {
		tx.Put(key, idValue(order, ""))
	} else {
		tx.Delete(childKey(repo, parent, child))
	}
	return nil
}

// hasChild tells whether the index has child among those made on parent.
func (tx *Txn) hasChild(repo *pfspb.Repo, parent, child string) (bool, error) {
	values, err := tx.GetMulti([]string{idKey(parent, repo), childKey(repo, parent, child)}, false)
	if err != nil {
		return false, err
	}
	_, first := parseIDValue(values[0])
	return first == child || values[1] != nil, nil
}

// childIDs gives the ids of the commits made on each of some, own writes included. With
// check the transaction commits only if none has been made on them meanwhile.
func (tx *Txn) childIDs(commits []*pfspb.Commit, check bool) ([][]string, error) {
	prefixes := make([]string, len(commits))
	for i, c := range commits {
		prefixes[i] = childKey(c.Repo, c.Id, "")
	}
	more, err := tx.Below(prefixes, check)
	if err != nil {
		return nil, err
	}
	return more, tx.addFirst(commits, more, check)
}

// addFirst puts the first child of each commit before the others.
func (tx *Txn) addFirst(commits []*pfspb.Commit, children [][]string, check bool) error {
	keys := make([]string, len(commits))
	for i, c := range commits {
		keys[i] = idKey(c.Id, c.Repo)
	}
	values, err := tx.GetMulti(keys, !check)
	if err != nil {
		return err
	}
	for i, value := range values {
		if _, first := parseIDValue(value); first != "" {
			children[i] = append([]string{first}, children[i]...)
		}
	}
	return nil
}
