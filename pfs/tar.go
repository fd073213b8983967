package pfs

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/minipachd/minipachd/pfs/fileset"
	"github.com/minipachd/minipachd/pfs/frame"
)

// Sizes of POSIX.1-1988 ("ustar") archives.
const (
	tarBlock   = 512
	tarName    = 100     // bytes of a name
	tarMaxSize = 8 << 30 // of a file, exclusive
)

// tarTemplate is the header of an empty file without a name or checksum, as archive/tar
// writes it.
var tarTemplate = func() (b [tarBlock]byte) {
	copy(b[100:], "0000000\x00")     // mode
	copy(b[108:], "0000000\x00")     // uid
	copy(b[116:], "0000000\x00")     // gid
	copy(b[124:], "00000000000\x00") // size
	copy(b[136:], "00000000000\x00") // mtime
	copy(b[148:], "        ")        // checksum
	b[156] = tar.TypeReg
	copy(b[257:], "ustar\x0000")
	copy(b[329:], "0000000\x00") // device major
	copy(b[337:], "0000000\x00") // device minor
	return b
}()

// tarWriter writes an archive: mode and time zero, names the absolute paths.
type tarWriter struct {
	pieces pieceWriter
	header [tarBlock]byte
}

var zeros [2 * tarBlock]byte

// add writes a file or directory.
func (w *tarWriter) add(ctx context.Context, n *fileset.Node) error {
	if err := w.writeHeader(n); err != nil {
		return fmt.Errorf("tar: %s: %w", n.Path, err)
	}
	if n.Dir {
		return nil
	}
	var size int64
	if err := n.File.Lend(ctx, 0, func(b []byte, back func()) error {
		from := newLender(back)
		defer from.done()
		size += int64(len(b))
		return w.pieces.write(b, from)
	}); err != nil {
		return err
	}
	if size != n.Size {
		return fmt.Errorf("tar: %s: it has %d bytes, want %d", n.Path, size, n.Size)
	}
	return w.pieces.write(zeros[:-size&(tarBlock-1)], nil)
}

func (w *tarWriter) writeHeader(n *fileset.Node) error {
	if len(n.Path) > tarName || n.Size >= tarMaxSize {
		return w.writeLongHeader(n)
	}
	w.header = tarTemplate
	h := &w.header
	copy(h[:tarName], n.Path)
	if n.Dir {
		h[156] = tar.TypeDir
	} else {
		octal(h[124:135], uint64(n.Size))
	}
	var sum uint64
	for _, b := range h {
		sum += uint64(b)
	}
	octal(h[148:154], sum)
	h[154] = 0
	return w.pieces.write(h[:], nil)
}

// octal fills b with digits.
func octal(b []byte, v uint64) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = '0' + byte(v&7)
		v >>= 3
	}
}

// writeLongHeader leaves what needs an extension to archive/tar.
func (w *tarWriter) writeLongHeader(n *fileset.Node) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: n.Path, Size: n.Size, ModTime: time.Unix(0, 0), Format: tar.FormatUnknown}
	if n.Dir {
		h.Typeflag, h.Size = tar.TypeDir, 0
	}
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		return err
	}
	return w.pieces.write(b.Bytes(), nil)
}

// close ends the archive and sends what is left of it.
func (w *tarWriter) close() error {
	if err := w.pieces.write(zeros[:], nil); err != nil {
		return err
	}
	return w.pieces.flush()
}

// pieceWriter gathers small writes into messages of a fair size.
type pieceWriter struct {
	stream interface{ SendMsg(m any) error }
	buf    *[]byte
	free   sync.Pool // of *[]byte: what was sent may still be on its way out
}

// gather is the size at which a message is sent.
const gather = 256 << 10

// write sends p, some of it later, in a copy. What goes out from where it lies is
// counted with its lender.
func (w *pieceWriter) write(p []byte, from *lender) error {
	for len(p) > 0 {
		if w.buf == nil && len(p) >= gather {
			k := min(len(p), maxPiece)
			if err := frame.NewBytes(p[:k], from.use()).Send(w.stream); err != nil {
				return err
			}
			p = p[k:]
			continue
		}
		if w.buf == nil {
			var ok bool
			if w.buf, ok = w.free.Get().(*[]byte); !ok {
				b := make([]byte, 0, gather)
				w.buf = &b
			}
			*w.buf = (*w.buf)[:0]
		}
		k := min(len(p), gather-len(*w.buf))
		*w.buf = append(*w.buf, p[:k]...)
		p = p[k:]
		if len(*w.buf) == gather {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *pieceWriter) flush() error {
	if w.buf == nil {
		return nil
	}
	buf := w.buf
	w.buf = nil
	return frame.NewBytes(*buf, func() { w.free.Put(buf) }).Send(w.stream)
}
