package pfs

import (
	"fmt"
	"slices"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// lineage is what has to be known of some commits of one repo to remove them from
// between their parents and children. All of it is read at the start, in a few
// round trips; what is squashed then changes it, and reaches the transaction by write:
// a child that is left is stored once, however many commits above it went.
//
// The transaction conflicts with changes to these commits and to their children, and
// with new children.
type lineage struct {
	tx       *Txn
	repo     *pfspb.Repo
	recs     map[string]*recordpb.CommitRecord // by id: the commits and all that decide about them
	children map[string][]string               // ids by id, as far as known
	heads    map[string][]*pfspb.Branch        // branches by the id of their head
	stored   map[string]*pfspb.Commit          // parents, as etcd has them, of commits that got another
	gone     []*recordpb.CommitRecord
}

// lineage reads that of commits of one repo.
func (tx *Txn) lineage(repo *pfspb.Repo, recs []*recordpb.CommitRecord) (*lineage, error) {
	l := &lineage{
		tx: tx, repo: repo,
		recs: map[string]*recordpb.CommitRecord{}, children: map[string][]string{},
		heads: map[string][]*pfspb.Branch{}, stored: map[string]*pfspb.Commit{},
	}
	for _, rec := range recs {
		l.recs[rec.Info.Commit.Id] = rec
	}
	for todo := recs; len(todo) > 0; {
		found, err := l.loadChildren(todo)
		if err != nil {
			return nil, err
		}
		// What is made on a commit with an error begins with what lies below that.
		todo = slices.DeleteFunc(found, func(rec *recordpb.CommitRecord) bool { return rec.Info.Error == "" })
	}
	for item, err := range tx.s.branches.Scan(tx.Txn, repoKey(repo)+"/", store.ScanOptions{}) {
		if err != nil {
			return nil, err
		}
		id := item.Value.Info.Head.GetId()
		l.heads[id] = append(l.heads[id], item.Value.Info.Branch)
	}
	return l, nil
}

// loadChildren reads the children of commits, and returns those that were not known.
func (l *lineage) loadChildren(recs []*recordpb.CommitRecord) ([]*recordpb.CommitRecord, error) {
	commits := make([]*pfspb.Commit, len(recs))
	for i, rec := range recs {
		commits[i] = rec.Info.Commit
	}
	below, err := l.tx.childIDs(commits, true)
	if err != nil {
		return nil, err
	}
	var unknown []string
	for i, rec := range recs {
		l.children[rec.Info.Commit.Id] = below[i]
		for _, id := range below[i] {
			if l.recs[id] == nil {
				unknown = append(unknown, id)
			}
		}
	}
	found, err := l.tx.commits(l.repo, unknown)
	for _, rec := range found {
		l.recs[rec.Info.Commit.Id] = rec
	}
	return found, err
}

// commits is commit for several, in a few round trips.
func (tx *Txn) commits(repo *pfspb.Repo, ids []string) ([]*recordpb.CommitRecord, error) {
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = idKey(id, repo)
	}
	orders, err := tx.GetMulti(keys, true)
	if err != nil {
		return nil, err
	}
	keys = keys[:0]
	for _, value := range orders {
		if order, _ := parseIDValue(value); order != "" {
			keys = append(keys, commitPrefix+commitKey(repo, order))
		}
	}
	if _, err := tx.GetMulti(keys, false); err != nil {
		return nil, err
	}
	recs := make([]*recordpb.CommitRecord, len(ids))
	for i, id := range ids {
		if recs[i], err = tx.commit(repo, id); err != nil { // read by now
			return nil, err
		}
	}
	return recs, nil
}

// reliant returns the commits whose content begins with that of rec: its
// children, and instead of one with an error, which children skip, also the
// children of that. ends are those with an error and without children: what is
// made on them in future will begin with rec too.
func (l *lineage) reliant(rec *recordpb.CommitRecord) (all, ends []*recordpb.CommitRecord) {
	for todo := l.children[rec.Info.Commit.Id]; len(todo) > 0; {
		c := l.recs[todo[0]]
		todo = todo[1:]
		all = append(all, c)
		if c.Info.Error == "" || rec.Info.Error != "" {
			continue
		}
		more := l.children[c.Info.Commit.Id]
		if len(more) == 0 {
			ends = append(ends, c)
		}
		todo = slices.Concat(todo, more)
	}
	return all, ends
}

// nextOn returns the branches on which a next commit would begin with the content of
// rec: those at rec itself and at commits with an error, which children skip, out of
// those that reliant found.
func (l *lineage) nextOn(rec *recordpb.CommitRecord, all []*recordpb.CommitRecord) []*pfspb.Branch {
	at := slices.Clone(l.heads[rec.Info.Commit.Id])
	for _, c := range all {
		if c.Info.Error != "" && rec.Info.Error == "" {
			at = append(at, l.heads[c.Info.Commit.Id]...)
		}
	}
	return at
}

// squash removes one of the commits, whose children become those of its parent. What a
// branch holds, or would hold next, never changes by it; where it would, the commit
// stays, and the error says why.
func (l *lineage) squash(rec *recordpb.CommitRecord) error {
	c := rec.Info.Commit
	all, ends := l.reliant(rec)
	if len(l.children[c.Id]) == 0 || len(ends) > 0 {
		return fmt.Errorf("cannot squash a commit that has no children as that would cause data loss, use the drop operation instead: %s", CommitName(c))
	}
	for _, child := range all {
		if state(child.Info) != pfspb.CommitState_FINISHED {
			return fmt.Errorf("cannot squash until child commit %s is finished", CommitName(child.Info.Commit))
		}
	}
	if at := l.nextOn(rec, all); len(at) > 0 {
		return fmt.Errorf("cannot squash commit %s because the next commits on branches [%s] would lose its data: move or delete them first", CommitName(c), joinBranches(at))
	}
	parent := rec.Info.ParentCommit
	for _, id := range l.children[c.Id] {
		child := l.recs[id]
		if _, ok := l.stored[id]; !ok {
			l.stored[id] = child.Info.ParentCommit
		}
		child.Info.ParentCommit = parent
	}
	if siblings, ok := l.children[parent.GetId()]; ok {
		siblings = slices.DeleteFunc(slices.Clone(siblings), func(id string) bool { return id == c.Id })
		l.children[parent.GetId()] = append(siblings, l.children[c.Id]...)
	}
	delete(l.children, c.Id)
	l.gone = append(l.gone, rec)
	return nil
}

// write stores what was squashed.
func (l *lineage) write() error {
	if len(l.gone) == 0 {
		return nil
	}
	for _, rec := range l.gone {
		id := rec.Info.Commit.Id
		if parent, ok := l.stored[id]; ok {
			rec.Info.ParentCommit = parent
			delete(l.stored, id)
		}
		if err := l.tx.removeCommit(rec); err != nil {
			return err
		}
	}
	for id, was := range l.stored {
		child := l.recs[id]
		if err := l.tx.dropChild(l.repo, was.Id, id); err != nil {
			return err
		}
		if parent := child.Info.ParentCommit; parent != nil {
			// Read only to conflict with a transaction that removes it.
			if _, err := l.tx.commit(l.repo, parent.Id); err != nil {
				return err
			}
			if err := l.tx.addChild(l.repo, parent.Id, id); err != nil {
				return err
			}
		}
		if err := l.tx.putCommit(child); err != nil {
			return err
		}
	}
	l.tx.Put(squashedKey(l.repo), []byte(l.tx.NewID()))
	return nil
}
