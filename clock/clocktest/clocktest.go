// Package clocktest is a clock for tests.
package clocktest

import (
	"sync"
	"time"
)

// Clock stands still until it is advanced.
type Clock struct {
	mu     sync.Mutex
	now    time.Time
	timers map[chan time.Time]time.Time
	waits  chan time.Time
}

// New returns a clock that stands at now.
func New(now time.Time) *Clock {
	return &Clock{now: now, timers: map[chan time.Time]time.Time{}}
}

// NewTelling is New with a channel that tells the times that are waited for, in
// the order in which Timer was called. Beyond n that were not taken from it, Timer blocks.
func NewTelling(now time.Time, n int) (*Clock, <-chan time.Time) {
	c := New(now)
	c.waits = make(chan time.Time, n)
	return c, c.waits
}

// Now implements clock.Clock.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Timer implements clock.Clock.
func (c *Clock) Timer(at time.Time) (<-chan time.Time, func()) {
	ch := make(chan time.Time, 1)
	c.mu.Lock()
	c.timers[ch] = at
	c.fire()
	c.mu.Unlock()
	if c.waits != nil {
		c.waits <- at
	}
	return ch, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.timers, ch)
	}
}

// Advance moves the clock on and fires what has become due.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.fire()
}

// fire sends to the timers that are due, with mu held.
func (c *Clock) fire() {
	for ch, at := range c.timers {
		if !at.After(c.now) {
			ch <- c.now
			delete(c.timers, ch)
		}
	}
}
