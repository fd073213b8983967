package scheduler

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/minipachd/minipachd/store"
)

// owner holds the key that lets one daemon of many run the spouts. The key hangs on
// a lease, so it goes away with the daemon.
//
// The claim is renewed as long as etcd can be asked; a daemon that cannot reach
// etcd keeps its workers running, and gives up only when it sees
// that another one has the key.
type owner struct {
	store *store.Store
	log   *zap.Logger
	ttl   time.Duration
	dir   string // data directory; empty: none

	id   string   // of this daemon
	lock *os.File // that makes sure of id

	mu    sync.Mutex
	lease *store.Lease
}

// claim is the value of the key.
type claim struct {
	ID   string `json:"id"`   // of the daemon
	Host string `json:"host"` // for people
	PID  int    `json:"pid"`
}

// identify finds out who we are. With the lock on the data directory held, a
// claim with the directory's id was made by a daemon that is dead.
func (o *owner) identify() {
	if o.id != "" {
		return
	}
	o.id = rand.Text()
	if o.dir == "" {
		return
	}
	file, err := lockFile(filepath.Join(o.dir, "scheduler.lock"))
	if err != nil {
		o.log.Warn("the data directory's scheduler lock is not to be had; a takeover will wait for the old lease", zap.Error(err))
		return
	}
	o.lock = file
	buf := make([]byte, len(o.id))
	if n, _ := file.ReadAt(buf, 0); n == len(buf) {
		o.id = string(buf)
	} else if _, err := file.WriteAt([]byte(o.id), 0); err != nil {
		o.log.Warn("remember the daemon's id", zap.Error(err))
	}
}

// acquire returns true once this daemon is the owner, false when ctx ends.
func (o *owner) acquire(ctx context.Context) bool {
	o.identify()
	for pause := retryMin; ctx.Err() == nil; {
		other, rev, err := o.try(ctx)
		switch {
		case err != nil:
			if ctx.Err() == nil {
				o.log.Warn("become the owner of the spouts; trying again", zap.Error(err))
			}
			sleep(ctx, pause)
			pause = min(2*pause, retryMax)
		case other == nil:
			return true
		default:
			pause = retryMin
			o.log.Debug("another pachd runs the spouts", zap.String("host", other.Host), zap.Int("pid", other.PID))
			o.waitForChange(ctx, rev)
		}
	}
	return false
}

// try takes the key if it is free or was ours. Otherwise it returns whose it is, and
// the revision at which it was seen.
func (o *owner) try(ctx context.Context) (other *claim, rev int64, err error) {
	err = o.store.View(ctx, func(tx *store.Txn) error {
		other, rev, err = o.look(tx)
		return err
	})
	if err != nil || other != nil {
		return other, rev, err
	}
	lease, err := o.store.NewLease(ctx, o.ttl) // lives beyond ctx, until all workers have stopped
	if err != nil {
		return nil, 0, err
	}
	host, _ := os.Hostname()
	value, err := json.Marshal(claim{ID: o.id, Host: host, PID: os.Getpid()})
	if err != nil {
		return nil, 0, err
	}
	_, err = o.store.Update(ctx, func(tx *store.Txn) error {
		if other, rev, err = o.look(tx); err == nil && other == nil {
			tx.PutLease(ownerKey, value, lease.ID())
		}
		return err
	})
	if err != nil || other != nil {
		lease.Close()
		return other, rev, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lease = lease
	return nil, rev, nil
}

// look returns whose the key is, nil if nobody's or ours.
func (o *owner) look(tx *store.Txn) (*claim, int64, error) {
	data, ok, err := tx.Get(ownerKey)
	if err != nil || !ok {
		return nil, tx.Revision(), err
	}
	var current claim
	if err := json.Unmarshal(data, &current); err != nil {
		return nil, tx.Revision(), fmt.Errorf("key %s: %w", ownerKey, err)
	}
	if current.ID == o.id {
		return nil, tx.Revision(), nil
	}
	return &current, tx.Revision(), nil
}

// waitForChange returns when the key changes after rev, or after a while.
func (o *owner) waitForChange(ctx context.Context, rev int64) {
	ctx, cancel := context.WithTimeout(ctx, o.ttl)
	defer cancel()
	changes := o.store.Client().Watch(ctx, o.store.Prefix()+ownerKey, clientv3.WithRev(rev+1))
	<-changes
	if ctx.Err() == nil {
		sleep(ctx, retryMin) // a broken watch must not make this a busy loop
	}
}

// keep returns when ctx ends or somebody else has the key.
func (o *owner) keep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.current().Done():
		}
		o.log.Warn("the lease on the spouts ran out; renewing it")
		for pause := retryMin; ; pause = min(2*pause, retryMax) {
			old := o.current()
			other, _, err := o.try(ctx)
			if other != nil {
				return
			}
			if err == nil {
				old.Close()
				break
			}
			if !sleep(ctx, pause) {
				return
			}
		}
	}
}

// current is the lease that the key hangs on; nil before acquire.
func (o *owner) current() *store.Lease {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lease
}

// close gives the key back at once.
func (o *owner) close() {
	if lease := o.current(); lease != nil {
		if err := lease.Close(); err != nil {
			o.log.Debug("give back the lease on the spouts", zap.Error(err))
		}
	}
	if o.lock != nil {
		o.lock.Close()
	}
}
