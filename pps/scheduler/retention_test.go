package scheduler

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// janitor is an Output whose Retainers step when the test says so.
type janitor struct {
	noOutput
	t     *testing.T
	store *store.Store
	steps chan chan error // a Retainer takes one, and answers how its step ended
	ended chan int64      // commits of the Retainers that have stopped
}

type janitorRetainer struct {
	*janitor
	commits int64
}

func (j *janitor) Retainer(info *ppspb.PipelineInfo) Retainer {
	keep := info.GetDetails().GetSpout().GetRetention()
	if keep == nil || info.GetStopped() {
		return nil
	}
	return &janitorRetainer{j, keep.Commits}
}

func (r *janitorRetainer) Step(ctx context.Context, guard func(*store.Txn) error) (time.Time, error) {
	select {
	case answer := <-r.steps:
		_, err := r.store.Update(ctx, func(tx *store.Txn) error {
			tx.Put("trace", []byte(tx.NewID()))
			return guard(tx)
		})
		answer <- err
		return epoch, err
	case <-ctx.Done():
		r.ended <- r.commits
		return epoch, ctx.Err()
	}
}

// step lets a Retainer make one, and returns how it ended.
func (j *janitor) step() error {
	j.t.Helper()
	answer := make(chan error, 1)
	select {
	case j.steps <- answer:
		return <-answer
	case <-time.After(limit):
		j.t.Fatal("no Retainer steps")
		return nil
	}
}

func (j *janitor) wantEnded(commits int64) {
	j.t.Helper()
	select {
	case got := <-j.ended:
		if got != commits {
			j.t.Errorf("the Retainer of %d has ended, not that of %d", got, commits)
		}
	case <-time.After(limit):
		j.t.Fatal("no Retainer ends")
	}
}

func keep(commits int64) func(*recordpb.PipelineRecord) {
	return func(r *recordpb.PipelineRecord) {
		r.Info.Details.Spout.Retention = &ppspb.Spout_Retention{Commits: commits, Age: durationpb.New(time.Hour)}
	}
}

// TestRetention_FollowsTheSpec of the newest version, for as long as the pipeline is
// not stopped and the daemon runs it.
func TestRetention_FollowsTheSpec(t *testing.T) {
	etcd := newStore(t)
	j := &janitor{t: t, store: etcd, steps: make(chan chan error), ended: make(chan int64, 9)}
	d := start(t, etcd, func(c *Config) { c.Output = j })
	d.put(d.spout(1, keep(10)))
	d.crew.next()
	if err := j.step(); err != nil {
		t.Error(err)
	}
	d.put(d.spout(1, keep(20)))
	j.wantEnded(10)
	if err := j.step(); err != nil {
		t.Error(err)
	}
	d.put(d.spout(1, keep(20), func(r *recordpb.PipelineRecord) { r.Info.Stopped = true }))
	j.wantEnded(20)
	d.put(d.spout(1, keep(20)))
	if err := j.step(); err != nil {
		t.Error(err)
	}
	d.put(nil)
	j.wantEnded(20)
	d.put(d.spout(2, keep(30)))
	if err := j.step(); err != nil {
		t.Error(err)
	}
	d.stop()
	j.wantEnded(30)
}

// TestRetention_Guard lets nothing be written for a spec that is not the pipeline's any
// more, nor for a daemon that has lost it.
func TestRetention_Guard(t *testing.T) {
	etcd := newStore(t)
	j := &janitor{t: t, store: etcd, steps: make(chan chan error), ended: make(chan int64, 9)}
	d := start(t, etcd, func(c *Config) { c.Output = j })
	d.put(d.spout(1, keep(10)))
	d.crew.next()
	p := &pipeline{s: d.sched, key: "p/s"}
	update := func(guard func(*store.Txn) error) error {
		_, err := etcd.Update(t.Context(), func(tx *store.Txn) error {
			tx.Put("trace", nil)
			return guard(tx)
		})
		return err
	}
	record := d.spout(1, keep(10))
	guard := p.keeps(keeping(record))
	if err := update(guard); err != nil {
		t.Error(err)
	}
	for name, edit := range map[string]func(*recordpb.PipelineRecord){
		"more is kept":   keep(11),
		"all is kept":    func(r *recordpb.PipelineRecord) { r.Info.Details.Spout.Retention = nil },
		"stopped":        func(r *recordpb.PipelineRecord) { r.Info.Stopped = true },
		"another branch": func(r *recordpb.PipelineRecord) { r.Info.Details.OutputBranch = "other" },
	} {
		if err := update(p.keeps(keeping(d.spout(1, keep(10), edit)))); !errors.Is(err, errOutdated) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	_, err := etcd.Update(t.Context(), func(tx *store.Txn) error {
		return d.sched.claims.Put(tx, "p/s", &recordpb.DaemonRecord{Id: "another"})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := update(guard); !errors.Is(err, store.ErrLeaseLost) {
		t.Errorf("without the claim: %v", err)
	}
}
