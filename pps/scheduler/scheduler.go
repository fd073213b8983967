package scheduler

import (
	"context"
	goruntime "runtime"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/minipachd/minipachd/clock"
	"github.com/minipachd/minipachd/pps/logs"
	"github.com/minipachd/minipachd/pps/runtime"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// Keys in etcd, below the store's prefix; pipelines are <project>/<name>.
const (
	pipelinePrefix = "pps/pipeline/"
	statusPrefix   = "pps/status/"
	claimPrefix    = "pps/scheduler/claim/"  // which daemon runs a pipeline
	memberPrefix   = "pps/scheduler/member/" // the daemons that are alive
	runnersPrefix  = "pps/scheduler/ran/"    // which daemons have run a pipeline
)

// Config is what a Scheduler works with. Store, Runtime, Logs and Address are
// required; a zero value elsewhere means the default.
type Config struct {
	Store   *store.Store
	Runtime runtime.Runtime
	Logs    *logs.Store
	Output  Output      // default: there are no repos
	Logger  *zap.Logger // default none
	// Address is the host:port at which workers reach the daemon.
	Address string
	// Advertise is the host:port at which the other daemons on the same etcd reach this
	// one; empty: not at all.
	Advertise string
	// TLSKey is the digest of the key that it serves TLS with, as in a DaemonRecord. Nil:
	// without TLS.
	TLSKey func() []byte
	// DataDir is the daemon's data directory. With it, a daemon that was
	// killed is known again at its next start and need not wait for its old
	// lease to run out. Empty: it waits.
	DataDir string
	// ServiceHost is the address that spout services listen on; empty means all.
	ServiceHost string
	// Secrets are those of transform.secrets; nil knows none.
	Secrets Secrets

	// Grace is the time between SIGTERM and SIGKILL; default 30 s, negative: none.
	Grace time.Duration
	// The pauses between starts of a worker: the first (default 1 s), the longest
	// (default 5 min), the factor from one to the next (default 2) and the share by
	// which each varies at random (default 0.2; negative: none).
	InitialBackoff, MaxBackoff time.Duration
	Factor, Jitter             float64
	// ResetAfter is how long a worker must stay up for the pauses to begin anew;
	// default 10 min.
	ResetAfter time.Duration
	// SettleAfter is how long a worker must stay up for a crashing pipeline to
	// count as running again; default 10 s.
	SettleAfter time.Duration
	// LeaseTTL is how long after a daemon's death another one takes over;
	// default 10 s.
	LeaseTTL time.Duration
	// Clock tells when workers are started again; the system's by default.
	Clock clock.Clock
}

// crashAfter makes a pipeline crashing at its second failure in a row: the
// first is answered after a second and is not worth an alarm.
const crashAfter = 2

// Scheduler keeps workers alive while Run runs.
type Scheduler struct {
	cfg       Config
	policy    policy
	log       *zap.Logger
	pipelines store.Collection[*recordpb.PipelineRecord]
	statuses  store.Collection[*recordpb.PipelineStatus]
	claims    store.Collection[*recordpb.DaemonRecord]
	runners   store.Collection[*recordpb.Runners]
	members   membership
	known     atomic.Pointer[string] // members.id, once that is known
	starts    chan struct{}          // holds one for each start under way
	ports     ports
}

// startsAtATime is how many workers are started at a time, for each processor.
const startsAtATime = 16

func orElse[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// New makes a scheduler; nothing happens before Run.
func New(cfg Config) *Scheduler {
	cfg.Grace = max(0, orElse(cfg.Grace, 30*time.Second))
	cfg.LeaseTTL = orElse(cfg.LeaseTTL, 10*time.Second)
	cfg.Logger = orElse(cfg.Logger, zap.NewNop())
	if cfg.Output == nil {
		cfg.Output = noOutput{}
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	s := &Scheduler{
		cfg: cfg,
		policy: policy{
			initial:    orElse(cfg.InitialBackoff, time.Second),
			max:        orElse(cfg.MaxBackoff, 5*time.Minute),
			factor:     max(1, orElse(cfg.Factor, 2)),
			jitter:     min(1, max(0, orElse(cfg.Jitter, 0.2))),
			resetAfter: orElse(cfg.ResetAfter, 10*time.Minute),
			settle:     orElse(cfg.SettleAfter, 10*time.Second),
			crashAfter: crashAfter,
		},
		log:       cfg.Logger,
		pipelines: store.NewCollection[*recordpb.PipelineRecord](pipelinePrefix),
		statuses:  store.NewCollection[*recordpb.PipelineStatus](statusPrefix),
		claims:    store.NewCollection[*recordpb.DaemonRecord](claimPrefix),
		runners:   store.NewCollection[*recordpb.Runners](runnersPrefix),
		starts:    make(chan struct{}, startsAtATime*goruntime.GOMAXPROCS(0)),
	}
	s.members = membership{
		store: cfg.Store, log: cfg.Logger, ttl: cfg.LeaseTTL, dir: cfg.DataDir,
		address: cfg.Advertise, tlsKey: cfg.TLSKey,
	}
	return s
}

// ID is the name of this daemon among those that share the pipelines; empty before Run
// has found it out.
func (s *Scheduler) ID() string {
	if id := s.known.Load(); id != nil {
		return *id
	}
	return ""
}

// Run schedules until ctx ends; then it stops all workers, gracefully and all at
// once, and returns nil. It shares the pipelines with all other daemons on the same
// etcd. Nothing that goes wrong ends it: it logs and tries again. Call it once.
func (s *Scheduler) Run(ctx context.Context) error {
	defer s.members.close()
	s.members.identify()
	s.known.Store(&s.members.id)
	if !s.sweep(ctx) {
		return nil
	}
	for s.members.join(ctx) {
		if cut := s.lead(ctx); !cut {
			return nil
		}
		s.members.release()
	}
	return nil
}

// Pauses between attempts at I/O.
const (
	retryMin = 100 * time.Millisecond
	retryMax = 10 * time.Second
)

// sweep rids us of an earlier daemon's workers. Nothing is started before that
// has worked, or a worker could run twice.
func (s *Scheduler) sweep(ctx context.Context) bool {
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		// Not ctx itself alone: a process that cannot be killed must not keep
		// the log silent.
		bounded, cancel := context.WithTimeout(ctx, 30*time.Second)
		err := s.cfg.Runtime.Sweep(bounded)
		cancel()
		if err == nil || ctx.Err() != nil {
			return ctx.Err() == nil
		}
		s.log.Error("no spout is started before this works", zap.Error(err))
		if !sleep(ctx, pause) {
			return false
		}
	}
}
