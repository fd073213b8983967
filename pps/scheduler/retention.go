package scheduler

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// Retainer removes old commits of an output branch, a part at a time.
type Retainer interface {
	// Step does the next part and returns when to call it again. What it writes, it
	// writes in transactions that guard agrees to and made depend on what it likes;
	// an error of guard's it returns. After an error it may be called again.
	Step(ctx context.Context, guard func(tx *store.Txn) error) (next time.Time, err error)
}

// retention is the work of a Retainer under way.
type retention struct {
	keep   *ppspb.Spout_Retention // nil: there is none
	branch string
	stop   context.CancelFunc
}

const (
	retainRetryMin = time.Second // after a step that went wrong, doubled up to
	retainRetryMax = time.Minute
)

// errOutdated ends the work for a spec that is not the pipeline's any more.
var errOutdated = errors.New("the pipeline keeps other commits by now")

// keeping is what a record says of commits: nil if it keeps all.
func keeping(record *recordpb.PipelineRecord) (keep *ppspb.Spout_Retention, branch string) {
	info := record.GetInfo()
	if info.GetStopped() {
		return nil, ""
	}
	return info.GetDetails().GetSpout().GetRetention(), info.GetDetails().GetOutputBranch()
}

// arrangeRetention makes what removes commits fit a changed record; nil if the pipeline
// was deleted.
func (p *pipeline) arrangeRetention(record *recordpb.PipelineRecord) {
	keep, branch := keeping(record)
	if proto.Equal(keep, p.retention.keep) && branch == p.retention.branch {
		return
	}
	if p.retention.stop != nil {
		p.retention.stop()
	}
	p.retention = retention{keep: keep, branch: branch}
	retainer := p.s.cfg.Output.Retainer(record.GetInfo())
	if keep == nil || retainer == nil {
		return
	}
	ctx, stop := context.WithCancel(p.ctx)
	p.retention.stop = stop
	p.tasks.Go(func() { p.retain(ctx, retainer, keep, branch) })
}

// keeps lets transactions be written only as long as the pipeline is ours and keeps
// what it kept: whoever was told that it keeps more finds that it does.
func (p *pipeline) keeps(keep *ppspb.Spout_Retention, branch string) func(tx *store.Txn) error {
	return func(tx *store.Txn) error {
		record, _, err := p.s.pipelines.Get(tx, p.key)
		if err != nil {
			return err
		}
		if now, at := keeping(record); !proto.Equal(now, keep) || at != branch {
			return errOutdated
		}
		tx.CompareLease(p.s.members.current().ID(), claimPrefix+p.key)
		return nil
	}
}

// retain works until ctx ends, or the pipeline keeps other commits.
func (p *pipeline) retain(ctx context.Context, retainer Retainer, keep *ppspb.Spout_Retention, branch string) {
	guard := p.keeps(keep, branch)
	for pause := retainRetryMin; ; {
		next, err := retainer.Step(ctx, guard)
		switch {
		case errors.Is(err, errOutdated), ctx.Err() != nil:
			return
		case err != nil:
			p.log.Warn("remove commits that spout.retention does not keep; trying again", zap.Error(err))
			next = p.s.cfg.Clock.Now().Add(pause)
			pause = min(2*pause, retainRetryMax)
		default:
			pause = retainRetryMin
		}
		fires, stop := p.s.cfg.Clock.Timer(next)
		select {
		case <-fires:
		case <-ctx.Done():
		}
		stop()
	}
}
