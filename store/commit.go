package store

import (
	"errors"
	"maps"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// prepare gives what the commit asks of etcd, or *TooLargeError.
func (tx *Txn) prepare() ([]clientv3.Cmp, []clientv3.Op, error) {
	cmps := slices.Concat(tx.checks, tx.scanned)
	for _, r := range tx.ranged {
		cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(tx.s.prefix+r.from), "<", tx.rev+1).WithRange(tx.s.prefix+r.to))
	}
	for _, g := range tx.guards {
		cmps = append(cmps, clientv3.Compare(clientv3.Value(tx.s.prefix+g.key), "=", g.value))
	}
	size := 0
	for k, r := range tx.reads {
		if r.checked {
			cmps = append(cmps, clientv3.Compare(clientv3.ModRevision(tx.s.prefix+k), "=", r.rev))
			size += len(k) + 32
		}
	}
	var ops []clientv3.Op
	for _, r := range tx.ranges {
		ops = append(ops, tx.deleteAround(r)...)
	}
	for _, k := range slices.Sorted(maps.Keys(tx.writes)) { // watchers see this order
		w := tx.writes[k]
		size += len(k) + len(w.value) + 32
		switch {
		case w.delete && tx.covered(k):
		case w.delete:
			ops = append(ops, clientv3.OpDelete(tx.s.prefix+k))
		default:
			var opts []clientv3.OpOption
			if w.lease != 0 {
				opts = append(opts, clientv3.WithLease(w.lease))
			}
			ops = append(ops, clientv3.OpPut(tx.s.prefix+k, string(w.value), opts...))
		}
	}
	if len(ops) > maxTxnOps || len(cmps) > maxTxnOps || size > maxRequestBytes-64<<10 {
		return nil, nil, &TooLargeError{Ops: max(len(ops), len(cmps)), Bytes: size}
	}
	return cmps, ops, nil
}

// commit sends the writes with the comparisons; ok is false on a conflict.
func (tx *Txn) commit() (rev int64, ok bool, err error) {
	if !tx.Writes() {
		return tx.rev, true, nil // a snapshot alone is consistent
	}
	if err := tx.s.disk.Spare(); err != nil {
		return 0, false, err
	}
	cmps, ops, err := tx.prepare()
	if err != nil {
		return 0, false, err
	}
	ctx, cancel := tx.bounded()
	defer cancel()
	resp, err := tx.s.client.Txn(ctx).If(cmps...).Then(ops...).Commit()
	if err != nil {
		return 0, false, tx.fail(opCommit, err)
	}
	if resp.Succeeded {
		tx.s.committed(resp.Header.Revision, tx)
		return resp.Header.Revision, true, nil
	}
	tx.s.know(resp.Header.Revision)
	if len(tx.checks) > 0 {
		if lost, err := tx.leaseLost(); err != nil || lost {
			return 0, false, errors.Join(err, ErrLeaseLost)
		}
	}
	return 0, false, tx.unguarded()
}

// know makes transactions that begin from now on see a revision.
func (s *Store) know(rev int64) {
	if s.cache != nil {
		s.cache.see(rev)
	}
}

// committed is know for the revision that a transaction's commit was answered with.
func (s *Store) committed(rev int64, tx *Txn) {
	if s.cache == nil {
		return
	}
	// Without a put it may have changed nothing and the revision be another's; what a
	// deleted range had is not known here. The watch tells.
	puts := false
	for _, w := range tx.writes {
		puts = puts || !w.delete
	}
	if puts && len(tx.ranges) == 0 {
		s.cache.committed(rev, tx.writes)
	} else {
		s.cache.see(rev)
	}
}

// leaseLost tells whether a comparison of CompareLease is what failed.
func (tx *Txn) leaseLost() (bool, error) {
	ctx, cancel := tx.bounded()
	defer cancel()
	resp, err := tx.s.client.Txn(ctx).If(tx.checks...).Commit()
	if err != nil {
		return false, tx.fail(opCommit, err)
	}
	return !resp.Succeeded, nil
}

// covered tells whether a deleted range takes the key with it.
func (tx *Txn) covered(key string) bool {
	return slices.ContainsFunc(tx.ranges, func(r keyRange) bool { return key >= r.from && key < r.to })
}

// deleteAround deletes a range in pieces that leave out the keys put into it
// afterwards, since etcd refuses to delete and put one key in one transaction.
func (tx *Txn) deleteAround(r keyRange) []clientv3.Op {
	var kept []string
	for k, w := range tx.writes {
		if !w.delete && k >= r.from && k < r.to {
			kept = append(kept, k)
		}
	}
	slices.Sort(kept)
	var ops []clientv3.Op
	piece := func(from, to string) {
		if from < to {
			ops = append(ops, clientv3.OpDelete(tx.s.prefix+from, clientv3.WithRange(tx.s.prefix+to)))
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
