package pfs

import (
	"errors"
	"testing"
	"testing/synctest"
)

// TestQueues_PanicLeavesNobodyWaiting has a leader panic while others wait, those of
// its own group and of the next.
func TestQueues_PanicLeavesNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueues()
		begin, panics := make(chan struct{}), true
		answers := make(chan error, 3)
		join := func() {
			defer func() {
				if v := recover(); v != nil {
					answers <- errors.New("it was me")
				}
			}()
			answers <- q.join("k", &oneShot{ctx: t.Context()}, func(g *group) {
				<-begin
				if panics && len(g.members) > 1 {
					panics = false
					panic("for the test")
				}
				g.answer()
			})
		}
		for range 3 { // the first is a group of its own, and the others the next
			go join()
			synctest.Wait()
		}
		close(begin)
		var others, mine, good int
		for range 3 {
			switch err := <-answers; {
			case errors.Is(err, errPanicked):
				others++
			case err != nil:
				mine++
			default:
				good++
			}
		}
		if others != 1 || mine != 1 || good != 1 || len(q.waiting) != 0 {
			t.Errorf("others %d, mine %d, good %d, waiting %v", others, mine, good, q.waiting)
		}
	})
}
