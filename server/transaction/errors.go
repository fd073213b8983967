package transaction

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	errNoTransaction   = status.Error(codes.InvalidArgument, "validate request: a transaction must be given")
	errTwoTransactions = status.Error(codes.InvalidArgument, "the metadata "+MetadataKey+" names more than one transaction: a call can be part of one only")
)

// NotFoundError reports a transaction that is not open: it never was, or has been
// finished or deleted.
type NotFoundError struct{ ID string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("transaction %q not found: there is none, or it has been finished or deleted", e.ID)
}

// GRPCStatus makes it NotFound.
func (e *NotFoundError) GRPCStatus() *status.Status { return status.New(codes.NotFound, e.Error()) }

// NotOwnerError reports a transaction that somebody else started.
type NotOwnerError struct{ Subject, ID string }

func (e *NotOwnerError) Error() string {
	return fmt.Sprintf("%s is not authorized to perform this operation - transaction %s belongs to whoever started it, and to cluster admins", e.Subject, e.ID)
}

// GRPCStatus makes it PermissionDenied.
func (e *NotOwnerError) GRPCStatus() *status.Status {
	return status.New(codes.PermissionDenied, e.Error())
}

// FullError reports a transaction that takes no more calls. ID is empty for one
// that was never stored.
type FullError struct{ ID string }

func (e *FullError) Error() string {
	return fmt.Sprintf("transaction %sis full: one takes at most %d calls and %d bytes of them; finish it and use another",
		spaced(e.ID), MaxRequests, MaxBytes)
}

func spaced(id string) string {
	if id == "" {
		return ""
	}
	return id + " "
}

// GRPCStatus makes it ResourceExhausted.
func (e *FullError) GRPCStatus() *status.Status {
	return status.New(codes.ResourceExhausted, e.Error())
}

// TooManyError reports that no more transactions can be opened.
type TooManyError struct{ Open int64 }

func (e *TooManyError) Error() string {
	return fmt.Sprintf("%d transactions are open, and at most %d can be: finish or delete some", e.Open, MaxOpen)
}

// GRPCStatus makes it ResourceExhausted.
func (e *TooManyError) GRPCStatus() *status.Status {
	return status.New(codes.ResourceExhausted, e.Error())
}

// BadRequestError reports a request of a batch that is not one call.
type BadRequestError struct {
	Number int // from 1
	Calls  int // that it holds
}

func (e *BadRequestError) Error() string {
	return fmt.Sprintf("validate request: request %d holds %d calls; each must hold exactly one", e.Number, e.Calls)
}

// GRPCStatus makes it InvalidArgument.
func (e *BadRequestError) GRPCStatus() *status.Status {
	return status.New(codes.InvalidArgument, e.Error())
}

// RequestError says which call of a transaction fails. Its code is that of the
// cause.
type RequestError struct {
	Number int // from 1
	Call   string
	Err    error
}

func (e *RequestError) Error() string {
	return fmt.Sprintf("request %d of the transaction (%s): %s", e.Number, e.Call, status.Convert(e.Err).Message())
}

// Unwrap gives what was wrong.
func (e *RequestError) Unwrap() error { return e.Err }
