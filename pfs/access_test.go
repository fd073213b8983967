package pfs

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/minipachd/minipachd/auth"
	"github.com/minipachd/minipachd/pfs/frame"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// registrar takes the auth service out of what is registered.
type registrar struct{ authpb.APIServer }

func (r *registrar) RegisterService(_ *grpc.ServiceDesc, impl any) {
	if s, ok := impl.(authpb.APIServer); ok {
		r.APIServer = s
	}
}

// callerStream is a stream of somebody.
type callerStream struct {
	grpc.ServerStream
	subject string
}

func (s *callerStream) Context() context.Context {
	return auth.WithCaller(s.ServerStream.Context(), auth.Caller{Subject: s.subject})
}

// openAs serves pfs to one subject, with no work in the background but that of
// package auth, whose memory is fed. It is turned on by activate.
func openAs(t *testing.T, subject string) (m *metaServer, activate func()) {
	t.Helper()
	var a *auth.Service
	svc, closeStorage := openService(t, t.TempDir(), func(cfg *Config) {
		a = auth.New(auth.Config{Store: cfg.Store})
		if err := a.Init(t.Context()); err != nil {
			t.Fatal(err)
		}
		cfg.Auth = a
	})
	l := bufconn.Listen(1 << 20)
	srv := grpc.NewServer(grpc.ForceServerCodecV2(frame.Codec()),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			return next(auth.WithCaller(ctx, auth.Caller{Subject: subject}), req)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return next(srv, &callerStream{ss, subject})
		}))
	svc.Register(srv)
	go srv.Serve(l)
	conn, err := grpc.NewClient("passthrough:pfs", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- a.Run(ctx) }()
	t.Cleanup(func() {
		conn.Close()
		srv.Stop()
		cancel()
		<-ran
		closeStorage()
	})
	return &metaServer{t: t, svc: svc, APIClient: pfspb.NewAPIClient(conn)}, func() {
		t.Helper()
		r := &registrar{}
		a.Register(r)
		if _, err := r.Activate(auth.WithCaller(limit(t), auth.Caller{}), &authpb.ActivateRequest{RootToken: "root"}); err != nil {
			t.Fatal(err)
		}
	}
}

// grant gives somebody a role, and returns once the memory knows.
func (m *metaServer) grant(subject, role string, res auth.Resource, perm authpb.Permission) {
	m.t.Helper()
	ctx := auth.WithCaller(limit(m.t), auth.Caller{Subject: subject})
	for {
		m.must(nil, m.svc.Update(ctx, func(tx *Txn) error { return m.svc.auth.Bind(ctx, tx.Txn, res, subject, role) }))
		if ok, err := m.svc.auth.Allows(ctx, res, perm); err != nil {
			m.t.Fatal(err)
		} else if ok {
			return
		}
	}
}

// counter counts the reads of etcd.
type counter struct {
	clientv3.KV
	n atomic.Int64
}

func (c *counter) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	c.n.Add(1)
	return c.KV.Get(ctx, key, opts...)
}

func (c *counter) Txn(ctx context.Context) clientv3.Txn {
	c.n.Add(1)
	return c.KV.Txn(ctx)
}

// TestAccess_CommitsAskMemory counts the reads and changes of etcd that one-shot commits
// make, before auth is on and after: there are as many.
func TestAccess_CommitsAskMemory(t *testing.T) {
	const writer = "robot:writer"
	m, activate := openAs(t, writer)
	m.repo("r")
	c := &counter{KV: m.svc.store.Client().KV}
	m.svc.store.Client().KV = c
	requests := func() int64 {
		t.Helper()
		now, err := c.KV.Get(limit(t), "none")
		m.must(nil, err)
		return c.n.Load() + now.Header.Revision
	}
	puts := func() int64 {
		t.Helper()
		before := requests()
		for i := range 20 {
			m.must(nil, m.write(commitOf("r@master"), fmt.Sprintf("/%d", i), "x"))
		}
		return requests() - before
	}
	puts() // the first one makes the branch
	off := puts()
	activate()
	m.grant(writer, auth.RoleRepoWriter, bindingOf(NormalizeRepo(repoOf("r"))), authpb.Permission_REPO_WRITE)
	on := puts()
	if on != off || off < 20 {
		t.Errorf("20 commits make %d requests while auth is off, %d while it is on", off, on)
	}
	t.Logf("20 commits make %d requests, on or off", on)
	info, err := m.InspectCommit(limit(t), &pfspb.InspectCommitRequest{Commit: commitOf("r@master")})
	if err != nil || info.GetCreatedBy() != writer {
		t.Errorf("a commit of %s: %v, %v", writer, info, err)
	}
}

// TestActivateAuth_ManyRepos makes the bindings of 10,000 repos.
func TestActivateAuth_ManyRepos(t *testing.T) {
	if testing.Short() {
		t.Skip("10,000 repos")
	}
	const root, many, page = auth.RootUser, 10_000, 1000
	m, activate := openAs(t, root)
	for first := 0; first < many; first += page {
		m.must(nil, m.svc.Update(t.Context(), func(tx *Txn) error {
			for i := first; i < first+page; i++ {
				if err := tx.CreateRepo(repoOf(fmt.Sprintf("r%d", i)), "", false); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	activate()
	for range 2 {
		start := time.Now()
		m.must(m.ActivateAuth(t.Context(), &pfspb.ActivateAuthRequest{}))
		t.Logf("%d repos in %v", many, time.Since(start))
	}
	ctx := auth.WithCaller(limit(t), auth.Caller{Subject: "robot:one"})
	for _, name := range []string{"r0", "r9999"} {
		if unbound, err := unboundOf(ctx, m.svc, name); err != nil || unbound {
			t.Errorf("repo %s has no bindings: %v", name, err)
		}
	}
	repos, err := all(m.ListRepo(t.Context(), &pfspb.ListRepoRequest{}))
	if err != nil || len(repos) != many {
		t.Errorf("ListRepo: %d repos, %v", len(repos), err)
	}
}

func unboundOf(ctx context.Context, s *Service, name string) (missing bool, err error) {
	err = s.View(ctx, func(tx *Txn) error {
		none, err := s.auth.Unbound(tx.Txn, []auth.Resource{bindingOf(NormalizeRepo(repoOf(name)))})
		missing = len(none) > 0
		return err
	})
	return missing, err
}
