package pfs

import (
	"iter"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// farParent is how many commits of other branches line passes over before it
// looks the parent up by its id.
const farParent = 64

// line yields a commit, its parent, and so on to the root.
func (tx *Txn) line(rec *recordpb.CommitRecord) iter.Seq2[*recordpb.CommitRecord, error] {
	return func(yield func(*recordpb.CommitRecord, error) bool) {
		repo := rec.Info.Commit.Repo
		if !yield(rec, nil) {
			return
		}
		c := newCursor(repo, false, rec.Order, cursorPage)
		for skipped := 0; rec.Info.ParentCommit != nil; {
			wanted := rec.Info.ParentCommit.Id
			next, err := c.next(tx)
			if err == nil && next != nil && next.Info.Commit.Id != wanted && skipped < farParent {
				skipped++
				continue
			}
			if err == nil && (next == nil || next.Info.Commit.Id != wanted) {
				if next, err = tx.commit(repo, wanted); err == nil {
					c = newCursor(repo, false, next.Order, cursorPage)
				}
			}
			if err != nil {
				yield(nil, err)
				return
			}
			skipped, rec = 0, next
			if !yield(rec, nil) {
				return
			}
		}
	}
}

// lineWalk follows a line of parents in pages, each at a snapshot of its own.
type lineWalk struct {
	repo  *pfspb.Repo
	at    string // id of the next commit, "" at the end
	first string // id of the one it began with, "" at the start
	last  string // id of the one before at
	order string // that one's
}

// page returns the next commits, n at most, and whether there are more.
func (l *lineWalk) page(tx *Txn, n int) (recs []*recordpb.CommitRecord, more bool, err error) {
	next, err := l.next(tx)
	if err != nil {
		return nil, false, err
	}
	if next == nil {
		l.at = ""
		return nil, false, nil
	}
	for rec, err := range tx.line(next) {
		if err != nil {
			return nil, false, err
		}
		recs = append(recs, rec)
		if len(recs) == n {
			break
		}
	}
	if l.first == "" {
		l.first = recs[0].Info.Commit.Id
	}
	l.pass(recs[len(recs)-1])
	return recs, l.at != "", nil
}

// pass goes on after a commit of the newest page.
func (l *lineWalk) pass(rec *recordpb.CommitRecord) {
	l.last, l.order, l.at = rec.Info.Commit.Id, rec.Order, rec.Info.ParentCommit.GetId()
}

// next reads the commit to go on with; nil at the end. If it was squashed since
// the last page, the one that took its place.
func (l *lineWalk) next(tx *Txn) (*recordpb.CommitRecord, error) {
	if l.at == "" {
		return nil, nil
	}
	rec, ok, err := tx.lookup(l.repo, l.at)
	if err != nil || ok {
		return rec, err
	}
	for _, id := range []string{l.last, l.first} {
		if id == "" {
			continue
		}
		above, ok, err := tx.lookup(l.repo, id)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue // squashed as well
		}
		for rec, err := range tx.line(above) {
			if err != nil || rec.Order < l.order {
				return rec, err
			}
		}
		return nil, nil
	}
	return nil, &CommitNotFoundError{Commit: &pfspb.Commit{Repo: l.repo, Id: l.at}}
}
