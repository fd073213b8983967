package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/auth"
)

// oldClient answers methods of the 1.x packages (pfs.API, pps.API, ...).
const oldClient = "this server is running pachyderm 2.x, but your client appears to be an older version - please upgrade"

// guard is the one place that every request passes: it turns panics and errors
// without a status into one, and writes one log line.
type guard struct {
	log      *zap.Logger
	auth     *auth.Service
	handlers sync.WaitGroup // of streams
}

// panicked carries a panic from one goroutine to another.
type panicked struct {
	value any
	stack []byte
}

func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	start := time.Now()
	defer func() { g.finish(ctx, info.FullMethod, start, recover(), &err) }()
	return g.attend(ctx, info.FullMethod, func(ctx context.Context) (any, error) { return next(ctx, req) })
}

func (g *guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	start := time.Now()
	defer func() { g.finish(ss.Context(), info.FullMethod, start, recover(), &err) }()
	if srv == nil {
		return next(srv, ss) // no service has the method: the answer says so
	}
	return g.supervise(srv, ss, info.FullMethod, next)
}

// finish gives the request its final status and its log line.
func (g *guard) finish(ctx context.Context, method string, start time.Time, caught any, err *error) {
	fields := []zap.Field{zap.String("method", method)}
	if caught != nil {
		p, ok := caught.(*panicked)
		if !ok {
			p = &panicked{value: caught, stack: debug.Stack()}
		}
		id := rand.Text()[:12]
		*err = status.Errorf(codes.Internal, "internal error %s: the daemon's log has the details under this id", id)
		fields = append(fields, zap.String("error_id", id), zap.Any("panic", p.value), zap.String("stack", string(p.stack)))
	}
	if *err != nil {
		*err = toStatus(*err)
	}
	code := status.Code(*err)
	level := levelOf(code)
	if ce := g.log.Check(level, "request"); ce != nil {
		fields = append(fields,
			zap.String("code", code.String()),
			zap.Duration("duration", time.Since(start)),
			zap.String("caller", callerOf(ctx)))
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
	caller := "unknown"
	if p, ok := peer.FromContext(ctx); ok {
		caller = p.Addr.String()
	}
	md, ok := metadata.FromIncomingContext(ctx)
	if !ok {
		return caller
	}
	if via := md.Get(forwardedFor); len(via) > 0 && caller == "pipe" {
		if a, err := netip.ParseAddrPort(via[0]); err == nil {
			caller = a.String() + " (REST)"
		}
	}
	if agent := md.Get("user-agent"); len(agent) > 0 {
		caller += " " + strings.Join(agent, " ")
	}
	return caller
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
