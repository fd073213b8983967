package chunk

import (
	"encoding/binary"
	"fmt"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

// The object of a chunk: a header and the payload. docs/storage-format.md.
const (
	magic      = "MPCK"
	version    = 1
	headerSize = 12
	maxRawSize = 64 << 20

	plain      = 0
	compressed = 1
)

const (
	// sampleSize and sampleCount say how much of a larger chunk is compressed on trial.
	sampleSize  = 16 << 10
	sampleCount = 4
	// zipWindow is how far back a compressed chunk refers: an encoder holds twice as much.
	zipWindow = 1 << 20
)

// codec turns chunks into objects and back. It is safe for concurrent use.
type codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newCodec() *codec {
	// Neither has goroutines as long as only whole buffers pass through, and both
	// keep their working memory for the next call. The options are valid constants.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
		zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(zipWindow))
	if err != nil {
		panic(err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxRawSize), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err)
	}
	return &codec{enc: enc, dec: dec}
}

// setHeader fills in the room before the payload of a chunk of size bytes.
func setHeader(object []byte, compression byte, size int) {
	h := append(object[:0], magic...)
	h = append(h, version, compression, 0, 0)
	binary.LittleEndian.AppendUint32(h, uint32(size))
}

// compress gives the compressed data, behind room for the header, in a buffer of free, or tells
// that it does not pay.
func (c *codec) compress(data []byte, free *buffers) (packed []byte, ok bool) {
	if len(data) > 2*sampleCount*sampleSize {
		scratch := free.get(2 * sampleSize)
		sample := 0
		for i := range sampleCount {
			from := (len(data) - sampleSize) / (sampleCount - 1) * i
			sample += len(c.enc.EncodeAll(data[from:from+sampleSize], scratch))
		}
		free.put(scratch)
		if !pays(sample, sampleCount*sampleSize) {
			return nil, false
		}
	}
	out := c.enc.EncodeAll(data, free.get(headerSize + len(data))[:headerSize])
	if !pays(len(out)-headerSize, len(data)) {
		free.put(out)
		return nil, false
	}
	return out, true
}

func pays(packed, raw int) bool { return packed <= raw-raw/16 }

// decode gives the bytes of the chunk that the object holds, after checking them
// against the hash. The result shares memory with the object, unless it was compressed: then
// it lies in what buffer gives for its size.
func (c *codec) decode(hash Hash, object []byte, buffer func(int) []byte) ([]byte, error) {
	corrupt := func(format string, args ...any) error {
		return &CorruptError{Hash: hash, Reason: fmt.Sprintf(format, args...)}
	}
	if len(object) < headerSize || string(object[:4]) != magic {
		return nil, corrupt("no chunk header")
	}
	if object[4] != version {
		return nil, corrupt("format version %d, want %d", object[4], version)
	}
	size := binary.LittleEndian.Uint32(object[8:])
	if size > maxRawSize || object[6] != 0 || object[7] != 0 {
		return nil, corrupt("bad header")
	}
	data := object[headerSize:]
	switch object[5] {
	case plain:
	case compressed:
		raw, err := c.dec.DecodeAll(data, buffer(int(size)))
		if err != nil {
			return nil, &CorruptError{Hash: hash, Reason: "decompress: " + err.Error(), Err: err}
		}
		data = raw
	default:
		return nil, corrupt("unknown compression %d", object[5])
	}
	if len(data) != int(size) {
		return nil, corrupt("%d bytes, want %d", len(data), size)
	}
	if got := Sum(data); got != hash {
		return nil, corrupt("its content has hash %s", got)
	}
	return data, nil
}
