package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minipachd/minipachd/pps/fence"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// Output is what the scheduler needs to know of the repos that workers write to.
// Pipelines are <project>/<name>.
type Output interface {
	// Head names the newest commit of a pipeline's output branch, open or not, and the
	// newest put to it if the server collects puts in it.
	Head(ctx context.Context, info *ppspb.PipelineInfo) (id string, err error)
	// DropOpen removes the commits that the writers of which left is true have opened
	// in the pipeline's output repo and not finished. A pipeline or repo that is gone
	// has none.
	DropOpen(ctx context.Context, pipeline string, left func(writer string) bool) error
	// Retainer returns what removes the commits of the pipeline's output branch that its
	// spec does not keep; nil if it keeps all.
	Retainer(info *ppspb.PipelineInfo) Retainer
}

// noOutput stands for a daemon without repos.
type noOutput struct{}

func (noOutput) Head(context.Context, *ppspb.PipelineInfo) (string, error) {
	return "", errors.New("there are no repos")
}

func (noOutput) DropOpen(context.Context, string, func(string) bool) error { return nil }

func (noOutput) Retainer(*ppspb.PipelineInfo) Retainer { return nil }

const (
	admitTime = 10 * time.Second // for the writes before a start
	expelTime = 10 * time.Second // for those after an end
	flushTime = 3 * time.Second  // for each last write of a pipeline that is halted
)

var (
	errHalted = errors.New("this pachd does not run the pipeline any more")
	errGone   = errors.New("the pipeline is gone, or another pachd has it")
)

// taken is what was found when a pipeline was taken.
type taken struct {
	record   *recordpb.PipelineRecord
	status   *recordpb.PipelineStatus // of an earlier daemon; nil if there is none
	revision int64
}

// take makes this daemon the one that runs the pipeline: no token of before counts
// any more, and what workers of before left open is dropped. Nil if it is not to be
// had, or was halted meanwhile.
func (p *pipeline) take() *taken {
	var t taken
	err := p.insist(p.ctx, "take the pipeline", func(ctx context.Context) error {
		_, err := p.s.cfg.Store.Update(ctx, func(tx *store.Txn) error {
			holder, ok, err := p.s.claims.Get(tx, p.key)
			if err != nil {
				return err
			}
			if ok && holder.GetId() != p.s.members.id {
				return errGone
			}
			if t.record, ok, err = p.s.pipelines.Get(tx, p.key); err != nil {
				return err
			}
			if !ok {
				return errGone
			}
			if t.status, _, err = p.s.statuses.Get(tx, p.key); err != nil {
				return err
			}
			if st := takenOver(t.status); st != nil {
				if err := p.s.statuses.Put(tx, p.key, st); err != nil {
					return err
				}
			}
			t.revision = tx.Revision()
			fence.ExpelAll(tx, p.key)
			if err := p.s.remember(tx, p.key); err != nil {
				return err
			}
			return p.s.members.claim(tx, claimPrefix+p.key)
		})
		if err != nil {
			return err
		}
		return p.s.cfg.Output.DropOpen(ctx, p.key, func(writer string) bool { return fence.WriterOf(writer, p.key) })
	})
	if err != nil {
		return nil
	}
	return &t
}

// runnersKept bounds how many daemons are remembered to have run a pipeline.
const runnersKept = 16

// remember puts this daemon at the end of those that have run a pipeline: some lines
// of its log will be here.
func (s *Scheduler) remember(tx *store.Txn, key string) error {
	ran, _, err := s.runners.Get(tx, key)
	if err != nil {
		return err
	}
	us := s.members.record()
	all := ran.GetRunners()
	if n := len(all); n > 0 && proto.Equal(all[n-1].GetDaemon(), us) {
		return nil
	}
	all = slices.DeleteFunc(all, func(r *recordpb.Runner) bool { return r.GetDaemon().GetId() == us.GetId() })
	all = append(all, &recordpb.Runner{Daemon: us, Began: timestamppb.New(tx.Now())})
	return s.runners.Put(tx, key, &recordpb.Runners{Runners: all[max(0, len(all)-runnersKept):]})
}

// takenOver is what is left of the status of an earlier daemon, whose workers are
// gone, until the first one of this daemon is written; nil if that says so itself.
func takenOver(earlier *recordpb.PipelineStatus) *recordpb.PipelineStatus {
	if earlier.GetWorkersAvailable() == 0 && earlier.GetNextStart() == nil &&
		earlier.GetState() != ppspb.PipelineState_PIPELINE_RUNNING && earlier.GetState() != ppspb.PipelineState_PIPELINE_CRASHING {
		return nil
	}
	return Abandoned(earlier, "taken over from a pachd that is gone")
}

// insist tries something again until it works, ctx ends, the error is errGone, or the
// pipeline was halted and is not ours any more.
func (p *pipeline) insist(ctx context.Context, what string, fn func(ctx context.Context) error) error {
	for pause := retryMin; ; pause = min(2*pause, retryMax) {
		err := fn(ctx)
		if err == nil || errors.Is(err, errGone) {
			return err
		}
		if errors.Is(err, store.ErrLeaseLost) && p.ctx.Err() != nil {
			return err // somebody else's business now
		}
		if ctx.Err() == nil {
			p.log.Warn(what+"; trying again", zap.Error(err))
		}
		if !sleep(ctx, pause) {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// keep puts a pipeline that we run on our new lease. If another daemon has taken it
// meanwhile, our workers have no say any more and are ended.
func (p *pipeline) keep() {
	err := p.insist(p.ctx, "keep the pipeline", func(ctx context.Context) error {
		_, err := p.s.cfg.Store.Update(ctx, func(tx *store.Txn) error {
			holder, ok, err := p.s.claims.Get(tx, p.key)
			if err != nil {
				return err
			}
			if ok && holder.GetId() != p.s.members.id {
				return errGone
			}
			return p.s.members.claim(tx, claimPrefix+p.key)
		})
		return err
	})
	if errors.Is(err, errGone) {
		p.log.Warn("another pachd runs the pipeline now; workers of this one are killed")
		p.cut()
	}
}

// release lets another daemon have the pipeline. If that does not work in time, share
// finds the claim, or the lease ends.
func (p *pipeline) release() {
	ctx, cancel := context.WithTimeout(context.Background(), flushTime)
	defer cancel()
	if err := p.unclaim(ctx); err != nil {
		p.log.Debug("release the pipeline", zap.Error(err))
	}
}

// letGo is run for a pipeline that this daemon has a claim on and does not run.
func (p *pipeline) letGo() {
	defer close(p.done)
	defer p.halt()
	if err := p.insist(p.ctx, "release the pipeline", p.unclaim); err != nil {
		p.log.Debug("release the pipeline", zap.Error(err))
	}
}

// unclaim removes this daemon's claim, if there is one.
func (p *pipeline) unclaim(ctx context.Context) error {
	_, err := p.s.cfg.Store.Update(ctx, func(tx *store.Txn) error {
		holder, ok, err := p.s.claims.Get(tx, p.key)
		if err == nil && ok && holder.GetId() == p.s.members.id {
			tx.CompareLease(p.s.members.current().ID(), claimPrefix+p.key)
			p.s.claims.Delete(tx, p.key)
		}
		return err
	})
	return err
}

// admit makes a token the one that counts for its slot, and drops what workers of
// before in the slot left open. It needs the pipeline to be ours.
func (p *pipeline) admit(c fence.Claims) error {
	ctx, cancel := context.WithTimeout(p.ctx, admitTime)
	defer cancel()
	return p.insist(ctx, "admit a worker", func(ctx context.Context) error {
		lease := p.s.members.current()
		_, err := p.s.cfg.Store.Update(ctx, func(tx *store.Txn) error {
			tx.CompareLease(lease.ID(), claimPrefix+p.key)
			fence.Admit(tx, c)
			return nil
		})
		if err != nil {
			return err
		}
		return p.s.cfg.Output.DropOpen(ctx, p.key, func(writer string) bool { return c.SameSlot(writer) && writer != c.Writer() })
	})
}

// expel ends the right of a worker to write, and drops what it left open. If that
// cannot be done in time, it is done before the next start in the slot.
func (p *pipeline) expel(c fence.Claims) {
	ctx, cancel := context.WithTimeout(context.Background(), expelTime)
	defer cancel()
	defer context.AfterFunc(p.ctx, func() { time.AfterFunc(flushTime, cancel) })()
	err := p.insist(ctx, "expel a worker", func(ctx context.Context) error {
		lease := p.s.members.current()
		_, err := p.s.cfg.Store.Update(ctx, func(tx *store.Txn) error {
			tx.CompareLease(lease.ID(), claimPrefix+p.key)
			return fence.Expel(tx, c)
		})
		if err != nil {
			return err
		}
		return p.s.cfg.Output.DropOpen(ctx, p.key, func(writer string) bool { return writer == c.Writer() })
	})
	if err != nil {
		p.log.Debug("a worker that ended has not been expelled", zap.Error(err))
	}
}
