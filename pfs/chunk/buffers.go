package chunk

import (
	"math/bits"
	"sync"
	"time"
)

const (
	// bufferPage is what a large buffer has besides, for the header of what has a round size.
	bufferPage = 4 << 10
	// freeBytes and freeBuffers bound what buffers keeps.
	freeBytes   = 2 * (MaxSize + bufferPage)
	freeBuffers = 64
	// freeTime is how long a buffer is kept that nobody needs, at least; twice as long at most.
	freeTime = 10 * time.Second
)

// buffers keeps memory of chunks for the next ones. A sync.Pool would lose it with every
// other collection, of which bulk work makes several a second; what is taken from
// the system anew costs more than what is done with it. It is safe for concurrent use.
type buffers struct {
	mu   sync.Mutex
	free [][]byte // those unused for longest first
	size int64    // capacities of free
	low  int64    // the least that size was since watched was set
	// watched tells that a timer runs, after which low bytes are let go.
	watched bool
}

// bufferCapacity is the capacity of a new buffer for n bytes: there are four to a
// power of two, so that a buffer is at most a quarter too large, and large ones have a
// bufferPage besides.
func bufferCapacity(n int) int {
	extra := 0
	if n > 16*bufferPage {
		extra = bufferPage
	}
	n = max(n-extra, 4<<10)
	step := 1 << (bits.Len(uint(n-1)) - 3)
	return (n+step-1)/step*step + extra
}

// get gives an empty buffer for at least n bytes.
func (f *buffers) get(n int) []byte {
	if b := f.take(n); b != nil {
		return b
	}
	return make([]byte, 0, bufferCapacity(n))
}

// take gives the smallest of the free buffers that fits, unless it is far too large.
func (f *buffers) take(n int) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	best := -1
	for i, b := range f.free {
		if c := cap(b); c >= n && (c-bufferPage)/4 <= n && (best < 0 || c < cap(f.free[best])) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	b := f.free[best]
	f.remove(best)
	return b
}

// put takes back a buffer that nobody uses any longer. One that get did not make is
// left to the collector.
func (f *buffers) put(b []byte) {
	c := cap(b)
	if c > freeBytes || c != bufferCapacity(c) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free = append(f.free, b[:0])
	f.size += int64(c)
	for f.size > freeBytes || len(f.free) > freeBuffers {
		f.remove(0)
	}
	if !f.watched {
		f.watch()
	}
}

// watch begins to look what is needed. It needs f.mu.
func (f *buffers) watch() {
	f.low, f.watched = f.size, true
	time.AfterFunc(freeTime, f.letGo)
}

// letGo drops as much as nobody has needed for a while.
func (f *buffers) letGo() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for keep := f.size - f.low; f.size > keep; {
		f.remove(0)
	}
	f.watched = false
	if len(f.free) > 0 {
		f.watch()
	}
}

// remove takes the i-th free buffer out. It needs f.mu.
func (f *buffers) remove(i int) {
	f.size -= int64(cap(f.free[i]))
	last := len(f.free) - 1
	copy(f.free[i:], f.free[i+1:])
	f.free[last] = nil
	f.free = f.free[:last]
	f.low = min(f.low, f.size)
}
