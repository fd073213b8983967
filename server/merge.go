package server

import (
	"bytes"
	"encoding/binary"
	"net"
)

// A frame of HTTP/2 (RFC 9113, section 4.1) is 3 bytes of length of its payload, one of type, one of
// flags, 4 of stream, and the payload.
const (
	frameHead = 9
	// maxFrame is the payload that every peer takes (section 4.2).
	maxFrame = 16 << 10
)

// mergedConn makes one frame of DATA frames that a stream writes right after each other.
// gRPC begins a frame with each message, and for a small one, as in a listing, a client
// spends more on the frame than on what is in it. Where frames end means nothing
// for what they carry (section 6.1). Only one Write may run at a time.
type mergedConn struct {
	net.Conn
	head []byte // what was written of a frame's head
	left int    // what is still to be written of a frame's payload
	buf  []byte
}

// Write implements net.Conn.
func (c *mergedConn) Write(p []byte) (int, error) {
	if _, err := c.Conn.Write(c.merge(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// merge gives what is written in the place of p: p itself, or fewer frames in memory that
// the next call uses again. Nothing of p is held back.
func (c *mergedConn) merge(p []byte) []byte {
	out, done := c.buf[:0], 0 // p[:done] is in out
	at := c.continued(p)
	for at+frameHead <= len(p) {
		first, size := p[at:], frameSize(p[at:])
		head := len(out) + at - done // where this frame's head comes in out
		at += frameHead + size
		for at+frameHead <= len(p) && joins(first, p[at:]) && size+frameSize(p[at:]) <= maxFrame {
			out = append(out, p[done:at]...)
			done = at + frameHead
			size += frameSize(p[at:])
			at = done + frameSize(p[at:])
			out[head], out[head+1], out[head+2] = byte(size>>16), byte(size>>8), byte(size)
		}
	}
	if at > len(p) {
		c.left = at - len(p)
	} else {
		c.head = append(c.head, p[at:]...)
	}
	if done == 0 {
		return p
	}
	c.buf = append(out, p[done:]...)
	return c.buf
}

// continued passes over what p has of a frame that was begun before, and gives where
// the next one begins.
func (c *mergedConn) continued(p []byte) int {
	at := 0
	if len(c.head) > 0 {
		at = min(frameHead-len(c.head), len(p))
		c.head = append(c.head, p[:at]...)
		if len(c.head) < frameHead {
			return at
		}
		c.left = frameSize(c.head)
		c.head = c.head[:0]
	}
	n := min(c.left, len(p)-at)
	c.left -= n
	return at + n
}

// frameSize is the length of a frame's payload.
func frameSize(head []byte) int {
	return int(binary.BigEndian.Uint32(head) >> 8)
}

// joins tells whether a frame continues the one before: both are of type DATA (0), without
// padding or an end of their stream, and of the same stream.
func joins(before, next []byte) bool {
	return next[3] == 0 && next[4] == 0 && bytes.Equal(before[3:frameHead], next[3:frameHead])
}
