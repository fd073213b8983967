package chunk

import (
	"io"
	"io/fs"
	"os"
)

// filesystem is what a directory bucket needs of the operating system. Names are
// paths of the operating system. Tests put a filesystem in its place that loses
// power.
type filesystem interface {
	// Create makes and opens a file that must not exist yet.
	Create(name string) (file, error)
	Rename(from, to string) error
	Remove(name string) error
	// Mkdir makes one directory; one that exists is an fs.ErrExist error.
	Mkdir(name string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(name string) error
	Open(name string) (*os.File, error)
	Stat(name string) (fs.FileInfo, error)
	ReadDir(name string) ([]fs.DirEntry, error)
}

// file is a file being written.
type file interface {
	io.Writer
	Sync() error
	Close() error
}

// osFS is the filesystem of the operating system.
type osFS struct{}

func (osFS) Create(name string) (file, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}
func (osFS) Rename(from, to string) error               { return os.Rename(from, to) }
func (osFS) Remove(name string) error                   { return os.Remove(name) }
func (osFS) Mkdir(name string) error                    { return os.Mkdir(name, 0o700) }
func (osFS) Open(name string) (*os.File, error)         { return os.Open(name) }
func (osFS) Stat(name string) (fs.FileInfo, error)      { return os.Stat(name) }
func (osFS) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }

func (osFS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
