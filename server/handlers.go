package server

import (
	"sync"
	"time"
)

// handlers runs functions in goroutines that are used again: their stacks have grown
// already to what the handler of a stream needs.
type handlers struct {
	idle    chan func()
	running sync.WaitGroup // functions
	serving sync.WaitGroup // goroutines
	end     chan struct{}  // closed by wait
}

// handlerIdle is how long a goroutine waits for another function.
const handlerIdle = time.Second

func newHandlers() *handlers { return &handlers{idle: make(chan func()), end: make(chan struct{})} }

// run starts fn.
func (h *handlers) run(fn func()) {
	h.running.Add(1)
	select {
	case h.idle <- fn:
	default:
		h.serving.Go(func() { h.serve(fn) })
	}
}

// serve runs fn, and others that come soon after.
func (h *handlers) serve(fn func()) {
	timer := time.NewTimer(handlerIdle)
	defer timer.Stop()
	for {
		fn()
		h.running.Done()
		timer.Reset(handlerIdle)
		select {
		case fn = <-h.idle:
		case <-timer.C:
			return
		case <-h.end:
			return
		}
	}
}

// wait returns when no function runs any more, nor a goroutine. No other function may
// be started then.
func (h *handlers) wait() {
	h.running.Wait()
	close(h.end)
	h.serving.Wait()
}
