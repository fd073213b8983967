package server

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// DefaultMemoryLimit is what pachd gives as Config.MemoryLimit.
const DefaultMemoryLimit = 176 << 20

// spared is what a small daemon does without of what a large one gets on top.
const spared = 128 << 20

// memoryCheck is how often the limit is compared with what is in use.
const memoryCheck = time.Second

// limitMemory makes the garbage collector keep the process near limit bytes until
// ctx ends. What is really in use always gets half as much again, and where it is much
// nearly one and a half times as much, for gaps between objects too, which the limit
// counts: with less the collector would run without end and free little. etcd's index of
// its keys, about 1 KB a commit, is in use for good.
func limitMemory(ctx context.Context, limit int64) {
	before := debug.SetMemoryLimit(limit)
	defer debug.SetMemoryLimit(before)
	now := limit
	tick := time.NewTicker(memoryCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if next := memoryLimit(limit, memoryInUse()); next != now {
			now = next
			debug.SetMemoryLimit(now)
		}
	}
}

// memoryLimit is the limit for so many bytes in use.
func memoryLimit(wanted, used int64) int64 {
	return max(wanted, used+used/2, 2*used+used/2-spared)
}

// memoryInUse is what the last collection could not free, and what is no garbage by
// its nature.
func memoryInUse() int64 {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/memory/classes/metadata/mspan/inuse:bytes"},
		{Name: "/memory/classes/metadata/other:bytes"},
	}
	metrics.Read(samples)
	var sum uint64
	for _, s := range samples {
		if s.Value.Kind() == metrics.KindUint64 {
			sum += s.Value.Uint64()
		}
	}
	return int64(sum)
}
