package pfs

import (
	"time"

	"google.golang.org/protobuf/proto"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// Head is the newest commit of a branch, open or not.
type Head struct {
	ID      string // empty: there is none
	Started time.Time
}

// Heads looks up the heads of many branches in a few round trips. A branch that
// does not exist has none. The transaction does not depend on their staying so.
func (tx *Txn) Heads(branches []*pfspb.Branch) ([]Head, error) {
	keys := make([]string, len(branches))
	for i, b := range branches {
		keys[i] = branchPrefix + branchKey(NormalizeBranch(b))
	}
	values, err := tx.GetMulti(keys, true)
	if err != nil {
		return nil, err
	}
	heads := make([]Head, len(branches))
	keys = keys[:0]
	var of []int
	for i, value := range values {
		var rec recordpb.BranchRecord
		if err := proto.Unmarshal(value, &rec); err != nil {
			return nil, err
		}
		if id := rec.GetInfo().GetHead().GetId(); id != "" {
			heads[i].ID = id
			keys, of = append(keys, idKey(id, NormalizeBranch(branches[i]).GetRepo())), append(of, i)
		}
	}
	if values, err = tx.GetMulti(keys, true); err != nil {
		return nil, err
	}
	for k, value := range values {
		if order, _ := parseIDValue(value); order != "" {
			heads[of[k]].Started = time.Unix(0, orderTime(order))
		}
	}
	return heads, nil
}
