package server

import (
	"context"
	"runtime"
	"runtime/debug"
	"testing"
)

// TestMemoryLimit_GivesWayToWhatIsInUse holds more than the limit.
func TestMemoryLimit_GivesWayToWhatIsInUse(t *testing.T) {
	runtime.GC()
	before := memoryInUse()
	held := make([]byte, 64<<20)
	runtime.GC() // from here on the held bytes count as live
	used := memoryInUse()
	runtime.KeepAlive(held)
	if used < before+60<<20 {
		t.Errorf("%d bytes in use, %d before 64 MiB were held", used, before)
	}
	for _, used := range []int64{used, 1 << 30} {
		if got := memoryLimit(16<<20, used); got < used+used/2 || used >= 1<<30 && got < 2*used {
			t.Errorf("the limit is %d with %d bytes in use", got, used)
		}
	}
	if got := memoryLimit(1<<40, used); got != 1<<40 {
		t.Errorf("the limit is %d, want what was asked for", got)
	}
}

func TestLimitMemory_PutsBackWhatWasThere(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	limitMemory(ctx, 1<<40)
	if got := debug.SetMemoryLimit(-1); got != before {
		t.Errorf("the limit is %d afterwards, was %d", got, before)
	}
}
