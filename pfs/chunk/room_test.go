package chunk

import (
	"context"
	"errors"
	"testing"
)

func TestWithRoom_AsksBeforeEveryWrite(t *testing.T) {
	full := errors.New("no room")
	inner := newSpy(t)
	b := WithRoom(inner, func() error { return full })
	for name, write := range map[string]func(context.Context) error{
		"Put":     func(ctx context.Context) error { return b.Put(ctx, "key", []byte("x")) },
		"PutBulk": func(ctx context.Context) error { return b.PutBulk(ctx, "key", []byte("x")) },
		"Begin": func(ctx context.Context) error {
			_, err := b.Begin(ctx, "key")
			return err
		},
	} {
		if err := write(t.Context()); !errors.Is(err, full) {
			t.Errorf("%s without room: %v", name, err)
		}
	}
	if ok, err := inner.Exists(t.Context(), "key"); ok || err != nil {
		t.Errorf("something was written without room: %v, %v", ok, err)
	}
}
