package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/minipachd/minipachd/store/disk"
)

// Config says where etcd is and how it is kept.
type Config struct {
	// Dir is the directory of the embedded etcd, used when Endpoints is empty.
	Dir string
	// Endpoints are the host:port of a remote cluster's members.
	Endpoints []string
	// TLS is used for Endpoints when not nil.
	TLS *tls.Config
	// Username and Password are sent to Endpoints when not empty.
	Username, Password string
	// Prefix goes before every key; default "minipachd/".
	Prefix string
	// Logger gets warnings of etcd; nil discards them.
	Logger *zap.Logger
	// QuotaBytes bounds the embedded database, and is taken for that of a remote one which
	// does not tell its own; default 8 GiB, MinQuota at least.
	QuotaBytes int64
	// CompactionRetention is how long the embedded etcd keeps old revisions, which
	// bounds how long a snapshot or a disconnected watch may last; default 5 min.
	CompactionRetention time.Duration
	// DiskReserve is how much of the disk below Dir stays free: transactions that
	// write are refused when half of it is left. 0 keeps nothing free.
	DiskReserve int64
	// ReliefPause is the least time between two attempts to make room in an embedded
	// database that nears its quota; writers wait during one. Default 10 s.
	ReliefPause time.Duration
	// SpaceInterval is how often it is looked at how full the database is; default 2 s.
	SpaceInterval time.Duration
	// DefragInterval is how often the embedded database gives free pages back to
	// the disk, if at least half of it is free; default 1 h.
	DefragInterval time.Duration
}

// DefaultQuota is the default of Config.QuotaBytes: what etcd advises not to go beyond.
const DefaultQuota = 8 << 30

const (
	defaultSpace     = 2 * time.Second
	defaultPrefix    = "minipachd/"
	defaultRetention = 5 * time.Minute
	defaultDefrag    = time.Hour
	defaultRelief    = 10 * time.Second
	dialTimeout      = 5 * time.Second
	maxRequestBytes  = 4 << 20
	maxTxnOps        = 8192
)

// Store is an open connection to etcd, and the embedded server if there is one.
type Store struct {
	client *clientv3.Client
	kv     pb.KVClient // below client
	etcd   *embed.Etcd // nil when remote
	prefix string
	log    *zap.Logger
	stop   context.CancelFunc
	tasks  sync.WaitGroup
	cache  *cache      // of the embedded server
	disk   *disk.Guard // of the embedded server
	clean  func()      // removes socket files of the embedded server
	// closing silences the embedded server, which calls its own end an error.
	closing atomic.Bool
	quota   int64 // bytes
	// seenSpace is that of a remote etcd when it was last asked.
	seenSpace atomic.Pointer[Space]
	unseen    atomic.Int64  // bytes that were written there since
	relief    chan struct{} // asks for room in it; holds one
}

// Open starts the embedded etcd or connects to a remote one. A directory that
// another process uses gives *InUseError.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Prefix == "" {
		cfg.Prefix = defaultPrefix
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.QuotaBytes == 0 {
		cfg.QuotaBytes = DefaultQuota
	}
	if cfg.QuotaBytes < MinQuota {
		return nil, fmt.Errorf("a quota of %d bytes leaves no room for data in etcd; want at least %d", cfg.QuotaBytes, MinQuota)
	}
	if cfg.SpaceInterval == 0 {
		cfg.SpaceInterval = defaultSpace
	}
	if cfg.CompactionRetention == 0 {
		cfg.CompactionRetention = defaultRetention
	}
	if cfg.ReliefPause == 0 {
		cfg.ReliefPause = defaultRelief
	}
	if cfg.DefragInterval == 0 {
		cfg.DefragInterval = defaultDefrag
	}
	background, stop := context.WithCancel(context.Background())
	s := &Store{prefix: cfg.Prefix, log: cfg.Logger, stop: stop, clean: func() {}, quota: cfg.QuotaBytes, relief: make(chan struct{}, 1)}
	s.seenSpace.Store(&Space{})
	var err error
	if len(cfg.Endpoints) == 0 {
		err = s.openEmbedded(ctx, cfg)
	} else {
		err = s.openRemote(ctx, cfg)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if s.etcd != nil {
		s.cache = newCache(s.etcd.Server.KV().Rev())
		s.tasks.Go(func() { s.follow(background) })
		s.tasks.Go(func() { s.defragment(background, cfg.DefragInterval) })
		s.tasks.Go(func() { s.relieve(background, cfg.ReliefPause) })
	}
	s.tasks.Go(func() { s.observe(background, cfg.SpaceInterval) })
	return s, nil
}

// openRemote connects and makes sure that somebody answers.
func (s *Store) openRemote(ctx context.Context, cfg Config) error {
	c, err := clientv3.New(clientv3.Config{
		Endpoints: cfg.Endpoints, DialTimeout: dialTimeout, TLS: cfg.TLS,
		Username: cfg.Username, Password: cfg.Password,
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
		// A member that comes back is found within seconds.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: dialTimeout,
		})},
		MaxCallSendMsgSize: maxRequestBytes, MaxCallRecvMsgSize: 64 << 20,
		Logger: s.log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel)),
	})
	if err != nil {
		return fmt.Errorf("connect to etcd at %v: %w", cfg.Endpoints, err)
	}
	s.client, s.kv = c, clientv3.RetryKVClient(c)
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if _, err := c.Get(ctx, cfg.Prefix, clientv3.WithCountOnly(), clientv3.WithLimit(1)); err != nil {
		return fmt.Errorf("etcd at %v does not answer: %w", cfg.Endpoints, err)
	}
	return nil
}

// Close ends the connection and stops the embedded server, if any, after
// everything written is on disk.
func (s *Store) Close() error {
	s.closing.Store(true)
	s.stop()
	s.tasks.Wait()
	var err error
	if s.client != nil {
		if err = s.client.Close(); errors.Is(err, context.Canceled) {
			err = nil // how a client says that it was closed
		}
	}
	if s.etcd != nil {
		s.etcd.Close()
		for range s.etcd.Err() { // closed once the server has stopped
		}
	}
	s.clean()
	return err
}

// Embedded tells whether etcd runs in this process, so that no other daemon has it.
func (s *Store) Embedded() bool { return s.etcd != nil }

// Client is the etcd client, for what the store does not cover.
func (s *Store) Client() *clientv3.Client { return s.client }

// Prefix is what goes before every key.
func (s *Store) Prefix() string { return s.prefix }
