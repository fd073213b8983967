package server

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	metadatapb "github.com/minipachd/minipachd/proto/metadata"
	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
)

// transactionKey is the metadata key that makes a call part of a transaction.
const transactionKey = "pach-transaction"

// errNoTransactions answers every attempt to open or use a transaction.
var errNoTransactions = status.Error(codes.Unimplemented, "transactions are not supported by this version of pachd: make the calls one by one")

// refuseTransaction answers calls that want to be queued in a transaction:
// running them at once would be something else than the caller asked for.
func refuseTransaction(ctx context.Context) error {
	for _, id := range metadata.ValueFromIncomingContext(ctx, transactionKey) {
		if id != "" {
			return errNoTransactions
		}
	}
	return nil
}

// transactionServer is transaction_v2.API without transactions.
type transactionServer struct {
	transactionpb.UnimplementedAPIServer
}

func (*transactionServer) BatchTransaction(context.Context, *transactionpb.BatchTransactionRequest) (*transactionpb.TransactionInfo, error) {
	return nil, errNoTransactions
}

func (*transactionServer) StartTransaction(context.Context, *transactionpb.StartTransactionRequest) (*transactionpb.Transaction, error) {
	return nil, errNoTransactions
}

func (*transactionServer) InspectTransaction(context.Context, *transactionpb.InspectTransactionRequest) (*transactionpb.TransactionInfo, error) {
	return nil, errNoTransactions
}

func (*transactionServer) DeleteTransaction(context.Context, *transactionpb.DeleteTransactionRequest) (*emptypb.Empty, error) {
	return nil, errNoTransactions
}

func (*transactionServer) ListTransaction(context.Context, *transactionpb.ListTransactionRequest) (*transactionpb.TransactionInfos, error) {
	return nil, errNoTransactions
}

func (*transactionServer) FinishTransaction(context.Context, *transactionpb.FinishTransactionRequest) (*transactionpb.TransactionInfo, error) {
	return nil, errNoTransactions
}

// DeleteAll succeeds: there is never a transaction to delete.
func (*transactionServer) DeleteAll(context.Context, *transactionpb.DeleteAllRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

// metadataServer is metadata.API.
type metadataServer struct {
	metadatapb.UnimplementedAPIServer
}

func (*metadataServer) EditMetadata(context.Context, *metadatapb.EditMetadataRequest) (*metadatapb.EditMetadataResponse, error) {
	return nil, status.Error(codes.Unimplemented, "editing metadata is not supported by this version of pachd")
}
