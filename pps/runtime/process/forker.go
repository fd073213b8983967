//go:build unix

package process

import (
	"errors"
	goruntime "runtime"
)

// forker runs functions on one operating system thread that lives until stop.
// The parent-death signal of Linux follows the thread that forked, not the
// process, and Go ends and reuses threads as it likes: a child forked elsewhere
// could be killed in the middle of its life.
type forker struct {
	calls   chan func()
	quit    chan struct{}
	stopped chan struct{}
}

var errClosed = errors.New("the runtime is closed")

func newForker() *forker {
	f := &forker{calls: make(chan func()), quit: make(chan struct{}), stopped: make(chan struct{})}
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread ends with the goroutine
		defer close(f.stopped)
		for {
			select {
			case call := <-f.calls:
				call()
			case <-f.quit:
				return
			}
		}
	}()
	return f
}

func (f *forker) do(fn func() error) error {
	result := make(chan error, 1)
	select {
	case f.calls <- func() { result <- fn() }:
		return <-result
	case <-f.quit:
		return errClosed
	}
}

// stop ends the thread; call it once, when nothing is alive that was forked there.
func (f *forker) stop() {
	close(f.quit)
	<-f.stopped
}
