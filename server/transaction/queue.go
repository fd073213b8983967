package transaction

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/minipachd/minipachd/pfs"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
	"github.com/minipachd/minipachd/store"
)

// MetadataKey is the gRPC metadata key by which a call names the transaction that
// it is part of. The answer of a call that was added to one carries it too.
const MetadataKey = "pach-transaction"

// Unary is a gRPC interceptor. Calls that name a transaction and can be part of
// one are added to it; all others run as if they had not named one.
func (s *Service) Unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	id, err := idFrom(ctx)
	if id == "" && err == nil {
		return next(ctx, req)
	}
	call, e := requestOf(req)
	switch {
	case call == nil:
		return next(ctx, req)
	case err != nil:
		return nil, err
	case e != nil:
		return nil, e
	}
	answer, err := s.add(ctx, id, call)
	if err != nil {
		return nil, err
	}
	// A client that is gone needs no header.
	_ = grpc.SetHeader(ctx, metadata.Pairs(MetadataKey, id))
	return answerTo(req, answer), nil
}

// idFrom is the transaction that a call names, "" if none.
func idFrom(ctx context.Context) (id string, err error) {
	for _, v := range metadata.ValueFromIncomingContext(ctx, MetadataKey) {
		switch {
		case v == "" || v == id:
		case id != "":
			return "", errTwoTransactions
		default:
			id = v
		}
	}
	return id, nil
}

// errMoved tells that a transaction got another call while one was being tried.
var errMoved = errors.New("the transaction has changed")

// add tries a call after all those that the transaction has, and keeps it. A
// call that fails is not kept.
func (s *Service) add(ctx context.Context, id string, call *transactionpb.TransactionRequest) (proto.Message, error) {
	release, err := s.turns.take(ctx, id)
	if err != nil {
		return nil, err
	}
	defer release()
	for {
		answer, err := s.tryAdd(ctx, id, call)
		if !errors.Is(err, errMoved) {
			return answer, err
		}
	}
}

// tryAdd is add unless another daemon adds a call meanwhile: then it is errMoved.
func (s *Service) tryAdd(ctx context.Context, id string, call *transactionpb.TransactionRequest) (proto.Message, error) {
	var answer proto.Message
	var tried *transactionpb.TransactionRequest
	var version uint64
	err := s.pfs.Try(ctx, func(tx *pfs.Txn) error {
		info, err := s.get(ctx, tx.Txn, id)
		if err != nil {
			return err
		}
		if len(info.Requests) >= MaxRequests {
			return &FullError{ID: id}
		}
		version = info.Version
		tx.UseSetID(id)
		if _, err := s.performAll(ctx, tx, info.Requests); err != nil {
			return err
		}
		tried = proto.CloneOf(call)
		answer, err = s.perform(ctx, tx, tried)
		return err
	})
	if err != nil {
		return nil, err
	}
	if tried.GetCreatePipelineV2().GetCreatePipelineRequest().GetDryRun() {
		return answer, nil // answered, and nothing to do later
	}
	if res, ok := answer.(*pfspb.DeleteRepoResponse); ok && !res.GetDeleted() && s.auth.Active() {
		return answer, nil // perhaps it may not be deleted: whoever finishes might be allowed to
	}
	_, err = s.store.Update(ctx, func(tx *store.Txn) error {
		info, err := s.get(ctx, tx, id)
		if err != nil {
			return err
		}
		if info.Version != version {
			return errMoved
		}
		info.Version++
		info.Requests = append(info.Requests, tried)
		info.Responses = append(info.Responses, responseOf(answer))
		if proto.Size(info) > MaxBytes {
			return &FullError{ID: id}
		}
		return s.open.Put(tx, id, info)
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// turns lets the callers of this daemon that change one transaction do so one
// after the other, so that none tries its call in vain.
type turns struct {
	mu    sync.Mutex
	taken map[string]*turn // by the id of the transaction
}

// turn is held by whoever has put a value into free.
type turn struct {
	free  chan struct{}
	users int // holding or waiting; guarded by turns.mu
}

// take waits for a turn, until ctx ends, and returns how to give it back.
func (t *turns) take(ctx context.Context, id string) (release func(), err error) {
	t.mu.Lock()
	mine := t.taken[id]
	if mine == nil {
		mine = &turn{free: make(chan struct{}, 1)}
		t.taken[id] = mine
	}
	mine.users++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if mine.users--; mine.users == 0 {
			delete(t.taken, id)
		}
	}
	select {
	case mine.free <- struct{}{}:
		return func() { <-mine.free; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
