package store

import (
	"maps"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// request gives what the commit asks of etcd, or *TooLargeError. It is made without the
// types of etcd's client, which copy all of it more than once.
func (tx *Txn) request() (*pb.TxnRequest, error) {
	req := &pb.TxnRequest{Compare: slices.Concat(tx.checks, tx.scanned)}
	for _, r := range tx.ranged {
		c := compareRevision(tx.s.key(r.from), tx.rev+1)
		c.Result, c.RangeEnd = pb.Compare_LESS, tx.s.key(r.to)
		req.Compare = append(req.Compare, c)
	}
	for _, g := range tx.guards {
		req.Compare = append(req.Compare, &pb.Compare{
			Key: tx.s.key(g.key), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte(g.value)},
		})
	}
	size := 0
	for k, r := range tx.reads {
		if r.checked {
			req.Compare = append(req.Compare, compareRevision(tx.s.key(k), r.rev))
			size += len(k) + 32
		}
	}
	for _, r := range tx.ranges {
		req.Success = append(req.Success, tx.deleteAround(r)...)
	}
	req.Success = slices.Grow(req.Success, len(tx.writes))
	for _, k := range slices.Sorted(maps.Keys(tx.writes)) { // watchers see this order
		w := tx.writes[k]
		size += len(k) + len(w.value) + 32
		switch {
		case w.delete && tx.covered(k):
		case w.delete:
			req.Success = append(req.Success, deleteOp(tx.s.key(k), nil))
		default:
			req.Success = append(req.Success, putOp(tx.s.key(k), w))
		}
	}
	if n := max(len(req.Success), len(req.Compare)); n > maxTxnOps || size > maxRequestBytes-64<<10 {
		return nil, &TooLargeError{Ops: n, Bytes: size}
	}
	return req, nil
}

// compareRevision asks for a key that was changed last by a revision, 0 for one that is
// missing.
func compareRevision(key []byte, rev int64) *pb.Compare {
	c := &struct {
		pb.Compare
		rev pb.Compare_ModRevision
	}{}
	c.rev.ModRevision = rev
	c.Key, c.Target, c.TargetUnion = key, pb.Compare_MOD, &c.rev
	return &c.Compare
}

func compareLease(key []byte, lease int64) *pb.Compare {
	return &pb.Compare{Key: key, Target: pb.Compare_LEASE, TargetUnion: &pb.Compare_Lease{Lease: lease}}
}

func putOp(key []byte, w write) *pb.RequestOp {
	o := &struct {
		pb.RequestOp
		union pb.RequestOp_RequestPut
		put   pb.PutRequest
	}{}
	o.put.Key, o.put.Value, o.put.Lease = key, w.value, int64(w.lease)
	o.union.RequestPut = &o.put
	o.Request = &o.union
	return &o.RequestOp
}

// deleteOp deletes a key, or all keys from it to another one that is not nil.
func deleteOp(from, to []byte) *pb.RequestOp {
	del := &pb.DeleteRangeRequest{Key: from, RangeEnd: to}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: del}}
}

// key is how etcd spells a key of the store.
func (s *Store) key(k string) []byte {
	return append(append(make([]byte, 0, len(s.prefix)+len(k)), s.prefix...), k...)
}

// covered tells whether a deleted range takes the key with it.
func (tx *Txn) covered(key string) bool {
	return slices.ContainsFunc(tx.ranges, func(r keyRange) bool { return key >= r.from && key < r.to })
}

// deleteAround deletes a range in pieces that leave out the keys put into it
// afterwards, since etcd refuses to delete and put one key in one transaction.
func (tx *Txn) deleteAround(r keyRange) []*pb.RequestOp {
	var kept []string
	for k, w := range tx.writes {
		if !w.delete && k >= r.from && k < r.to {
			kept = append(kept, k)
		}
	}
	slices.Sort(kept)
	var ops []*pb.RequestOp
	piece := func(from, to string) {
		if from < to {
			ops = append(ops, deleteOp(tx.s.key(from), tx.s.key(to)))
		}
	}
	from := r.from
	for _, k := range kept {
		piece(from, k)
		from = k + "\x00"
	}
	piece(from, r.to)
	return ops
}
