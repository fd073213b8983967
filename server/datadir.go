package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// formatVersion is the layout of the data directory and of everything in etcd
// that this daemon reads and writes; see docs/storage-format.md.
const formatVersion = 1

// format is the content of the FORMAT file in a data directory.
type format struct {
	Version uint32    `json:"version"`
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
}

// FormatError reports a data directory that a newer pachd wrote.
type FormatError struct {
	Dir  string
	Have uint32
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("data directory %s has format %d, this pachd reads up to format %d: start a newer pachd, or choose another directory with --data-dir", e.Dir, e.Have, formatVersion)
}

// InUseError reports a data directory that another running pachd holds.
type InUseError struct {
	Dir    string
	Holder string
}

func (e *InUseError) Error() string {
	who := "another pachd"
	if e.Holder != "" {
		who += " (process " + e.Holder + ")"
	}
	return fmt.Sprintf("data directory %s is in use by %s: stop it first, or choose another directory with --data-dir", e.Dir, who)
}

// dataDir is an open, locked data directory. The kernel drops the lock when the
// process ends in any way.
type dataDir struct {
	path   string
	lock   *os.File
	format format
}

// openDataDir creates the directory if needed, locks it and checks its format.
func openDataDir(path string) (*dataDir, error) {
	mode := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711 // for workers with transform.user; what is in it is closed to them
	}
	if err := os.MkdirAll(path, mode); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(path, "LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	d := &dataDir{path: path, lock: lock}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(io.LimitReader(lock, 32))
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &InUseError{Dir: path, Holder: strings.TrimSpace(string(holder))}
		}
		return nil, fmt.Errorf("lock data directory %s: %w", path, err)
	}
	if err := d.init(); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// init writes the holder's process id and reads or creates FORMAT.
func (d *dataDir) init() error {
	name := filepath.Join(d.path, "FORMAT")
	raw, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.format = format{Version: formatVersion, ID: uuid.NewString(), Created: time.Now().UTC()}
		if err := writeDurably(name, d.format); err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
	case err != nil:
		return fmt.Errorf("data directory: %w", err)
	default:
		if err := json.Unmarshal(raw, &d.format); err != nil {
			return fmt.Errorf("data directory: %s does not hold a format: %w", name, err)
		}
	}
	if d.format.Version > formatVersion {
		return &FormatError{Dir: d.path, Have: d.format.Version}
	}
	if d.format.Version == 0 || d.format.ID == "" {
		return fmt.Errorf("data directory: %s holds no version and id: is %s really a data directory of pachd?", name, d.path)
	}
	if err := d.lock.Truncate(0); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if _, err := d.lock.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	return nil
}

// join gives a path inside the directory.
func (d *dataDir) join(elem ...string) string {
	return filepath.Join(append([]string{d.path}, elem...)...)
}

// Close releases the lock.
func (d *dataDir) Close() error { return d.lock.Close() }

// writeDurably puts v as JSON under name: whole and on disk, or not at all.
func writeDurably(name string, v any) (err error) {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(append(b, '\n')); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), name); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
