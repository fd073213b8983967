// Package transaction serves transaction_v2.API: it collects calls that take
// effect together. A call that carries the id of an open transaction is run, with
// all those collected before it, in a transaction of the store that is thrown
// away; its answer is what it would have been, and the call is kept. Finishing
// runs all of them in one transaction of the store, as one commit set that has
// the id of the transaction. Which calls can be collected is in call.go; what
// they do belongs to packages pfs and pps.
package transaction

import (
	"cmp"
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minipachd/minipachd/auth"
	"github.com/minipachd/minipachd/pfs"
	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
	"github.com/minipachd/minipachd/store"
)

// Limits. They keep a transaction well within what one transaction of etcd takes.
const (
	MaxRequests = 1000    // calls in one transaction
	MaxBytes    = 1 << 20 // of one transaction's record
	MaxOpen     = 1000    // transactions open at a time
	// maxListBytes bounds the answer of ListTransaction.
	maxListBytes = 16 << 20
)

// prefix is that of the keys of open transactions, each with its id.
const prefix = "transaction/"

// Config is what a Service works with. Store, PFS and Pipelines are required.
type Config struct {
	Store     *store.Store
	PFS       *pfs.Service
	Pipelines Pipelines
	Auth      *auth.Service // nil: everybody may do everything
}

// Service implements transaction_v2.API. Its methods may be called concurrently.
type Service struct {
	transactionpb.UnimplementedAPIServer

	store     *store.Store
	pfs       *pfs.Service
	pipelines Pipelines
	auth      *auth.Service
	open      store.Collection[*transactionpb.TransactionInfo]
	turns     turns
}

// New returns the service. It starts nothing.
func New(cfg Config) *Service {
	return &Service{
		store:     cfg.Store,
		pfs:       cfg.PFS,
		pipelines: cfg.Pipelines,
		auth:      cfg.Auth,
		open:      store.NewCollection[*transactionpb.TransactionInfo](prefix),
		turns:     turns{taken: map[string]*turn{}},
	}
}

// Register adds the service to a gRPC server.
func (s *Service) Register(r grpc.ServiceRegistrar) { transactionpb.RegisterAPIServer(r, s) }

// get returns an open transaction, a copy; or *NotFoundError, or *NotOwnerError if
// the caller has nothing to do with it.
func (s *Service) get(ctx context.Context, tx *store.Txn, id string) (*transactionpb.TransactionInfo, error) {
	if !pfs.IsCommitID(id) {
		return nil, &NotFoundError{ID: id}
	}
	info, ok, err := s.open.Get(tx, id)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, &NotFoundError{ID: id}
	}
	return info, s.permit(ctx, tx, info)
}

// StartTransaction implements transaction_v2.API.
func (s *Service) StartTransaction(ctx context.Context, _ *transactionpb.StartTransactionRequest) (*transactionpb.Transaction, error) {
	var t *transactionpb.Transaction
	_, err := s.store.Update(ctx, func(tx *store.Txn) error {
		n, err := tx.Count(prefix)
		if err != nil {
			return err
		}
		if n >= MaxOpen {
			return &TooManyError{Open: n}
		}
		t = &transactionpb.Transaction{Id: tx.NewID()}
		return s.open.Put(tx, t.Id, &transactionpb.TransactionInfo{Transaction: t, Started: timestamppb.New(tx.Now()), CreatedBy: s.auth.Subject(ctx)})
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// InspectTransaction implements transaction_v2.API.
func (s *Service) InspectTransaction(ctx context.Context, req *transactionpb.InspectTransactionRequest) (*transactionpb.TransactionInfo, error) {
	id, err := idOf(req.GetTransaction())
	if err != nil {
		return nil, err
	}
	var info *transactionpb.TransactionInfo
	err = s.store.View(ctx, func(tx *store.Txn) error {
		var err error
		info, err = s.get(ctx, tx, id)
		return err
	})
	if err != nil {
		return nil, err
	}
	return info, nil
}

// ListTransaction implements transaction_v2.API: the open ones that the caller has
// to do with, newest first. When the answer grows too large for one message, the rest come without their calls.
func (s *Service) ListTransaction(ctx context.Context, _ *transactionpb.ListTransactionRequest) (*transactionpb.TransactionInfos, error) {
	all, err := s.auth.Allows(ctx, auth.Cluster(), everyTransaction)
	if err != nil {
		return nil, err
	}
	by := s.auth.Subject(ctx)
	res := &transactionpb.TransactionInfos{}
	size := 0
	err = s.store.View(ctx, func(tx *store.Txn) error {
		for item, err := range s.open.Scan(tx, "", store.ScanOptions{}) {
			if err != nil {
				return err
			}
			info := item.Value
			if !all && info.CreatedBy != by {
				continue
			}
			if size += proto.Size(info); size > maxListBytes {
				info = &transactionpb.TransactionInfo{Transaction: info.Transaction, Started: info.Started, Version: info.Version, CreatedBy: info.CreatedBy}
			}
			res.TransactionInfo = append(res.TransactionInfo, info)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(res.TransactionInfo, func(a, b *transactionpb.TransactionInfo) int {
		return cmp.Or(b.GetStarted().AsTime().Compare(a.GetStarted().AsTime()), cmp.Compare(a.GetTransaction().GetId(), b.GetTransaction().GetId()))
	})
	return res, nil
}

// DeleteTransaction implements transaction_v2.API: the calls are forgotten.
func (s *Service) DeleteTransaction(ctx context.Context, req *transactionpb.DeleteTransactionRequest) (*emptypb.Empty, error) {
	id, err := idOf(req.GetTransaction())
	if err != nil {
		return nil, err
	}
	_, err = s.store.Update(ctx, func(tx *store.Txn) error {
		if _, err := s.get(ctx, tx, id); err != nil {
			return err
		}
		s.open.Delete(tx, id)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// DeleteAll implements transaction_v2.API.
func (s *Service) DeleteAll(ctx context.Context, _ *transactionpb.DeleteAllRequest) (*emptypb.Empty, error) {
	_, err := s.store.Update(ctx, func(tx *store.Txn) error {
		s.open.DeletePrefix(tx, "")
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// FinishTransaction implements transaction_v2.API. After an error the transaction
// is still open and nothing else has changed.
func (s *Service) FinishTransaction(ctx context.Context, req *transactionpb.FinishTransactionRequest) (*transactionpb.TransactionInfo, error) {
	id, err := idOf(req.GetTransaction())
	if err != nil {
		return nil, err
	}
	release, err := s.turns.take(ctx, id)
	if err != nil {
		return nil, err
	}
	defer release()
	var info *transactionpb.TransactionInfo
	err = s.pfs.Update(ctx, func(tx *pfs.Txn) error {
		// Reading the record makes this conflict with a call that is added meanwhile.
		if info, err = s.get(ctx, tx.Txn, id); err != nil {
			return err
		}
		tx.UseSetID(id)
		if info.Responses, err = s.performAll(ctx, tx, info.Requests); err != nil {
			return err
		}
		s.open.Delete(tx.Txn, id)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return info, nil
}

// BatchTransaction implements transaction_v2.API: start, all the calls and finish
// in one.
func (s *Service) BatchTransaction(ctx context.Context, req *transactionpb.BatchTransactionRequest) (*transactionpb.TransactionInfo, error) {
	if n := len(req.GetRequests()); n > MaxRequests {
		return nil, &FullError{}
	}
	for i, r := range req.GetRequests() {
		if n := callsIn(r); n != 1 {
			return nil, &BadRequestError{Number: i + 1, Calls: n}
		}
	}
	var info *transactionpb.TransactionInfo
	err := s.pfs.Update(ctx, func(tx *pfs.Txn) error {
		info = proto.CloneOf(&transactionpb.TransactionInfo{
			Transaction: &transactionpb.Transaction{Id: tx.NewID()},
			Requests:    req.GetRequests(),
			Started:     timestamppb.New(tx.Now()),
			Version:     uint64(len(req.GetRequests())),
			CreatedBy:   s.auth.Subject(ctx),
		})
		tx.UseSetID(info.Transaction.Id)
		var err error
		info.Responses, err = s.performAll(ctx, tx, info.Requests)
		return err
	})
	if err != nil {
		return nil, err
	}
	return info, nil
}

// performAll runs requests one after the other. It fills in what they leave open.
func (s *Service) performAll(ctx context.Context, tx *pfs.Txn, requests []*transactionpb.TransactionRequest) ([]*transactionpb.TransactionResponse, error) {
	var responses []*transactionpb.TransactionResponse
	for i, r := range requests {
		answer, err := s.perform(ctx, tx, r)
		if err != nil {
			return nil, &RequestError{Number: i + 1, Call: nameOf(r), Err: err}
		}
		responses = append(responses, responseOf(answer))
	}
	return responses, nil
}

// idOf is the id in a request.
func idOf(t *transactionpb.Transaction) (string, error) {
	if t == nil {
		return "", errNoTransaction
	}
	return t.GetId(), nil
}
