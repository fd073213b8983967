package chunk

import (
	"context"
	"fmt"
)

// WithRoom gives a bucket whose Put, PutBulk and Begin first ask room and fail with its error, if
// there is one, before anything is written.
func WithRoom(b Bucket, room func() error) Bucket { return &roomBucket{Bucket: b, room: room} }

type roomBucket struct {
	Bucket
	room func() error
}

// ask asks for room for the object of a key.
func (b *roomBucket) ask(key string) error {
	if err := b.room(); err != nil {
		return fmt.Errorf("put object %s: %w", key, err)
	}
	return nil
}

func (b *roomBucket) Put(ctx context.Context, key string, parts ...[]byte) error {
	if err := b.ask(key); err != nil {
		return err
	}
	return b.Bucket.Put(ctx, key, parts...)
}

func (b *roomBucket) PutBulk(ctx context.Context, key string, object []byte) error {
	if err := b.ask(key); err != nil {
		return err
	}
	return b.Bucket.PutBulk(ctx, key, object)
}

func (b *roomBucket) Begin(ctx context.Context, key string) (Object, error) {
	if err := b.ask(key); err != nil {
		return nil, err
	}
	return b.Bucket.Begin(ctx, key)
}
