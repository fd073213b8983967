package store

import "slices"

// guard is what Guard was asked for.
type guard struct {
	key, value string
	otherwise  func(current []byte) error
}

// Guard lets the transaction commit only while key holds value. If it does not,
// the Update ends with what otherwise makes of the value that is there then, nil
// if there is none. Nothing is read for it unless the commit fails.
func (tx *Txn) Guard(key, value string, otherwise func(current []byte) error) {
	same := func(g guard) bool { return g.key == key && g.value == value }
	if !slices.ContainsFunc(tx.guards, same) {
		tx.guards = append(tx.guards, guard{key, value, otherwise})
	}
}

// unguarded returns the error of the first guard that does not hold.
func (tx *Txn) unguarded() error {
	for _, g := range tx.guards {
		ctx, cancel := tx.bounded()
		resp, err := tx.s.client.Get(ctx, tx.s.prefix+g.key)
		cancel()
		if err != nil {
			return tx.fail(opCommit, err)
		}
		var current []byte
		if len(resp.Kvs) > 0 {
			current = append([]byte{}, resp.Kvs[0].Value...)
		}
		if string(current) != g.value || current == nil {
			return g.otherwise(current)
		}
	}
	return nil
}
