package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// killMarked kills every process whose environment matches and waits until they
// are gone. It looks again until it finds none, since a process may fork while
// being killed; ctx bounds that.
func killMarked(ctx context.Context, match func(environ) bool) error {
	for {
		found := 0
		for _, pid := range pids() {
			if pid != os.Getpid() && marked(pid, match) {
				found++
				if err := killOne(ctx, pid, match); err != nil {
					return err
				}
			}
		}
		if found == 0 {
			return nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("%d processes survive SIGKILL: %w", found, err)
		}
	}
}

// marked tells whether the process's initial environment matches. A process
// that may not be read is another user's, hence none of ours.
func marked(pid int, match func(environ) bool) bool {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if errors.Is(err, fs.ErrPermission) {
		return false
	}
	if err != nil || len(data) == 0 {
		data = environOfThreads(pid)
	}
	return len(data) > 0 && match(bytes.Split(data, []byte{0}))
}

// environOfThreads is the environment of a process whose first thread has ended; empty
// for one of the kernel.
func environOfThreads(pid int) []byte {
	dir := "/proc/" + strconv.Itoa(pid) + "/task/"
	threads, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, thread := range threads {
		if data, err := os.ReadFile(dir + thread.Name() + "/environ"); err == nil && len(data) > 0 {
			return data
		}
	}
	return nil
}

// killOne kills through a pidfd, so that a pid which went to another process
// in the meantime is left alone.
func killOne(ctx context.Context, pid int, match func(environ) bool) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil { // a kernel before 5.3
		if !marked(pid, match) {
			return nil
		}
		unix.Kill(pid, unix.SIGKILL)
		return nil
	}
	defer unix.Close(fd)
	if !marked(pid, match) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	for {
		// Readable means ended; polled in slices so that ctx is heard.
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if n > 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("process %d survives SIGKILL: %w", pid, ctx.Err())
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
