package pfs

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// BadKeyError reports an idempotency key that cannot be one.
type BadKeyError struct{ Why string }

func (e *BadKeyError) Error() string { return "the idempotency key is invalid: " + e.Why }

// GRPCStatus makes it InvalidArgument.
func (e *BadKeyError) GRPCStatus() *status.Status { return withCode(codes.InvalidArgument, e) }

// KeyTargetError reports an idempotency key on a write to something else than a branch.
type KeyTargetError struct {
	Key    string
	Commit *pfspb.Commit
}

func (e *KeyTargetError) Error() string {
	return fmt.Sprintf("idempotency key %q: the target must be given by the name of a branch, not as %s", e.Key, CommitName(e.Commit))
}

// GRPCStatus makes it InvalidArgument.
func (e *KeyTargetError) GRPCStatus() *status.Status { return withCode(codes.InvalidArgument, e) }

// KeyOpenError reports an idempotency key on a write that would go to an open commit.
type KeyOpenError struct {
	Key    string
	Commit *pfspb.Commit
}

func (e *KeyOpenError) Error() string {
	return fmt.Sprintf("idempotency key %q: commit %s is open, and a key belongs to a commit of its own: finish that one first, or leave out the key", e.Key, CommitName(e.Commit))
}

// GRPCStatus makes it FailedPrecondition.
func (e *KeyOpenError) GRPCStatus() *status.Status { return withCode(codes.FailedPrecondition, e) }

// KeyReusedError reports an idempotency key that other content was written with.
type KeyReusedError struct {
	Key    string
	Commit *pfspb.Commit // that has the other content
}

func (e *KeyReusedError) Error() string {
	return fmt.Sprintf("idempotency key %q: commit %s was made with it from other content; a key can be repeated only with the same content", e.Key, CommitName(e.Commit))
}

// GRPCStatus makes it FailedPrecondition.
func (e *KeyReusedError) GRPCStatus() *status.Status { return withCode(codes.FailedPrecondition, e) }

// KeyForgottenError reports an idempotency key that was known when a call began
// and is not any more when it ends.
type KeyForgottenError struct{ Key string }

func (e *KeyForgottenError) Error() string {
	return fmt.Sprintf("idempotency key %q: it was forgotten, or its branch deleted, during the call; nothing was written: call again", e.Key)
}

// GRPCStatus makes it Aborted.
func (e *KeyForgottenError) GRPCStatus() *status.Status { return withCode(codes.Aborted, e) }
