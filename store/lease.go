package store

import (
	"context"
	"fmt"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Lease is kept alive until Close. Keys put with it go away when it ends.
type Lease struct {
	s      *Store
	id     clientv3.LeaseID
	cancel context.CancelFunc
	done   chan struct{}
	once   sync.Once
	err    error
}

// revokeTimeout bounds how long Close waits for etcd; the lease ends by itself
// anyway.
const revokeTimeout = 2 * time.Second

// NewLease grants a lease that ends ttl (whole seconds, at least one) after it
// was last renewed, and renews it in time.
func (s *Store) NewLease(ctx context.Context, ttl time.Duration) (*Lease, error) {
	seconds := max(1, int64((ttl+time.Second-1)/time.Second))
	grant, err := s.client.Grant(ctx, seconds)
	if err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	alive, cancel := context.WithCancel(context.WithoutCancel(ctx))
	beats, err := s.client.KeepAlive(alive, grant.ID)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("lease: %w", err)
	}
	l := &Lease{s: s, id: grant.ID, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		for range beats { // closed when the lease has ended or alive is
		}
	}()
	return l, nil
}

// ID names the lease for PutLease and CompareLease.
func (l *Lease) ID() clientv3.LeaseID { return l.id }

// Done is closed once the lease is no longer renewed, whatever the reason.
func (l *Lease) Done() <-chan struct{} { return l.done }

// Close ends the lease at once, and its keys with it.
func (l *Lease) Close() error {
	l.once.Do(func() {
		l.cancel()
		<-l.done
		ctx, cancel := context.WithTimeout(context.Background(), revokeTimeout)
		defer cancel()
		if _, err := l.s.client.Revoke(ctx, l.id); err != nil {
			l.err = fmt.Errorf("revoke lease: %w", err)
		}
	})
	return l.err
}
