package fileset

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/pfs/chunk"
)

// CorruptError reports a layer that does not decode.
type CorruptError struct {
	Layer string // id or key
	Err   error
}

func (e *CorruptError) Error() string { return fmt.Sprintf("layer %s is corrupt: %v", e.Layer, e.Err) }

// Unwrap gives what is wrong with it.
func (e *CorruptError) Unwrap() error { return e.Err }

// GRPCStatus makes it DataLoss.
func (e *CorruptError) GRPCStatus() *status.Status { return status.New(codes.DataLoss, e.Error()) }

var errShort = errors.New("it ends too early")

// Bits of an entry's first byte above its op.
const (
	hasState    = 1 << 2
	sameDatum   = 1 << 3 // as the entry before
	partInline  = 0
	partChunk   = 1
	stateLength = 108 // of crypto/sha256
)

// encoder writes entries one after the other, paths as what differs from the one
// before.
type encoder struct {
	buf   []byte
	path  string
	datum string
}

func (c *encoder) add(e *entry) {
	first := byte(e.op)
	if e.state != nil {
		first |= hasState
	}
	if e.datum == c.datum {
		first |= sameDatum
	}
	b := append(c.buf, first)
	shared := 0
	for shared < len(c.path) && shared < len(e.path) && c.path[shared] == e.path[shared] {
		shared++
	}
	b = binary.AppendUvarint(b, uint64(shared))
	b = binary.AppendUvarint(b, uint64(len(e.path)-shared))
	b = append(b, e.path[shared:]...)
	if e.datum != c.datum {
		b = binary.AppendUvarint(b, uint64(len(e.datum)))
		b = append(b, e.datum...)
	}
	c.path, c.datum = e.path, e.datum
	if e.op == opAppend || e.op == opReplace {
		b = append(b, e.sum[:]...)
		b = append(b, e.state...)
		b = binary.AppendUvarint(b, uint64(len(e.parts)))
		for _, p := range e.parts {
			if p.data != nil {
				b = append(b, partInline)
				b = binary.AppendUvarint(b, uint64(len(p.data)))
				b = append(b, p.data...)
				continue
			}
			b = append(b, partChunk)
			b = append(b, p.ref.Hash[:]...)
			b = binary.AppendUvarint(b, uint64(p.ref.Size))
			b = binary.AppendUvarint(b, uint64(p.ref.Off))
			b = binary.AppendUvarint(b, uint64(p.ref.Len))
		}
	}
	c.buf = b
}

// decoder reads what encoder wrote. It never trusts a length: inline data are slices of
// the input. Entries of one input share their memory, since they are kept together.
type decoder struct {
	buf     []byte
	path    string
	datum   string
	left    uint64 // entries that are said to be left, the next one included
	entries slab[entry]
	parts   slab[part]
	names   strings.Builder // paths one after the other, written once
}

// slab hands out values from few allocations.
type slab[T any] struct{ free []T }

// slabSize is how many values an allocation has at most.
const slabSize = 128

// take gives a zero value; more says how many are likely to be taken after it.
func (s *slab[T]) take(more int) []T {
	if len(s.free) == 0 {
		s.free = make([]T, 1+min(more, slabSize-1))
	}
	v := s.free[:1:1]
	s.free = s.free[1:]
	return v
}

func (d *decoder) bytes(n uint64) ([]byte, error) {
	if n > uint64(len(d.buf)) {
		return nil, errShort
	}
	b := d.buf[:n:n]
	d.buf = d.buf[n:]
	return b, nil
}

func (d *decoder) uvarint() (uint64, error) {
	v, n := binary.Uvarint(d.buf)
	if n <= 0 {
		return 0, errShort
	}
	d.buf = d.buf[n:]
	return v, nil
}

func (d *decoder) next() (*entry, error) {
	first, err := d.bytes(1)
	if err != nil {
		return nil, err
	}
	if first[0]&^(3|hasState|sameDatum) != 0 {
		return nil, fmt.Errorf("unknown entry flags %#x", first[0])
	}
	e := &d.entries.take(d.more())[0]
	e.op = op(first[0] & 3)
	shared, err := d.uvarint()
	if err != nil {
		return nil, err
	}
	if shared > uint64(len(d.path)) {
		return nil, errors.New("a path shares more than there is")
	}
	tail, err := d.prefixed()
	if err != nil {
		return nil, err
	}
	e.path = d.name(d.path[:shared], tail)
	e.datum = d.datum
	if first[0]&sameDatum == 0 {
		datum, err := d.prefixed()
		if err != nil {
			return nil, err
		}
		e.datum = string(datum)
	}
	d.path, d.datum = e.path, e.datum
	if e.op == opAppend || e.op == opReplace {
		if err := d.content(e, first[0]&hasState != 0); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// more is how many entries there can be after the next one: each has three bytes at least.
func (d *decoder) more() int {
	return int(min(max(d.left, 1)-1, uint64(len(d.buf)/3)))
}

// name joins a path, in memory that it shares with others.
func (d *decoder) name(shared string, tail []byte) string {
	n := len(shared) + len(tail)
	if d.names.Cap()-d.names.Len() < n {
		d.names = strings.Builder{}
		d.names.Grow(n * (1 + min(d.more(), slabSize-1)))
	}
	at := d.names.Len()
	d.names.WriteString(shared)
	d.names.Write(tail)
	return d.names.String()[at:]
}

func (d *decoder) prefixed() ([]byte, error) {
	n, err := d.uvarint()
	if err != nil {
		return nil, err
	}
	return d.bytes(n)
}

func (d *decoder) content(e *entry, state bool) error {
	sum, err := d.bytes(sha256.Size)
	if err != nil {
		return err
	}
	copy(e.sum[:], sum)
	if state {
		if e.state, err = d.bytes(stateLength); err != nil {
			return err
		}
	}
	n, err := d.uvarint()
	if err != nil {
		return err
	}
	if n > uint64(len(d.buf)) { // a part has two bytes at least
		return errShort
	}
	if n == 1 {
		e.parts = d.parts.take(d.more())[:0]
	} else {
		e.parts = make([]part, 0, min(n, 1024))
	}
	for range n {
		p, err := d.part()
		if err != nil {
			return err
		}
		e.parts = append(e.parts, p)
		e.size += p.size()
	}
	return nil
}

func (d *decoder) part() (part, error) {
	kind, err := d.bytes(1)
	if err != nil {
		return part{}, err
	}
	switch kind[0] {
	case partInline:
		data, err := d.prefixed()
		return part{data: data}, err
	case partChunk:
		var p part
		h, err := d.bytes(uint64(len(p.ref.Hash)))
		if err != nil {
			return part{}, err
		}
		copy(p.ref.Hash[:], h)
		for _, v := range []*uint32{&p.ref.Size, &p.ref.Off, &p.ref.Len} {
			n, err := d.uvarint()
			if err != nil {
				return part{}, err
			}
			if n > chunk.MaxSize {
				return part{}, errors.New("a chunk reference is out of range")
			}
			*v = uint32(n)
		}
		if uint64(p.ref.Off)+uint64(p.ref.Len) > uint64(p.ref.Size) {
			return part{}, errors.New("a chunk reference is out of range")
		}
		return p, nil
	}
	return part{}, fmt.Errorf("unknown part kind %d", kind[0])
}
