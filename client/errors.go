package client

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Kinds of errors, for errors.Is. One error can be of several kinds.
var (
	ErrNotFound         = errors.New("not found")
	ErrAlreadyExists    = errors.New("already exists")
	ErrNotFinished      = errors.New("not finished")             // a commit, its parent or base is still open
	ErrAlreadyFinished  = errors.New("already finished")         // a commit or job is closed to changes
	ErrDeleted          = errors.New("deleted")                  // a commit vanished while it was waited for
	ErrOutputBranch     = errors.New("output branch")            // only its pipeline may write there
	ErrInvalidName      = errors.New("invalid name")             // of a project, repo, branch or pipeline
	ErrInvalidArgument  = errors.New("invalid argument")         // the request or spec is malformed
	ErrNotEmpty         = errors.New("not empty")                // deleting would take more than was asked for
	ErrAuthOff          = errors.New("auth is not activated")    // the call makes sense with auth only
	ErrUnauthenticated  = errors.New("unauthenticated")          // no or no valid token
	ErrPermissionDenied = errors.New("permission denied")        // the token's owner may not
	ErrUnimplemented    = errors.New("unimplemented")            // this server does not do that
	ErrUnavailable      = errors.New("unavailable")              // trying again later may help
	ErrNotConnected     = errors.New("cannot connect to pachd")  // always ErrUnavailable too
	ErrDataLoss         = errors.New("stored data is corrupted") // bytes do not match their hash
)

// Error is the failure of a call. Its text is the server's message, without the
// code; the code and details are in GRPCStatus.
type Error struct {
	status *status.Status
	text   string
	kinds  []error
}

// Error gives the message.
func (e *Error) Error() string { return e.text }

// GRPCStatus gives the status as the server sent it; status.Code(err) and
// status.FromError(err) use it.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// Is tells whether the error is of the kind target.
func (e *Error) Is(target error) bool {
	for _, k := range e.kinds {
		if k == target {
			return true
		}
	}
	return false
}

var byCode = map[codes.Code]error{
	codes.NotFound:         ErrNotFound,
	codes.AlreadyExists:    ErrAlreadyExists,
	codes.InvalidArgument:  ErrInvalidArgument,
	codes.Unauthenticated:  ErrUnauthenticated,
	codes.PermissionDenied: ErrPermissionDenied,
	codes.Unimplemented:    ErrUnimplemented,
	codes.DataLoss:         ErrDataLoss,
	codes.Canceled:         context.Canceled,
	codes.DeadlineExceeded: context.DeadlineExceeded,
}

// Many errors of the protocol have code Unknown: their text is what tells them
// apart.
var byText = []struct {
	re   *regexp.Regexp
	kind error
}{
	{regexp.MustCompile(`not found`), ErrNotFound},
	{regexp.MustCompile(`already exists`), ErrAlreadyExists},
	{regexp.MustCompile(`commit \S+ not finished|commit \S+ has not been finished|base commit .+ unfinished`), ErrNotFinished},
	{regexp.MustCompile(`has already finished`), ErrAlreadyFinished},
	{regexp.MustCompile(`commit \S+ was deleted`), ErrDeleted},
	{regexp.MustCompile(`cannot start a commit on an output branch`), ErrOutputBranch},
	{regexp.MustCompile(`invalid: only alphanumeric|characters longer than the \d+ max|names must start with an alphanumeric|is a reserved name`), ErrInvalidName},
	{regexp.MustCompile(`cannot delete project|cannot be deleted because|cannot delete a repo associated with a pipeline`), ErrNotEmpty},
	{regexp.MustCompile(`the auth service is not activated`), ErrAuthOff},
}

// wrap turns the error of an RPC into *Error. addr names the server in errors
// about the connection itself.
func wrap(err error, addr Address) error {
	if err == nil {
		return nil
	}
	var have *Error
	if errors.As(err, &have) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	e := &Error{status: st, text: st.Message()}
	if k, ok := byCode[st.Code()]; ok {
		e.kinds = append(e.kinds, k)
	}
	if st.Code() == codes.Unavailable {
		if why, is := connectionFault(st.Message()); is {
			e.kinds = append(e.kinds, ErrUnavailable, ErrNotConnected)
			e.text = "cannot connect to pachd at " + addr.String() + ": " + why + "; " + advice(why, addr)
			return e
		}
	}
	for _, t := range byText {
		if t.re.MatchString(e.text) {
			e.kinds = append(e.kinds, t.kind)
		}
	}
	if st.Code() == codes.Unavailable && !e.Is(ErrNotFinished) {
		e.kinds = append(e.kinds, ErrUnavailable)
	}
	return e
}

// connectionFault recognises gRPC's own messages about a connection that could
// not be made, and cuts them down to the cause.
func connectionFault(msg string) (why string, is bool) {
	switch {
	case strings.Contains(msg, "connection error: desc"):
		why = msg[strings.Index(msg, "connection error: desc"):]
		why = strings.TrimPrefix(why, `connection error: desc = `)
		why = strings.Trim(why, `"`)
		why = strings.ReplaceAll(why, `\"`, `"`)
		why = strings.TrimPrefix(why, "transport: ")
		why = strings.TrimPrefix(why, "Error while dialing: ")
	case strings.Contains(msg, "name resolver error"), strings.Contains(msg, "dns: A record lookup error"):
		why = "the name of the host cannot be resolved"
	default:
		return "", false
	}
	for _, cut := range []string{"connection refused", "no such host", "no such file or directory", "no route to host", "network is unreachable"} {
		if strings.Contains(why, cut) {
			why = cut
		}
	}
	return why, true
}

// advice says what helps against a connection fault.
func advice(why string, addr Address) string {
	switch {
	case !addr.Secure && addr.Path == "" && (strings.Contains(why, "error reading server preface") || strings.Contains(why, "connection reset")):
		return "if it serves TLS, its address begins with grpcs://"
	case strings.Contains(why, "first record does not look like a TLS handshake"):
		return "it does not serve TLS: its address begins with grpc://"
	case strings.Contains(why, "certificate signed by unknown authority"):
		return "trust its CA with `pachctl config update context --server-cas <file>`, or with SSL_CERT_FILE"
	case strings.Contains(why, "certificate"):
		return "its certificate has to be for the name that it is reached by"
	}
	return "start it there with `pachd`, or say where it is with PACHD_ADDRESS or `pachctl connect`"
}
