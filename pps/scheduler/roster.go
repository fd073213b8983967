package scheduler

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// roster is what this daemon sees of all pipelines and daemons, and the pipelines
// that it runs itself. One goroutine, lead, has all fields but changes and ended.
type roster struct {
	s       *Scheduler
	changes chan func()    // from the watches
	ended   chan *pipeline // whose run has returned

	unsynced  int // watches that have not reported everything yet
	members   map[string]bool
	pipelines map[string]bool
	claims    map[string]string // pipeline to daemon
	running   map[string]*pipeline
	halted    map[string]bool // of these, those that are given up
}

// settle is how long changes are collected before they are acted on.
const settle = 10 * time.Millisecond

// lead runs this daemon's share of the pipelines until ctx ends, or etcd cannot be
// asked for so long that others may soon take them: then it returns true, with all
// workers gone.
func (s *Scheduler) lead(ctx context.Context) (cut bool) {
	r := &roster{
		s: s, changes: make(chan func()), ended: make(chan *pipeline), unsynced: 3,
		members: map[string]bool{s.members.id: true}, pipelines: map[string]bool{}, claims: map[string]string{},
		running: map[string]*pipeline{}, halted: map[string]bool{},
	}
	var wait sync.WaitGroup
	defer wait.Wait()
	// The lease is watched for as long as workers live.
	membership, leave := context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	lost, renewed := make(chan struct{}), make(chan struct{})
	wait.Go(func() {
		if s.members.watch(membership, renewed) {
			close(lost)
		}
	})
	r.watchAll(watching, &wait)
	var due <-chan time.Time
	dropped := false
	for {
		select {
		case change := <-r.changes:
			change()
		case p := <-r.ended:
			delete(r.running, p.key)
			delete(r.halted, p.key)
		case <-renewed:
			for _, p := range r.running {
				p.renew()
			}
			continue
		case <-due:
			due = nil
			r.share(watching)
			continue
		case <-lost:
			s.log.Error("etcd cannot be reached, and others may soon take over: all workers are killed")
			stop()
			r.end(nil, nil)
			return true
		case <-ctx.Done():
			stop()
			r.leave()
			return r.end(lost, renewed)
		}
		if r.unsynced == 0 && !dropped {
			dropped = true
			r.dropOldLogs()
		}
		if due == nil && r.unsynced == 0 {
			due = time.After(settle)
		}
	}
}

// watchAll keeps the roster up to date.
func (r *roster) watchAll(ctx context.Context, wait *sync.WaitGroup) {
	members := store.NewCollection[*recordpb.DaemonRecord](memberPrefix)
	follow(ctx, wait, r, members, func(e store.Event[*recordpb.DaemonRecord]) {
		if e.Deleted && e.Key != r.s.members.id {
			delete(r.members, e.Key)
		} else {
			r.members[e.Key] = true
		}
	})
	follow(ctx, wait, r, r.s.claims, func(e store.Event[*recordpb.DaemonRecord]) {
		if e.Deleted {
			delete(r.claims, e.Key)
		} else {
			r.claims[e.Key] = e.Value.GetId()
		}
	})
	follow(ctx, wait, r, r.s.pipelines, func(e store.Event[*recordpb.PipelineRecord]) {
		if e.Deleted {
			delete(r.pipelines, e.Key)
			r.dropLog(e.Key)
		} else {
			r.pipelines[e.Key] = true
		}
		if p := r.running[e.Key]; p != nil {
			p.deliver(delivery{e.Value, e.Revision})
		}
	})
}

// dropLog deletes the log of a pipeline that is gone and that somebody else runs, or
// nobody; of others run does it, once the workers have ended.
func (r *roster) dropLog(key string) {
	if r.running[key] != nil {
		return
	}
	project, name, _ := strings.Cut(key, "/")
	if err := r.s.cfg.Logs.Delete(project, name); err != nil {
		r.s.log.Warn("delete logs", zap.String("pipeline", key), zap.Error(err))
	}
}

// dropOldLogs deletes the logs of pipelines that were deleted while this daemon was away.
func (r *roster) dropOldLogs() {
	err := r.s.cfg.Logs.Retain(func(project, name string) bool { return r.pipelines[project+"/"+name] })
	if err != nil {
		r.s.log.Warn("delete the logs of pipelines that are gone", zap.Error(err))
	}
}

// follow has each change of a collection applied by lead, in order. A watch that
// breaks is begun anew; what was deleted meanwhile is reported then.
func follow[T proto.Message](ctx context.Context, wait *sync.WaitGroup, r *roster, c store.Collection[T], apply func(store.Event[T])) {
	synced := false
	known := map[string]bool{}
	begin := func() func(store.Event[T]) error {
		missing := maps.Clone(known)
		return func(e store.Event[T]) error {
			change := func() { apply(e) }
			switch {
			case e.Synced:
				gone := missing
				missing = nil
				first := !synced
				synced = true
				change = func() {
					for key := range gone {
						apply(store.Event[T]{Key: key, Deleted: true, Revision: e.Revision})
					}
					if first {
						r.unsynced--
					}
				}
				for key := range gone {
					delete(known, key)
				}
			case e.Deleted:
				delete(known, e.Key)
			default:
				known[e.Key] = true
				delete(missing, e.Key)
			}
			select {
			case r.changes <- change:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	wait.Go(func() {
		for pause := retryMin; ; pause = min(2*pause, retryMax) {
			err := c.Watch(ctx, r.s.cfg.Store, "", begin())
			if ctx.Err() != nil {
				return
			}
			r.s.log.Warn("watch "+c.Prefix()+"; trying again", zap.Error(err))
			if !sleep(ctx, pause) {
				return
			}
		}
	})
}

// share takes the pipelines that are this daemon's and free, and gives up those that
// are another's, also those that it has a claim on without running them: a claim
// can be left by an attempt to take a pipeline, or to release it, of which nobody
// knows how it ended, and as long as this daemon lives nobody else would take it.
func (r *roster) share(ctx context.Context) {
	held := maps.Clone(r.claims)
	for key := range r.running {
		if !r.halted[key] {
			held[key] = r.s.members.id
		}
	}
	us := r.s.members.id
	of := assign(slices.Sorted(maps.Keys(r.members)), slices.Sorted(maps.Keys(r.pipelines)), held)
	for key, p := range r.running {
		if owner, ok := of[key]; ok && owner != us && !r.halted[key] {
			r.halted[key] = true
			p.log.Info("another pachd is to run the pipeline", zap.String("daemon", owner))
			p.halt()
		}
	}
	for key, owner := range of {
		holder := r.claims[key]
		if r.running[key] != nil || holder != us && (owner != us || holder != "") {
			continue
		}
		p := newPipeline(r.s, key)
		r.running[key] = p
		work := p.run
		if owner != us {
			r.halted[key] = true
			work = p.letGo
		}
		go func() { // end waits for it
			work()
			select {
			case r.ended <- p:
			case <-ctx.Done():
			}
		}()
	}
}

// leave keeps this daemon from being given pipelines.
func (r *roster) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	r.s.members.leave(ctx)
}

// end ends all pipelines and returns when their workers are gone, or hang on a
// process that not even SIGKILL ends. Without lost, or once that is closed, it gives
// them no time, and returns true.
func (r *roster) end(lost, renewed <-chan struct{}) (cut bool) {
	longest := time.Duration(0)
	for _, p := range r.running {
		p.halt()
		longest = max(longest, time.Duration(p.grace.Load()))
	}
	hurry := func() {
		cut = true
		for _, p := range r.running {
			p.cut()
		}
	}
	if lost == nil {
		hurry()
	}
	limit := time.NewTimer(longest + 30*time.Second)
	defer limit.Stop()
	for key, p := range r.running {
		for over := false; !over; {
			select {
			case <-p.done:
				over = true
			case <-lost:
				lost = nil
				hurry()
			case <-renewed:
				for _, p := range r.running {
					p.renew()
				}
			case <-limit.C:
				r.s.log.Error("leaving processes behind that cannot be killed", zap.String("pipeline", key))
				return cut
			}
		}
	}
	return cut
}
