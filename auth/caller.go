package auth

import (
	"context"
	"time"
)

// Caller is who a request comes from.
type Caller struct {
	// Subject is user:<email>, robot:<name>, pipeline:<project>/<pipeline>, pach:root
	// or internal:<name>; empty is somebody without a token.
	Subject string
}

// Anonymous tells whether nobody is known to have called.
func (c Caller) Anonymous() bool { return c.Subject == "" }

// Identity is what a token says of whoever sends it.
type Identity struct {
	Subject    string
	Expiration time.Time // zero if the token does not expire
	// Key names the token where it is kept, for Changed.
	Key string
}

type callerKey struct{}

// known is what a context knows of its caller.
type known struct {
	Identity
	err error // why nobody is known: the token that was sent is not accepted
}

// internal tells whether it is the daemon itself.
func (k *known) internal() bool { return IsInternal(k.Subject) }

// WithCaller makes what is done in the context the work of a caller.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return WithIdentity(ctx, Identity{Subject: c.Subject}, nil)
}

// WithIdentity is WithCaller of whoever sent a token. If there is none, err is what
// they learn when a call needs one; nil is that they sent none.
func WithIdentity(ctx context.Context, id Identity, err error) context.Context {
	return context.WithValue(ctx, callerKey{}, &known{Identity: id, err: err})
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

// authenticated gives the caller of ctx, or the error of one who is not known.
func authenticated(ctx context.Context) (*known, error) {
	k, ok := ctx.Value(callerKey{}).(*known)
	switch {
	case !ok:
		return nil, errNoMetadata
	case k.Subject != "":
		return k, nil
	case k.err != nil:
		return nil, k.err
	}
	return nil, ErrNoToken
}
