package store_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/minipachd/minipachd/store"
)

// TestWatch_ReadsSeeWhatItTold: a transaction begun after an event finds the
// change there, also while many others write.
func TestWatch_ReadsSeeWhatItTold(t *testing.T) {
	s := open(t, t.TempDir())
	c := store.NewCollection[*wrapperspb.StringValue]("w/")
	const writers, each = 4, 150
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for j := range each {
				if _, err := s.Update(t.Context(), func(tx *store.Txn) error {
					return c.Put(tx, fmt.Sprintf("%d-%d", i, j), wrapperspb.String("x"))
				}); err != nil {
					t.Errorf("put: %v", err)
				}
			}
		})
	}
	enough, seen := errors.New("enough"), 0
	err := c.Watch(t.Context(), s, "", func(e store.Event[*wrapperspb.StringValue]) error {
		if e.Synced {
			return nil
		}
		err := s.View(t.Context(), func(tx *store.Txn) error {
			_, ok, err := c.Get(tx, e.Key)
			if err == nil && !ok {
				t.Errorf("%s was told of and is not there", e.Key)
			}
			return err
		})
		if seen++; seen == writers*each && err == nil {
			err = enough
		}
		return err
	})
	wg.Wait()
	if !errors.Is(err, enough) {
		t.Error(err)
	}
}

// TestWatch_KnowsWholeTransactions has no event say that a transaction is known
// before all of its changes have been told of.
func TestWatch_KnowsWholeTransactions(t *testing.T) {
	s := open(t, t.TempDir())
	c := store.NewCollection[*wrapperspb.StringValue]("w/")
	put := func() {
		if _, err := s.Update(t.Context(), func(tx *store.Txn) error {
			for i := range 5 {
				if err := c.Put(tx, fmt.Sprint(i), wrapperspb.String("x")); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	put()
	enough, told, synced := errors.New("enough"), map[int64]int{}, false
	var known, listed int64
	err := c.Watch(t.Context(), s, "", func(e store.Event[*wrapperspb.StringValue]) error {
		if e.Synced {
			synced, listed, known = true, e.Revision, e.Known
			put()
			put()
			return nil
		}
		told[e.Revision]++
		if e.Known != 0 {
			known = e.Known
		}
		switch {
		case !synced && known != 0:
			t.Errorf("revision %d is known in the middle of the listing", known)
		case known > listed && told[known] != 5:
			t.Errorf("revision %d is known after %d of its 5 changes", known, told[known])
		case len(told) == 3 && known == e.Revision:
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Error(err)
	}
}
