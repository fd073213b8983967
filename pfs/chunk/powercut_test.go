package chunk

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

var errPower = errors.New("the power is gone")

// cutFS is the filesystem of the operating system with a memory of what a disk
// would still have after a power cut: of a file what was fsynced, of a directory
// the names at its last fsync. What is newer may be there or not.
type cutFS struct {
	osFS
	root     string
	noFsync  bool // a seeded defect: files are not flushed
	noDirs   bool // a seeded defect: directories are not flushed
	mu       sync.Mutex
	left     int // operations until the power cut
	dirs     map[string]*cutDir
	contents map[string]*cutFile // by current path
}

type cutDir struct {
	now, durable map[string]any // *cutFile or *cutDir by name
}

type cutFile struct{ data, durable []byte }

func newCutDir() *cutDir { return &cutDir{now: map[string]any{}, durable: map[string]any{}} }

func newCutFS(root string, left int) *cutFS {
	return &cutFS{root: root, left: left, dirs: map[string]*cutDir{root: newCutDir()}, contents: map[string]*cutFile{}}
}

// do runs an operation unless the power is gone.
func (c *cutFS) do(f func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left <= 0 {
		return errPower
	}
	c.left--
	return f()
}

func (c *cutFS) entries(name string) (map[string]any, string) {
	return c.dirs[filepath.Dir(name)].now, filepath.Base(name)
}

func (c *cutFS) Create(name string) (f file, err error) {
	err = c.do(func() error {
		real, err := c.osFS.Create(name)
		if err != nil {
			return err
		}
		inode := &cutFile{}
		dir, base := c.entries(name)
		dir[base], c.contents[name] = inode, inode
		f = &openCutFile{file: real, fs: c, inode: inode}
		return nil
	})
	return f, err
}

func (c *cutFS) Mkdir(name string) error {
	return c.do(func() error {
		if err := c.osFS.Mkdir(name); err != nil {
			return err
		}
		dir, base := c.entries(name)
		c.dirs[name] = newCutDir()
		dir[base] = c.dirs[name]
		return nil
	})
}

func (c *cutFS) Rename(from, to string) error {
	return c.do(func() error {
		if err := c.osFS.Rename(from, to); err != nil {
			return err
		}
		dir, base := c.entries(from)
		delete(dir, base)
		dir, base = c.entries(to)
		dir[base], c.contents[to] = c.contents[from], c.contents[from]
		delete(c.contents, from)
		return nil
	})
}

func (c *cutFS) Remove(name string) error {
	return c.do(func() error {
		if err := c.osFS.Remove(name); err != nil {
			return err
		}
		dir, base := c.entries(name)
		delete(dir, base)
		delete(c.contents, name)
		return nil
	})
}

func (c *cutFS) SyncDir(name string) error {
	return c.do(func() error {
		d, ok := c.dirs[name]
		if !ok {
			return os.ErrNotExist
		}
		if !c.noDirs {
			d.durable = maps.Clone(d.now)
		}
		return nil
	})
}

type openCutFile struct {
	file
	fs    *cutFS
	inode *cutFile
}

func (f *openCutFile) Write(p []byte) (n int, err error) {
	err = f.fs.do(func() error {
		f.inode.data = append(f.inode.data, p...)
		n, err = f.file.Write(p)
		return err
	})
	return n, err
}

func (f *openCutFile) Sync() error {
	return f.fs.do(func() error {
		if !f.fs.noFsync {
			f.inode.durable = bytes.Clone(f.inode.data)
		}
		return nil
	})
}

// survivors writes what the disk has after the cut below dir.
func (c *cutFS) survivors(t *testing.T, r *rand.Rand, d *cutDir, dir string) {
	names := slices.Sorted(maps.Keys(d.now))
	for name := range d.durable {
		if _, ok := d.now[name]; !ok {
			names = append(names, name)
		}
	}
	for _, name := range names {
		entry := d.durable[name]
		if r.IntN(2) == 0 {
			entry = d.now[name]
		}
		path := filepath.Join(dir, name)
		var err error
		switch e := entry.(type) {
		case *cutDir:
			if err = os.Mkdir(path, 0o700); err == nil {
				c.survivors(t, r, e, path)
			}
		case *cutFile:
			data := e.durable
			if data == nil {
				data = e.data[:r.IntN(len(e.data)+1)]
			}
			err = os.WriteFile(path, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// powerCut runs some puts and syncs, cuts the power in the middle of it, and says
// what is wrong with the bucket that is left.
func powerCut(t *testing.T, seed uint64, defect func(*cutFS)) error {
	r := rand.New(rand.NewPCG(seed, 7))
	fsys := newCutFS(t.TempDir(), 1+r.IntN(120))
	defect(fsys)
	b := newDirBucket(fsys.root, fsys)
	_ = b.mkdir(tmpDir) // fails if the power does
	value := func(key string) []byte { return []byte(strings.Repeat(key, 10)) }
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	var writers sync.WaitGroup
	for i := range 2 {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		writers.Go(func() {
			for {
				var keys []string
				for range 1 + r.IntN(3) {
					// Few keys: the writers meet.
					key := fmt.Sprintf("chunk/%02x/%d", r.IntN(3), r.IntN(4))
					if ok, err := b.Exists(t.Context(), key); err != nil {
						t.Error(err)
					} else if !ok && b.Put(t.Context(), key, value(key)) != nil {
						return
					}
					keys = append(keys, key)
				}
				if b.Sync(t.Context(), keys...) != nil {
					return
				}
				mu.Lock()
				for _, key := range keys {
					acknowledged[key] = true
				}
				mu.Unlock()
			}
		})
	}
	writers.Wait()

	after := t.TempDir()
	fsys.survivors(t, r, fsys.dirs[fsys.root], after)
	again, err := OpenDir(after)
	if err != nil {
		return err
	}
	defer again.Close()
	for o, err := range again.List(t.Context(), "") {
		if err != nil {
			return err
		}
		data, err := again.Get(t.Context(), o.Key, 0, -1)
		if err != nil {
			return fmt.Errorf("read %s: %w", o.Key, err)
		}
		if !bytes.Equal(data, value(o.Key)) {
			return fmt.Errorf("%s has %q", o.Key, data)
		}
		delete(acknowledged, o.Key)
	}
	if len(acknowledged) > 0 {
		return fmt.Errorf("%v were acknowledged and are gone", slices.Sorted(maps.Keys(acknowledged)))
	}
	left, err := os.ReadDir(filepath.Join(after, tmpDir))
	if err != nil {
		return err
	}
	if len(left) > 1 {
		return fmt.Errorf("temporary files are left: %v", left)
	}
	return nil
}

func TestDirBucket_SurvivesPowerCuts(t *testing.T) {
	for seed := range uint64(150) {
		if err := powerCut(t, seed, func(*cutFS) {}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// The test above is worth something only if it finds what it looks for.
func TestPowerCut_FindsMissingFlushes(t *testing.T) {
	for name, defect := range map[string]func(*cutFS){
		"files are not flushed":       func(c *cutFS) { c.noFsync = true },
		"directories are not flushed": func(c *cutFS) { c.noDirs = true },
	} {
		found := false
		for seed := uint64(0); seed < 150 && !found; seed++ {
			found = powerCut(t, seed, defect) != nil
		}
		if !found {
			t.Errorf("%s, and nothing is noticed", name)
		}
	}
}
