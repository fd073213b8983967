package frame

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// sent is a stream with one message, in buffers of at most size bytes.
type sent struct {
	codec encoding.CodecV2
	b     []byte
	size  int
}

func (s *sent) RecvMsg(m any) error {
	var data mem.BufferSlice
	for p := s.b; len(p) > 0; p = p[min(len(p), s.size):] {
		data = append(data, mem.SliceBuffer(p[:min(len(p), s.size)]))
	}
	return s.codec.Unmarshal(data, m)
}

// operation is what an Operation says, in a form that can be compared.
type operation struct {
	append      bool
	path, datum string
	data        []byte
	other       *pfspb.ModifyFileRequest
	failed      bool
}

func receive(o *Operation, s *sent) operation {
	err := o.Receive(s)
	if err != nil {
		return operation{failed: true}
	}
	if !o.IsAppend {
		return operation{other: proto.CloneOf(o.ModifyFileRequest)}
	}
	return operation{append: true, path: o.Path, datum: o.Datum, data: bytes.Join(o.Data, nil)}
}

func encode(t testing.TB, m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func add(path, datum string, data []byte) *pfspb.ModifyFileRequest {
	a := &pfspb.AddFile{Path: path, Datum: datum, Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes(data)}}
	return &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: a}}
}

func examples(t testing.TB) [][]byte {
	long := bytes.Repeat([]byte("0123456789"), 500)
	body := encode(t, add("/a", "", long))
	return [][]byte{
		{},
		body,
		encode(t, add("/a", "d", []byte("x"))),
		encode(t, add("", "", nil)),
		encode(t, add("/a/b", "", nil)),
		append(bytes.Clone(body), body...), // the second is merged into the first
		append(bytes.Clone(body), encode(t, add("/b", "d", nil))...),
		body[:len(body)-1],
		encode(t, &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{Path: "/n"}}}),
		encode(t, &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{
			Path: "/u", Source: &pfspb.AddFile_Url{Url: &pfspb.AddFile_URLSource{URL: "https://x"}},
		}}}),
		encode(t, &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_DeleteFile{DeleteFile: &pfspb.DeleteFile{Path: "/a"}}}),
		{0x12, 0x05, 0x0a, 0x01, 0xff, 0x1a, 0x00}, // a path that is no UTF-8
	}
}

// check compares the codec with gRPC's own, which knows nothing of buffers.
func check(t *testing.T, fast, slow *Operation, b []byte, size int) bool {
	got := receive(fast, &sent{codec: Codec(), b: b, size: size})
	want := receive(slow, &sent{codec: encoding.GetCodecV2(grpcproto.Name), b: b, size: size})
	if d := cmp.Diff(want, got, cmp.AllowUnexported(operation{}), protocmp.Transform(), cmp.Transformer("bytes", func(b []byte) string { return string(b) })); d != "" {
		t.Errorf("message %x in buffers of %d bytes: gRPC's codec (-), ours (+):\n%s", b, size, d)
	}
	return fast.held != nil
}

func TestOperation_IsWhatProtobufSays(t *testing.T) {
	var fast, slow Operation
	short := 0
	for _, size := range []int{1, 7, 20, 4096, 1 << 20} {
		for _, b := range examples(t) {
			if check(t, &fast, &slow, b, size) {
				short++
			}
		}
	}
	fast.Free()
	slow.Free()
	if short < 10 {
		t.Errorf("only %d messages were taken without a copy", short)
	}
}

func FuzzOperation(f *testing.F) {
	for _, b := range examples(f) {
		f.Add(b, uint16(16))
	}
	f.Fuzz(func(t *testing.T, b []byte, size uint16) {
		var fast, slow Operation
		check(t, &fast, &slow, b, int(size)+1)
		fast.Free()
	})
}

// stream encodes what is sent, and lets go of it later.
type stream struct {
	codec encoding.CodecV2
	got   []byte
}

func (s *stream) SendMsg(m any) error {
	data, err := s.codec.Marshal(m)
	s.got = data.Materialize()
	data.Free()
	return err
}

func TestBytes_AreEncodedAndReleasedOnce(t *testing.T) {
	for _, codec := range []encoding.CodecV2{Codec(), encoding.GetCodecV2(grpcproto.Name)} {
		for _, n := range []int{0, 1, 1000, 1024, 300_000} {
			value := bytes.Repeat([]byte{7}, n)
			released := 0
			s := &stream{codec: codec}
			if err := NewBytes(value, func() { released++ }).Send(s); err != nil {
				t.Fatal(err)
			}
			if want := encode(t, wrapperspb.Bytes(value)); !bytes.Equal(s.got, want) || released != 1 {
				t.Errorf("%d bytes: encoded as %d bytes, want %d; released %d times, want once", n, len(s.got), len(want), released)
			}
		}
	}
}
