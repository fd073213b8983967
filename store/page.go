package store

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/pkg/v3/traceutil"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
)

// Page is what one read of a range of keys gives.
type Page struct {
	KVs      []*mvccpb.KeyValue // with whole keys, in order; not to be modified
	More     bool               // there are more in the range
	Revision int64              // of etcd at the read
}

// pageRequest says what to read: up to limit keys from one to before another, all of
// them whole keys of etcd.
type pageRequest struct {
	from, to string
	limit    int
	rev      int64 // 0: now
	keysOnly bool
	opts     []clientv3.OpOption // of a request to a remote etcd
}

// Page reads up to limit keys from one (inclusive) to another (exclusive), as they are
// now. Keys are those of etcd, with its prefix.
func (s *Store) Page(ctx context.Context, from, to string, limit int) (Page, error) {
	return s.page(ctx, pageRequest{from: from, to: to, limit: limit})
}

// page reads a page. A request for one makes etcd count all keys that are left in the
// range, a million of them if there are: what is in this process is asked past it.
func (s *Store) page(ctx context.Context, req pageRequest) (Page, error) {
	if s.etcd == nil {
		opts := append(req.opts, clientv3.WithRange(req.to), clientv3.WithLimit(int64(req.limit)), clientv3.WithRev(req.rev))
		if req.keysOnly {
			opts = append(opts, clientv3.WithKeysOnly())
		}
		resp, err := s.client.Get(ctx, req.from, opts...)
		if err != nil {
			return Page{}, err
		}
		return Page{KVs: resp.Kvs, More: resp.More, Revision: resp.Header.Revision}, nil
	}
	if s.closing.Load() {
		return Page{}, errors.New("etcd is stopping")
	}
	txn := s.etcd.Server.KV().Read(mvcc.ConcurrentReadTxMode, traceutil.TODO())
	defer txn.End()
	r, err := txn.Range(ctx, []byte(req.from), []byte(req.to), mvcc.RangeOptions{
		Limit: int64(req.limit) + 1, Rev: req.rev, FastKeysOnly: req.keysOnly,
	})
	switch {
	case errors.Is(err, mvcc.ErrCompacted):
		return Page{}, rpctypes.ErrCompacted
	case errors.Is(err, mvcc.ErrFutureRev):
		return Page{}, rpctypes.ErrFutureRev
	case err != nil:
		return Page{}, fmt.Errorf("read a range: %w", err)
	}
	p := Page{KVs: r.KVs, Revision: r.Rev}
	if len(p.KVs) > req.limit {
		p.KVs, p.More = p.KVs[:req.limit], true
	}
	return p, nil
}
