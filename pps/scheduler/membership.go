package scheduler

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// membership makes this daemon one of those that share in running the spouts. Its
// key, and those of the pipelines that it runs, hang on one lease, so they go away
// with the daemon.
type membership struct {
	store *store.Store
	log   *zap.Logger
	ttl   time.Duration
	dir   string // data directory; empty: none

	address string        // for the other daemons
	tlsKey  func() []byte // nil: without TLS

	id   string   // of this daemon
	lock *os.File // that makes sure of id

	mu    sync.Mutex
	lease *store.Lease
}

// identify finds out who we are; the first call does. With the lock on the data directory held, a
// claim with the directory's id was made by a daemon that is dead.
func (m *membership) identify() {
	if m.id != "" {
		return
	}
	m.id = rand.Text()
	if m.dir == "" {
		return
	}
	file, err := lockFile(filepath.Join(m.dir, "scheduler.lock"))
	if err != nil {
		m.log.Warn("the data directory's scheduler lock is not to be had; a takeover will wait for the old lease", zap.Error(err))
		return
	}
	m.lock = file
	buf := make([]byte, len(m.id))
	if n, _ := file.ReadAt(buf, 0); n == len(buf) {
		m.id = string(buf)
	} else if _, err := file.WriteAt([]byte(m.id), 0); err != nil {
		m.log.Warn("remember the daemon's id", zap.Error(err))
	}
}

// record describes this daemon.
func (m *membership) record() *recordpb.DaemonRecord {
	host, _ := os.Hostname()
	r := &recordpb.DaemonRecord{Id: m.id, Host: host, Pid: int64(os.Getpid()), Address: m.address}
	if m.tlsKey != nil {
		r.TlsKey = m.tlsKey()
	}
	return r
}

func (m *membership) key() string { return memberPrefix + m.id }

// join takes part, with a new lease, and returns false when ctx ends first.
func (m *membership) join(ctx context.Context) bool {
	m.identify()
	for pause := retryMin; ctx.Err() == nil; pause = min(2*pause, time.Second) {
		err := m.try(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() == nil {
			m.log.Warn("take part in running the spouts; trying again", zap.Error(err))
		}
		sleep(ctx, pause)
	}
	return false
}

func (m *membership) try(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, max(m.ttl/2, time.Second))
	defer cancel()
	lease, err := m.store.NewLease(bounded, m.ttl) // lives beyond ctx, until all workers have stopped
	if err != nil {
		return err
	}
	value, err := proto.Marshal(m.record())
	if err != nil {
		return err
	}
	_, err = m.store.Update(bounded, func(tx *store.Txn) error {
		tx.PutLease(m.key(), value, lease.ID())
		return nil
	})
	if err != nil {
		lease.Close()
		return fmt.Errorf("key %s: %w", m.key(), err)
	}
	m.mu.Lock()
	old := m.lease
	m.lease = lease
	m.mu.Unlock()
	if old != nil {
		old.Close() // it has ended, most likely
	}
	return nil
}

// current is the lease; nil before join.
func (m *membership) current() *store.Lease {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lease
}

// claim makes tx depend on the lease and puts a key on it.
func (m *membership) claim(tx *store.Txn, key string) error {
	value, err := proto.Marshal(m.record())
	if err != nil {
		return err
	}
	lease := m.current().ID()
	tx.CompareLease(lease, m.key())
	tx.PutLease(key, value, lease)
	return nil
}

// watch renews the lease when etcd has lost it, and tells so by renewed. It returns
// true, before the lease can have ended elsewhere, when etcd cannot be asked; false
// when ctx ends. With etcd in this very process there is no elsewhere.
func (m *membership) watch(ctx context.Context, renewed chan<- struct{}) (cut bool) {
	for {
		lease := m.current()
		var late <-chan time.Time
		if !m.store.Embedded() {
			late = time.After(max(0, time.Until(lease.Deadline().Add(-m.ttl/4))))
		}
		select {
		case <-ctx.Done():
			return false
		case <-late:
			if !time.Now().Before(lease.Deadline().Add(-m.ttl / 4)) {
				return true
			}
		case <-lease.Done():
			m.log.Warn("the lease on the spouts ran out; renewing it")
			if !m.store.Embedded() && !time.Now().Before(lease.Deadline().Add(-m.ttl/4)) {
				return true
			}
			if !m.join(ctx) {
				return false
			}
			select {
			case renewed <- struct{}{}:
			case <-ctx.Done():
				return false
			}
		}
	}
}

// leave tells the others that this daemon takes nothing more.
func (m *membership) leave(ctx context.Context) {
	_, err := m.store.Update(ctx, func(tx *store.Txn) error {
		tx.Delete(m.key())
		return nil
	})
	if err != nil {
		m.log.Debug("leave the daemons that run the spouts", zap.Error(err))
	}
}

// release ends the lease at once.
func (m *membership) release() {
	if lease := m.current(); lease != nil {
		if err := lease.Close(); err != nil {
			m.log.Debug("give back the lease on the spouts", zap.Error(err))
		}
	}
}

// close releases the lease and the identity.
func (m *membership) close() {
	m.release()
	if m.lock != nil {
		m.lock.Close()
	}
}
