package auth

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
)

// Errors with the codes and texts that clients match.
var (
	// ErrNotActivated answers every auth call while auth is off.
	ErrNotActivated = status.Error(codes.Unimplemented, "the auth service is not activated")
	// ErrBadToken answers a token that is unknown, revoked or expired.
	ErrBadToken = status.Error(codes.Unauthenticated, "provided auth token is corrupted or has expired (try logging in again)")
	// ErrNoToken answers a call that needs a token and has none.
	ErrNoToken = status.Error(codes.Unauthenticated, "no authentication token (try logging in)")
	// ErrManyTokens answers a call with more than one token.
	ErrManyTokens = status.Error(codes.Unknown, "multiple authentication token keys found in context")

	errActivated      = status.Error(codes.Unimplemented, "the auth service is already activated")
	errNoMetadata     = status.Error(codes.Internal, "no authentication metadata (try logging in)")
	errPast           = status.Error(codes.Internal, "token expiration is in the past")
	errNoPrefix       = status.Error(codes.Unknown, "subject has no prefix, must be of the form <type>:<name>")
	errRobotColon     = status.Error(codes.InvalidArgument, "robot names cannot contain colons (':')")
	errPresetRotation = status.Error(codes.FailedPrecondition, "the root token is preset by whoever runs pachd: change it there, and start pachd again")
	errPachBinding    = status.Error(codes.InvalidArgument, "cannot modify cluster role bindings for pach: users")
)

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, "validate request: "+format, args...)
}

// DeniedError reports that a subject lacks a permission.
type DeniedError struct {
	Subject     string
	Resource    Resource
	Permissions []authpb.Permission // all that were needed
}

func (e *DeniedError) Error() string {
	names := make([]string, len(e.Permissions))
	for i, p := range e.Permissions {
		names[i] = p.String()
	}
	return fmt.Sprintf("%s is not authorized to perform this operation - needs permissions [%s] on %v. Run `pachctl auth roles-for-permission` to find roles that grant a given permission.",
		e.Subject, strings.Join(names, " "), e.Resource)
}

// GRPCStatus makes it PermissionDenied.
func (e *DeniedError) GRPCStatus() *status.Status {
	return status.New(codes.PermissionDenied, e.Error())
}

// NoBindingError reports a project or repo that has no record of who may do what
// with it, as one that does not exist.
type NoBindingError struct{ Resource Resource }

func (e *NoBindingError) Error() string {
	return fmt.Sprintf("no role binding exists for %v", e.Resource)
}

// GRPCStatus makes it Unknown.
func (e *NoBindingError) GRPCStatus() *status.Status { return status.New(codes.Unknown, e.Error()) }

// Refused tells whether an error says that the caller lacks a permission.
func Refused(err error) bool {
	var denied *DeniedError
	var none *NoBindingError
	return errors.As(err, &denied) || errors.As(err, &none)
}
