package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/dustin/go-humanize"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrLeaseLost ends a transaction whose CompareLease no longer holds.
var ErrLeaseLost = errors.New("store: the lease that this write depends on was lost")

// TooLargeError reports a transaction beyond what etcd takes in one request.
type TooLargeError struct {
	Ops   int // operations or comparisons
	Bytes int
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("transaction of %d operations and %d bytes is too large, at most %d and %d are possible: do it in several steps", e.Ops, e.Bytes, maxTxnOps, maxRequestBytes)
}

// GRPCStatus makes it ResourceExhausted.
func (e *TooLargeError) GRPCStatus() *status.Status {
	return status.New(codes.ResourceExhausted, e.Error())
}

// UnavailableError reports that etcd did not answer; the call may be repeated.
type UnavailableError struct {
	Op  string
	Err error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("%s etcd: %v", e.Op, e.Err)
}

// Unwrap gives what etcd said.
func (e *UnavailableError) Unwrap() error { return e.Err }

// GRPCStatus makes it Unavailable.
func (e *UnavailableError) GRPCStatus() *status.Status {
	return status.New(codes.Unavailable, e.Error())
}

// FullError reports that etcd has reached, or nears, its quota and takes no more data.
type FullError struct {
	Space  Space
	Remote bool  // it is not the embedded one
	Err    error // of etcd, nil if it was not asked
}

func (e *FullError) Error() string {
	text := "etcd has reached its quota"
	if sp := e.Space; sp.Quota > 0 && sp.Bytes > 0 {
		text = fmt.Sprintf("etcd nears its quota (%s of %s)", humanize.IBytes(uint64(sp.Bytes)), humanize.IBytes(uint64(sp.Quota)))
	}
	return text + " and takes no more data: " + remedy(e.Remote)
}

// remedy says what helps against an etcd that is full.
func remedy(remote bool) string {
	if remote {
		return "delete repos or squash old commits, then compact and defragment the etcd cluster, or raise its --quota-backend-bytes; `etcdctl alarm disarm` if it has raised an alarm"
	}
	return "delete repos or squash old commits, whose space comes back with the next garbage collection, or start pachd with a larger --etcd-quota"
}

// Unwrap gives what etcd said.
func (e *FullError) Unwrap() error { return e.Err }

// GRPCStatus makes it ResourceExhausted.
func (e *FullError) GRPCStatus() *status.Status {
	return status.New(codes.ResourceExhausted, e.Error())
}

// opCommit names the request that may have taken effect though it failed.
const opCommit = "commit to"

// fail says what went wrong between the store and etcd.
func (tx *Txn) fail(op string, err error) error {
	if cause := tx.ctx.Err(); cause != nil {
		return cause
	}
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace), errors.Is(err, rpctypes.ErrGRPCNoSpace):
		tx.s.wakeRelief()
		return &FullError{Space: tx.s.Space(), Remote: tx.s.etcd == nil, Err: err}
	case errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrGRPCRequestTooLarge),
		errors.Is(err, rpctypes.ErrTooManyOps), errors.Is(err, rpctypes.ErrGRPCTooManyOps):
		return &TooLargeError{Ops: len(tx.writes)}
	case errors.Is(err, context.DeadlineExceeded) && op == opCommit:
		err = fmt.Errorf("no answer within %v, so whether it took effect is not known", requestTimeout)
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("no answer within %v", requestTimeout)
	}
	return &UnavailableError{Op: op, Err: err}
}
