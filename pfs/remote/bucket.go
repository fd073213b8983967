package remote

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"gocloud.dev/blob"
)

// errChanged reports an object that is not what it was when the fetch began.
var errChanged = errors.New("it was changed while it was read")

// bucket holds objects under keys. It is safe for concurrent use.
type bucket interface {
	// list yields the objects whose key begins with prefix, which is empty or ends in
	// a slash. It ends after the first error.
	list(ctx context.Context, prefix string) iter.Seq2[object, error]
	// stat describes one object.
	stat(ctx context.Context, key string) (object, error)
	// read gives bytes of an object that list or stat described: n from off on. If it
	// has changed since, that is an error.
	read(ctx context.Context, o object, off, n int64) ([]byte, error)
	// write stores what fill writes as an object, which is seen once it is complete;
	// after an error it is as it was before.
	write(ctx context.Context, key string, fill func(io.Writer) error) error
	// close releases what the bucket holds.
	close() error
}

// blobBucket is a bucket of an object store.
type blobBucket struct {
	b   *blob.Bucket
	end func() // of its connections
}

func (b *blobBucket) close() error {
	err := b.b.Close()
	b.end()
	return err
}

func (b *blobBucket) list(ctx context.Context, prefix string) iter.Seq2[object, error] {
	return func(yield func(object, error) bool) {
		it := b.b.List(&blob.ListOptions{Prefix: prefix})
		for {
			o, err := it.Next(ctx)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(object{}, err)
				return
			}
			if !yield(object{key: o.Key, size: o.Size, mod: o.ModTime}, nil) {
				return
			}
		}
	}
}

func (b *blobBucket) stat(ctx context.Context, key string) (object, error) {
	a, err := b.b.Attributes(ctx, key)
	if err != nil {
		return object{}, err
	}
	return object{key: key, size: a.Size, mod: a.ModTime}, nil
}

func (b *blobBucket) read(ctx context.Context, o object, off, n int64) ([]byte, error) {
	r, err := b.b.NewRangeReader(ctx, o.key, off, n, nil)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if r.Size() != o.size || !sameSecond(r.ModTime(), o.mod) {
		return nil, errChanged
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, err
	}
	return data, nil
}

// sameSecond compares times that the stores give in different precision, and not
// with every answer.
func sameSecond(a, b time.Time) bool {
	return a.IsZero() || b.IsZero() || a.Truncate(time.Second).Equal(b.Truncate(time.Second))
}

func (b *blobBucket) write(ctx context.Context, key string, fill func(io.Writer) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // before Close it abandons the object
	w, err := b.b.NewWriter(ctx, key, &blob.WriterOptions{ContentType: "application/octet-stream"})
	if err != nil {
		return err
	}
	if err := fill(w); err != nil {
		cancel()
		_ = w.Close() // it fails, being abandoned
		return err
	}
	return w.Close()
}
