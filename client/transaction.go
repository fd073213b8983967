package client

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/metadata"

	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
)

// transactionKey is the metadata key by which a call is part of a transaction.
const transactionKey = "pach-transaction"

// InTransaction gives a context whose calls are part of a transaction, those that
// can be: creating and deleting repos and branches, starting, finishing and
// squashing commits, creating pipelines. They answer what they would have done,
// and take effect when the transaction is finished. All other calls run at once.
func InTransaction(ctx context.Context, id string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, transactionKey, id)
}

// StartTransaction opens a transaction and gives its id. The commits that it makes
// will have this id.
func (c *Client) StartTransaction(ctx context.Context) (id string, err error) {
	t, err := c.Transaction.StartTransaction(ctx, &transactionpb.StartTransactionRequest{})
	return t.GetId(), err
}

// FinishTransaction carries out all calls of a transaction, or none if one fails.
func (c *Client) FinishTransaction(ctx context.Context, id string) (*transactionpb.TransactionInfo, error) {
	return c.Transaction.FinishTransaction(ctx, &transactionpb.FinishTransactionRequest{Transaction: &transactionpb.Transaction{Id: id}})
}

// DeleteTransaction forgets a transaction and its calls.
func (c *Client) DeleteTransaction(ctx context.Context, id string) error {
	_, err := c.Transaction.DeleteTransaction(ctx, &transactionpb.DeleteTransactionRequest{Transaction: &transactionpb.Transaction{Id: id}})
	return err
}

// InspectTransaction describes an open transaction.
func (c *Client) InspectTransaction(ctx context.Context, id string) (*transactionpb.TransactionInfo, error) {
	return c.Transaction.InspectTransaction(ctx, &transactionpb.InspectTransactionRequest{Transaction: &transactionpb.Transaction{Id: id}})
}

// ListTransaction gives the open transactions, newest first.
func (c *Client) ListTransaction(ctx context.Context) ([]*transactionpb.TransactionInfo, error) {
	list, err := c.Transaction.ListTransaction(ctx, &transactionpb.ListTransactionRequest{})
	return list.GetTransactionInfo(), err
}

// cleanupTimeout bounds the deletion of a transaction that came to nothing.
const cleanupTimeout = 5 * time.Second

// RunInTransaction makes the calls that fn makes with its context take effect
// together when fn has returned nil. If fn fails, or the transaction cannot be
// finished, nothing of them happens.
func (c *Client) RunInTransaction(ctx context.Context, fn func(ctx context.Context) error) (*transactionpb.TransactionInfo, error) {
	id, err := c.StartTransaction(ctx)
	if err != nil {
		return nil, err
	}
	var info *transactionpb.TransactionInfo
	if err = fn(InTransaction(ctx, id)); err == nil {
		info, err = c.FinishTransaction(ctx, id)
	}
	if err == nil {
		return info, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	if e := c.DeleteTransaction(ctx, id); e != nil && !errors.Is(e, ErrNotFound) {
		err = errors.Join(err, e)
	}
	return nil, err
}

// BatchTransaction carries out all requests, or none if one fails, in one call.
func (c *Client) BatchTransaction(ctx context.Context, requests ...*transactionpb.TransactionRequest) (*transactionpb.TransactionInfo, error) {
	return c.Transaction.BatchTransaction(ctx, &transactionpb.BatchTransactionRequest{Requests: requests})
}
