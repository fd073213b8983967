package auth

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/minipachd/minipachd/store"
)

// sweeperTTL is for how long a daemon that dies keeps others from sweeping.
const sweeperTTL = 10 * time.Second

// runSweeper removes expired tokens every interval. Of several daemons one does it.
func (s *Service) runSweeper(ctx context.Context) error {
	for {
		due, stop := s.clock.Timer(s.clock.Now().Add(s.sweep))
		select {
		case <-ctx.Done():
			stop()
			return ctx.Err()
		case <-due:
		}
		if err := s.sweepTokens(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("remove expired tokens", zap.Error(err))
		}
	}
}

// sweepTokens removes expired tokens, unless another daemon is at it.
func (s *Service) sweepTokens(ctx context.Context) error {
	lease, err := s.store.NewLease(ctx, sweeperTTL)
	if err != nil {
		return err
	}
	mine := false
	_, err = s.store.Update(ctx, func(tx *store.Txn) error {
		_, taken, err := tx.Get(sweeperKey)
		if mine = err == nil && !taken; mine {
			tx.PutLease(sweeperKey, nil, lease.ID())
		}
		return err
	})
	if err == nil && mine {
		var n int64
		n, err = s.removeTokens(ctx, func(tx *store.Txn) { tx.CompareLease(lease.ID(), sweeperKey) }, s.expired)
		if n > 0 {
			s.log.Info("removed expired tokens", zap.Int64("tokens", n))
		}
	}
	return errors.Join(err, lease.Close())
}
