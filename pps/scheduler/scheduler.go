package scheduler

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/minipachd/minipachd/pps/logs"
	"github.com/minipachd/minipachd/pps/runtime"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// Keys in etcd, below the store's prefix; pipelines are <project>/<name>.
const (
	pipelinePrefix = "pps/pipeline/"
	statusPrefix   = "pps/status/"
	ownerKey       = "pps/scheduler/owner"
)

// Config is what a Scheduler works with. Store, Runtime, Logs and Address are
// required; a zero value elsewhere means the default.
type Config struct {
	Store   *store.Store
	Runtime runtime.Runtime
	Logs    *logs.Store
	Logger  *zap.Logger // default none
	// Address is the host:port at which workers reach the daemon.
	Address string
	// DataDir is the daemon's data directory. With it, a daemon that was
	// killed is known again at its next start and need not wait for its old
	// lease to run out. Empty: it waits.
	DataDir string
	// ServiceHost is the address that spout services listen on; empty means all.
	ServiceHost string
	// Secrets are those of transform.secrets; nil knows none.
	Secrets Secrets

	// Grace is the time between SIGTERM and SIGKILL; default 30 s.
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
	// Clock is the system's by default.
	Clock Clock
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
	owner     owner
	ports     ports
}

func orElse[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// New makes a scheduler; nothing happens before Run.
func New(cfg Config) *Scheduler {
	cfg.Grace = orElse(cfg.Grace, 30*time.Second)
	cfg.LeaseTTL = orElse(cfg.LeaseTTL, 10*time.Second)
	cfg.Logger = orElse(cfg.Logger, zap.NewNop())
	if cfg.Clock == nil {
		cfg.Clock = systemClock{}
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
	}
	s.owner = owner{store: cfg.Store, log: cfg.Logger, ttl: cfg.LeaseTTL, dir: cfg.DataDir}
	return s
}

// Run schedules until ctx ends; then it stops all workers, gracefully and all at
// once, and returns nil. While another daemon is the owner it waits. Nothing that
// goes wrong ends it: it logs and tries again. Call it once.
func (s *Scheduler) Run(ctx context.Context) error {
	defer s.owner.close()
	for s.owner.acquire(ctx) {
		s.lead(ctx)
		if ctx.Err() == nil {
			s.log.Warn("another pachd runs the spouts now; workers of this one are stopped")
		}
	}
	return nil
}

// lead runs the spouts until ctx ends or another daemon is found to be the owner.
func (s *Scheduler) lead(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wait sync.WaitGroup
	wait.Go(func() {
		defer cancel()
		s.owner.keep(ctx)
	})
	if !s.sweep(ctx) {
		wait.Wait()
		return
	}
	all := map[string]*pipeline{}
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		seen := map[string]bool{}
		err := s.pipelines.Watch(ctx, s.cfg.Store, "", func(e store.Event[*recordpb.PipelineRecord]) error {
			if e.Synced {
				pause = retryMin
				s.dispatchMissing(ctx, all, seen)
				seen = nil
				return ctx.Err()
			}
			if seen != nil {
				seen[e.Key] = true
			}
			s.dispatch(ctx, all, e)
			return ctx.Err()
		})
		if ctx.Err() != nil {
			break
		}
		s.log.Warn("watch pipelines; trying again", zap.Error(err))
		if !sleep(ctx, pause) {
			break
		}
	}
	for _, p := range all {
		close(p.quit)
	}
	s.await(all)
	wait.Wait()
}

// await returns when all pipelines have ended, or hang on a process that not even
// SIGKILL ends.
func (s *Scheduler) await(all map[string]*pipeline) {
	limit := time.NewTimer(s.cfg.Grace + 30*time.Second)
	defer limit.Stop()
	for key, p := range all {
		select {
		case <-p.done:
		case <-limit.C:
			s.log.Error("leaving processes behind that cannot be killed", zap.String("pipeline", key))
			return
		}
	}
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

// dispatchMissing finds what was deleted between two watches. seen is what the second
// one listed; nil if it only synced again, since then it reports deletions itself.
func (s *Scheduler) dispatchMissing(ctx context.Context, all map[string]*pipeline, seen map[string]bool) {
	if seen == nil {
		return
	}
	for key := range all {
		if !seen[key] {
			s.dispatch(ctx, all, store.Event[*recordpb.PipelineRecord]{Key: key, Deleted: true})
		}
	}
}

// dispatch hands a changed record to the goroutine of its pipeline.
func (s *Scheduler) dispatch(ctx context.Context, all map[string]*pipeline, e store.Event[*recordpb.PipelineRecord]) {
	record := e.Value
	if e.Deleted {
		record = nil
	}
	if p := all[e.Key]; p != nil {
		select {
		case p.records <- record:
			return
		case <-p.done: // the pipeline was deleted and everything of it is gone
			delete(all, e.Key)
		case <-ctx.Done():
			return
		}
	}
	if record == nil {
		return
	}
	p := newPipeline(s, e.Key)
	all[e.Key] = p
	go p.run(record)
}
