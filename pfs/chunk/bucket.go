package chunk

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"net/url"
	"path/filepath"
	"strings"
	"time"
)

// ObjectInfo describes one object of a bucket.
type ObjectInfo struct {
	Key      string
	Size     int64     // bytes, as stored
	Modified time.Time // when it was last put
}

// Bucket keeps objects under keys. Implementations are safe for concurrent use
// and give up early, with the context's error, when the context ends.
//
// A key is a relative slash-separated path as of fs.ValidPath, other than "." and
// outside "tmp/". No key may be a directory of another.
type Bucket interface {
	// Put stores the concatenation of parts under key and replaces what was there.
	// Others see the old object or the new one, never a part. After an error there
	// is either nothing new or the whole object. It survives a power cut once a
	// Sync of the key, begun after Put returned, has returned. Parts may be reused
	// after Put.
	Put(ctx context.Context, key string, parts ...[]byte) error
	// PutBulk is Put of a large object that is part of much data: it need not stay in any cache.
	PutBulk(ctx context.Context, key string, object []byte) error
	// Begin is Put of an object that comes piece by piece: it writes to nothing that
	// others see before the object's Put. The caller ends it with Put or Abort; the
	// context must last until then.
	Begin(ctx context.Context, key string) (Object, error)
	// Get returns up to n bytes from off, all the rest if n is negative. A range
	// beyond the end is cut short, possibly to nothing. The caller owns the result.
	// A missing key gives an error that is ErrNotFound.
	Get(ctx context.Context, key string, off, n int64) ([]byte, error)
	// Append is Get of a whole object: it appends it to dst, which grows if it has to. Bulk is
	// as for PutBulk.
	Append(ctx context.Context, dst []byte, key string, bulk bool) ([]byte, error)
	// Exists tells whether Get would find the key.
	Exists(ctx context.Context, key string) (bool, error)
	// Delete removes the key. A missing key is no error.
	Delete(ctx context.Context, key string) error
	// List yields the objects whose key begins with prefix, in byte order of keys,
	// and ends after the first error. Objects put or deleted meanwhile may or may
	// not be there.
	List(ctx context.Context, prefix string) iter.Seq2[ObjectInfo, error]
	// Sync returns once all objects under the given keys that were visible when it
	// began survive a power cut, whoever put them. Keys that do not exist are no error.
	Sync(ctx context.Context, keys ...string) error
	// Close releases what the bucket holds; it must not be used afterwards.
	Close() error
}

// OpenURL opens the bucket that a URL names: "file:///dir" is OpenDir of /dir,
// "mem://" is a new empty bucket in memory that is gone when it is closed.
func OpenURL(ctx context.Context, rawURL string) (Bucket, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("open bucket %q: %w", rawURL, err)
	}
	switch u.Scheme {
	case "file":
		if (u.Host != "" && u.Host != "localhost") || !strings.HasPrefix(u.Path, "/") || u.Path == "/" {
			return nil, fmt.Errorf("open bucket %q: a file URL has three slashes and an absolute path, as file:///var/lib/pachd/objects", rawURL)
		}
		return OpenDir(filepath.FromSlash(u.Path))
	case "mem":
		return openBlob(ctx, rawURL)
	}
	return nil, fmt.Errorf("open bucket %q: scheme %q is not supported, only file:// and mem:// are", rawURL, u.Scheme)
}

// checkKey refuses keys that a bucket may not have.
func checkKey(op, key string) error {
	if !fs.ValidPath(key) || key == "." || key == tmpDir || strings.HasPrefix(key, tmpDir+"/") {
		return fmt.Errorf("%s object %q: not a valid key", op, key)
	}
	return nil
}

// clip fits the range [off, off+n) into an object of the given size; a negative n
// means all the rest.
func clip(size, off, n int64) (int64, int64) {
	off = min(max(off, 0), size)
	if n < 0 || n > size-off {
		n = size - off
	}
	return off, n
}
