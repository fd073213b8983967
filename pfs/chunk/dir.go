package chunk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// tmpDir holds files that are being written; no key lies in it.
	tmpDir = "tmp"
	// syncParallel bounds the directories that one Sync call flushes at a time:
	// flushes that run together share the disk's work.
	syncParallel = 16
)

// dirBucket keeps each object as a file. See "Directory bucket" in
// docs/storage-format.md for why it survives a power cut.
type dirBucket struct {
	root string
	fs   filesystem
	lock *os.File

	mu sync.Mutex
	// made and durable are slash-separated directories below root: those that
	// exist, and those whose name is known to be durable in the directory above.
	// There are as many as directories, which keys keep to a few hundred.
	made, durable map[string]bool
}

// OpenDir opens the bucket in a directory, making the directory if need be, and
// removes what interrupted writes left behind, unless another process has the
// bucket open as well.
func OpenDir(dir string) (Bucket, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", dir, err)
	}
	if err := makeDurable(abs); err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", dir, diskError(abs, err))
	}
	b := newDirBucket(abs, osFS{})
	if err := b.mkdir(tmpDir); err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", dir, diskError(abs, err))
	}
	if err := b.sweep(); err != nil {
		return nil, fmt.Errorf("open bucket %s: sweep: %w", dir, err)
	}
	return b, nil
}

func newDirBucket(root string, fsys filesystem) *dirBucket {
	return &dirBucket{root: root, fs: fsys, made: map[string]bool{".": true}, durable: map[string]bool{".": true}}
}

// makeDurable makes an absolute directory and all above it, durably.
func makeDurable(dir string) error {
	if info, err := os.Stat(dir); err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "open", Path: dir, Err: unix.ENOTDIR}
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if err := makeDurable(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return osFS{}.SyncDir(parent)
}

// sweep removes leftover temporary files if nobody else has the bucket open, and
// keeps the mark that this process has.
func (b *dirBucket) sweep() (err error) {
	b.lock, err = os.OpenFile(b.file(tmpDir+"/.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.lock.Close())
		}
	}()
	fd := int(b.lock.Fd())
	if unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) == nil {
		entries, err := b.fs.ReadDir(b.file(tmpDir))
		if err != nil {
			return err
		}
		for _, e := range entries {
			if e.Name() == ".lock" || e.IsDir() {
				continue
			}
			if err := b.fs.Remove(b.file(tmpDir + "/" + e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return unix.Flock(fd, unix.LOCK_SH)
}

// file is where the system has a key.
func (b *dirBucket) file(key string) string {
	return filepath.Join(b.root, filepath.FromSlash(key))
}

func (b *dirBucket) Put(ctx context.Context, key string, parts ...[]byte) error {
	return put(ctx, b, key, parts)
}

// mkdir makes a directory below root and all above it.
func (b *dirBucket) mkdir(dir string) error {
	b.mu.Lock()
	done := b.made[dir]
	b.mu.Unlock()
	if done {
		return nil
	}
	if err := b.mkdir(path.Dir(dir)); err != nil {
		return err
	}
	if err := b.fs.Mkdir(b.file(dir)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	b.mu.Lock()
	b.made[dir] = true
	b.mu.Unlock()
	return nil
}

func (b *dirBucket) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	return b.get(ctx, key, func(f *os.File, size int64) ([]byte, error) {
		off, n := clip(size, off, n)
		data := make([]byte, n)
		_, err := io.ReadFull(io.NewSectionReader(f, off, n), data)
		return data, err
	})
}

func (b *dirBucket) Append(ctx context.Context, dst []byte, key string, bulk bool) ([]byte, error) {
	return b.get(ctx, key, func(f *os.File, size int64) ([]byte, error) {
		n := len(dst)
		dst := slices.Grow(dst, int(size))[:n+int(size)]
		if bulk && n == 0 && readDirect(f, dst) {
			return dst, nil
		}
		_, err := io.ReadFull(io.NewSectionReader(f, 0, size), dst[n:])
		return dst, err
	})
}

// get opens the file of a key for read.
func (b *dirBucket) get(ctx context.Context, key string, read func(f *os.File, size int64) ([]byte, error)) (data []byte, err error) {
	if err = checkKey("get", key); err != nil {
		return nil, err
	}
	if err = ctx.Err(); err == nil {
		data, err = b.open(key, read)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("get object %s: %w", key, err)
	}
	return data, nil
}

func (b *dirBucket) open(key string, read func(f *os.File, size int64) ([]byte, error)) ([]byte, error) {
	f, err := b.fs.Open(b.file(key))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, ErrNotFound
	}
	return read(f, info.Size())
}

func (b *dirBucket) Exists(ctx context.Context, key string) (bool, error) {
	if err := checkKey("look up", key); err != nil {
		return false, err
	}
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("look up object %s: %w", key, err)
	}
	info, err := b.fs.Stat(b.file(key))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look up object %s: %w", key, err)
	}
	return info.Mode().IsRegular(), nil
}

func (b *dirBucket) Delete(ctx context.Context, key string) error {
	if err := checkKey("delete", key); err != nil {
		return err
	}
	err := ctx.Err()
	if err == nil {
		err = b.fs.Remove(b.file(key))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete object %s: %w", key, err)
	}
	return nil
}

func (b *dirBucket) List(ctx context.Context, prefix string) iter.Seq2[ObjectInfo, error] {
	return func(yield func(ObjectInfo, error) bool) {
		if err := b.list(ctx, ".", prefix, yield); err != nil && !errors.Is(err, errStop) {
			yield(ObjectInfo{}, fmt.Errorf("list objects %s: %w", prefix, err))
		}
	}
}

var errStop = errors.New("the caller has seen enough")

// list yields the objects below one directory. A directory counts as its name
// with a slash, in the order as well as before the prefix.
func (b *dirBucket) list(ctx context.Context, dir, prefix string, yield func(ObjectInfo, error) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries, err := b.fs.ReadDir(b.file(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	name := func(e fs.DirEntry) string {
		if e.IsDir() {
			return e.Name() + "/"
		}
		return e.Name()
	}
	slices.SortFunc(entries, func(x, y fs.DirEntry) int { return strings.Compare(name(x), name(y)) })
	for _, e := range entries {
		key := path.Join(dir, e.Name())
		switch {
		case e.IsDir():
			if below := key + "/"; key == tmpDir || (!strings.HasPrefix(below, prefix) && !strings.HasPrefix(prefix, below)) {
				continue
			}
			if err := b.list(ctx, key, prefix, yield); err != nil {
				return err
			}
		case strings.HasPrefix(key, prefix):
			if err := ctx.Err(); err != nil {
				return err
			}
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted since the directory was read
			}
			if err != nil {
				return err
			}
			if !yield(ObjectInfo{Key: key, Size: info.Size(), Modified: info.ModTime()}, nil) {
				return errStop
			}
		}
	}
	return nil
}

func (b *dirBucket) Sync(ctx context.Context, keys ...string) error {
	dirs := map[string]bool{}
	var fresh []string // directories whose names become durable too
	for _, key := range keys {
		if err := checkKey("sync", key); err != nil {
			return err
		}
		dir := path.Dir(key)
		if dirs[dir] {
			continue
		}
		dirs[dir] = true
		for ; !b.isDurable(dir); dir = path.Dir(dir) {
			dirs[path.Dir(dir)] = true
			// Only what is there before the flush begins is flushed by it.
			if _, err := b.fs.Stat(b.file(dir)); err == nil {
				fresh = append(fresh, dir)
			}
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(syncParallel)
	for dir := range dirs {
		g.Go(func() error {
			if err := gctx.Err(); err != nil {
				return err
			}
			if err := b.fs.SyncDir(b.file(dir)); !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("sync %d objects: %w", len(keys), diskError(b.root, err))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, dir := range fresh {
		b.durable[dir] = true
	}
	return nil
}

func (b *dirBucket) isDurable(dir string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.durable[dir]
}

func (b *dirBucket) Close() error {
	if b.lock == nil {
		return nil
	}
	return b.lock.Close()
}

// diskError turns the system's word for a full disk into a *FullError.
func diskError(dir string, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return &FullError{Dir: dir, Err: err}
	}
	return err
}
