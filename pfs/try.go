package pfs

import (
	"context"
	"errors"

	"github.com/minipachd/minipachd/store"
)

// Try does all that Update does except for the commit: it tells how Update would
// end, and changes nothing.
func (s *Service) Try(ctx context.Context, fn func(tx *Txn) error) error {
	for {
		err := s.store.Try(ctx, func(stx *store.Txn) error {
			tx := s.newTxn(stx)
			if err := fn(tx); err != nil {
				return err
			}
			return tx.endSet()
		})
		var g *garbageError
		if !errors.As(err, &g) {
			return err
		}
		if err := s.sweepRepo(ctx, g.repo); err != nil {
			return err
		}
	}
}

// UseSetID makes id that of the current commit set. It must be called before the
// set has any commit and must not be an id that was used before.
func (tx *Txn) UseSetID(id string) {
	if tx.setID != "" {
		panic("pfs: the commit set has an id already")
	}
	tx.setID = id
}
