package server

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
	"testing/synctest"
	"time"
)

// TestPace_GivesWayToWhatIsInUse holds more than the limit.
func TestPace_GivesWayToWhatIsInUse(t *testing.T) {
	runtime.GC()
	before := readMemory()
	held := make([]byte, 64<<20)
	runtime.GC() // from here on the held bytes count as live
	now := readMemory()
	runtime.KeepAlive(held)
	if now.used < before.used+60<<20 {
		t.Errorf("%d bytes in use, %d before 64 MiB were held", now.used, before.used)
	}
	for _, used := range []int64{now.used, 1 << 30} {
		p := newPace(16<<20, []memory{{used: used}})
		if p.limit < used+used/2 || used >= 1<<30 && p.limit < 2*used {
			t.Errorf("the limit is %d with %d bytes in use", p.limit, used)
		}
		if p.percent < leastPercent {
			t.Errorf("the heap may grow by %d %% with %d bytes in use", p.percent, used)
		}
	}
	if p := newPace(1<<40, []memory{now}); p.limit != 1<<40 || p.percent != mostPercent {
		t.Errorf("the pace is %+v, want the limit that was asked for", p)
	}
}

// TestPace_LetsTheHeapGrowToTheLimit is about a daemon that works.
func TestPace_LetsTheHeapGrowToTheLimit(t *testing.T) {
	const mib = 1 << 20
	busy, quiet := memory{used: 100 * mib, gaps: 10 * mib}, memory{used: 40 * mib, gaps: 20 * mib}
	for _, recent := range [][]memory{{quiet}, {quiet, busy}, {busy, quiet, busy}} {
		p := newPace(192*mib, recent)
		if goal := quiet.used*int64(100+p.percent)/100 + quiet.gaps; goal > 169*mib || goal < 166*mib {
			t.Errorf("%v: the heap grows to %d MiB, want seven eighths of 192", recent, goal/mib)
		}
	}
	if p := newPace(192*mib, []memory{busy}); p.percent != 100*(168-110)/100 {
		t.Errorf("the heap grows by %d %%", p.percent)
	}
}

func TestLimitMemory_PutsBackWhatWasThere(t *testing.T) {
	set := func() pace {
		p := pace{limit: debug.SetMemoryLimit(-1), percent: debug.SetGCPercent(100)}
		debug.SetGCPercent(p.percent)
		return p
	}
	before := set()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			limitMemory(ctx, 1<<40)
		}()
		time.Sleep(memoryCheck + memoryCheck/2)
		if now := set(); now != (pace{limit: 1 << 40, percent: mostPercent}) {
			t.Errorf("the pace is %+v, want that of a limit of 1 TiB", now)
		}
		cancel()
		<-ended
	})
	if after := set(); after != before {
		t.Errorf("the pace is %+v afterwards, was %+v", after, before)
	}
}
