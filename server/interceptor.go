package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/auth"
	"github.com/minipachd/minipachd/server/audit"
)

// oldClient answers methods of the 1.x packages (pfs.API, pps.API, ...).
const oldClient = "this server is running pachyderm 2.x, but your client appears to be an older version - please upgrade"

// guard is the one place that every request passes: it turns panics and errors
// without a status into one, writes one log line, and keeps the audit log.
type guard struct {
	log      *zap.Logger
	auth     *auth.Service
	audit    *audit.Log
	handlers *handlers // of streams
}

// panicked carries a panic from one goroutine to another.
type panicked struct {
	value any
	stack []byte
}

func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	c := &call{ctx: ctx, method: info.FullMethod, start: time.Now(), request: req}
	defer func() {
		c.response = resp
		g.finish(c, recover(), &err)
	}()
	return g.attend(c, func(ctx context.Context) (any, error) { return next(ctx, req) })
}

func (g *guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	c := &call{ctx: ss.Context(), method: info.FullMethod, start: time.Now(), objects: &audit.Objects{}}
	defer func() { g.finish(c, recover(), &err) }()
	if srv == nil {
		return next(srv, ss) // no service has the method: the answer says so
	}
	return g.supervise(srv, ss, c, next)
}

// finish gives the request its final status, its log line and its entry in the audit
// log.
func (g *guard) finish(c *call, caught any, err *error) {
	fields := []zap.Field{zap.String("method", c.method)}
	if caught != nil {
		p, ok := caught.(*panicked)
		if !ok {
			p = &panicked{value: caught, stack: debug.Stack()}
		}
		id := rand.Text()[:12]
		*err = status.Errorf(codes.Internal, "internal error %s: the daemon's log has the details under this id", id)
		fields = append(fields, zap.String("error_id", id), zap.Any("panic", p.value), zap.String("stack", string(p.stack)))
	}
	if c.refused == nil {
		c.refused = refusal(*err)
	}
	if *err != nil {
		*err = toStatus(*err)
	}
	g.record(c, *err)
	code := status.Code(*err)
	level := levelOf(code)
	if ce := g.log.Check(level, "request"); ce != nil {
		fields = append(fields,
			zap.String("code", code.String()),
			zap.Duration("duration", time.Since(c.start)),
			zap.String("caller", callerOf(c.ctx)))
		if *err != nil {
			fields = append(fields, zap.String("error", status.Convert(*err).Message()))
		}
		ce.Write(fields...)
	}
}

// levelOf separates what the operator should look at from everyday answers.
func levelOf(code codes.Code) zapcore.Level {
	switch code {
	case codes.Internal, codes.DataLoss:
		return zap.ErrorLevel
	case codes.ResourceExhausted:
		return zap.WarnLevel
	}
	return zap.InfoLevel
}

// callerOf names who called: address and user agent.
func callerOf(ctx context.Context) string {
	from, agent := addressOf(ctx), agentOf(ctx)
	if agent != "" {
		from += " " + agent
	}
	return from
}

// addressOf is where a call came from; that of a REST call is its client's.
func addressOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "unknown"
	}
	from := p.Addr.String()
	if via := metadata.ValueFromIncomingContext(ctx, forwardedFor); len(via) > 0 && from == "pipe" {
		if a, err := netip.ParseAddrPort(via[0]); err == nil {
			from = a.String() + " (REST)"
		}
	}
	return from
}

// agentOf is what the caller says it is.
func agentOf(ctx context.Context) string {
	key := "user-agent"
	if p, ok := peer.FromContext(ctx); ok && p.Addr.String() == "pipe" {
		key = forwardedAgent
	}
	return strings.Join(metadata.ValueFromIncomingContext(ctx, key), " ")
}

// unknownMethod answers methods that no service has.
func unknownMethod(_ any, ss grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(ss)
	pkg, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), ".")
	switch pkg {
	case "pfs", "pps", "auth", "admin", "enterprise", "transaction", "versionpb", "debug", "identity", "license":
		return errors.New(oldClient)
	}
	return status.Error(codes.Unimplemented, fmt.Sprintf("unknown method %s", method))
}
