package chunk

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path"

	"gocloud.dev/blob"
)

// Object is an object that is being written, by one goroutine.
type Object interface {
	io.Writer
	// Put makes what was written the object, as Bucket.Put does, or nothing of it.
	Put() error
	// Abort throws away what was written. After Put it does nothing.
	Abort()
}

// put is Bucket.Put of a bucket that has Begin.
func put(ctx context.Context, b Bucket, key string, parts [][]byte) error {
	o, err := b.Begin(ctx, key)
	if err != nil {
		return err
	}
	defer o.Abort() // does nothing after its Put
	for _, p := range parts {
		if _, err := o.Write(p); err != nil {
			return err
		}
	}
	return o.Put()
}

// dirObject is a temporary file.
type dirObject struct {
	b        *dirBucket
	ctx      context.Context
	key, tmp string
	f        file // nil once it is closed
}

func (b *dirBucket) Begin(ctx context.Context, key string) (Object, error) {
	o, err := b.begin(ctx, key)
	if err != nil {
		return nil, err
	}
	return o, nil
}

// PutBulk writes past the page cache, if the system can do that.
func (b *dirBucket) PutBulk(ctx context.Context, key string, object []byte) error {
	o, err := b.begin(ctx, key)
	if err != nil {
		return err
	}
	defer o.Abort() // does nothing after its Put
	n := 0
	if f, ok := o.f.(*os.File); ok {
		if n, err = writeDirect(f, object); err != nil {
			return o.fault(err)
		}
	}
	if _, err := o.Write(object[n:]); err != nil {
		return err
	}
	return o.Put()
}

func (b *dirBucket) begin(ctx context.Context, key string) (*dirObject, error) {
	if err := checkKey("put", key); err != nil {
		return nil, err
	}
	o := &dirObject{b: b, ctx: ctx, key: key, tmp: b.file(tmpDir + "/" + rand.Text())}
	err := ctx.Err()
	if err == nil {
		o.f, err = b.fs.Create(o.tmp)
	}
	if err != nil {
		return nil, o.fault(err)
	}
	return o, nil
}

func (o *dirObject) fault(err error) error {
	return fmt.Errorf("put object %s: %w", o.key, diskError(o.b.root, err))
}

func (o *dirObject) Write(p []byte) (int, error) {
	err := o.ctx.Err()
	n := 0
	if err == nil {
		n, err = o.f.Write(p)
	}
	if err != nil {
		return n, o.fault(err)
	}
	return n, nil
}

func (o *dirObject) Put() error {
	err := o.f.Sync()
	if cerr := o.f.Close(); err == nil {
		err = cerr
	}
	o.f = nil
	if err == nil {
		err = o.ctx.Err()
	}
	if err == nil {
		err = o.b.mkdir(path.Dir(o.key))
	}
	if err == nil {
		err = o.b.fs.Rename(o.tmp, o.b.file(o.key))
	}
	if err != nil {
		_ = o.b.fs.Remove(o.tmp) // the next sweep does it if this fails
		return o.fault(err)
	}
	return nil
}

func (o *dirObject) Abort() {
	if o.f != nil {
		_ = o.f.Close() // nobody wants it
		_ = o.b.fs.Remove(o.tmp)
		o.f = nil
	}
}

// blobObject is a writer of gocloud.dev, which uploads in pieces.
type blobObject struct {
	b      *blobBucket
	key    string
	w      *blob.Writer // nil once it is closed
	cancel context.CancelFunc
}

func (b *blobBucket) Begin(ctx context.Context, key string) (Object, error) {
	if err := b.check(ctx, "put", key); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	w, err := b.b.NewWriter(ctx, key, &blob.WriterOptions{ContentType: "application/octet-stream"})
	if err != nil {
		cancel()
		return nil, b.fault("put", key, err)
	}
	return &blobObject{b: b, key: key, w: w, cancel: cancel}, nil
}

func (o *blobObject) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		return n, o.b.fault("put", o.key, err)
	}
	return n, nil
}

func (o *blobObject) Put() error {
	err := o.w.Close()
	o.w = nil
	o.cancel()
	if err != nil {
		return o.b.fault("put", o.key, err)
	}
	return nil
}

func (o *blobObject) Abort() {
	o.cancel() // before Close it abandons the write
	if o.w != nil {
		_ = o.w.Close()
		o.w = nil
	}
}
