package chunk

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestBufferCapacity(t *testing.T) {
	for n := 0; n < 20<<20; n += 1 + n/50 {
		c := bufferCapacity(n)
		if c < n || (n > 4<<10 && c > n+n/4+1) {
			t.Errorf("%d bytes get %d", n, c)
		}
		if again := bufferCapacity(c); again != c {
			t.Errorf("capacity %d is none that buffers have: %d is", c, again)
		}
	}
}

// same tells whether two buffers are the same memory.
func same(a, b []byte) bool { return &a[:1][0] == &b[:1][0] }

// kept gives how many free buffers there are, and their bytes.
func (f *buffers) kept() (n int, size int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.free), f.size
}

func TestBuffers_GivesWhatFitsBest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &buffers{}
		large, medium, small := f.get(4<<20), f.get(2<<20), f.get(8<<10)
		for _, b := range [][]byte{large, medium, small} {
			f.put(b)
		}
		if b := f.get(100 << 10); same(b, small) || same(b, medium) || same(b, large) {
			t.Errorf("100 KiB got one of %d bytes", cap(b))
		}
		if b := f.get(1 << 20); !same(b, medium) || len(b) != 0 {
			t.Errorf("1 MiB got one of %d bytes, want the one of 2 MiB", cap(b))
		}
		if b := f.get(1 << 20); !same(b, large) {
			t.Errorf("1 MiB got one of %d bytes, want the one of 4 MiB", cap(b))
		}
		if b := f.get(8 << 10); !same(b, small) {
			t.Errorf("8 KiB got one of %d bytes, want the one of 8 KiB", cap(b))
		}
		if n, size := f.kept(); n != 0 || size != 0 {
			t.Errorf("%d buffers of %d bytes are left", n, size)
		}
		time.Sleep(3 * freeTime) // no timer may be left in the bubble
	})
}

func TestBuffers_IsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &buffers{}
		f.put(make([]byte, 0, 5000)) // of somebody else
		f.put(nil)
		f.put(f.get(freeBytes + 1))
		if _, size := f.kept(); size != 0 {
			t.Errorf("buffers that are not for it stay: %d bytes", size)
		}
		for range 2 * freeBuffers {
			f.put(make([]byte, 0, 4<<10))
		}
		if n, size := f.kept(); n != freeBuffers || size != freeBuffers*4<<10 {
			t.Errorf("%d buffers of %d bytes are kept", n, size)
		}
		for range 5 {
			f.put(make([]byte, 0, bufferCapacity(8<<20)))
		}
		if n, size := f.kept(); n != 2 || size != freeBytes {
			t.Errorf("%d buffers of %d bytes are kept, want two of 8 MiB", n, size)
		}
		time.Sleep(3 * freeTime)
	})
}

func TestBuffers_LetGoOfWhatNobodyNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &buffers{}
		for range 3 {
			f.put(make([]byte, 0, bufferCapacity(4<<20)))
		}
		for range 5 { // one of them is in use all the time
			b := f.get(4 << 20)
			time.Sleep(freeTime / 2)
			f.put(b)
		}
		synctest.Wait()
		if n, _ := f.kept(); n != 1 {
			t.Errorf("%d buffers are kept, want the one that is used", n)
		}
		time.Sleep(3 * freeTime)
		synctest.Wait()
		if n, size := f.kept(); n != 0 || size != 0 {
			t.Errorf("%d buffers of %d bytes are kept with no use for them", n, size)
		}
	})
}

// TestBuffers_TrimAfterMakingRoom has a small buffer drive out a large one while nothing
// is taken: then less is kept than there was before.
func TestBuffers_TrimAfterMakingRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &buffers{}
		small, one, other := f.get(2<<20), f.get(8<<20), f.get(8<<20)
		f.put(one)
		f.put(other)
		one, other = f.get(8<<20), f.get(8<<20) // both are needed: nothing is let go
		f.put(one)
		f.put(other)
		time.Sleep(freeTime)
		synctest.Wait()
		f.put(small)
		if n, size := f.kept(); n != 2 || size != 10<<20+2*bufferPage {
			t.Fatalf("%d buffers of %d bytes are kept, want one of 8 MiB and the small one", n, size)
		}
		time.Sleep(3 * freeTime)
		synctest.Wait()
		if n, size := f.kept(); n != 0 || size != 0 {
			t.Errorf("%d buffers of %d bytes are kept with no use for them", n, size)
		}
	})
}
