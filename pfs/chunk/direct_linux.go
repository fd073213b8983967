package chunk

import (
	"errors"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// directSize is the least size of an object that goes past the page cache.
	directSize = MinSize
	// directAlign is what places in memory and in the file are a multiple of then. It is
	// enough for all disks.
	directAlign = 4 << 10
)

// aligned tells whether memory may be read and written past the page cache. That of
// large slices begins with a page.
func aligned(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%directAlign == 0
}

// setDirect says whether the file is read and written past the page cache. Some
// file systems cannot do that, others say so only when they are to do it, with EINVAL.
func setDirect(f *os.File, direct bool) error {
	fd := f.Fd()
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	flags &^= unix.O_DIRECT
	if direct {
		flags |= unix.O_DIRECT
	}
	_, err = unix.FcntlInt(fd, unix.F_SETFL, flags)
	return os.NewSyscallError("fcntl", err)
}

// writeDirect writes as much of p as it can to a new file past the page cache: all but the
// last bytes, or nothing if p is small or that cannot be done.
func writeDirect(f *os.File, p []byte) (n int, err error) {
	if len(p) < directSize || !aligned(p) || setDirect(f, true) != nil {
		return 0, nil
	}
	n, err = f.Write(p[:len(p)/directAlign*directAlign])
	if errors.Is(err, unix.EINVAL) {
		err = nil
	}
	if off := setDirect(f, false); err == nil {
		err = off
	}
	return n, err
}

// readDirect fills data, which is as long as the file, past the page cache. It tells whether it did:
// not if it is small, does not lie right in memory, or is in the page cache already.
func readDirect(f *os.File, data []byte) bool {
	size := len(data)
	room := (size + directAlign - 1) / directAlign * directAlign
	if size < directSize || !aligned(data) || cap(data) < room || inPageCache(f, size) || setDirect(f, true) != nil {
		return false
	}
	if n, err := io.ReadAtLeast(f, data[:room], size); err == nil && n == size {
		return true
	}
	_ = setDirect(f, false) // what is wrong shows when it is read again
	return false
}

// inPageCache tells whether the system has most of the file in memory.
func inPageCache(f *os.File, size int) bool {
	var pages unix.Cachestat_t
	err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Len: uint64(size)}, &pages, 0)
	return err == nil && pages.Cache*uint64(os.Getpagesize()) > uint64(size)/2
}
