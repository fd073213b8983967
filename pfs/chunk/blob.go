package chunk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/memblob" // the scheme mem://
	"gocloud.dev/gcerrors"
)

// blobBucket is a bucket of gocloud.dev, whose objects are durable and visible
// whole once written.
type blobBucket struct{ b *blob.Bucket }

func openBlob(ctx context.Context, url string) (Bucket, error) {
	b, err := blob.OpenBucket(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("open bucket %q: %w", url, err)
	}
	return &blobBucket{b: b}, nil
}

func (b *blobBucket) fault(op, key string, err error) error {
	if gcerrors.Code(err) == gcerrors.NotFound {
		return fmt.Errorf("%s object %s: %w", op, key, ErrNotFound)
	}
	return fmt.Errorf("%s object %s: %w", op, key, err)
}

// check refuses bad keys and ended contexts, which not every driver looks at.
func (b *blobBucket) check(ctx context.Context, op, key string) error {
	if err := checkKey(op, key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return b.fault(op, key, err)
	}
	return nil
}

func (b *blobBucket) Put(ctx context.Context, key string, parts ...[]byte) error {
	return put(ctx, b, key, parts)
}

func (b *blobBucket) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := b.check(ctx, "get", key); err != nil {
		return nil, err
	}
	if off == 0 && n < 0 { // the usual case, in one call
		data, err := b.b.ReadAll(ctx, key)
		if err != nil {
			return nil, b.fault("get", key, err)
		}
		return data, nil
	}
	attrs, err := b.b.Attributes(ctx, key)
	if err != nil {
		return nil, b.fault("get", key, err)
	}
	off, n = clip(attrs.Size, off, n)
	data := make([]byte, n)
	if n == 0 {
		return data, nil
	}
	r, err := b.b.NewRangeReader(ctx, key, off, n, nil)
	if err != nil {
		return nil, b.fault("get", key, err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, b.fault("get", key, err)
	}
	return data, nil
}

func (b *blobBucket) PutBulk(ctx context.Context, key string, object []byte) error {
	return b.Put(ctx, key, object)
}

func (b *blobBucket) Append(ctx context.Context, dst []byte, key string, _ bool) ([]byte, error) {
	data, err := b.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	return append(dst, data...), nil
}

func (b *blobBucket) Exists(ctx context.Context, key string) (bool, error) {
	if err := b.check(ctx, "look up", key); err != nil {
		return false, err
	}
	ok, err := b.b.Exists(ctx, key)
	if err != nil {
		return false, b.fault("look up", key, err)
	}
	return ok, nil
}

func (b *blobBucket) Delete(ctx context.Context, key string) error {
	if err := b.check(ctx, "delete", key); err != nil {
		return err
	}
	if err := b.b.Delete(ctx, key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return b.fault("delete", key, err)
	}
	return nil
}

func (b *blobBucket) List(ctx context.Context, prefix string) iter.Seq2[ObjectInfo, error] {
	return func(yield func(ObjectInfo, error) bool) {
		it := b.b.List(&blob.ListOptions{Prefix: prefix})
		for {
			if err := ctx.Err(); err != nil {
				yield(ObjectInfo{}, b.fault("list", prefix, err))
				return
			}
			o, err := it.Next(ctx)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(ObjectInfo{}, b.fault("list", prefix, err))
				return
			}
			if !yield(ObjectInfo{Key: o.Key, Size: o.Size, Modified: o.ModTime}, nil) {
				return
			}
		}
	}
}

// Sync has nothing to do: a written object is durable.
func (b *blobBucket) Sync(ctx context.Context, keys ...string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("sync %d objects: %w", len(keys), err)
	}
	return nil
}

func (b *blobBucket) Close() error { return b.b.Close() }
