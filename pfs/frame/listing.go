package frame

import (
	"fmt"
	"unicode/utf8"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// listingRoom is how much memory a Listing takes for messages at a time.
const listingRoom = 32 << 10

// Listing sends what is known of files of one commit, as FileInfo messages. What is the
// same in all of them is encoded once.
type Listing struct {
	stream            interface{ SendMsg(m any) error }
	commit, committed []byte // the fields of File and FileInfo, with their tags
	room              []byte // for the next messages
}

// NewListing makes a Listing to a stream. All files have the commit and the time
// of a FileInfo.
func NewListing(stream interface{ SendMsg(m any) error }, of *pfspb.FileInfo) (*Listing, error) {
	commit, err := proto.Marshal(&pfspb.File{Commit: of.GetFile().GetCommit()})
	if err != nil {
		return nil, fmt.Errorf("commit of a listing: %w", err)
	}
	committed, err := proto.Marshal(&pfspb.FileInfo{Committed: of.GetCommitted()})
	if err != nil {
		return nil, fmt.Errorf("time of a listing: %w", err)
	}
	return &Listing{stream: stream, commit: commit, committed: committed}, nil
}

// Send sends one FileInfo.
func (l *Listing) Send(path, datum string, kind pfspb.FileType, size int64, hash []byte) error {
	if !utf8.ValidString(path) || !utf8.ValidString(datum) {
		return fmt.Errorf("path %q or datum %q is not UTF-8", path, datum)
	}
	file := len(l.commit) + sizeText(path) + sizeText(datum)
	// Tags are a byte each, numbers ten at most.
	if most := 1 + 10 + file + 2*11 + len(l.committed) + 11 + len(hash); cap(l.room) < most {
		l.room = make([]byte, 0, max(most, listingRoom))
	}
	b := protowire.AppendTag(l.room, 1, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(file))
	b = append(b, l.commit...)
	b = appendText(b, 2, path)
	b = appendText(b, 3, datum)
	b = appendNumber(b, 2, uint64(kind))
	b = append(b, l.committed...)
	b = appendNumber(b, 4, uint64(size))
	if len(hash) > 0 {
		b = protowire.AppendTag(b, 5, protowire.BytesType)
		b = protowire.AppendBytes(b, hash)
	}
	l.room = b[len(b):]
	return l.stream.SendMsg(fileInfo(b[:len(b):len(b)]))
}

func sizeText(s string) int {
	if s == "" {
		return 0
	}
	return 1 + protowire.SizeBytes(len(s))
}

// appendText adds a field unless it is empty.
func appendText(b []byte, field protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendString(b, s)
}

// appendNumber adds a field unless it is 0.
func appendNumber(b []byte, field protowire.Number, n uint64) []byte {
	if n == 0 {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.VarintType)
	return protowire.AppendVarint(b, n)
}

// fileInfo is an encoded FileInfo.
type fileInfo []byte

func (m fileInfo) marshal() mem.BufferSlice { return mem.BufferSlice{mem.SliceBuffer(m)} }

// ProtoReflect makes it a proto.Message, for other codecs and for what looks into messages.
func (m fileInfo) ProtoReflect() protoreflect.Message {
	info := &pfspb.FileInfo{}
	if err := proto.Unmarshal(m, info); err != nil {
		panic(fmt.Sprintf("frame: a Listing's message is not a FileInfo: %v", err)) // Send made it
	}
	return info.ProtoReflect()
}
