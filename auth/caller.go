package auth

import (
	"context"
	"strings"
)

// Caller is who a request comes from.
type Caller struct {
	// Subject is user:<email>, robot:<name>, pipeline:<project>/<pipeline>, pach:root
	// or internal:<name>; empty is somebody without a token.
	Subject string
}

// Anonymous tells whether nobody is known to have called.
func (c Caller) Anonymous() bool { return c.Subject == "" }

// internal tells whether it is the daemon itself.
func (c Caller) internal() bool { return strings.HasPrefix(c.Subject, internalPrefix) }

type callerKey struct{}

// known is what a context knows of its caller.
type known struct {
	Identity
	err error // why the token that was sent is not accepted
}

// WithCaller makes what is done in the context the work of a caller.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, &known{Identity: Identity{Subject: c.Subject}})
}

// CallerOf gives the caller that the context was given.
func CallerOf(ctx context.Context) (Caller, bool) {
	k, ok := ctx.Value(callerKey{}).(*known)
	if !ok {
		return Caller{}, false
	}
	return Caller{Subject: k.Subject}, true
}

// Internal makes what is done in the context the work of the daemon itself, in the
// part that name says. It may do everything.
func Internal(ctx context.Context, name string) context.Context {
	return WithCaller(ctx, Caller{Subject: internalPrefix + name})
}
