package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/minipachd/minipachd/auth/oidc"
	adminpb "github.com/minipachd/minipachd/proto/admin_v2"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	enterprisepb "github.com/minipachd/minipachd/proto/enterprise_v2"
	identitypb "github.com/minipachd/minipachd/proto/identity_v2"
	licensepb "github.com/minipachd/minipachd/proto/license_v2"
	metadatapb "github.com/minipachd/minipachd/proto/metadata"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
	versionpb "github.com/minipachd/minipachd/proto/versionpb_v2"
)

// forwardedFor and forwardedAgent carry a REST caller's address, and what it says it
// is, to the request's log line. They are set by the gateway alone: a client's own
// headers of these names are dropped.
const (
	forwardedFor   = "x-pachd-rest-caller"
	forwardedAgent = "x-pachd-rest-agent"
)

// newGateway gives the HTTP handler for REST calls: POST of a JSON request to
// /api/<package>.<Service>/<Method>. It reaches gRPC over dial, so a REST call
// passes the same interceptors as any other. Browsers that come back from an issuer
// go to callback.
func newGateway(ctx context.Context, dial func(context.Context) (net.Conn, error), callback http.Handler) (http.Handler, func() error, error) {
	conn, err := grpc.NewClient("passthrough:///pachd",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, nil, fmt.Errorf("rest gateway: %w", err)
	}
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{EmitUnpopulated: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
		}),
		runtime.WithIncomingHeaderMatcher(headerToMetadata),
	)
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		adminpb.RegisterAPIHandler, authpb.RegisterAPIHandler, enterprisepb.RegisterAPIHandler,
		identitypb.RegisterAPIHandler, licensepb.RegisterAPIHandler, metadatapb.RegisterAPIHandler,
		pfspb.RegisterAPIHandler, ppspb.RegisterAPIHandler, transactionpb.RegisterAPIHandler,
		versionpb.RegisterAPIHandler,
	} {
		if err := register(ctx, mux, conn); err != nil {
			conn.Close()
			return nil, nil, fmt.Errorf("rest gateway: %w", err)
		}
	}
	root := http.NewServeMux()
	root.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("healthy\n"))
	})
	root.Handle(oidc.CallbackPath, callback)
	root.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set(forwardedFor, r.RemoteAddr)
		r.Header.Set(forwardedAgent, ascii(r.UserAgent()))
		forwardToken(r.Header)
		mux.ServeHTTP(w, r)
	})
	return root, conn.Close, nil
}

// forwardToken lets a REST caller send its token as a bearer token too. One that is
// sent both ways differently is refused as two tokens are.
func forwardToken(h http.Header) {
	sent := h.Values(tokenKey)
	for _, v := range h.Values("Authorization") {
		scheme, token, _ := strings.Cut(v, " ")
		token = strings.TrimSpace(token)
		if strings.EqualFold(scheme, "Bearer") && token != "" && !slices.Contains(sent, token) {
			h.Add(tokenKey, token)
			sent = append(sent, token)
		}
	}
	h.Del("Authorization")
}

// ascii is text as metadata can carry it.
func ascii(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
}

// hopByHop are headers that belong to one connection (RFC 9110, section 7.6.1)
// or that gRPC sets itself.
var hopByHop = map[string]bool{
	"connection": true, "content-length": true, "content-type": true, "host": true, "keep-alive": true,
	"proxy-authenticate": true, "proxy-authorization": true, "proxy-connection": true, "te": true,
	"trailer": true, "transfer-encoding": true, "upgrade": true,
}

// headerToMetadata passes every request header on as metadata under its own
// lower-case name.
func headerToMetadata(name string) (string, bool) {
	key := strings.ToLower(textproto.TrimString(name))
	if hopByHop[key] || strings.HasPrefix(key, "grpc-") || strings.HasPrefix(key, ":") {
		return "", false
	}
	return key, true
}

// newHTTPServer bounds what a slow or silent HTTP client can hold on to; bodies
// and answers have no limit of time, since both may stream.
func newHTTPServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
	}
}
