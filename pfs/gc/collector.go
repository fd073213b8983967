package gc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minipachd/minipachd/clock"
	"github.com/minipachd/minipachd/pfs/chunk"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

const (
	ownerKey     = "pfs/gc/owner"
	runKey       = "pfs/gc/run"
	lastKey      = "pfs/gc/last"
	memberPrefix = "pfs/gc/member/"
)

// Source knows what refers to what.
type Source interface {
	// Referenced calls fn with the id of every layer that any record other than a
	// layer's refers to, in the snapshot of tx.
	Referenced(tx *store.Txn, fn func(layer []byte)) error
	// Chunks calls fn with every chunk that a stored layer refers to.
	Chunks(ctx context.Context, layer []byte, rec *recordpb.LayerRecord, fn func(chunk.Hash)) error
	// Expire removes the records that count as references for a limited time only,
	// where that time is over.
	Expire(ctx context.Context, now time.Time) error
}

// Config is what a Collector works with. Store, Bucket, Chunks, Source and
// LayerPrefix are required.
type Config struct {
	Store  *store.Store
	Bucket chunk.Bucket
	Chunks *chunk.Store
	Source Source
	Logger *zap.Logger
	// LayerPrefix is where the records of layers lie, under their id in hex. Nobody
	// else deletes them. A transaction may refer to a stored layer only while it
	// compares a record that refers to it already.
	LayerPrefix string
	// Interval is the time between two collections; 0 makes Run start none.
	Interval time.Duration
	// Grace is how long a layer stays after nothing refers to it was found out, for
	// readers that are on their way through it.
	Grace time.Duration
	// Fence is how long a delete that was begun by a daemon which lost its lease is
	// given to end.
	Fence time.Duration
	// Exclusive says that no other daemon uses this etcd: what an earlier one left
	// there is not waited for.
	Exclusive bool
	// TTL is that of leases, default 10 s.
	TTL time.Duration
	// Rate bounds the objects deleted in a second, default 2000.
	Rate int
	// ReadRate bounds the bytes of layers read in a second, default 64 MiB.
	ReadRate int
	// Clock tells when a collection is due and when the grace is over; the system's by
	// default.
	Clock clock.Clock
}

// Collector is this daemon's part in garbage collection.
type Collector struct {
	cfg     Config
	store   *store.Store
	bucket  chunk.Bucket
	log     *zap.Logger
	clock   clock.Clock
	table   *table
	runs    store.Collection[*recordpb.GarbageRun]
	members store.Collection[*recordpb.GarbageMember]
	layers  store.Collection[*recordpb.LayerRecord]
	last    store.Collection[*recordpb.GarbageReport]
	deletes *rate.Limiter
	reads   *rate.Limiter
	hurry   chan struct{} // asks for a collection; holds one
}

// New returns a collector; it starts nothing.
func New(cfg Config) *Collector {
	if cfg.TTL == 0 {
		cfg.TTL = 10 * time.Second
	}
	if cfg.Rate == 0 {
		cfg.Rate = 2000
	}
	if cfg.ReadRate == 0 {
		cfg.ReadRate = 64 << 20
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	return &Collector{
		cfg: cfg, store: cfg.Store, bucket: cfg.Bucket, log: cfg.Logger, clock: cfg.Clock,
		table:   newTable(),
		runs:    store.NewCollection[*recordpb.GarbageRun](runKey),
		members: store.NewCollection[*recordpb.GarbageMember](memberPrefix),
		layers:  store.NewCollection[*recordpb.LayerRecord](cfg.LayerPrefix),
		last:    store.NewCollection[*recordpb.GarbageReport](lastKey),
		deletes: rate.NewLimiter(rate.Limit(cfg.Rate), cfg.Rate),
		reads:   rate.NewLimiter(rate.Limit(cfg.ReadRate), cfg.ReadRate),
		hurry:   make(chan struct{}, 1),
	}
}

// Hurry asks Run for a collection before the interval is over, since space is wanted.
func (c *Collector) Hurry() {
	select {
	case c.hurry <- struct{}{}:
	default: // it was asked already
	}
}

// NewPins gives the pins of one new writer. They need Run to be running.
func (c *Collector) NewPins() *Pins { return &Pins{t: c.table} }

// BusyError reports that a collection is under way already, perhaps elsewhere.
type BusyError struct{ Host string }

func (e *BusyError) Error() string {
	return "garbage is being collected already, by the pachd on " + e.Host
}

// Run takes part in the sweeps of all daemons and collects garbage every interval
// until ctx ends, whose error it returns.
func (c *Collector) Run(ctx context.Context) error {
	if c.cfg.Exclusive {
		if _, err := c.store.Update(ctx, func(tx *store.Txn) error {
			tx.DeletePrefix(memberPrefix)
			tx.Delete(ownerKey)
			return nil
		}); err != nil {
			return fmt.Errorf("garbage collection: forget an earlier daemon: %w", err)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.runMember(ctx) })
	g.Go(func() error { return c.runRescue(ctx) })
	if c.cfg.Interval > 0 {
		g.Go(func() error { return c.runSchedule(ctx) })
	}
	return g.Wait()
}

// settleTime is the longest time after the start before the first collection, so
// that a daemon which never runs for an interval collects too, and the shortest
// between two, however much somebody hurries.
const settleTime = time.Minute

func (c *Collector) runSchedule(ctx context.Context) error {
	earliest := c.clock.Now().Add(min(c.cfg.Interval, settleTime))
	for hurried := false; ; {
		due := earliest
		if last, err := c.Last(ctx); err == nil && last != nil && !hurried {
			if next := last.GetFinished().AsTime().Add(c.cfg.Interval); next.After(due) {
				due = next
			}
		}
		fires, stop := c.clock.Timer(due)
		select {
		case <-fires:
		case <-c.hurry:
			stop()
			hurried = true
			continue
		case <-ctx.Done():
			stop()
			return ctx.Err()
		}
		hurried = false
		var busy *BusyError
		if _, err := c.Collect(ctx); err != nil && ctx.Err() == nil && !errors.As(err, &busy) {
			c.log.Warn("garbage collection", zap.Error(err))
		}
		earliest = c.clock.Now().Add(min(c.cfg.Interval, settleTime))
	}
}

// rescueEvery is how often a daemon looks whether a sweep has lost its owner.
const rescueEvery = 2 * time.Second

// runRescue ends sweeps whose owner is gone, since writers wait for them.
func (c *Collector) runRescue(ctx context.Context) error {
	for sleep(ctx, rescueEvery) {
		if c.table.sweeping() == "" {
			continue
		}
		o, err := c.own(ctx)
		var busy *BusyError
		switch {
		case errors.As(err, &busy), ctx.Err() != nil:
		case err != nil:
			c.log.Warn("end a sweep that lost its owner", zap.Error(err))
		default:
			if err := o.recover(o.ctx); err != nil && ctx.Err() == nil {
				c.log.Warn("end a sweep that lost its owner", zap.Error(err))
			}
			o.close()
		}
	}
	return ctx.Err()
}

// Last returns the report of the last collection that was finished, nil if there
// was none.
func (c *Collector) Last(ctx context.Context) (*recordpb.GarbageReport, error) {
	var last *recordpb.GarbageReport
	err := c.store.View(ctx, func(tx *store.Txn) error {
		rec, ok, err := c.last.Get(tx, "")
		if ok {
			last = rec
		}
		return err
	})
	return last, err
}

// Collect collects garbage now: it waits out the grace if there are layers to
// delete. While another collection is under way it returns *BusyError.
func (c *Collector) Collect(ctx context.Context) (*recordpb.GarbageReport, error) {
	o, err := c.own(ctx)
	if err != nil {
		return nil, err
	}
	defer o.close()
	report := &recordpb.GarbageReport{Started: timestamppb.New(c.clock.Now())}
	if err := o.collect(o.ctx, report); err != nil {
		if ctx.Err() == nil && o.ctx.Err() != nil {
			return nil, fmt.Errorf("garbage collection: %w", errors.Join(errSession, err))
		}
		return nil, fmt.Errorf("garbage collection: %w", err)
	}
	report.Finished = timestamppb.New(c.clock.Now())
	if _, err := c.store.Update(ctx, func(tx *store.Txn) error {
		o.fence(tx)
		return c.last.Put(tx, "", report)
	}); err != nil {
		return nil, fmt.Errorf("garbage collection: %w", err)
	}
	c.log.Info("garbage collected", zap.Int64("layers", report.Layers), zap.Int64("chunks", report.Chunks),
		zap.Int64("layer_objects", report.LayerObjects), zap.Int64("bytes", report.Bytes),
		zap.Duration("took", report.Finished.AsTime().Sub(report.Started.AsTime())))
	return report, nil
}

// owner is the right to sweep, while its lease lasts.
type owner struct {
	*Collector
	lease  *store.Lease
	ctx    context.Context // ends with the lease
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// own takes the right to sweep; *BusyError if somebody has it.
func (c *Collector) own(ctx context.Context) (*owner, error) {
	free := func(tx *store.Txn) error {
		other, taken, err := tx.Get(ownerKey)
		if err == nil && taken {
			err = &BusyError{Host: string(other)}
		}
		return err
	}
	if err := c.store.View(ctx, free); err != nil {
		return nil, err
	}
	lease, err := c.store.NewLease(ctx, c.cfg.TTL)
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	_, err = c.store.Update(ctx, func(tx *store.Txn) error {
		err := free(tx)
		if err == nil {
			tx.PutLease(ownerKey, []byte(host), lease.ID())
		}
		return err
	})
	if err != nil {
		return nil, errors.Join(err, lease.Close())
	}
	o := &owner{Collector: c, lease: lease}
	o.ctx, o.cancel = context.WithCancel(ctx)
	o.tasks.Go(func() {
		select {
		case <-lease.Done():
			o.cancel()
		case <-o.ctx.Done():
		}
	})
	return o, nil
}

func (o *owner) close() {
	o.cancel()
	o.tasks.Wait()
	if err := o.lease.Close(); err != nil {
		o.log.Debug("give back the lease on garbage collection", zap.Error(err))
	}
}

// fence lets a transaction commit only while this is still the owner.
func (o *owner) fence(tx *store.Txn) { tx.CompareLease(o.lease.ID(), ownerKey) }

// collect does the whole work and counts what it removed.
func (o *owner) collect(ctx context.Context, report *recordpb.GarbageReport) error {
	if err := o.recover(ctx); err != nil {
		return err
	}
	if err := o.cfg.Source.Expire(ctx, o.clock.Now()); err != nil {
		return fmt.Errorf("remove what has expired: %w", err)
	}
	if err := o.sweepLayers(ctx, report); err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		err := o.sweepBucket(ctx, report)
		if !errors.Is(err, errMemberLeft) || attempt == sweepAttempts {
			return err
		}
		o.log.Info("a daemon left during the sweep: it begins anew")
	}
}

// sweepAttempts is how often a sweep begins anew because a daemon left during it.
const sweepAttempts = 5
