package server

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/auth"
	"github.com/minipachd/minipachd/pfs"
	"github.com/minipachd/minipachd/pps/fence"
	"github.com/minipachd/minipachd/server/audit"
)

// tokenKey is the metadata key that clients send their token under.
const tokenKey = "authn-token"

// endingGrace is what the handler of a stream whose token is good no more has to
// return, before the stream is ended over its head.
const endingGrace = 200 * time.Millisecond

// tokenOf is the token that a call carries, "" for none.
func tokenOf(ctx context.Context) (string, error) {
	sent := metadata.ValueFromIncomingContext(ctx, tokenKey)
	switch len(sent) {
	case 0:
		return "", nil
	case 1:
		return sent[0], nil
	}
	return "", auth.ErrManyTokens
}

// identify finds out who calls, and refuses those who may not call the method at
// all. What a worker asks for it makes depend on its still being the one that may
// write, whether auth is on or off.
func (g *guard) identify(ctx context.Context, method string) (context.Context, auth.Identity, error) {
	var id auth.Identity
	ctx, worker := asWriter(ctx)
	if !g.auth.Active() {
		if worker != nil {
			id = workerIdentity(*worker)
		}
		return auth.WithIdentity(ctx, id, nil), id, nil
	}
	need, ok := accessTable[method]
	if !ok {
		return ctx, id, status.Errorf(codes.PermissionDenied, "method %s is refused while auth is on: what it needs is not known", method)
	}
	token, err := tokenOf(ctx)
	if err == nil && token != "" {
		id, err = g.auth.Authenticate(ctx, token)
	}
	ctx = auth.WithIdentity(ctx, id, err)
	switch {
	case need.public:
		return ctx, id, nil
	case err != nil:
		return ctx, id, err
	case need.perm != 0:
		return ctx, id, g.auth.Check(ctx, nil, auth.Cluster(), need.perm)
	case id.Subject == "" && g.auth.Active():
		return ctx, id, auth.ErrNoToken
	}
	return ctx, id, nil
}

// asWriter makes what a worker does the work of a writer. Other callers, and tokens
// that are not of workers, are let through.
func asWriter(ctx context.Context) (context.Context, *fence.Claims) {
	for _, token := range metadata.ValueFromIncomingContext(ctx, tokenKey) {
		if c, ok := fence.Parse(token); ok {
			return pfs.WithWriter(ctx, &pfs.Writer{ID: c.Writer(), Key: c.Key(), Value: c.Value(), Ended: c.Ended}), &c
		}
	}
	return ctx, nil
}

func workerIdentity(c fence.Claims) auth.Identity {
	return auth.Identity{Subject: "pipeline:" + c.Pipeline, Key: c.Key()}
}

// resolveWorker knows the tokens of workers: each is good as long as its holder is
// the one of its slot that may write.
func (s *Server) resolveWorker(ctx context.Context, token string) (auth.Identity, bool, error) {
	c, ok := fence.Parse(token)
	if !ok {
		return auth.Identity{}, false, nil
	}
	current, err := s.fences.Current(ctx, c)
	if err == nil && !current {
		err = &replacedError{c}
	}
	if err != nil {
		return auth.Identity{}, true, err
	}
	return workerIdentity(c), true, nil
}

// replacedError refuses the token of a worker that may not write any more. It tells
// nothing that the token does not say itself: one that nobody ever had looks the same.
type replacedError struct{ fence.Claims }

func (e *replacedError) Error() string {
	return fmt.Sprintf("%s: worker %d of pipeline %.200q, incarnation %.40q, was stopped or replaced, and the token that it had ended with it",
		status.Convert(auth.ErrBadToken).Message(), e.Slot, e.Pipeline, e.ID)
}

// GRPCStatus makes it Unauthenticated.
func (e *replacedError) GRPCStatus() *status.Status {
	return status.New(codes.Unauthenticated, e.Error())
}

// supervise runs the handler of a stream, and ends the stream when the caller's
// token is good no more.
func (g *guard) supervise(srv any, ss grpc.ServerStream, c *call, next grpc.StreamHandler) error {
	method := c.method
	ctx, id, err := g.identify(ss.Context(), method)
	c.caller = id
	if err != nil {
		c.refused = err
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream := &supervised{ServerStream: ss, ctx: ctx, objects: c.objects}
	if accessTable[method].public && id.Subject == "" {
		return next(srv, stream)
	}
	// The handler may be waiting for the client, which only the end of the call
	// interrupts: so it runs in a goroutine of its own, and the call can end first.
	done := make(chan error, 1)
	caught := make(chan any, 1)
	running, ended := context.WithCancel(ss.Context())
	g.handlers.run(func() {
		defer ended()
		defer func() {
			if v := recover(); v != nil {
				caught <- &panicked{value: v, stack: debug.Stack()}
			}
		}()
		done <- next(srv, stream)
	})
	var refused error
	if lasts(running, streamPatience) {
		refused = g.watch(running, ss.Context(), method, id)
	}
	var after <-chan time.Time
	if refused != nil {
		stream.refused.Store(&refused)
		cancel(refused)
		timer := time.NewTimer(endingGrace)
		defer timer.Stop()
		after = timer.C
	}
	select {
	case err = <-done:
	case v := <-caught:
		panic(v)
	case <-after:
	}
	if refused != nil {
		return refused
	}
	return err
}

// lasts waits, and tells whether running has not ended by then.
func lasts(running context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-running.Done():
		return false
	case <-timer.C:
		return true
	}
}

// watch returns what refuses a caller whose call goes on, or nil when running ends.
// Ctx is that of the call as it came.
func (g *guard) watch(running, ctx context.Context, method string, id auth.Identity) error {
	return g.auth.Watch(running, id, func() error {
		_, now, err := g.identify(ctx, method)
		if err == nil && now.Subject != id.Subject && g.auth.Active() {
			err = auth.ErrBadToken
		}
		return err
	})
}

// streamPatience is how long a stream runs before it is watched: most have ended by then.
const streamPatience = 20 * time.Millisecond

// patience is how long a call that is no stream runs before it is watched as one.
const patience = 500 * time.Millisecond

// attend runs the handler of a call that is no stream. If it waits for long, it ends
// when the caller's token is good no more.
func (g *guard) attend(c *call, run func(context.Context) (any, error)) (any, error) {
	ctx, method := c.ctx, c.method
	inner, id, err := g.identify(ctx, method)
	c.caller = id
	if err != nil {
		c.refused = err
		return nil, err
	}
	if accessTable[method].public && id.Subject == "" {
		return run(inner)
	}
	inner, cancel := context.WithCancelCause(inner)
	ended := make(chan struct{})
	timer := time.AfterFunc(patience, func() {
		defer close(ended)
		if refused := g.watch(inner, ctx, method, id); refused != nil {
			cancel(refused)
		}
	})
	defer func() {
		cancel(nil)
		if !timer.Stop() {
			<-ended
		}
	}()
	resp, err := run(inner)
	if err != nil && inner.Err() != nil && ctx.Err() == nil {
		return nil, context.Cause(inner)
	}
	return resp, err
}

// supervised is a stream with another context that can be told to end. It notes what
// it is about.
type supervised struct {
	grpc.ServerStream
	ctx     context.Context
	refused atomic.Pointer[error]
	objects *audit.Objects // that the client's messages are about
}

func (s *supervised) Context() context.Context { return s.ctx }

func (s *supervised) SendMsg(m any) error {
	if err := s.refused.Load(); err != nil {
		return *err
	}
	return s.ServerStream.SendMsg(m)
}

func (s *supervised) RecvMsg(m any) error {
	if err := s.refused.Load(); err != nil {
		return *err
	}
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.objects.Add(m)
	}
	return err
}
