package chunk

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/zeebo/blake3"
)

// keyPrefix begins the key of every chunk.
const keyPrefix = "chunk/"

// Hash names a chunk: the BLAKE3-256 of its bytes.
type Hash [32]byte

// Sum computes the Hash of data.
func Sum(data []byte) Hash { return blake3.Sum256(data) }

// String gives the 64 lower-case hex digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Key is where a bucket has the chunk: "chunk/<2 hex digits>/<64 hex digits>".
func (h Hash) Key() string {
	s := h.String()
	return keyPrefix + s[:2] + "/" + s
}

// ParseKey is the inverse of Key; false if the key is not that of a chunk.
func ParseKey(key string) (h Hash, ok bool) {
	_, digits, _ := strings.Cut(strings.TrimPrefix(key, keyPrefix), "/")
	if len(digits) != 2*len(h) {
		return h, false
	}
	if _, err := hex.Decode(h[:], []byte(digits)); err != nil {
		return h, false
	}
	return h, h.Key() == key
}

// Ref points at a slice of a chunk. The slice lies within the chunk.
type Ref struct {
	Hash Hash
	Size uint32 // of the whole chunk, in bytes before compression
	Off  uint32 // where the slice begins
	Len  uint32 // length of the slice
}

// String gives the hash and the slice, for errors and logs.
func (r Ref) String() string {
	return fmt.Sprintf("%s[%d:%d]", r.Hash, r.Off, uint64(r.Off)+uint64(r.Len))
}

// slice is the part of a chunk's bytes that r points at; *CorruptError if they are not
// those of such a chunk.
func (r Ref) slice(whole []byte) ([]byte, error) {
	end := uint64(r.Off) + uint64(r.Len)
	if uint64(len(whole)) != uint64(r.Size) || end > uint64(len(whole)) {
		return nil, &CorruptError{Hash: r.Hash, Reason: fmt.Sprintf("it has %d bytes, but bytes %d to %d of %d are wanted", len(whole), r.Off, end, r.Size)}
	}
	return whole[r.Off:end:end], nil
}
