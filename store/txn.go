package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	mathrand "math/rand/v2"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

// Txn is one transaction: a snapshot to read from and a set of writes that take
// effect together. It is not safe for concurrent use and ends with the function
// it was given to.
type Txn struct {
	ctx      context.Context
	s        *Store
	readOnly bool
	local    bool // reads may be served by one member alone
	now      time.Time
	ids      *idSource
	nextID   int
	rev      int64 // of the snapshot; 0 until the first read
	reads    map[string]read
	writes   map[string]write
	decoded  map[string]proto.Message // what GetShared gave of reads and writes
	ranges   []keyRange               // deleted prefixes, before writes
	ranged   []keyRange               // scanned with Check
	scanned  []*pb.Compare            // keys seen in them
	checks   []*pb.Compare            // leases
	guards   []guard
	deferred []func(rev int64)
}

// read is what a key held in the snapshot.
type read struct {
	value   []byte
	rev     int64 // ModRevision; 0 if missing
	checked bool
}

type write struct {
	value  []byte
	delete bool
	lease  clientv3.LeaseID
}

type keyRange struct{ from, to string }

// idSource gives the k-th attempt of a transaction the ids of the first.
type idSource struct{ ids []string }

func (s *idSource) get(k int) string {
	for len(s.ids) <= k {
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails
		b[6] = b[6]&0x0f | 0x40
		b[8] = b[8]&0x3f | 0x80
		s.ids = append(s.ids, hex.EncodeToString(b[:]))
	}
	return s.ids[k]
}

const (
	retryFirst = 500 * time.Microsecond
	retryMax   = 100 * time.Millisecond
	// requestTimeout bounds one request to a remote cluster. An etcd server gives up
	// on one after 7 s.
	requestTimeout = 8 * time.Second
)

// Update runs fn in a read-write transaction and commits it, again and again
// with jitter while somebody else changes what it read. fn must have no effect
// but on its Txn. It returns the revision of etcd after the commit, or the
// error of fn, of ctx, *TooLargeError, or one with a gRPC status when etcd
// cannot be reached or is full.
func (s *Store) Update(ctx context.Context, fn func(tx *Txn) error) (int64, error) {
	now := time.Now().UTC().Round(0)
	ids := &idSource{}
	wait := retryFirst
	for attempt := 0; ; attempt++ {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		tx := &Txn{
			ctx: ctx, s: s, now: now, ids: ids, local: attempt == 0,
			reads: map[string]read{}, writes: map[string]write{},
		}
		if err := fn(tx); err != nil {
			if attempt == 0 && tx.local && s.etcd == nil && ctx.Err() == nil {
				continue // what one member alone knew may have been old
			}
			return 0, err
		}
		rev, ok, err := tx.commit()
		if err != nil {
			return 0, err
		}
		if ok {
			for _, f := range tx.deferred {
				f(rev)
			}
			return rev, nil
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(wait/2 + mathrand.N(wait)):
		}
		wait = min(wait*2, retryMax)
	}
}

// Try runs fn as Update would and throws away what it wrote: nothing changes. It
// returns the error of fn, or *TooLargeError if Update could not commit so much.
func (s *Store) Try(ctx context.Context, fn func(tx *Txn) error) error {
	tx := &Txn{
		ctx: ctx, s: s, now: time.Now().UTC().Round(0), ids: &idSource{},
		reads: map[string]read{}, writes: map[string]write{},
	}
	if err := fn(tx); err != nil {
		return err
	}
	_, err := tx.request()
	return err
}

// View runs fn over one snapshot, which holds everything acknowledged before.
// Nothing may be written.
func (s *Store) View(ctx context.Context, fn func(tx *Txn) error) error {
	return fn(&Txn{
		ctx: ctx, s: s, readOnly: true, now: time.Now().UTC().Round(0), ids: &idSource{},
		reads: map[string]read{}, writes: map[string]write{},
	})
}

// Context is that of the Update or View.
func (tx *Txn) Context() context.Context { return tx.ctx }

// Now is the time of the transaction, the same in every attempt.
func (tx *Txn) Now() time.Time { return tx.now }

// NewID gives a new UUIDv4 without dashes. The k-th call gives the same id in
// every attempt.
func (tx *Txn) NewID() string {
	tx.nextID++
	return tx.ids.get(tx.nextID - 1)
}

// Revision is that of the snapshot, 0 before the first read.
func (tx *Txn) Revision() int64 { return tx.rev }

// Defer runs fn after the transaction has committed. It is for notifications
// within the process only: a daemon that dies in between never runs it.
func (tx *Txn) Defer(fn func()) { tx.DeferAt(func(int64) { fn() }) }

// DeferAt is Defer of what wants the revision of etcd after the commit.
func (tx *Txn) DeferAt(fn func(rev int64)) { tx.deferred = append(tx.deferred, fn) }

// Writes tells whether the transaction has anything to write.
func (tx *Txn) Writes() bool { return len(tx.writes) > 0 || len(tx.ranges) > 0 }

// Get returns what the snapshot, changed by this transaction's own writes, holds
// under key. The transaction commits only if that has not changed meanwhile. The
// value must not be modified.
func (tx *Txn) Get(key string) (value []byte, ok bool, err error) { return tx.get(key, true) }

// Peek is Get for values that never change: it is not compared at the commit.
func (tx *Txn) Peek(key string) (value []byte, ok bool, err error) { return tx.get(key, false) }

func (tx *Txn) get(key string, check bool) ([]byte, bool, error) {
	values, err := tx.fetch([]string{key}, check)
	if err != nil {
		return nil, false, err
	}
	return values[0], values[0] != nil, nil
}

// GetMulti is Get, or Peek, of several keys in one round trip; a missing key
// gives nil.
func (tx *Txn) GetMulti(keys []string, peek bool) ([][]byte, error) { return tx.fetch(keys, !peek) }

// empty stands for a key that exists without a value.
var empty = []byte{}

func (tx *Txn) fetch(keys []string, check bool) ([][]byte, error) {
	values := make([][]byte, len(keys))
	var missing []string
	for i, k := range keys {
		if w, ok := tx.own(k); ok {
			values[i] = w
			continue
		}
		if _, ok := tx.reads[k]; !ok && !tx.fromCache(k) && !slices.Contains(missing, k) {
			missing = append(missing, k)
		}
	}
	for len(missing) > 0 {
		n := min(len(missing), 512)
		if err := tx.load(missing[:n]); err != nil {
			return nil, err
		}
		missing = missing[n:]
	}
	for i, k := range keys {
		if _, ok := tx.own(k); ok {
			continue
		}
		r := tx.reads[k]
		if check && !r.checked {
			r.checked = true
			tx.reads[k] = r
		}
		values[i] = r.value
	}
	return values, nil
}

// fromCache takes what the snapshot has under key from the cache, if it is there.
func (tx *Txn) fromCache(key string) bool {
	c := tx.s.cache
	if c == nil {
		return false
	}
	if tx.rev == 0 {
		if tx.rev = c.snapshot(); tx.rev == 0 {
			return false
		}
	}
	e, ok := c.get(key, tx.rev)
	if ok {
		tx.reads[key] = read{value: e.value, rev: e.rev}
	}
	return ok
}

// own returns what this transaction itself wrote under key.
func (tx *Txn) own(key string) ([]byte, bool) {
	if w, ok := tx.writes[key]; ok {
		if w.delete {
			return nil, true
		}
		return w.value, true
	}
	for _, r := range tx.ranges {
		if key >= r.from && key < r.to {
			return nil, true
		}
	}
	return nil, false
}

func (tx *Txn) readOptions() []clientv3.OpOption {
	var opts []clientv3.OpOption
	if tx.rev > 0 {
		opts = append(opts, clientv3.WithRev(tx.rev))
	}
	// The embedded etcd is its only member: it has applied what it acknowledged.
	if tx.local || tx.s.etcd != nil {
		opts = append(opts, clientv3.WithSerializable())
	}
	return opts
}

// load reads keys from the snapshot into tx.reads.
func (tx *Txn) load(keys []string) error {
	opts := tx.readOptions()
	var kvs []*mvccpb.KeyValue
	ctx, cancel := tx.bounded()
	defer cancel()
	if len(keys) == 1 {
		resp, err := tx.s.client.Get(ctx, tx.s.prefix+keys[0], opts...)
		if err != nil {
			return tx.fail("read from", err)
		}
		tx.seen(resp.Header.Revision)
		kvs = resp.Kvs
	} else {
		ops := make([]clientv3.Op, len(keys))
		for i, k := range keys {
			ops[i] = clientv3.OpGet(tx.s.prefix+k, opts...)
		}
		resp, err := tx.s.client.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return tx.fail("read from", err)
		}
		tx.seen(resp.Header.Revision)
		for _, r := range resp.Responses {
			kvs = append(kvs, r.GetResponseRange().Kvs...)
		}
	}
	for _, k := range keys {
		tx.reads[k] = read{}
	}
	for _, kv := range kvs {
		tx.remember(kv)
	}
	if c := tx.s.cache; c != nil {
		for _, k := range keys {
			r := tx.reads[k]
			e := cached{value: r.value, rev: r.rev, since: r.rev}
			if r.value == nil {
				e.since = tx.rev
			}
			c.fill(k, e, tx.rev)
		}
	}
	return nil
}

// bounded is the transaction's context for one request. A remote cluster that is
// gone would keep its client waiting for as long as the caller does; the embedded
// one bounds requests itself.
func (tx *Txn) bounded() (context.Context, context.CancelFunc) {
	if tx.s.etcd != nil {
		return tx.ctx, func() {}
	}
	return context.WithTimeout(tx.ctx, requestTimeout)
}

func (tx *Txn) seen(rev int64) {
	if tx.rev == 0 {
		tx.rev = rev
		tx.s.know(rev)
	}
}

func (tx *Txn) remember(kv *mvccpb.KeyValue) {
	k := string(kv.Key[len(tx.s.prefix):])
	v := kv.Value
	if v == nil {
		v = empty
	}
	r := tx.reads[k]
	tx.reads[k] = read{value: v, rev: kv.ModRevision, checked: r.checked}
}

// Put sets key to value, which must not be modified afterwards.
func (tx *Txn) Put(key string, value []byte) { tx.PutLease(key, value, 0) }

// PutLease is Put of a key that goes away with a lease.
func (tx *Txn) PutLease(key string, value []byte, lease clientv3.LeaseID) {
	if value == nil {
		value = empty
	}
	tx.mustWrite()
	delete(tx.decoded, key)
	tx.writes[key] = write{value: value, lease: lease}
}

// Delete removes key; a missing one is no error.
func (tx *Txn) Delete(key string) {
	tx.mustWrite()
	tx.writes[key] = write{delete: true}
}

// DeletePrefix removes every key that begins with prefix, those written before
// in this transaction included. It is one operation however many keys there are.
func (tx *Txn) DeletePrefix(prefix string) {
	tx.mustWrite()
	r := keyRange{prefix, prefixEnd(prefix)}
	for k := range tx.writes {
		if k >= r.from && k < r.to {
			delete(tx.writes, k)
		}
	}
	tx.ranges = append(tx.ranges, r)
}

func (tx *Txn) mustWrite() {
	if tx.readOnly {
		panic("store: write in a View")
	}
}

// CompareLease lets the transaction commit only while key belongs to lease: the
// fence of everything written because one holds the lease.
func (tx *Txn) CompareLease(lease clientv3.LeaseID, key string) {
	tx.checks = append(tx.checks, compareLease(tx.s.key(key), int64(lease)))
}

// prefixEnd is the first key after all that begin with prefix.
func prefixEnd(prefix string) string {
	b := []byte(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return "\xff\xff\xff\xff" // no key of ours lies beyond
}
