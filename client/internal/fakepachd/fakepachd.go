// Package fakepachd is a small stand-in for pachd: real gRPC over loopback, a
// few repos in memory, and a record of everything that clients sent. It knows
// just enough of the API's rules for tests of clients.
package fakepachd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // clients may compress
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	adminpb "github.com/minipachd/minipachd/proto/admin_v2"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	identitypb "github.com/minipachd/minipachd/proto/identity_v2"
	metadatapb "github.com/minipachd/minipachd/proto/metadata"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
	versionpb "github.com/minipachd/minipachd/proto/versionpb_v2"
)

// Call is one RPC that was made.
type Call struct {
	Method   string // such as pfs_v2.API/CreateRepo
	Metadata metadata.MD
	Requests []proto.Message
	Err      error // what the handler returned
}

// Server is the stand-in. Its fields may be set before the first call.
type Server struct {
	Warnings []string                                                                        // of InspectCluster
	Logs     []*ppspb.LogMessage                                                             // of GetLogs
	OnLogs   func(*ppspb.GetLogsRequest, grpc.ServerStreamingServer[ppspb.LogMessage]) error // instead, if set
	Fsck     []*pfspb.FsckResponse

	addr string

	mu        sync.Mutex
	calls     []*Call
	changed   chan struct{} // closed and replaced whenever a call goes on or ends
	repos     map[string]*repo
	pipelines map[string]*ppspb.PipelineInfo
	nextID    int
}

// Start runs a server until the test ends.
func Start(t testing.TB, opts ...grpc.ServerOption) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		addr: l.Addr().String(), changed: make(chan struct{}),
		repos: map[string]*repo{}, pipelines: map[string]*ppspb.PipelineInfo{},
	}
	opts = append(opts, grpc.MaxRecvMsgSize(20<<20), grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream))
	g := grpc.NewServer(opts...)
	adminpb.RegisterAPIServer(g, adminServer{s: s})
	versionpb.RegisterAPIServer(g, versionServer{})
	authpb.RegisterAPIServer(g, authServer{})
	identitypb.RegisterAPIServer(g, &identitypb.UnimplementedAPIServer{})
	metadatapb.RegisterAPIServer(g, &metadatapb.UnimplementedAPIServer{})
	transactionpb.RegisterAPIServer(g, &transactionpb.UnimplementedAPIServer{})
	pfspb.RegisterAPIServer(g, pfsServer{s: s})
	ppspb.RegisterAPIServer(g, ppsServer{s: s})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(l) // ends when the test does
	}()
	t.Cleanup(func() {
		g.Stop()
		<-done
	})
	return s
}

// Addr is the host:port of the server.
func (s *Server) Addr() string { return s.addr }

// Calls gives the calls so far, in the order in which they began, without the
// InspectCluster that comes before everything.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Call
	for _, c := range s.calls {
		if c.Method != "admin_v2.API/InspectCluster" {
			all = append(all, *c)
		}
	}
	return all
}

// Last waits until the newest call of a method has ended, and gives it.
func (s *Server) Last(ctx context.Context, t testing.TB, method string) Call {
	t.Helper()
	return s.await(ctx, t, method, func(c *Call) bool { return !errors.Is(c.Err, errRunning) })
}

// Received waits until the newest call of a method has had n requests.
func (s *Server) Received(ctx context.Context, t testing.TB, method string, n int) Call {
	t.Helper()
	return s.await(ctx, t, method, func(c *Call) bool { return len(c.Requests) >= n })
}

func (s *Server) await(ctx context.Context, t testing.TB, method string, ok func(*Call) bool) Call {
	t.Helper()
	for {
		s.mu.Lock()
		var last *Call
		for _, c := range s.calls {
			if c.Method == method {
				last = c
			}
		}
		changed := s.changed
		if last != nil && ok(last) {
			defer s.mu.Unlock()
			return *last
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", method)
		}
	}
}

// Forget drops the record of calls.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = nil
}

// signal wakes those who wait; mu is held.
func (s *Server) signal() {
	close(s.changed)
	s.changed = make(chan struct{})
}

var errRunning = fmt.Errorf("still running")

func (s *Server) begin(ctx context.Context, method string) *Call {
	md, _ := metadata.FromIncomingContext(ctx)
	c := &Call{Method: method[1:], Metadata: md, Err: errRunning}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, c)
	return c
}

func (s *Server) request(c *Call, m any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.Requests = append(c.Requests, proto.Clone(m.(proto.Message)))
	s.signal()
}

func (s *Server) end(c *Call, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.Err = err
	s.signal()
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	c := s.begin(ctx, info.FullMethod)
	s.request(c, req)
	resp, err := h(ctx, req)
	s.end(c, err)
	return resp, err
}

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	c := s.begin(ss.Context(), info.FullMethod)
	err := h(srv, &recorded{ss, s, c})
	s.end(c, err)
	return err
}

type recorded struct {
	grpc.ServerStream
	s *Server
	c *Call
}

func (r *recorded) RecvMsg(m any) error {
	err := r.ServerStream.RecvMsg(m)
	if err == nil {
		r.s.request(r.c, m)
	}
	return err
}

type adminServer struct {
	adminpb.UnimplementedAPIServer
	s *Server
}

func (a adminServer) InspectCluster(context.Context, *adminpb.InspectClusterRequest) (*adminpb.ClusterInfo, error) {
	return &adminpb.ClusterInfo{Id: "cluster", DeploymentId: "deployment", WarningsOk: true, Warnings: a.s.Warnings}, nil
}

type versionServer struct {
	versionpb.UnimplementedAPIServer
}

func (versionServer) GetVersion(context.Context, *emptypb.Empty) (*versionpb.Version, error) {
	return &versionpb.Version{Major: 2, Minor: 12, Micro: 3}, nil
}

type authServer struct{ authpb.UnimplementedAPIServer }

var errAuthOff = status.Error(codes.Unimplemented, "the auth service is not activated")

func (authServer) WhoAmI(context.Context, *authpb.WhoAmIRequest) (*authpb.WhoAmIResponse, error) {
	return nil, errAuthOff
}

func (authServer) Deactivate(context.Context, *authpb.DeactivateRequest) (*authpb.DeactivateResponse, error) {
	return nil, errAuthOff
}
