// Package frame has the gRPC codec of the daemon. It is the protobuf codec, but for
// the messages that carry the bytes of files: those are passed on in the buffers that the transport
// read them into, and sent from where they lie, without a copy. What goes over the
// wire is the same.
package frame

import (
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto" // registers the codec as well
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// Codec gives the codec for grpc.ForceServerCodecV2. The messages of this package
// work with gRPC's own codec as well, only slower.
func Codec() encoding.CodecV2 { return codec{encoding.GetCodecV2(proto.Name)} }

type codec struct{ encoding.CodecV2 }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *Bytes:
		return m.marshal(), nil
	case fileInfo:
		return m.marshal(), nil
	}
	return c.CodecV2.Marshal(v)
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if o, ok := v.(*Operation); ok && o.parse(data) {
		return nil
	}
	return c.CodecV2.Unmarshal(data, v)
}

// Operation is one message of a stream of changes to files. It serves for one
// message after another.
type Operation struct {
	// The message, when IsAppend is false.
	*pfspb.ModifyFileRequest
	// IsAppend tells that the message adds Data to the file of Path and Datum.
	IsAppend    bool
	Path, Datum string
	// Data are the bytes, in order. They are valid until the next Receive or Free.
	Data [][]byte

	held mem.BufferSlice // what Data lies in
}

// Receive takes the next message from a stream.
func (o *Operation) Receive(stream interface{ RecvMsg(m any) error }) error {
	o.Free()
	if o.ModifyFileRequest == nil {
		o.ModifyFileRequest = &pfspb.ModifyFileRequest{}
	}
	if err := stream.RecvMsg(o); err != nil || o.IsAppend {
		return err
	}
	add := o.GetAddFile()
	if add == nil || add.GetUrl() != nil {
		return nil
	}
	o.IsAppend, o.Path, o.Datum = true, add.GetPath(), add.GetDatum()
	o.Data = append(o.Data, add.GetRaw().GetValue())
	return nil
}

// Free gives back the buffers of the last message. It must be called after the
// last Receive.
func (o *Operation) Free() {
	o.held.Free()
	o.held, o.IsAppend = nil, false
	clear(o.Data)
	o.Data = o.Data[:0]
}

// parse takes a message that only adds bytes to a file and has its fields in the
// order of their numbers, as every encoder writes them. Any other one it
// leaves alone.
func (o *Operation) parse(data mem.BufferSlice) bool {
	if len(data) == 0 {
		return false
	}
	// All but the bytes themselves has to be in the first buffer.
	p := parser{b: data[0].ReadOnlyData(), n: data.Len()}
	if !p.enter(2) { // add_file
		return false
	}
	path, ok := p.text(1)
	if !ok {
		return false
	}
	datum, ok := p.text(2)
	if !ok || !p.enter(3) { // raw
		return false
	}
	if p.n > 0 && !p.enter(1) { // value
		return false
	}
	o.IsAppend, o.Path = true, string(path)
	if o.Datum != string(datum) {
		o.Datum = string(datum)
	}
	data.Ref()
	o.held = data
	if len(p.b) > 0 {
		o.Data = append(o.Data, p.b)
	}
	for _, b := range data[1:] {
		o.Data = append(o.Data, b.ReadOnlyData())
	}
	return true
}

// parser reads the beginning of a message.
type parser struct {
	b []byte // what is left of the first buffer
	n int    // what is left of the message
}

// enter consumes the head of a field that takes up the rest of the message.
func (p *parser) enter(field protowire.Number) bool {
	n, size, ok := p.head(field)
	if !ok || size != uint64(p.n-n) {
		return false
	}
	p.skip(n)
	return true
}

// text consumes a field of text, which may be missing.
func (p *parser) text(field protowire.Number) ([]byte, bool) {
	n, size, ok := p.head(field)
	if !ok {
		return nil, true
	}
	if size > uint64(len(p.b)-n) {
		return nil, false
	}
	s := p.b[n : n+int(size)]
	p.skip(n + int(size))
	return s, utf8.Valid(s)
}

// head gives the length of a field's tag and length, and that of its content.
func (p *parser) head(field protowire.Number) (n int, size uint64, ok bool) {
	num, typ, n := protowire.ConsumeTag(p.b)
	if n < 0 || num != field || typ != protowire.BytesType {
		return 0, 0, false
	}
	size, k := protowire.ConsumeVarint(p.b[n:])
	if k < 0 {
		return 0, 0, false
	}
	return n + k, size, true
}

func (p *parser) skip(n int) { p.b, p.n = p.b[n:], p.n-n }

// Bytes is a google.protobuf.BytesValue to be sent with SendMsg.
type Bytes struct {
	*wrapperspb.BytesValue
	release func()
}

// NewBytes makes a message of value, which must not change until release is called: once
// the message was sent, or given up. Release may be nil.
func NewBytes(value []byte, release func()) *Bytes {
	return &Bytes{BytesValue: wrapperspb.Bytes(value), release: release}
}

// Send sends the message.
func (m *Bytes) Send(stream interface{ SendMsg(m any) error }) error {
	err := stream.SendMsg(m)
	if m.release != nil { // the bytes were copied, or never encoded
		m.release()
	}
	return err
}

func (m *Bytes) marshal() mem.BufferSlice {
	if len(m.Value) == 0 {
		return nil // as the zero value of a field
	}
	small := mem.IsBelowBufferPoolingThreshold(cap(m.Value)) // such buffers are not counted
	head := make([]byte, 0, 16)
	if small {
		head = make([]byte, 0, 16+len(m.Value))
	}
	head = protowire.AppendTag(head, 1, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(len(m.Value)))
	if small {
		return mem.BufferSlice{mem.SliceBuffer(append(head, m.Value...))}
	}
	if m.release == nil {
		return mem.BufferSlice{mem.SliceBuffer(head), mem.SliceBuffer(m.Value)}
	}
	body := mem.NewBuffer(&m.Value, releaser{m.release})
	m.release = nil
	return mem.BufferSlice{mem.SliceBuffer(head), body}
}

// releaser calls a function instead of keeping the buffer.
type releaser struct{ release func() }

func (releaser) Get(n int) *[]byte {
	b := make([]byte, n)
	return &b
}

func (r releaser) Put(*[]byte) { r.release() }
