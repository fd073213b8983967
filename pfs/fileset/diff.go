package fileset

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"iter"
)

// errEnough ends a stream whose rest is not needed.
var errEnough = errors.New("enough")

// Diff adds what has to be done to the files of old to get those of now. A file
// that only grew is appended to; one that changed otherwise is replaced as a whole.
func (w *Writer) Diff(old, now *View) error {
	nextOld, stopOld := iter.Pull2(old.Files(w.ctx, ""))
	defer stopOld()
	nextNow, stopNow := iter.Pull2(now.Files(w.ctx, ""))
	defer stopNow()
	pull := func(next func() (*File, error, bool)) (*File, error) {
		f, err, _ := next()
		return f, err
	}
	a, err := pull(nextOld)
	if err != nil {
		return err
	}
	b, err := pull(nextNow)
	for err == nil && (a != nil || b != nil) {
		order := 0
		switch {
		case a == nil:
			order = 1
		case b == nil:
			order = -1
		default:
			order = compare(a.Path, a.Datum, b.Path, b.Datum)
		}
		switch {
		case order < 0:
			err = w.Delete(a.Path, a.Datum)
		case order > 0:
			err = w.Copy(b.Path, b.Datum, b, b.from[0].op == opAppend)
		default:
			err = w.diffFile(a, b)
		}
		if err == nil && order <= 0 {
			a, err = pull(nextOld)
		}
		if err == nil && order >= 0 {
			b, err = pull(nextNow)
		}
	}
	return err
}

// diffFile makes a file that exists before and after what it is after.
func (w *Writer) diffFile(a, b *File) error {
	was, err := a.Hash(w.ctx)
	if err != nil {
		return err
	}
	is, err := b.Hash(w.ctx)
	if err != nil || a.Size == b.Size && bytes.Equal(was, is) {
		return err
	}
	grew := a.Size > 0 && a.Size < b.Size
	if grew {
		begin, err := b.hashTo(w.ctx, a.Size)
		if err != nil {
			return err
		}
		grew = bytes.Equal(begin, was)
	}
	if grew {
		return w.Copy(b.Path, b.Datum, b.after(a.Size), true)
	}
	return w.Copy(b.Path, b.Datum, b, false)
}

// hashTo is the SHA-256 of the first n bytes.
func (f *File) hashTo(ctx context.Context, n int64) ([]byte, error) {
	h := sha256.New()
	err := f.Stream(ctx, 0, func(b []byte) error {
		b = b[:min(int64(len(b)), n)]
		h.Write(b)
		if n -= int64(len(b)); n == 0 {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return h.Sum(nil), nil
}

// after is the file without its first n bytes.
func (f *File) after(n int64) *File {
	rest := &entry{path: f.Path, datum: f.Datum, op: opAppend, size: f.Size - n}
	for _, p := range f.parts() {
		size := p.size()
		switch {
		case n >= size:
			n -= size
			continue
		case p.data != nil:
			p.data = p.data[n:]
		default:
			p.ref.Off += uint32(n)
			p.ref.Len -= uint32(n)
		}
		n = 0
		rest.parts = append(rest.parts, p)
	}
	return &File{Path: f.Path, Datum: f.Datum, Size: rest.size, s: f.s, from: []*entry{rest}}
}
