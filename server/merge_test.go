package server

import (
	"bytes"
	"errors"
	"net"
	"testing"

	"golang.org/x/net/http2"
	"pgregory.net/rapid"
)

// wire collects what is written to a connection.
type wire struct {
	net.Conn
	b    bytes.Buffer
	fail error
}

func (w *wire) Write(p []byte) (int, error) {
	if w.fail != nil {
		return 0, w.fail
	}
	return w.b.Write(p)
}

// sentFrame is a frame, or DATA frames of a stream in a row.
type sentFrame struct {
	head    http2.FrameHeader
	payload string
}

// readFrames gives the frames of b, DATA that merges put together, and the number of frames.
func readFrames(t interface{ Fatal(args ...any) }, b []byte) (frames []sentFrame, n int) {
	for len(b) > 0 {
		h, err := http2.ReadFrameHeader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if h.Length > 16<<10 {
			t.Fatal("a frame is larger than every peer takes:", h)
		}
		f := sentFrame{head: h, payload: string(b[9:][:h.Length])}
		b = b[9+h.Length:]
		n++
		if last := len(frames) - 1; last >= 0 && h.Type == http2.FrameData && h.Flags == 0 &&
			frames[last].head.Type == http2.FrameData && frames[last].head.Flags == 0 && frames[last].head.StreamID == h.StreamID {
			frames[last].payload += f.payload
			continue
		}
		f.head.Length = 0
		frames = append(frames, f)
	}
	return frames, n
}

func TestMergedConn_KeepsWhatIsSent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var sent bytes.Buffer
		framer := http2.NewFramer(&sent, nil)
		for range rapid.IntRange(1, 60).Draw(t, "frames") {
			stream := rapid.Uint32Range(1, 3).Draw(t, "stream")
			size := rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, 16<<10)).Draw(t, "size")
			var err error
			switch rapid.IntRange(0, 11).Draw(t, "kind") {
			case 0:
				err = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: make([]byte, size), EndHeaders: true, EndStream: true})
			case 1:
				err = framer.WriteDataPadded(stream, false, make([]byte, size/2), make([]byte, size/100))
			case 2:
				err = framer.WriteData(stream, true, make([]byte, size))
			case 3:
				err = framer.WriteWindowUpdate(stream, 1)
			default:
				err = framer.WriteData(stream, false, bytes.Repeat([]byte{byte(sent.Len())}, size))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		w := &wire{}
		c := &mergedConn{Conn: w}
		var end int
		for p := sent.Bytes(); len(p) > 0; {
			k := rapid.OneOf(rapid.IntRange(1, 20), rapid.IntRange(1, 40<<10)).Draw(t, "write")
			piece := bytes.Clone(p[:min(k, len(p))])
			if n, err := c.Write(piece); n != len(piece) || err != nil {
				t.Fatalf("wrote %d of %d bytes: %v", n, len(piece), err)
			}
			if !bytes.Equal(piece, p[:len(piece)]) {
				t.Fatal("the caller's bytes were changed")
			}
			p = p[len(piece):]
			end += len(piece)
		}
		want, frames := readFrames(t, sent.Bytes())
		got, fewer := readFrames(t, w.b.Bytes())
		if len(got) != len(want) || fewer > frames {
			t.Fatalf("%d runs in %d frames, want %d runs in at most %d", len(got), fewer, len(want), frames)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("frame %d is %v with %d bytes, want %v with %d", i, got[i].head, len(got[i].payload), want[i].head, len(want[i].payload))
			}
		}
	})
}

func TestMergedConn_Merges(t *testing.T) {
	var sent bytes.Buffer
	framer := http2.NewFramer(&sent, nil)
	for range 1000 {
		if err := framer.WriteData(1, false, make([]byte, 200)); err != nil {
			t.Fatal(err)
		}
	}
	w := &wire{}
	c := &mergedConn{Conn: w}
	for p := sent.Bytes(); len(p) > 0; p = p[min(32<<10, len(p)):] {
		if _, err := c.Write(p[:min(32<<10, len(p))]); err != nil {
			t.Fatal(err)
		}
	}
	if _, n := readFrames(t, w.b.Bytes()); n > 30 {
		t.Errorf("1000 frames became %d, want at most 30", n)
	}
}

func TestMergedConn_TellsErrors(t *testing.T) {
	broken := errors.New("broken")
	c := &mergedConn{Conn: &wire{fail: broken}}
	if n, err := c.Write(make([]byte, 9)); n != 0 || !errors.Is(err, broken) {
		t.Errorf("wrote %d bytes with the error %v", n, err)
	}
}
