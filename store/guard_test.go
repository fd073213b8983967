package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/minipachd/minipachd/store"
)

func TestGuard_LetsCommitOnlyWhileTheKeyHoldsTheValue(t *testing.T) {
	s := open(t, t.TempDir())
	refused := errors.New("refused")
	var current []byte
	write := func(fn func(tx *store.Txn)) error {
		_, err := s.Update(t.Context(), func(tx *store.Txn) error {
			tx.Guard("fence", "one", func(b []byte) error {
				current = b
				return refused
			})
			if fn != nil {
				fn(tx)
			}
			return nil
		})
		return err
	}
	put := func(tx *store.Txn) { tx.Put("x", nil) }
	if err := write(put); !errors.Is(err, refused) || current != nil {
		t.Errorf("no key: %v, %q", err, current)
	}
	update(t, s, func(tx *store.Txn) { tx.Put("fence", []byte("one")) })
	if err := write(put); err != nil {
		t.Error(err)
	}
	// What changes while the transaction is under way counts.
	attempts := 0
	err := write(func(tx *store.Txn) {
		put(tx)
		if attempts++; attempts == 1 {
			update(t, s, func(tx *store.Txn) { tx.Put("fence", []byte("two")) })
		}
	})
	if !errors.Is(err, refused) || string(current) != "two" || attempts != 1 {
		t.Errorf("in the middle: %v, %q, %d attempts", err, current, attempts)
	}
	if err := write(nil); err != nil {
		t.Errorf("nothing is written: %v", err)
	}
	// A conflict of another kind is tried again.
	update(t, s, func(tx *store.Txn) { tx.Put("fence", []byte("one")) })
	attempts = 0
	err = write(func(tx *store.Txn) {
		if _, _, err := tx.Get("y"); err != nil {
			t.Error(err)
		}
		put(tx)
		if attempts++; attempts == 1 {
			update(t, s, func(tx *store.Txn) { tx.Put("y", nil) })
		}
	})
	if err != nil || attempts != 2 {
		t.Errorf("a conflict: %v, %d attempts", err, attempts)
	}
}

func TestLease_RenewsAndSaysUntilWhen(t *testing.T) {
	s := open(t, t.TempDir())
	lease, err := s.NewLease(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	first := lease.Deadline()
	if left := time.Until(first); left > time.Second {
		t.Errorf("%v left of a second", left)
	}
	for end := time.Now().Add(10 * time.Second); !lease.Deadline().After(first); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not renewed")
		}
	}
	if _, err := s.Client().Revoke(t.Context(), lease.ID()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-lease.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("a lease that is gone is not done")
	}
	if err := lease.Close(); err != nil {
		t.Errorf("close a lease that is gone: %v", err)
	}
}
