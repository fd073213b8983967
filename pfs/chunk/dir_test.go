package chunk

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fullFS is a disk without space: writes end half way.
type fullFS struct {
	osFS
	mkdir bool // there is space for files, but not for directories
}

func (f *fullFS) Create(name string) (file, error) {
	real, err := f.osFS.Create(name)
	if err != nil || f.mkdir {
		return real, err
	}
	return &fullFile{real}, nil
}

func (f *fullFS) Mkdir(name string) error {
	if f.mkdir && filepath.Base(name) != tmpDir {
		return &os.PathError{Op: "mkdir", Path: name, Err: unix.ENOSPC}
	}
	return f.osFS.Mkdir(name)
}

type fullFile struct{ file }

func (f *fullFile) Write(p []byte) (int, error) {
	n, err := f.file.Write(p[:len(p)/2])
	if err == nil {
		err = &os.PathError{Op: "write", Err: unix.ENOSPC}
	}
	return n, err
}

func TestDirBucket_FullDisk(t *testing.T) {
	for _, fsys := range []*fullFS{{}, {mkdir: true}} {
		dir := t.TempDir()
		b := newDirBucket(dir, fsys)
		if err := b.mkdir(tmpDir); err != nil {
			t.Fatal(err)
		}
		err := b.Put(t.Context(), "a/b", []byte("some bytes"))
		var full *FullError
		if !errors.As(err, &full) || status.Code(err) != codes.ResourceExhausted {
			t.Fatalf("put on a full disk: %v", err)
		}
		if want := "the disk that holds " + dir + " is full"; !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, want %q in it", err, want)
		}
		if _, err := b.Get(t.Context(), "a/b", 0, -1); !errors.Is(err, ErrNotFound) {
			t.Errorf("get after a failed put: %v", err)
		}
		if left, err := os.ReadDir(filepath.Join(dir, tmpDir)); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		w := NewStore(b, Options{}).NewWriter(t.Context(), nil)
		_ = w.Write(randomBytes(t, 1000)) // too little to be stored before Close
		if _, err := w.Close(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("close of a writer on a full disk: %v", err)
		}
	}
}

func TestOpenDir_SweepsUnlessInUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "objects")
	first, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	leftover := filepath.Join(dir, tmpDir, "LEFTOVER")
	if err := os.WriteFile(leftover, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	second, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(leftover); err != nil {
		t.Errorf("a file of a bucket in use was swept: %v", err)
	}
	if err := errors.Join(first.Close(), second.Close()); err != nil {
		t.Fatal(err)
	}
	third, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	if _, err := os.Stat(leftover); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the leftover was not swept: %v", err)
	}
	if _, err := OpenDir(leftover[:len(leftover)-len("LEFTOVER")] + ".lock"); err == nil {
		t.Error("a file was opened as a bucket")
	}
}
