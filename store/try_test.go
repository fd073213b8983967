package store_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/minipachd/minipachd/store"
)

// TestTry_ChangesNothing: it sees its own writes, and nobody else ever does.
func TestTry_ChangesNothing(t *testing.T) {
	s := open(t, t.TempDir())
	update(t, s, func(tx *store.Txn) { tx.Put("a", []byte("1")) })
	deferred := false
	err := s.Try(t.Context(), func(tx *store.Txn) error {
		tx.Put("b", []byte("2"))
		tx.Delete("a")
		tx.Defer(func() { deferred = true })
		if got := keys(t, tx, "", store.ScanOptions{}); len(got) != 1 || got[0] != "b" {
			t.Errorf("own writes: %v", got)
		}
		return nil
	})
	if err != nil || deferred {
		t.Errorf("try: %v, deferred function run: %v", err, deferred)
	}
	wrong := errors.New("wrong")
	if err := s.Try(t.Context(), func(*store.Txn) error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("try of what fails: %v", err)
	}
	var large *store.TooLargeError
	err = s.Try(t.Context(), func(tx *store.Txn) error {
		for i := range 10000 {
			tx.Put(fmt.Sprint(i), nil)
		}
		return nil
	})
	if !errors.As(err, &large) {
		t.Errorf("try of what Update could not commit: %v", err)
	}
	update(t, s, func(tx *store.Txn) {
		if got := keys(t, tx, "", store.ScanOptions{}); len(got) != 1 || got[0] != "a" {
			t.Errorf("after Try there is %v", got)
		}
	})
}

func TestCount_OfASnapshot(t *testing.T) {
	s := open(t, t.TempDir())
	update(t, s, func(tx *store.Txn) {
		for _, k := range []string{"a/1", "a/2", "b/1"} {
			tx.Put(k, nil)
		}
	})
	update(t, s, func(tx *store.Txn) {
		tx.Put("a/3", nil)
		for prefix, want := range map[string]int64{"a/": 2, "b/": 1, "c/": 0, "": 3} {
			if n, err := tx.Count(prefix); err != nil || n != want {
				t.Errorf("%q: %d, %v, want %d", prefix, n, err, want)
			}
		}
	})
}
