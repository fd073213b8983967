package chunk

import (
	"encoding/binary"
	"math/bits"

	"github.com/zeebo/blake3"
)

// Where chunks are cut unless Options say something else, in bytes.
const (
	MinSize = 512 << 10
	AvgSize = 2 << 20
	MaxSize = 8 << 20
)

// Sizes are limits of content-defined cutting, in bytes: every chunk but the last
// of a stream has at least Min, none has more than Max, and the average is near
// Avg, which is rounded down to a power of two.
type Sizes struct {
	Min, Avg, Max int
}

// gearLabel seeds the gear table. Changing it changes every cut, so that nothing
// stored before would be recognised again.
const gearLabel = "minipachd chunk gear 1"

// window is the number of bytes that the gear hash depends on: one for each bit.
const window = 64

// cutRule says where chunks end. It is FastCDC (Xia et al., USENIX ATC 2016) with
// normalisation level 2; docs/storage-format.md has the parameters.
type cutRule struct {
	gear, gear2    [256]uint64 // gear2 is gear shifted by one: what a byte adds before the next shift
	min, norm, max int
	// strict and loose have the bits set that must be zero at a cut, before norm and
	// from there on. The top bit is not among them, see scan.
	strict, loose uint64
}

func newCutRule(s Sizes) *cutRule {
	b := bits.Len(uint(s.Avg)) - 1
	top := func(n int) uint64 { return ^(^uint64(0) >> max(n, 1)) >> 1 }
	// The gap before loose cuts begin is shortened by what they take on average.
	r := &cutRule{min: s.Min, max: s.Max, norm: s.Avg - s.Avg/8, strict: top(b + 2), loose: top(b - 2)}
	h := blake3.New()
	_, _ = h.WriteString(gearLabel) // never fails
	var table [256 * 8]byte
	_, _ = h.Digest().Read(table[:]) // never fails
	for i := range r.gear {
		r.gear[i] = binary.LittleEndian.Uint64(table[8*i:])
		r.gear2[i] = r.gear[i] << 1
	}
	return r
}

// cutter finds the end of one chunk after another in a stream.
type cutter struct {
	*cutRule
	pos  int    // bytes of the chunk so far
	hash uint64 // of the last window bytes of them
}

// next takes the bytes that follow in the stream and tells how many of them belong
// to the chunk, and whether it ends with the last of these.
func (c *cutter) next(p []byte) (n int, cut bool) {
	// Before min there is no cut; the window must be full when it is reached.
	n = min(max(c.min-window-c.pos, 0), len(p))
	if k := min(c.min-c.pos, len(p)); n < k {
		for _, b := range p[n:k] {
			c.hash = c.hash<<1 + c.gear[b]
		}
		n = k
	}
	for _, part := range [...]struct {
		end  int
		mask uint64
	}{{c.norm, c.strict}, {c.max, c.loose}} {
		if k := min(part.end-c.pos, len(p)); n < k {
			m, found := c.scan(p[n:k], part.mask)
			n += m
			if found {
				c.reset()
				return n, true
			}
		}
	}
	c.pos += n
	if c.pos == c.max {
		c.reset()
		return n, true
	}
	return n, false
}

func (c *cutter) reset() { c.pos, c.hash = 0, 0 }

// scan hashes p up to the first byte after which all bits of mask are zero. It takes
// two bytes a step, as Xia et al., "The Design of Fast Content-Defined Chunking for
// Data Deduplication Based Storage Systems" (IEEE TPDS 2020): after the first of
// them the hash is already shifted for the second, and so is the mask.
func (c *cutter) scan(p []byte, mask uint64) (n int, found bool) {
	h, mask2 := c.hash, mask<<1
	g, g2 := &c.gear, &c.gear2
	q := p
	for ; len(q) >= 8; q = q[8:] {
		b := (*[8]byte)(q)
		h = h<<2 + g2[b[0]]
		if h&mask2 == 0 {
			return len(p) - len(q) + 1, true
		}
		h += g[b[1]]
		if h&mask == 0 {
			return len(p) - len(q) + 2, true
		}
		h = h<<2 + g2[b[2]]
		if h&mask2 == 0 {
			return len(p) - len(q) + 3, true
		}
		h += g[b[3]]
		if h&mask == 0 {
			return len(p) - len(q) + 4, true
		}
		h = h<<2 + g2[b[4]]
		if h&mask2 == 0 {
			return len(p) - len(q) + 5, true
		}
		h += g[b[5]]
		if h&mask == 0 {
			return len(p) - len(q) + 6, true
		}
		h = h<<2 + g2[b[6]]
		if h&mask2 == 0 {
			return len(p) - len(q) + 7, true
		}
		h += g[b[7]]
		if h&mask == 0 {
			return len(p) - len(q) + 8, true
		}
	}
	for i, b := range q {
		h = h<<1 + g[b]
		if h&mask == 0 {
			return len(p) - len(q) + i + 1, true
		}
	}
	c.hash = h
	return len(p), false
}
