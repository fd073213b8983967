package transaction

import (
	"context"
	"errors"

	"github.com/minipachd/minipachd/auth"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
	"github.com/minipachd/minipachd/store"
)

// A transaction belongs to whoever started it. What its calls need is asked for
// each time that they run: of who adds one, for all those before it too, and of
// who finishes.

// everyTransaction is what those have who may do with all transactions what their
// owners may.
const everyTransaction = authpb.Permission_CLUSTER_DELETE_ALL

// permit checks that the caller started a transaction, or may do with all what their
// owners may. One from before auth was turned on has no owner.
func (s *Service) permit(ctx context.Context, tx *store.Txn, info *transactionpb.TransactionInfo) error {
	by := s.auth.Subject(ctx)
	if by != "" && by == info.GetCreatedBy() {
		return nil
	}
	err := s.auth.Check(ctx, tx, auth.Cluster(), everyTransaction)
	var denied *auth.DeniedError
	if errors.As(err, &denied) {
		return &NotOwnerError{Subject: by, ID: info.GetTransaction().GetId()}
	}
	return err
}
