package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// reporter writes the newest status of one pipeline to etcd, as soon as etcd
// takes it. Workers never wait for it.
type reporter struct {
	s   *Scheduler
	key string

	wake   chan struct{}
	quit   chan struct{}
	done   chan struct{}
	ctx    context.Context // of the writes, ends soon after quit
	cancel context.CancelFunc

	mu   sync.Mutex
	next *recordpb.PipelineStatus // nil: there should be none
}

func newReporter(s *Scheduler, key string) *reporter {
	r := &reporter{s: s, key: key, wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	go r.run()
	return r
}

// set has the status written. A nil status removes what is there.
func (r *reporter) set(st *recordpb.PipelineStatus) {
	r.mu.Lock()
	r.next = st
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// close returns when the last status is written, or cannot be.
func (r *reporter) close() {
	close(r.quit)
	timer := time.AfterFunc(flushTime, r.cancel)
	defer timer.Stop()
	<-r.done
	r.cancel()
}

func (r *reporter) run() {
	defer close(r.done)
	var written *recordpb.PipelineStatus
	first := true
	for {
		ending := false
		select {
		case <-r.wake:
		case <-r.quit:
			select {
			case <-r.wake:
				ending = true
			default:
				return
			}
		}
		for pause := retryMin; ; pause = min(2*pause, retryMax) {
			r.mu.Lock()
			next := r.next
			r.mu.Unlock()
			if !first && proto.Equal(written, next) {
				break
			}
			err := r.write(r.ctx, next)
			if err == nil {
				written, first = next, false
				break
			}
			if errors.Is(err, store.ErrLeaseLost) && r.closing() {
				return // somebody else reports now
			}
			if r.ctx.Err() == nil {
				r.s.log.Warn("write status; trying again", zap.String("pipeline", r.key), zap.Error(err))
			}
			if !sleep(r.ctx, pause) {
				return
			}
		}
		if ending {
			return
		}
	}
}

func (r *reporter) closing() bool {
	select {
	case <-r.quit:
		return true
	default:
		return false
	}
}

// write stores the status, as long as the pipeline exists and is ours.
func (r *reporter) write(ctx context.Context, st *recordpb.PipelineStatus) error {
	lease := r.s.members.current()
	_, err := r.s.cfg.Store.Update(ctx, func(tx *store.Txn) error {
		tx.CompareLease(lease.ID(), claimPrefix+r.key)
		_, exists, err := r.s.pipelines.Get(tx, r.key)
		if err != nil {
			return err
		}
		if st != nil && exists {
			return r.s.statuses.Put(tx, r.key, st)
		}
		if _, there, err := r.s.statuses.Get(tx, r.key); err != nil || !there || exists {
			return err
		}
		r.s.statuses.Delete(tx, r.key)
		return nil
	})
	if err != nil {
		return fmt.Errorf("status of %s: %w", r.key, err)
	}
	return nil
}
