package chunk

import (
	"context"
	"fmt"
)

// WithRoom gives a bucket whose Put first asks room and fails with its error, if
// there is one, before anything is written.
func WithRoom(b Bucket, room func() error) Bucket { return &roomBucket{Bucket: b, room: room} }

type roomBucket struct {
	Bucket
	room func() error
}

func (b *roomBucket) Put(ctx context.Context, key string, parts ...[]byte) error {
	if err := b.room(); err != nil {
		return fmt.Errorf("put object %s: %w", key, err)
	}
	return b.Bucket.Put(ctx, key, parts...)
}
