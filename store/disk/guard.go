// Package disk keeps part of a disk free. An embedded etcd whose disk is full
// ends its process, and everything with it; so writers are refused before, while
// there is still room for the bookkeeping that frees space again.
package disk

import (
	"errors"
	"fmt"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// DefaultReserve is what a Guard keeps free unless told otherwise. It covers a
// write-ahead log segment of etcd (64 MiB), the next one, which etcd allocates in
// advance, and the growth of its database.
const DefaultReserve = 256 << 20

// Guard watches the disk that holds a directory. A nil Guard allows everything.
type Guard struct {
	dir     string
	reserve int64
}

// NewGuard keeps reserve bytes of the disk that holds dir free; it returns nil if
// reserve is not positive.
func NewGuard(dir string, reserve int64) *Guard {
	if reserve <= 0 {
		return nil
	}
	return &Guard{dir: dir, reserve: reserve}
}

// Room returns *LowError unless the whole reserve is free: there is room for data.
func (g *Guard) Room() error { return g.check(1) }

// Spare returns *LowError unless half of the reserve is free: there is room for
// metadata, such as what it takes to delete something.
func (g *Guard) Spare() error { return g.check(2) }

func (g *Guard) check(divisor int64) error {
	if g == nil {
		return nil
	}
	var fs unix.Statfs_t
	for {
		err := unix.Statfs(g.dir, &fs)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil // whoever writes there finds out what is wrong, and says it better
		}
		break
	}
	free := int64(fs.Bavail) * int64(fs.Bsize) //nolint:unconvert // the types differ between systems
	if want := g.reserve / divisor; free < want {
		return &LowError{Dir: g.dir, Free: free, Want: want}
	}
	return nil
}

// LowError reports a disk with less free space than has to stay free.
type LowError struct {
	Dir        string
	Free, Want int64 // bytes
}

func (e *LowError) Error() string {
	return fmt.Sprintf("the disk that holds %s is full: it has %s free, and %s of it are kept free for the daemon itself; free some space and try again",
		e.Dir, humanize.IBytes(uint64(max(0, e.Free))), humanize.IBytes(uint64(e.Want)))
}

// GRPCStatus makes it ResourceExhausted.
func (e *LowError) GRPCStatus() *status.Status {
	return status.New(codes.ResourceExhausted, e.Error())
}
