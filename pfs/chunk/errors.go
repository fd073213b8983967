package chunk

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrNotFound reports a key that the bucket does not have. Buckets wrap it.
var ErrNotFound = errors.New("object not found")

// CorruptError reports a chunk whose stored bytes are not what they were.
type CorruptError struct {
	Hash   Hash
	Reason string
	Err    error // the cause, if there is one
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("chunk %s is damaged: %s", e.Hash, e.Reason)
}

// Unwrap returns the cause, if there is one.
func (e *CorruptError) Unwrap() error { return e.Err }

// GRPCStatus maps the error to DataLoss.
func (e *CorruptError) GRPCStatus() *status.Status {
	return status.New(codes.DataLoss, e.Error())
}

// MissingError reports a chunk that the bucket does not have. It is ErrNotFound.
type MissingError struct {
	Hash Hash
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("chunk %s is missing: the bucket has no such object", e.Hash)
}

// Unwrap returns ErrNotFound.
func (e *MissingError) Unwrap() error { return ErrNotFound }

// GRPCStatus maps the error to DataLoss.
func (e *MissingError) GRPCStatus() *status.Status {
	return status.New(codes.DataLoss, e.Error())
}

// FullError reports that a directory bucket has no space left; nothing of the
// object in question was kept.
type FullError struct {
	Dir string // the bucket's directory
	Err error  // what the system said
}

func (e *FullError) Error() string {
	return fmt.Sprintf("the disk that holds %s is full", e.Dir)
}

// Unwrap returns the system's error.
func (e *FullError) Unwrap() error { return e.Err }

// GRPCStatus maps the error to ResourceExhausted.
func (e *FullError) GRPCStatus() *status.Status {
	return status.New(codes.ResourceExhausted, e.Error())
}
