package store

import (
	"iter"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// ScanOptions narrow a scan. The zero value means all keys, ascending.
type ScanOptions struct {
	// From (inclusive) and To (exclusive) bound the keys when not empty.
	From, To string
	// Reverse yields the last key first.
	Reverse bool
	// Limit ends the scan after that many items; 0 means none.
	Limit int
	// KeysOnly leaves values out.
	KeysOnly bool
	// Check makes the transaction commit only if nothing in the scanned range has
	// been added, changed or removed meanwhile.
	Check bool
}

// KV is one key with its value.
type KV struct {
	Key         string
	Value       []byte
	ModRevision int64 // 0 for this transaction's own writes
}

// scanPage is how many keys one read asks for.
const scanPage = 512

// Scan yields the keys that begin with prefix, in byte order, own writes
// included. It holds one page in memory. The transaction must not be written
// while a scan is under way.
func (tx *Txn) Scan(prefix string, opt ScanOptions) iter.Seq2[KV, error] {
	from, to := prefix, prefixEnd(prefix)
	if opt.From > from {
		from = opt.From
	}
	if opt.To != "" && opt.To < to {
		to = opt.To
	}
	return func(yield func(KV, error) bool) {
		own := tx.ownIn(from, to, opt.Reverse)
		before := func(a, b string) bool {
			if opt.Reverse {
				return a > b
			}
			return a < b
		}
		n := 0
		emit := func(kv KV) bool {
			n++
			return yield(kv, nil) && (opt.Limit == 0 || n < opt.Limit)
		}
		if opt.Check {
			tx.checkRange(from, to)
		}
		for kv, err := range tx.stored(from, to, opt) {
			if err != nil {
				yield(KV{}, err)
				return
			}
			for len(own) > 0 && before(own[0].Key, kv.Key) {
				if !emit(own[0]) {
					return
				}
				own = own[1:]
			}
			if _, hidden := tx.own(kv.Key); hidden {
				continue
			}
			if !emit(kv) {
				return
			}
		}
		for _, kv := range own {
			if !emit(kv) {
				return
			}
		}
	}
}

// ownIn lists this transaction's own puts in a range, in order.
func (tx *Txn) ownIn(from, to string, reverse bool) []KV {
	var own []KV
	for k, w := range tx.writes {
		if !w.delete && k >= from && k < to {
			own = append(own, KV{Key: k, Value: w.value})
		}
	}
	slices.SortFunc(own, func(a, b KV) int {
		if reverse {
			a, b = b, a
		}
		return strings.Compare(a.Key, b.Key)
	})
	return own
}

// checkRange compares a whole range at the commit: nothing in it may be newer
// than the snapshot. Removals are noticed by the keys that were read.
func (tx *Txn) checkRange(from, to string) {
	tx.ranged = append(tx.ranged, keyRange{from, to})
}

// stored yields what the snapshot has, page by page.
func (tx *Txn) stored(from, to string, opt ScanOptions) iter.Seq2[KV, error] {
	return func(yield func(KV, error) bool) {
		page := scanPage
		if opt.Limit > 0 && len(tx.writes) == 0 && len(tx.ranges) == 0 {
			page = min(page, opt.Limit)
		}
		for from < to {
			got, err := tx.page(from, to, page, opt)
			if err != nil {
				yield(KV{}, tx.fail("read from", err))
				return
			}
			tx.seen(got.Revision)
			for _, kv := range got.KVs {
				item := KV{Key: string(kv.Key[len(tx.s.prefix):]), Value: kv.Value, ModRevision: kv.ModRevision}
				if item.Value == nil {
					item.Value = empty
				}
				if opt.Check {
					tx.checkScanned(kv)
				}
				if !yield(item, nil) {
					return
				}
				if opt.Reverse {
					to = item.Key
				} else {
					from = item.Key + "\x00"
				}
			}
			if !got.More {
				return
			}
		}
	}
}

// page reads a page of what the snapshot has.
func (tx *Txn) page(from, to string, limit int, opt ScanOptions) (Page, error) {
	ctx, cancel := tx.bounded()
	defer cancel()
	opts := tx.readOptions()
	if !opt.Reverse {
		return tx.s.page(ctx, pageRequest{
			from: tx.s.prefix + from, to: tx.s.prefix + to, limit: limit, rev: tx.rev, keysOnly: opt.KeysOnly, opts: opts,
		})
	}
	opts = append(opts, clientv3.WithRange(tx.s.prefix+to), clientv3.WithLimit(int64(limit)), clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	if opt.KeysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	resp, err := tx.s.client.Get(ctx, tx.s.prefix+from, opts...)
	if err != nil {
		return Page{}, err
	}
	return Page{KVs: resp.Kvs, More: resp.More, Revision: resp.Header.Revision}, nil
}

// scanRanges is how many prefixes one request of Below asks for: what any etcd takes.
const scanRanges = 128

// Below gives for each prefix the keys that begin with it, without the prefix and in
// byte order, own writes included. It is for short lists: many of them take one
// request. With check the transaction commits only if none has been added to them
// meanwhile; removals are not noticed.
func (tx *Txn) Below(prefixes []string, check bool) ([][]string, error) {
	below := make([][]string, 0, len(prefixes))
	if check {
		for _, prefix := range prefixes {
			tx.checkRange(prefix, prefixEnd(prefix))
		}
	}
	for some := range slices.Chunk(prefixes, scanRanges) {
		var resps []*clientv3.GetResponse
		if len(tx.writes)+len(tx.ranges) == 0 {
			var err error
			if resps, err = tx.rangesOf(some); err != nil {
				return nil, err
			}
		}
		for i, prefix := range some {
			var keys []string
			if resps != nil && !resps[i].More {
				for _, kv := range resps[i].Kvs {
					keys = append(keys, string(kv.Key[len(tx.s.prefix)+len(prefix):]))
				}
				below = append(below, keys)
				continue
			}
			for kv, err := range tx.Scan(prefix, ScanOptions{KeysOnly: true}) {
				if err != nil {
					return nil, err
				}
				keys = append(keys, kv.Key[len(prefix):])
			}
			below = append(below, keys)
		}
	}
	return below, nil
}

// rangesOf reads the keys below prefixes, a page of each.
func (tx *Txn) rangesOf(prefixes []string) ([]*clientv3.GetResponse, error) {
	opts := append(tx.readOptions(), clientv3.WithPrefix(), clientv3.WithKeysOnly(), clientv3.WithLimit(scanPage))
	ops := make([]clientv3.Op, len(prefixes))
	for i, prefix := range prefixes {
		ops[i] = clientv3.OpGet(tx.s.prefix+prefix, opts...)
	}
	ctx, cancel := tx.bounded()
	defer cancel()
	resp, err := tx.s.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return nil, tx.fail("read from", err)
	}
	tx.seen(resp.Header.Revision)
	resps := make([]*clientv3.GetResponse, len(resp.Responses))
	for i, r := range resp.Responses {
		resps[i] = (*clientv3.GetResponse)(r.GetResponseRange())
	}
	return resps, nil
}

// checkScanned makes the commit depend on a scanned key being as it was.
func (tx *Txn) checkScanned(kv *mvccpb.KeyValue) {
	k := string(kv.Key[len(tx.s.prefix):])
	if r, ok := tx.reads[k]; ok {
		r.checked = true
		tx.reads[k] = r
		return
	}
	tx.scanned = append(tx.scanned, compareRevision(kv.Key, kv.ModRevision))
}

// Count tells how many keys begin with prefix in the snapshot. Writes of this
// transaction do not count, and nothing is compared at the commit.
func (tx *Txn) Count(prefix string) (int64, error) {
	ctx, cancel := tx.bounded()
	defer cancel()
	opts := append(tx.readOptions(), clientv3.WithPrefix(), clientv3.WithCountOnly())
	resp, err := tx.s.client.Get(ctx, tx.s.prefix+prefix, opts...)
	if err != nil {
		return 0, tx.fail("count in", err)
	}
	tx.seen(resp.Header.Revision)
	return resp.Count, nil
}
