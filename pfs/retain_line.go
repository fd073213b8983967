package pfs

import (
	"fmt"
	"slices"
	"time"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// markEvery is how many finished commits lie between two marks at least.
const markEvery = 128

// lineMark is a finished commit of a line with the number of finished ones above it.
type lineMark struct {
	id, order string
	finished  time.Time
	depth     int64
}

// lineMarks are some commits of a line, newest first; the first is its newest finished one.
type lineMarks []lineMark

// add takes in the next commit down the line, if so many are between it and the last.
func (m *lineMarks) add(c lineMark, every int64) {
	if n := len(*m); n == 0 || c.depth >= (*m)[n-1].depth+every {
		*m = append(*m, c)
	}
}

// from returns the marks from a commit on down, with the depths that follow from the
// one that it has now; nil if it is none of them.
func (m lineMarks) from(c lineMark) lineMarks {
	i := slices.IndexFunc(m, func(mark lineMark) bool { return mark.id == c.id })
	if i < 0 {
		return nil
	}
	rest := slices.Clone(m[i:])
	shift := c.depth - rest[0].depth
	for i := range rest {
		rest[i].depth += shift
	}
	return rest
}

// last is the number of the lowest of the marks that is kept, -1 if none is. All above
// one that is kept are.
func (m lineMarks) last(kept func(lineMark) bool) int {
	for i := range m {
		if !kept(m[i]) {
			return i - 1
		}
	}
	return len(m) - 1
}

// join puts the marks of what is newer above those known before. The first of these
// was the top, however near the next may be.
func (m lineMarks) join(known lineMarks, every int64) lineMarks {
	if len(m) > 0 && len(known) > 1 && known[1].depth < known[0].depth+every {
		known = known[1:]
	}
	return append(m, known...)
}

// expired reads commits again that a walk along a branch has found, leaving out those
// that are gone. A reason says of one why it must stay, though its children would keep
// its data.
func (tx *Txn) expired(branch *pfspb.Branch, found []*recordpb.CommitRecord) (recs []*recordpb.CommitRecord, reasons []error, err error) {
	keys := make([]string, len(found))
	for i, rec := range found {
		keys[i] = commitPrefix + commitKey(branch.Repo, rec.Order)
	}
	if _, err := tx.GetMulti(keys, false); err != nil {
		return nil, nil, err
	}
	var subvenance, sets []string
	for _, rec := range found {
		rec, ok, err := tx.s.commits.Get(tx.Txn, commitKey(branch.Repo, rec.Order))
		if err != nil {
			return nil, nil, err
		}
		if ok {
			c := rec.Info.Commit
			recs = append(recs, rec)
			subvenance = append(subvenance, subvPrefix+repoKey(c.Repo)+"/"+c.Id+"/")
			sets = append(sets, idPrefix+c.Id+"/")
		}
	}
	made, err := tx.Below(subvenance, true)
	if err != nil {
		return nil, nil, err
	}
	members, err := tx.Below(sets, false) // which are made in one transaction
	if err != nil {
		return nil, nil, err
	}
	brec, _, err := tx.s.branches.Peek(tx.Txn, branchKey(branch))
	if err != nil {
		return nil, nil, err
	}
	counted, err := tx.countedFrom(brec)
	if err != nil {
		return nil, nil, err
	}
	reasons = make([]error, len(recs))
	for i, rec := range recs {
		name := CommitName(rec.Info.Commit)
		switch {
		case len(made[i]) > 0:
			reasons[i] = fmt.Errorf("commits are made from %s", name)
		case len(members[i]) > 1:
			reasons[i] = fmt.Errorf("%s has commits of other repos in its set", name)
		case counted != "" && rec.Order > counted:
			reasons[i] = fmt.Errorf("a trigger counts %s", name)
		}
	}
	return recs, reasons, nil
}

// countedFrom is the order after which the commits of a branch are counted by a
// trigger that follows it; "" if there is none such. brec may be nil.
func (tx *Txn) countedFrom(brec *recordpb.BranchRecord) (string, error) {
	from := ""
	for _, name := range brec.GetTriggers() {
		repo := brec.Info.Branch.Repo
		follower, ok, err := tx.s.branches.Peek(tx.Txn, branchKey(&pfspb.Branch{Repo: repo, Name: name}))
		if err != nil {
			return "", err
		}
		if t := follower.GetInfo().GetTrigger(); !ok || t.GetCommits() == 0 || t.GetCronSpec() != "" {
			continue
		}
		head, err := tx.peek(repo, follower.Info.Head.GetId())
		if err != nil {
			return "", err
		}
		order := orderBound(0) // all of them, from the root on
		if head.GetBranch() == brec.Info.Branch.Name {
			order = head.Order
		}
		if from == "" || order < from {
			from = order
		}
	}
	return from, nil
}

// peek is lookup without a comparison at the commit; nil if there is no such commit.
func (tx *Txn) peek(repo *pfspb.Repo, id string) (*recordpb.CommitRecord, error) {
	value, ok, err := tx.Peek(idKey(id, repo))
	if err != nil || !ok {
		return nil, err
	}
	order, _ := parseIDValue(value)
	rec, _, err := tx.s.commits.Peek(tx.Txn, commitKey(repo, order))
	return rec, err
}
