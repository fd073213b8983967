package gc

import (
	"hash/maphash"

	"github.com/minipachd/minipachd/pfs/chunk"
)

// filter is a set that may claim to have a member it does not have, never the
// reverse (Bloom, "Space/time trade-offs in hash coding with allowable errors",
// CACM 13(7), 1970). A false claim keeps a piece of garbage until the next
// collection, whose filter errs elsewhere. It is not safe for concurrent use.
type filter struct {
	seed maphash.Seed
	bits []uint64
}

const (
	bitsPerMember = 16 // with 8 probes one false claim in about 1700
	probes        = 8
	minFilter     = 8 << 10  // bytes
	maxFilter     = 64 << 20 // bytes; above 32 million members it claims more
)

// newFilter makes an empty set for about n members.
func newFilter(n int) *filter {
	size := min(max(minFilter, n*bitsPerMember/8), maxFilter)
	return &filter{seed: maphash.MakeSeed(), bits: make([]uint64, size/8)}
}

// probe calls fn with the word and bit of each probe until it returns false.
func (f *filter) probe(h chunk.Hash, fn func(word int, bit uint64) bool) bool {
	a := maphash.Bytes(f.seed, h[:])
	b := a>>32 | 1 // Kirsch, Mitzenmacher, "Less Hashing, Same Performance", 2006
	n := uint64(len(f.bits)) * 64
	for range probes {
		at := a % n
		if !fn(int(at/64), 1<<(at%64)) {
			return false
		}
		a += b
	}
	return true
}

func (f *filter) add(h chunk.Hash) {
	f.probe(h, func(word int, bit uint64) bool {
		f.bits[word] |= bit
		return true
	})
}

func (f *filter) has(h chunk.Hash) bool {
	return f.probe(h, func(word int, bit uint64) bool { return f.bits[word]&bit != 0 })
}
