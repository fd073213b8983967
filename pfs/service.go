// Package pfs keeps versioned data: projects hold repos, repos hold branches and
// commits, commits hold files. It serves pfs_v2.API and lets other packages take
// part in its transactions through Update.
//
// Metadata lives in etcd: every request changes it in one transaction. The
// content of a commit is a stack of immutable layers, small ones in etcd and
// large ones in the bucket; package fileset knows what is in them. The package
// does not know what a pipeline is, except that a repo of type spec holds its
// versions and that the branches made from one are written by the pipeline.
package pfs

import (
	"context"
	"errors"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/minipachd/minipachd/auth"
	"github.com/minipachd/minipachd/clock"
	"github.com/minipachd/minipachd/pfs/chunk"
	"github.com/minipachd/minipachd/pfs/fileset"
	"github.com/minipachd/minipachd/pfs/gc"
	"github.com/minipachd/minipachd/pfs/remote"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// Config is what a Service works with. Store and Bucket are required.
type Config struct {
	Store  *store.Store
	Bucket chunk.Bucket
	Logger *zap.Logger   // default: none
	Auth   *auth.Service // nil: everybody may do everything
	Clock  clock.Clock   // of triggers with a cron_spec and policies; default: the system's
	// Room says, by an error, that there is no space for more data; nil means that
	// there always is.
	Room func() error
	// Idempotency says how long clients' keys are remembered.
	Idempotency Idempotency
	// URLs says which URLs files may be taken from and written to; none if it is zero.
	URLs remote.Policy
	// Chunks and Files tune the storage below; their zero values are the defaults.
	Chunks chunk.Options
	Files  fileset.Options
	GC     GCConfig
}

// Service implements pfs_v2.API. Its methods may be called concurrently. Run has
// to be running for commits with data that were opened by StartCommit to finish
// and for writers of more than a few KiB to go on.
type Service struct {
	pfspb.UnimplementedAPIServer

	store  *store.Store
	bucket chunk.Bucket
	chunks *chunk.Store
	files  *fileset.Storage
	remote *remote.Client
	log    *zap.Logger
	auth   *auth.Service
	clock  clock.Clock
	room   func() error

	projects store.Collection[*pfspb.ProjectInfo]
	once     store.Collection[*recordpb.IdempotencyRecord]
	repos    store.Collection[*pfspb.RepoInfo]
	branches store.Collection[*recordpb.BranchRecord]
	commits  store.Collection[*recordpb.CommitRecord]
	layers   store.Collection[*recordpb.LayerRecord]
	clocks   store.Collection[*recordpb.TriggerClock]            // by branch key
	policies store.Collection[*recordpb.CommitPolicy]            // by repo key
	dues     store.Collection[*recordpb.CommitDue]               // of policy commits, by commit key
	defaults store.Collection[*ppspb.GetProjectDefaultsResponse] // of projects; written by package pps
	fileSets store.Collection[*recordpb.FileSetRecord]
	cached   store.Collection[*recordpb.CacheRecord]

	queues    *queues // streams that share transactions
	compactor *compactor
	garbage   *gc.Collector
	sweeps    chan struct{} // wakes the sweep of deleted repos; holds one
	idem      Idempotency
	// finishAtOnce is how many bytes the layers of a commit may have that is made
	// FINISHED by the transaction which ends its writing.
	finishAtOnce uint64
}

// New returns the service. It reads and starts nothing.
func New(cfg Config) (*Service, error) {
	if cfg.Store == nil || cfg.Bucket == nil {
		return nil, errors.New("pfs: a store and a bucket must be given")
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Room == nil {
		cfg.Room = func() error { return nil }
	}
	s := &Service{
		store:    cfg.Store,
		bucket:   cfg.Bucket,
		log:      cfg.Logger,
		auth:     cfg.Auth,
		clock:    cfg.Clock,
		projects: store.NewCollection[*pfspb.ProjectInfo](projectPrefix),
		once:     store.NewCollection[*recordpb.IdempotencyRecord](oncePrefix),
		repos:    store.NewCollection[*pfspb.RepoInfo](repoPrefix),
		branches: store.NewCollection[*recordpb.BranchRecord](branchPrefix),
		commits:  store.NewCollection[*recordpb.CommitRecord](commitPrefix),
		layers:   store.NewCollection[*recordpb.LayerRecord](layerPrefix),
		clocks:   store.NewCollection[*recordpb.TriggerClock](clockPrefix),
		policies: store.NewCollection[*recordpb.CommitPolicy](policyPrefix),
		dues:     store.NewCollection[*recordpb.CommitDue](duePrefix),
		defaults: store.NewCollection[*ppspb.GetProjectDefaultsResponse](projectDefaultsPrefix),
		sweeps:   make(chan struct{}, 1),
		idem:     cfg.Idempotency.withDefaults(),

		finishAtOnce: 64 << 10,
	}
	s.chunks = chunk.NewStore(cfg.Bucket, cfg.Chunks)
	var err error
	if s.remote, err = remote.New(cfg.URLs); err != nil {
		return nil, err
	}
	s.compactor = newCompactor()
	s.queues = newQueues()
	s.fileSets = store.NewCollection[*recordpb.FileSetRecord](fileSetPrefix)
	s.cached = store.NewCollection[*recordpb.CacheRecord](cachePrefix)
	s.garbage = gc.New(gc.Config{
		Store: cfg.Store, Bucket: cfg.Bucket, Chunks: s.chunks, Source: references{s}, Logger: cfg.Logger.Named("gc"),
		LayerPrefix: layerPrefix, Interval: cfg.GC.Interval, Grace: cfg.GC.Grace, Fence: cfg.GC.Fence, Exclusive: cfg.GC.Exclusive, Clock: cfg.GC.Clock,
	})
	s.room = func() error {
		err := cfg.Room()
		var full *store.FullError
		if errors.As(err, &full) {
			s.garbage.Hurry() // what was deleted holds space until then
		}
		return err
	}
	cfg.Files.NewPins = func() fileset.Pins { return s.garbage.NewPins() }
	s.files = fileset.New(s.chunks, cfg.Bucket, s, cfg.Files)
	return s, nil
}

// Room says, by an error, that there is no space for more data. Calls that add files ask
// by themselves.
func (s *Service) Room() error { return s.room() }

// Register adds the service to a gRPC server.
func (s *Service) Register(r grpc.ServiceRegistrar) { pfspb.RegisterAPIServer(r, s) }

// Init makes the project default on a store without projects.
func (s *Service) Init(ctx context.Context) error {
	return s.Update(ctx, func(tx *Txn) error {
		for _, err := range s.projects.Scan(tx.Txn, "", store.ScanOptions{Limit: 1, KeysOnly: true}) {
			return err
		}
		return tx.putDefaultProject()
	})
}

// Run does the work in the background until ctx ends: it finishes commits, also those
// that a policy says are due, folds layers, sweeps what deleted repos leave, fires
// triggers by the clock, collects garbage and removes file sets whose time is up.
// Writers of more than a few KiB wait until it runs. It calls Init first and returns
// nil after ctx has ended.
func (s *Service) Run(ctx context.Context) error {
	if err := s.Init(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.runFinisher(ctx) })
	g.Go(func() error { return s.runForgetter(ctx) })
	g.Go(func() error { return s.runCompactor(ctx) })
	g.Go(func() error { return s.runSweeper(ctx) })
	g.Go(func() error { return s.runClock(ctx) })
	g.Go(func() error { return s.runDue(ctx) })
	g.Go(func() error { return s.garbage.Run(ctx) })
	g.Go(func() error { return s.runExpiry(ctx) })
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// Layer implements fileset.LayerSource. A layer never changes, so it is read
// outside of any transaction. A missing one gives *LayerNotFoundError.
func (s *Service) Layer(ctx context.Context, ref *recordpb.LayerRef) (*recordpb.LayerRecord, error) {
	var rec *recordpb.LayerRecord
	err := s.store.View(ctx, func(tx *store.Txn) error {
		var ok bool
		var err error
		rec, ok, err = s.layers.Peek(tx, layerKey(ref.GetId()))
		if err == nil && !ok {
			err = &LayerNotFoundError{ID: ref.GetId()}
		}
		return err
	})
	return rec, err
}
