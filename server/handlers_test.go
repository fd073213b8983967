package server

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestHandlers_AreUsedAgainAndLeaveNothing counts on the bubble to fail if a goroutine
// is left, and on its clock to stand still if none has to wait.
func TestHandlers_AreUsedAgainAndLeaveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		h := newHandlers()
		ran := 0
		for range 100 {
			h.run(func() { ran++ })
			synctest.Wait()
		}
		h.wait()
		if ran != 100 || time.Since(start) != 0 {
			t.Errorf("%d functions ran, and waiting took %v", ran, time.Since(start))
		}
	})
}
