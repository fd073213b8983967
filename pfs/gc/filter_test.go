package gc

import (
	"encoding/binary"
	"testing"

	"github.com/minipachd/minipachd/pfs/chunk"
)

func hashOf(n int) chunk.Hash {
	return chunk.Sum(binary.LittleEndian.AppendUint64(nil, uint64(n)))
}

func TestFilter_HasAllMembersAndFewOthers(t *testing.T) {
	const n = 100_000
	f := newFilter(n)
	for i := range n {
		f.add(hashOf(i))
	}
	for i := range n {
		if !f.has(hashOf(i)) {
			t.Fatalf("member %d is missing", i)
		}
	}
	claimed := 0
	for i := range n {
		if f.has(hashOf(n + i)) {
			claimed++
		}
	}
	if claimed > n/500 {
		t.Errorf("%d of %d strangers are claimed", claimed, n)
	}
}
