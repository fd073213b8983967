package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // clients may compress
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/reflection"

	"github.com/minipachd/minipachd/auth"
	"github.com/minipachd/minipachd/pfs"
	"github.com/minipachd/minipachd/pfs/chunk"
	"github.com/minipachd/minipachd/pfs/frame"
	"github.com/minipachd/minipachd/pps"
	"github.com/minipachd/minipachd/pps/fence"
	"github.com/minipachd/minipachd/pps/logs"
	"github.com/minipachd/minipachd/pps/runtime/process"
	"github.com/minipachd/minipachd/pps/scheduler"
	"github.com/minipachd/minipachd/pps/secrets"
	adminpb "github.com/minipachd/minipachd/proto/admin_v2"
	versionpb "github.com/minipachd/minipachd/proto/versionpb_v2"
	"github.com/minipachd/minipachd/server/audit"
	"github.com/minipachd/minipachd/server/metadata"
	"github.com/minipachd/minipachd/server/transaction"
	"github.com/minipachd/minipachd/store"
	"github.com/minipachd/minipachd/store/disk"
)

// maxMessage is the largest message either way, the limit that clients expect.
const maxMessage = 20 << 20

// drainTimeout bounds how long running requests may take to end at a stop.
const drainTimeout = 5 * time.Second

// Server is one daemon, ready to run.
type Server struct {
	cfg      Config
	log      *zap.Logger
	dir      *dataDir
	listener net.Listener
	local    net.Listener // for workers, if listener speaks TLS
	store    *store.Store
	bucket   chunk.Bucket
	auth     *auth.Service
	fences   *fence.Table
	guard    *guard
	pfs      *pfs.Service
	pps      *pps.Service
	logs     *logs.Store
	audit    *audit.Log
	runtime  *process.Runtime
	sched    *scheduler.Scheduler
	peers    *peers
	grpc     *grpc.Server
	health   *health.Server
	applied  []Applied
}

// New opens everything a daemon needs, in an order that fails early and leaves
// nothing behind: the port, the data directory, etcd, the bucket, the services.
// The caller must call Run or Close.
func New(ctx context.Context, cfg Config) (_ *Server, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: cfg.Logger, peers: &peers{}}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.listener, err = listen(ctx, cfg.Listen); err != nil {
		return nil, err
	}
	if s.dir, err = openDataDir(cfg.DataDir); err != nil {
		return nil, err
	}
	// Its own errors do not go into the log that they are about.
	if s.logs, err = logs.Open(s.dir.join("logs"), logs.Options{Logger: cfg.Logger.Named("logs")}); err != nil {
		return nil, fmt.Errorf("logs: %w", err)
	}
	s.log = keepLog(cfg.Logger, s.logs)
	if s.audit, err = s.openAudit(); err != nil {
		return nil, err
	}
	if err = s.secure(ctx); err != nil {
		return nil, err
	}
	if s.store, err = s.openStore(ctx); err != nil {
		return nil, err
	}
	if s.bucket, err = openBucket(ctx, cfg); err != nil {
		return nil, fmt.Errorf("bucket %s: %w", cfg.Bucket, err)
	}
	key, err := s.secretKey()
	if err != nil {
		return nil, err
	}
	s.fences = fence.NewTable(s.store, func(key string) { s.auth.Changed(key) })
	s.auth = auth.New(auth.Config{Store: s.store, Logger: s.log.Named("auth"), RootToken: cfg.RootToken, Resolve: s.resolveWorker, Sealer: key})
	if err = s.auth.Init(ctx); err != nil {
		return nil, err
	}
	if s.pfs, err = pfs.New(pfs.Config{
		Store: s.store, Bucket: s.bucket, Logger: s.log.Named("pfs"),
		Auth: s.auth, Room: s.store.Room, GC: cfg.gc(), URLs: cfg.URLs, Idempotency: cfg.Idempotency,
	}); err != nil {
		return nil, fmt.Errorf("pfs: %w", err)
	}
	if err = s.pfs.Init(auth.Internal(ctx, "pfs")); err != nil {
		return nil, fmt.Errorf("pfs: %w", err)
	}
	kept := secrets.New(key)
	s.peers.self = func() string { return s.sched.ID() }
	s.pps = pps.New(pps.Config{
		Store: s.store, PFS: s.pfs, Logs: s.logs, Logger: s.log.Named("pps"),
		Secrets: kept, Auth: s.auth, Port: s.listener.Addr().(*net.TCPAddr).Port, Peers: s.peers,
	})
	if s.runtime, err = process.New(process.Config{DataDir: s.dir.path, Logger: s.log.Named("process")}); err != nil {
		return nil, fmt.Errorf("process runtime: %w", err)
	}
	s.sched = scheduler.New(scheduler.Config{
		Store: s.store, Runtime: s.runtime, Logs: s.logs, Logger: s.log.Named("scheduler"),
		Address: s.dialAddr(), Advertise: s.advertised(), TLSKey: s.peers.key, DataDir: s.dir.path, Grace: cfg.Grace, Secrets: kept, Output: pps.Output{PFS: s.pfs},
		InitialBackoff: cfg.InitialBackoff, MaxBackoff: cfg.MaxBackoff, ResetAfter: cfg.ResetAfter, Factor: cfg.BackoffFactor, Jitter: cfg.BackoffJitter, LeaseTTL: cfg.LeaseTTL,
	})
	s.grpc = s.newGRPC()
	return s, nil
}

// secretKey loads the key of secrets; one of our own is made if it is missing.
func (s *Server) secretKey() (*secrets.Key, error) {
	if path := s.cfg.SecretKeyFile; path != "" {
		// No refusal: a volume may not let its modes be chosen.
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o004 != 0 {
			s.log.Warn("everybody on this machine may read the key of secrets: chmod o= it", zap.String("file", path), zap.Stringer("mode", info.Mode().Perm()))
		}
		return secrets.LoadKey(path)
	}
	return secrets.LoadOrCreateKey(s.dir.join("secret.key"))
}

// listen opens the one port, with a sentence of what to do when it is taken.
func listen(ctx context.Context, addr string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen on %s: the port is in use, perhaps by another pachd: stop it, or choose another port with --listen", addr)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return l, nil
}

// openStore connects to etcd, embedded or remote.
func (s *Server) openStore(ctx context.Context) (*store.Store, error) {
	cfg := store.Config{
		Dir:         s.dir.join("etcd"),
		Endpoints:   s.cfg.EtcdEndpoints,
		Username:    s.cfg.EtcdUsername,
		Password:    s.cfg.EtcdPassword,
		Logger:      s.log.Named("etcd"),
		DiskReserve: s.cfg.DiskReserve,
		QuotaBytes:  s.cfg.EtcdQuota,
	}
	if s.cfg.EtcdCA != "" || s.cfg.EtcdCert != "" {
		var err error
		if cfg.TLS, err = etcdTLS(s.cfg); err != nil {
			return nil, fmt.Errorf("etcd: %w", err)
		}
	}
	st, err := store.Open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	return st, nil
}

// openBucket opens the object store; one on a disk leaves part of it free.
func openBucket(ctx context.Context, cfg Config) (chunk.Bucket, error) {
	b, err := chunk.OpenURL(ctx, cfg.Bucket)
	if err != nil {
		return nil, err
	}
	if u, err := url.Parse(cfg.Bucket); err == nil && u.Scheme == "file" {
		b = chunk.WithRoom(b, disk.NewGuard(u.Path, cfg.DiskReserve).Room)
	}
	return b, nil
}

// etcdTLS reads the PEM files for a TLS connection to etcd.
func etcdTLS(cfg Config) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.EtcdCA != "" {
		pem, err := os.ReadFile(cfg.EtcdCA)
		if err != nil {
			return nil, err
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no PEM certificate", cfg.EtcdCA)
		}
	}
	if cfg.EtcdCert != "" {
		pair, err := tls.LoadX509KeyPair(cfg.EtcdCert, cfg.EtcdKey)
		if err != nil {
			return nil, err
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// newBufferPool gives the memory that messages are read into, in every power of two from
// 256 bytes to 1 MiB. gRPC's own has none between 256 bytes and 4 KiB, so that
// messages of a small file each took four times their size, 15 MiB for one stream.
func newBufferPool() mem.BufferPool {
	p, err := mem.NewBinaryTieredBufferPool(8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20)
	if err != nil {
		panic(err) // the sizes are valid
	}
	return p
}

// newGRPC makes the gRPC server with every service on it.
func (s *Server) newGRPC() *grpc.Server {
	g := &guard{log: s.log.Named("grpc"), auth: s.auth, audit: s.audit, handlers: newHandlers()}
	s.guard = g
	transactions := transaction.New(transaction.Config{Store: s.store, PFS: s.pfs, Pipelines: s.pps, Auth: s.auth})
	attached := metadata.New(s.pfs, s.pps, s.auth)
	srv := grpc.NewServer(
		grpc.ForceServerCodecV2(frame.Codec()),
		experimental.BufferPool(newBufferPool()),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(maxMessage),
		grpc.ChainUnaryInterceptor(g.unary, refuseGrowth(s.pfs.Room), transactions.Unary),
		grpc.ChainStreamInterceptor(g.stream),
		grpc.UnknownServiceHandler(unknownMethod),
		// Clients ping every 20 s, also without streams.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		// Windows wide enough that one stream fills a fast link.
		grpc.InitialWindowSize(4<<20),
		grpc.InitialConnWindowSize(8<<20),
		grpc.ReadBufferSize(128<<10),
		grpc.WriteBufferSize(128<<10),
	)
	s.pfs.Register(srv)
	s.pps.Register(srv)
	s.auth.Register(srv)
	transactions.Register(srv)
	attached.Register(srv)
	versionpb.RegisterAPIServer(srv, versionServer{})
	adminpb.RegisterAPIServer(srv, &adminServer{
		clusterID:    s.dir.format.ID,
		deploymentID: s.dir.format.ID,
		address:      s.Addr(),
		secure:       s.cfg.Secure(),
		metadata:     attached.Cluster,
		space:        s.store.Warning,
		projectErr: func(ctx context.Context, name string) error {
			if c, _ := auth.CallerOf(ctx); s.auth.Active() && c.Anonymous() {
				return nil // who is not known learns nothing of projects
			}
			return s.pfs.View(ctx, func(tx *pfs.Txn) error {
				_, err := tx.InspectProject(name)
				return err
			})
		},
	})
	s.health = health.NewServer()
	healthpb.RegisterHealthServer(srv, s.health)
	reflection.Register(srv)
	return srv
}

// Addr is the host:port that the daemon serves.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// DataDir is the absolute path of the data directory.
func (s *Server) DataDir() string { return s.dir.path }

// dialAddr is where a worker on this machine reaches the daemon.
func (s *Server) dialAddr() string {
	if s.local != nil {
		return s.local.Addr().String()
	}
	host, port, err := net.SplitHostPort(s.Addr())
	if err != nil {
		return s.Addr()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// Run serves until ctx ends, then stops everything in order: workers first,
// while they can still commit, then requests, then storage. It returns nil after
// such a stop. Ready, if not nil, is called once requests are served.
func (s *Server) Run(ctx context.Context, ready func()) error {
	defer s.Close()
	if err := s.runtime.Sweep(ctx); err != nil {
		return fmt.Errorf("sweep workers of an earlier daemon: %w", err)
	}
	// Requests outlive workers: serving ends only after the scheduler has returned.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	split := newSplitter(s.listener, s.local)
	handler, closeGateway, err := newGateway(serving, split.grpc.dial, s.auth.LoginCallback())
	if err != nil {
		return err
	}
	web := newHTTPServer(handler)

	if s.Exposed() && !s.Secure() && !s.auth.Active() {
		s.log.Warn("EVERYBODY who can reach this port may read, change and delete all data and run programs here: TLS and auth are both off; listen on 127.0.0.1, or give --tls-cert and --tls-key, or --tls-auto", zap.String("listen", s.Addr()))
	}

	g, gctx := errgroup.WithContext(ctx)
	if s.cfg.MemoryLimit > 0 {
		g.Go(func() error {
			limitMemory(serving, s.cfg.MemoryLimit)
			return nil
		})
	}
	g.Go(func() error { return split.Run(serving) })
	g.Go(func() error { return ignoreClosed(s.grpc.Serve(split.grpc)) })
	g.Go(func() error { return ignoreClosed(web.Serve(split.http)) })
	g.Go(func() error { return s.auth.Run(serving) })
	g.Go(func() error { return s.fences.Run(serving) })
	g.Go(func() error { return s.pfs.Run(auth.Internal(serving, "pfs")) })
	g.Go(func() error {
		err := s.sched.Run(auth.Internal(gctx, "scheduler"))
		s.health.Shutdown()
		s.logs.Unfollow() // workers print no more
		s.drain(web)
		stopServing()
		return errors.Join(err, closeGateway())
	})
	g.Go(func() error {
		for _, file := range s.cfg.Apply {
			if err := s.applyFile(auth.Internal(gctx, "apply"), file); err != nil {
				return err
			}
		}
		if ready != nil {
			ready()
		}
		return nil
	})
	err = g.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// drain lets running requests end, for a bounded time.
func (s *Server) drain(web *http.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	if err := web.Shutdown(ctx); err != nil {
		web.Close()
	}
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
	}
	s.guard.handlers.wait()
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// Close releases what New opened. Run calls it itself.
func (s *Server) Close() error {
	var errs []error
	if s.grpc != nil {
		s.grpc.Stop()
	}
	s.peers.Close()
	if s.listener != nil {
		_ = s.listener.Close() // closed already after Run
	}
	if s.local != nil {
		_ = s.local.Close()
	}
	if s.runtime != nil {
		errs = append(errs, s.runtime.Close())
	}
	errs = append(errs, s.audit.Close())
	if s.logs != nil {
		errs = append(errs, s.logs.Close())
	}
	if s.bucket != nil {
		errs = append(errs, s.bucket.Close())
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.dir != nil {
		errs = append(errs, s.dir.Close())
	}
	s.runtime, s.audit, s.logs, s.bucket, s.store, s.dir = nil, nil, nil, nil, nil, nil
	return errors.Join(errs...)
}
