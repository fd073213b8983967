package store

import (
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// commit sends the writes with the comparisons; ok is false on a conflict.
func (tx *Txn) commit() (rev int64, ok bool, err error) {
	if !tx.Writes() {
		return tx.rev, true, nil // a snapshot alone is consistent
	}
	if err := tx.s.disk.Spare(); err != nil {
		return 0, false, err
	}
	req, err := tx.request()
	if err != nil {
		return 0, false, err
	}
	resp, err := tx.send(req)
	if err != nil {
		return 0, false, err
	}
	tx.s.wrote(req)
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

// send sends a request with comparisons to etcd.
func (tx *Txn) send(req *pb.TxnRequest) (*pb.TxnResponse, error) {
	ctx, cancel := tx.bounded()
	defer cancel()
	resp, err := tx.s.kv.Txn(ctx, req)
	if err != nil {
		return nil, tx.fail(opCommit, clientv3.ContextError(ctx, err))
	}
	return resp, nil
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
	resp, err := tx.send(&pb.TxnRequest{Compare: tx.checks})
	if err != nil {
		return false, err
	}
	return !resp.Succeeded, nil
}
