package remote

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"google.golang.org/grpc/codes"
)

// dirBucket is the directory that file URLs may reach. Links do not lead out of it.
type dirBucket struct{ root *os.Root }

// openDir opens the directory and gives the key of a file URL in it.
func (c *Client) openDir(u *url.URL) (bucket, string, error) {
	if u.Host != "" && u.Host != "localhost" {
		return nil, "", refusal(codes.InvalidArgument, "a file URL has three slashes and an absolute path, as file:///dir/file")
	}
	rel, err := filepath.Rel(c.policy.FileRoot, filepath.FromSlash(path.Clean("/"+u.Path)))
	if err != nil || !filepath.IsLocal(rel) {
		return nil, "", refusal(codes.PermissionDenied, "file URLs outside of the directory that the server sets aside for them are not allowed")
	}
	key := filepath.ToSlash(rel)
	if key == "." {
		key = ""
	} else if u.Path[len(u.Path)-1] == '/' {
		key += "/"
	}
	root, err := os.OpenRoot(c.policy.FileRoot)
	if err != nil {
		return nil, "", err
	}
	return &dirBucket{root: root}, key, nil
}

func (d *dirBucket) close() error { return d.root.Close() }

func (d *dirBucket) list(ctx context.Context, prefix string) iter.Seq2[object, error] {
	return func(yield func(object, error) bool) {
		err := fs.WalkDir(d.root.FS(), path.Clean(prefix), func(name string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || ctx.Err() != nil {
				return errors.Join(err, ctx.Err())
			}
			// Directories are walked anyway; links and devices are left out.
			if !e.Type().IsRegular() || !strings.HasPrefix(name, prefix) {
				return nil
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			if !yield(object{key: name, size: info.Size(), mod: info.ModTime()}, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(object{}, err)
		}
	}
}

// errStop ends a walk whose rest is not wanted.
var errStop = errors.New("stop")

// open opens a regular file; anything else, as a pipe, could block for ever.
func (d *dirBucket) open(key string) (*os.File, fs.FileInfo, error) {
	f, err := d.root.OpenFile(filepath.FromSlash(key), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, refusal(codes.NotFound, "there is no such file")
	}
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = refusal(codes.InvalidArgument, "it is a directory; recursive takes everything below it")
	} else if err == nil && !info.Mode().IsRegular() {
		err = refusal(codes.InvalidArgument, "it is not a regular file")
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

func (d *dirBucket) stat(_ context.Context, key string) (object, error) {
	f, info, err := d.open(key)
	if err != nil {
		return object{}, err
	}
	return object{key: key, size: info.Size(), mod: info.ModTime()}, f.Close()
}

func (d *dirBucket) read(_ context.Context, o object, off, n int64) ([]byte, error) {
	f, info, err := d.open(o.key)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info.Size() != o.size || !info.ModTime().Equal(o.mod) {
		return nil, errChanged
	}
	data := make([]byte, n)
	if _, err := f.ReadAt(data, off); err != nil {
		return nil, err
	}
	return data, nil
}

// write stores a file under a temporary name beside it and renames it.
func (d *dirBucket) write(_ context.Context, key string, fill func(io.Writer) error) error {
	name := filepath.FromSlash(key)
	dir := filepath.Dir(name)
	if err := d.root.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp := filepath.Join(dir, ".tmp-"+rand.Text())
	f, err := d.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = d.root.Rename(tmp, name)
	}
	if err != nil {
		_ = d.root.Remove(tmp) // best effort: it is no object
	}
	return err
}
