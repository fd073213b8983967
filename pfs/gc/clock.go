package gc

import "time"

// Clock tells when a collection is due and when the grace is over. Leases, and the
// retries of I/O, go by the system's clock whatever it says.
type Clock interface {
	Now() time.Time
	// Timer fires once on the channel at time t, at once if that is past.
	// stop frees it; nothing is sent afterwards.
	Timer(t time.Time) (fires <-chan time.Time, stop func())
}

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (systemClock) Timer(t time.Time) (<-chan time.Time, func()) {
	timer := time.NewTimer(time.Until(t))
	return timer.C, func() { timer.Stop() }
}
