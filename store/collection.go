package store

import (
	"fmt"
	"iter"

	"google.golang.org/protobuf/proto"
)

// Collection is the keys below a prefix, each holding one message of type T.
type Collection[T proto.Message] struct{ prefix string }

// Item is one member of a collection.
type Item[T any] struct {
	Key      string // without the collection's prefix
	Value    T
	Revision int64 // of its last change; 0 for the transaction's own writes
}

// NewCollection names a collection by the prefix of its keys, for example
// "pfs/repo/".
func NewCollection[T proto.Message](prefix string) Collection[T] {
	return Collection[T]{prefix: prefix}
}

// Prefix is what the keys of the collection begin with.
func (c Collection[T]) Prefix() string { return c.prefix }

func (c Collection[T]) decode(key string, b []byte) (T, error) {
	var zero T
	v := zero.ProtoReflect().New().Interface().(T)
	if err := proto.Unmarshal(b, v); err != nil {
		return zero, fmt.Errorf("stored value of %s%s: %w", c.prefix, key, err)
	}
	return v, nil
}

// Get returns a copy of the member, which the caller may modify.
func (c Collection[T]) Get(tx *Txn, key string) (v T, ok bool, err error) {
	return c.get(tx, key, true)
}

// Peek is Get of a member that never changes: the commit does not compare it.
func (c Collection[T]) Peek(tx *Txn, key string) (v T, ok bool, err error) {
	return c.get(tx, key, false)
}

// GetShared is Get without the copy: the result must not be modified.
func (c Collection[T]) GetShared(tx *Txn, key string) (v T, ok bool, err error) {
	return c.shared(tx, key, true)
}

// PeekShared is Peek without the copy: the result must not be modified.
func (c Collection[T]) PeekShared(tx *Txn, key string) (v T, ok bool, err error) {
	return c.shared(tx, key, false)
}

func (c Collection[T]) shared(tx *Txn, key string, check bool) (v T, ok bool, err error) {
	b, ok, err := tx.get(c.prefix+key, check)
	if err != nil || !ok {
		return v, false, err
	}
	if d, ok := tx.decoded[c.prefix+key]; ok {
		return d.(T), true, nil
	}
	if v, err = c.decode(key, b); err != nil {
		return v, false, err
	}
	if tx.decoded == nil {
		tx.decoded = map[string]proto.Message{}
	}
	tx.decoded[c.prefix+key] = v
	return v, true, nil
}

func (c Collection[T]) get(tx *Txn, key string, check bool) (v T, ok bool, err error) {
	b, ok, err := tx.get(c.prefix+key, check)
	if err != nil || !ok {
		return v, false, err
	}
	v, err = c.decode(key, b)
	return v, err == nil, err
}

// Put stores v under key.
func (c Collection[T]) Put(tx *Txn, key string, v T) error {
	b, err := proto.Marshal(v)
	if err != nil {
		return fmt.Errorf("store %s%s: %w", c.prefix, key, err)
	}
	tx.Put(c.prefix+key, b)
	return nil
}

// Delete removes the member; a missing one is no error.
func (c Collection[T]) Delete(tx *Txn, key string) { tx.Delete(c.prefix + key) }

// DeletePrefix removes all members whose key begins with sub.
func (c Collection[T]) DeletePrefix(tx *Txn, sub string) { tx.DeletePrefix(c.prefix + sub) }

// Scan yields the members whose key begins with sub. From and To of opt are keys
// of the collection.
func (c Collection[T]) Scan(tx *Txn, sub string, opt ScanOptions) iter.Seq2[Item[T], error] {
	if opt.From != "" {
		opt.From = c.prefix + opt.From
	}
	if opt.To != "" {
		opt.To = c.prefix + opt.To
	}
	return func(yield func(Item[T], error) bool) {
		for kv, err := range tx.Scan(c.prefix+sub, opt) {
			var item Item[T]
			if err == nil {
				item.Key, item.Revision = kv.Key[len(c.prefix):], kv.ModRevision
				if !opt.KeysOnly {
					item.Value, err = c.decode(item.Key, kv.Value)
				}
			}
			if !yield(item, err) || err != nil {
				return
			}
		}
	}
}
