package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Lease is kept alive until Close. Keys put with it go away when it ends.
type Lease struct {
	s      *Store
	id     clientv3.LeaseID
	ttl    time.Duration
	cancel context.CancelFunc
	done   chan struct{}
	once   sync.Once
	err    error

	mu    sync.Mutex
	until time.Time
}

// revokeTimeout bounds how long Close waits for etcd; the lease ends by itself
// anyway.
const revokeTimeout = 2 * time.Second

// NewLease grants a lease that ends ttl (whole seconds, at least one) after it
// was last renewed, and renews it in time.
func (s *Store) NewLease(ctx context.Context, ttl time.Duration) (*Lease, error) {
	seconds := max(1, int64((ttl+time.Second-1)/time.Second))
	asked := time.Now()
	grant, err := s.client.Grant(ctx, seconds)
	if err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	alive, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &Lease{s: s, id: grant.ID, ttl: time.Duration(grant.TTL) * time.Second, cancel: cancel, done: make(chan struct{})}
	l.until = asked.Add(l.ttl)
	go l.renew(alive)
	return l, nil
}

// renew asks for more time, three times within each ttl, until the lease is gone.
func (l *Lease) renew(ctx context.Context) {
	defer close(l.done)
	pause := l.ttl / 3
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		asked := time.Now()
		bounded, cancel := context.WithTimeout(ctx, l.ttl/3)
		beat, err := l.s.client.KeepAliveOnce(bounded, l.id)
		cancel()
		switch {
		case err == nil:
			l.mu.Lock()
			// Counted from the question: etcd may have started to count any time after.
			l.until = asked.Add(time.Duration(beat.TTL) * time.Second)
			l.mu.Unlock()
			pause = l.ttl / 3
		case errors.Is(err, rpctypes.ErrLeaseNotFound), time.Now().After(l.Deadline()):
			return
		default:
			pause = l.ttl / 20
		}
	}
}

// ID names the lease for PutLease and CompareLease.
func (l *Lease) ID() clientv3.LeaseID { return l.id }

// Done is closed once the lease is no longer renewed, whatever the reason.
func (l *Lease) Done() <-chan struct{} { return l.done }

// Deadline is until when the lease lasts at least, by this machine's clock, if
// etcd is not asked to revoke it. It moves on with each renewal.
func (l *Lease) Deadline() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.until
}

// Close ends the lease at once, and its keys with it.
func (l *Lease) Close() error {
	l.once.Do(func() {
		l.cancel()
		<-l.done
		ctx, cancel := context.WithTimeout(context.Background(), revokeTimeout)
		defer cancel()
		resp, err := l.s.client.Revoke(ctx, l.id)
		switch {
		case err == nil:
			l.s.know(resp.Header.Revision)
		case !errors.Is(err, rpctypes.ErrLeaseNotFound):
			l.err = fmt.Errorf("revoke lease: %w", err)
		}
	})
	return l.err
}
