package pfs

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/minipachd/minipachd/pfs/fileset"
	"github.com/minipachd/minipachd/pfs/frame"
)

// sink keeps the bytes of what is sent.
type sink struct{ bytes.Buffer }

func (s *sink) SendMsg(m any) error {
	s.Write(m.(*frame.Bytes).Value)
	return nil
}

// TestTAR_HeadersAreThoseOfArchiveTar compares headers byte by byte.
func TestTAR_HeadersAreThoseOfArchiveTar(t *testing.T) {
	for _, n := range []*fileset.Node{
		{Path: "/", Dir: true},
		{Path: "/dir/", Dir: true},
		{Path: "/empty"},
		{Path: "/a b~", Size: 1},
		{Path: "/" + strings.Repeat("x", 99), Size: 0o7654321},
		{Path: "/" + strings.Repeat("y", 100), Size: 511},
		{Path: "/" + strings.Repeat("d/", 120), Dir: true},
		{Path: "/" + strings.Repeat("long", 100), Size: 3},
		{Path: "/largest", Size: 8<<30 - 1},
		{Path: "/larger", Size: 8 << 30},
	} {
		var got, want sink
		w := &tarWriter{pieces: pieceWriter{stream: &got}}
		if err := w.writeHeader(n); err != nil {
			t.Fatal(err)
		}
		if err := w.pieces.flush(); err != nil {
			t.Fatal(err)
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: n.Path, Size: n.Size, ModTime: time.Unix(0, 0)}
		if n.Dir {
			h.Typeflag = tar.TypeDir
		}
		if err := tar.NewWriter(&want).WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Errorf("header of %s, %d bytes:\n got %q\nwant %q", n.Path, n.Size, got.Bytes(), want.Bytes())
		}
	}
}
