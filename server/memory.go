package server

import (
	"cmp"
	"context"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"time"
)

// DefaultMemoryLimit is what pachd gives as Config.MemoryLimit.
const DefaultMemoryLimit = 224 << 20

// spared is what a small daemon does without of what a large one gets on top.
const spared = 128 << 20

// memoryCheck is how often the limit is compared with what is in use, and
// memoryWindow how many of these looks are remembered.
const (
	memoryCheck  = time.Second
	memoryWindow = 30
)

// Bounds of what the heap may grow by, in percent of what is in use.
const (
	leastPercent = 25
	mostPercent  = 10000
)

// limitMemory makes the garbage collector keep the process near limit bytes until
// ctx ends. What is really in use always gets half as much again, and where it is much
// nearly one and a half times as much, for gaps between objects too, which the limit
// counts: with less the collector would run without end and free little. etcd's index of
// its keys, about 1 KB a commit, is in use for good.
//
// The heap grows to seven eighths of that before it is collected. If it grew to twice what is in
// use, as by default, or to the limit itself, Go would give to the system what is not
// needed for a moment, and take it back page by page, which can cost more than collecting. For
// the same reason the least that was in use lately counts. A daemon that rests gives
// memory back all the same: Go collects every two minutes, and keeps what was in use then.
func limitMemory(ctx context.Context, limit int64) {
	now := pace{limit: limit, percent: 100}
	before := pace{limit: debug.SetMemoryLimit(now.limit), percent: debug.SetGCPercent(now.percent)}
	defer func() {
		debug.SetMemoryLimit(before.limit)
		debug.SetGCPercent(before.percent)
	}()
	var recent []memory
	tick := time.NewTicker(memoryCheck)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		recent = append(recent, readMemory())
		recent = recent[max(0, len(recent)-memoryWindow):]
		next := newPace(limit, recent)
		if next.limit != now.limit {
			debug.SetMemoryLimit(next.limit)
		}
		if d := next.percent - now.percent; max(d, -d) > now.percent/8 {
			debug.SetGCPercent(next.percent)
		} else {
			next.percent = now.percent
		}
		now = next
	}
}

// pace is how the collector works.
type pace struct {
	limit   int64 // of all memory
	percent int   // how much the heap may grow by what is in use
}

// newPace gives the pace for a limit that is wanted and what was in use of late, the
// last being now.
func newPace(wanted int64, recent []memory) pace {
	m := recent[len(recent)-1]
	limit := max(wanted, m.used+m.used/2, 2*m.used+m.used/2-spared)
	least := slices.MinFunc(recent, func(a, b memory) int { return cmp.Compare(a.used, b.used) })
	room := limit - limit/8 - least.used - least.gaps
	return pace{limit: limit, percent: int(min(max(100*room/max(least.used, 1), leastPercent), mostPercent))}
}

// memory is what the process has, in bytes.
type memory struct {
	used int64 // what the last collection could not free, and what is no garbage by its nature
	gaps int64 // between objects
}

func readMemory() memory {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/memory/classes/metadata/mspan/inuse:bytes"},
		{Name: "/memory/classes/metadata/other:bytes"},
	}
	metrics.Read(samples)
	var sizes [5]int64
	for i, s := range samples {
		if s.Value.Kind() == metrics.KindUint64 {
			sizes[i] = int64(s.Value.Uint64())
		}
	}
	return memory{gaps: sizes[0], used: sizes[1] + sizes[2] + sizes[3] + sizes[4]}
}
