package remote

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"gocloud.dev/gcerrors"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error reports what went wrong with a URL.
type Error struct {
	URL string // without its password
	// Storing tells that the URL was written to.
	Storing bool
	Err     error
}

func (e *Error) Error() string {
	if e.Storing {
		return fmt.Sprintf("error storing content at %q: %v", e.URL, e.Err)
	}
	return fmt.Sprintf("error retrieving content from %q: %v", e.URL, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// GRPCStatus has the code of what happened: Unknown unless there is a better one.
func (e *Error) GRPCStatus() *status.Status {
	code := codes.Unknown
	var r *RefusedError
	switch {
	case errors.As(e.Err, &r):
		code = r.Code
	case errors.Is(e.Err, context.Canceled):
		code = codes.Canceled
	case errors.Is(e.Err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case gcerrors.Code(e.Err) == gcerrors.NotFound:
		code = codes.NotFound
	case gcerrors.Code(e.Err) == gcerrors.PermissionDenied:
		code = codes.PermissionDenied
	}
	return status.New(code, e.Error())
}

// RefusedError reports that the policy does not admit something, or that a URL
// makes no sense. It is final: no client library tries again after it.
type RefusedError struct {
	Code codes.Code
	Err  error
}

func (e *RefusedError) Error() string { return e.Err.Error() }
func (e *RefusedError) Unwrap() error { return e.Err }

// NonRetriable tells the Azure client that it is final.
func (e *RefusedError) NonRetriable() {}

// RetryableError tells the AWS client that it is final.
func (e *RefusedError) RetryableError() bool { return false }

func refusal(code codes.Code, format string, args ...any) error {
	return &RefusedError{Code: code, Err: fmt.Errorf(format, args...)}
}

// withoutURL is the cause in an error of net/http or net/url, which repeats the URL.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// wrap says which URL an error is about.
func wrap(raw string, storing bool, err error) error {
	if err == nil {
		return nil
	}
	shown := raw
	if u, e := url.Parse(raw); e == nil && u.User != nil {
		shown = u.Redacted()
	}
	// What refused is in front of what the client libraries add to it.
	var r *RefusedError
	if errors.As(err, &r) {
		err = r
	}
	return &Error{URL: shown, Storing: storing, Err: err}
}
