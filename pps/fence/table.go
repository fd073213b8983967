package fence

import (
	"context"
	"sync"

	"github.com/minipachd/minipachd/store"
)

// Table remembers which incarnations may write, for those who only ask. Writes do
// not go by it: their transactions compare the key itself.
type Table struct {
	store   *store.Store
	changed func(key string)

	mu      sync.RWMutex
	current map[string]string // by key
}

// NewTable returns a table that knows nothing before Run. Changed is called after
// the key of a slot has changed.
func NewTable(st *store.Store, changed func(key string)) *Table {
	return &Table{store: st, changed: changed, current: map[string]string{}}
}

// Run keeps the table current until ctx ends, whose error it returns.
func (t *Table) Run(ctx context.Context) error {
	return t.store.Watch(ctx, prefix, func(e store.Event[[]byte]) error {
		if e.Synced {
			return nil
		}
		t.mu.Lock()
		if e.Deleted {
			delete(t.current, e.Key)
		} else {
			t.current[e.Key] = string(e.Value)
		}
		t.mu.Unlock()
		t.changed(e.Key)
		return nil
	})
}

// Current tells whether the holder of the token is the one that may write. It says
// no only after etcd has said so.
func (t *Table) Current(ctx context.Context, c Claims) (bool, error) {
	want := c.Value()
	t.mu.RLock()
	known := t.current[c.Key()]
	t.mu.RUnlock()
	if known == want {
		return true, nil
	}
	current := false
	err := t.store.View(ctx, func(tx *store.Txn) error {
		value, _, err := tx.Get(c.Key())
		current = string(value) == want
		return err
	})
	return current, err
}
