package pfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/minipachd/minipachd/pfs/fileset"
	"github.com/minipachd/minipachd/pfs/frame"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// A client that does not hear whether its ModifyFile made a commit can repeat it
// safely if it gave the call an idempotency key: the first commit made with a key
// on a branch is recorded in the transaction that makes the commit, and a call
// that repeats the key finds the record and writes nothing.

// Metadata keys of calls with an idempotency key.
const (
	// IdempotencyMetadata carries the key of a ModifyFile.
	IdempotencyMetadata = "pach-idempotency-key"
	// CommitIDMetadata is in the header of the answer to a ModifyFile with a key: the
	// id of the commit that was made by it, or by the call that it repeats.
	CommitIDMetadata = "pach-commit-id"
)

const (
	oncePrefix      = "pfs/once/"
	onceOrderPrefix = "pfs/onceorder/"
)

// maxIdempotencyKey is the longest key, in bytes.
const maxIdempotencyKey = 255

// Idempotency says how long keys are remembered. A key is forgotten when it is
// older than Retention, or before that when Keys newer ones are there; both are
// looked at once a minute. Its branch takes it along when it is deleted.
type Idempotency struct {
	Retention time.Duration // default DefaultIdempotencyRetention
	Keys      int64         // of all branches together; default DefaultIdempotencyKeys
}

// The defaults of Idempotency.
const (
	DefaultIdempotencyRetention = 24 * time.Hour
	DefaultIdempotencyKeys      = 1_000_000
)

func (i Idempotency) withDefaults() Idempotency {
	if i.Retention <= 0 {
		i.Retention = DefaultIdempotencyRetention
	}
	if i.Keys <= 0 {
		i.Keys = DefaultIdempotencyKeys
	}
	return i
}

// idempotencyKey is the key that a call carries, "" if none.
func idempotencyKey(ctx context.Context) (string, error) {
	values := metadata.ValueFromIncomingContext(ctx, IdempotencyMetadata)
	switch {
	case len(values) == 0:
		return "", nil
	case len(values) > 1:
		return "", &BadKeyError{Why: "one call can have only one"}
	case values[0] == "" || len(values[0]) > maxIdempotencyKey:
		return "", &BadKeyError{Why: "it must have 1 to 255 characters"}
	}
	for _, c := range []byte(values[0]) {
		if c < ' ' || c > '~' {
			return "", &BadKeyError{Why: "it must consist of printable ASCII characters"}
		}
	}
	return values[0], nil
}

// once is a stream with an idempotency key.
type once struct {
	branch *pfspb.Branch
	key    string
	digest []byte // of its operations, once all are there
	commit string // id of the commit that it made or repeats
	// repeat is set when the content was not kept because the commit was there.
	repeat bool
}

func (o *once) record() string { return branchKey(o.branch) + "/" + o.key }

// newOnce checks that a key can be used with the target of a stream: a branch,
// since what is remembered is the commit that was made on it.
func newOnce(c *pfspb.Commit, key string) (*once, error) {
	repo, name := NormalizeRepo(commitRepo(c)), c.GetBranch().GetName()
	if repo == nil {
		return nil, errors.New("commit must have a repo")
	}
	if name == "" {
		name = c.GetId()
	} else if c.GetId() != "" {
		name = ""
	}
	if name == "" || checkBranchName(name) != nil {
		return nil, &KeyTargetError{Key: key, Commit: c}
	}
	return &once{branch: &pfspb.Branch{Repo: repo, Name: name}, key: key}, nil
}

// modifyOnce is ModifyFile with an idempotency key.
func (s *Service) modifyOnce(stream modifyStream, c *pfspb.Commit, key string) error {
	o, err := newOnce(c, key)
	if err != nil {
		return err
	}
	if o.repeat, err = s.known(stream.Context(), o); err != nil {
		return err
	}
	ops := &digested{operations: &received{stream: stream}, digest: newDigest()}
	if o.repeat {
		// The content is received all the same, to compare it; none of it is kept.
		op := &frame.Operation{}
		for err == nil {
			err = ops.receive(op)
		}
		op.Free()
		if errors.Is(err, io.EOF) {
			o.digest = ops.digest.sum()
			err = s.attachOnce(stream.Context(), o, nil)
		}
	} else {
		err = s.modify(stream.Context(), ops, c, func(layers []*fileset.Layer) error {
			o.digest = ops.digest.sum()
			return s.attachOnce(stream.Context(), o, layers)
		})
	}
	if err != nil {
		return err
	}
	if err := stream.SetHeader(metadata.Pairs(CommitIDMetadata, o.commit)); err != nil {
		return err
	}
	return stream.SendAndClose(&emptypb.Empty{})
}

// known tells whether there is a commit with the key; if not, it checks that one
// can be made.
func (s *Service) known(ctx context.Context, o *once) (known bool, err error) {
	err = s.View(ctx, func(tx *Txn) error {
		if _, known, err = s.once.Get(tx.Txn, o.record()); known || err != nil {
			return err
		}
		t, err := tx.target(&pfspb.Commit{Repo: o.branch.Repo, Branch: o.branch})
		if err == nil && t.open != nil {
			err = &KeyOpenError{Key: o.key, Commit: t.open.Info.Commit}
		}
		return err
	})
	return known, err
}

// attachOnce makes a commit of the layers unless there is one with the key, and
// sets the id of the commit that there is then.
func (s *Service) attachOnce(ctx context.Context, o *once, layers []*fileset.Layer) error {
	for {
		err := s.enqueue(o.branch, &oneShot{ctx: ctx, layers: layers, once: o})
		var open *ParentOpenError
		if !errors.As(err, &open) {
			return err
		}
		// Somebody opened a commit meanwhile, perhaps after a twin of this call had
		// made its own.
		if _, err := s.known(ctx, o); err != nil {
			return err
		}
	}
}

// repeats tells whether a commit with the key exists, and sets its id. One with
// other content is an error.
func (tx *Txn) repeats(o *once) (bool, error) {
	rec, ok, err := tx.s.once.Get(tx.Txn, o.record())
	switch {
	case err != nil:
		return false, err
	case !ok && o.repeat:
		return false, &KeyForgottenError{Key: o.key}
	case !ok:
		return false, nil
	}
	o.commit = rec.CommitId
	if !bytes.Equal(rec.Digest, o.digest) {
		return false, &KeyReusedError{Key: o.key, Commit: &pfspb.Commit{Repo: o.branch.Repo, Id: rec.CommitId}}
	}
	return true, nil
}

// prefetch reads, in one round trip, the records that repeats will ask for.
func (tx *Txn) prefetch(group []*oneShot) error {
	var records []string
	for _, o := range group {
		if o.once != nil {
			records = append(records, oncePrefix+o.once.record())
		}
	}
	if len(records) < 2 {
		return nil
	}
	_, err := tx.GetMulti(records, false)
	return err
}

// remember records the commit made with a key; o may be nil.
func (tx *Txn) remember(o *once, rec *recordpb.CommitRecord) error {
	if o == nil {
		return nil
	}
	return tx.rememberAt(o, rec, rec.Order)
}

// rememberPut is remember for one of the puts that a commit consists of, whose keys
// are as old as the puts, not as the commit.
func (tx *Txn) rememberPut(o *once, rec *recordpb.CommitRecord) error {
	if o == nil {
		return nil
	}
	return tx.rememberAt(o, rec, orderOf(tx.Now(), tx.NewID()))
}

func (tx *Txn) rememberAt(o *once, rec *recordpb.CommitRecord, order string) error {
	o.commit = rec.Info.Commit.Id
	tx.Put(onceOrderKey(order, o.branch.Repo), []byte(o.record()))
	return tx.s.once.Put(tx.Txn, o.record(), &recordpb.IdempotencyRecord{CommitId: o.commit, Order: order, Digest: o.digest})
}

// onceOrderKey leads to the key of a client's that was used at a time. These keys are
// in the order of time, whatever the branch.
func onceOrderKey(order string, repo *pfspb.Repo) string {
	return onceOrderPrefix + order + "/" + repoKey(repo)
}

const (
	forgetEvery = time.Minute
	forgetBatch = 256 // keys per transaction
)

// runForgetter forgets old keys until ctx ends.
func (s *Service) runForgetter(ctx context.Context) error {
	tick := time.NewTicker(forgetEvery)
	defer tick.Stop()
	for {
		if err := s.forgetKeys(ctx, time.Now()); err != nil && ctx.Err() == nil {
			s.log.Warn("forget idempotency keys", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// forgetKeys forgets the keys that are too old at a time, and the oldest of those
// that are too many. It reads no more than a page beyond what it forgets.
func (s *Service) forgetKeys(ctx context.Context, now time.Time) error {
	var surplus int64
	err := s.store.View(ctx, func(tx *store.Txn) error {
		n, err := tx.Count(onceOrderPrefix)
		surplus = n - s.idem.Keys
		return err
	})
	bound := onceOrderPrefix + orderBound(now.Add(-s.idem.Retention).UnixNano())
	for more := true; more && err == nil; {
		var doomed []store.KV
		_, err = s.store.Update(ctx, func(tx *store.Txn) error {
			doomed = nil
			for kv, err := range tx.Scan(onceOrderPrefix, store.ScanOptions{Limit: forgetBatch}) {
				if err != nil {
					return err
				}
				if kv.Key >= bound && int64(len(doomed)) >= surplus {
					break
				}
				doomed = append(doomed, kv)
			}
			return s.forget(tx, doomed)
		})
		surplus -= int64(len(doomed))
		more = len(doomed) == forgetBatch
	}
	return err
}

// forget removes index entries and the records that belong to them. A record may
// be gone with its branch, and another one be in its place.
func (s *Service) forget(tx *store.Txn, entries []store.KV) error {
	records := make([]string, len(entries))
	for i, kv := range entries {
		records[i] = oncePrefix + string(kv.Value)
	}
	if _, err := tx.GetMulti(records, false); err != nil { // one round trip for all
		return err
	}
	for _, kv := range entries {
		tx.Delete(kv.Key)
		rec, ok, err := s.once.Get(tx, string(kv.Value))
		if err != nil {
			return err
		}
		if ok && strings.HasPrefix(kv.Key, onceOrderPrefix+rec.Order+"/") {
			s.once.Delete(tx, string(kv.Value))
		}
	}
	return nil
}
