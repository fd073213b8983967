// Package clock is the time that long-running parts of the daemon go by, so that a
// test can let days pass in an instant (clock/clocktest). What protects against other
// machines, leases and time-outs of requests, goes by the system's time instead.
package clock

import "time"

// Clock tells the time and waits for it. Its methods may be called concurrently.
type Clock interface {
	Now() time.Time
	// Timer fires once on the channel at time t, at once if that is past.
	// stop frees it; nothing is sent afterwards.
	Timer(t time.Time) (fires <-chan time.Time, stop func())
}

// System is the system's clock.
type System struct{}

// Now is time.Now.
func (System) Now() time.Time { return time.Now() }

// Timer implements Clock.
func (System) Timer(t time.Time) (<-chan time.Time, func()) {
	timer := time.NewTimer(time.Until(t))
	return timer.C, func() { timer.Stop() }
}
