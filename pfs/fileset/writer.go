package fileset

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding"
	"fmt"
	"hash"
	"slices"
	"strings"

	"github.com/minipachd/minipachd/pfs/chunk"
)

// Writer collects the operations of one stream, in order. It belongs to one
// goroutine and ends with Finish or Abort.
type Writer struct {
	s    *Storage
	ctx  context.Context
	held *held

	order []*pending // as they came; those that are gone are left in
	fresh slab[pending]
	refs  []chunk.Ref // room for those of a part
	// files are those of order that are not gone; nil as long as they came in order.
	files  map[fileKey]*pending
	trees  map[string]bool
	weight int64 // rough bytes of files and trees in memory

	inline int64         // bytes of content kept inline
	chunks *chunk.Writer // once there was too much of it
	last   *pending      // the file written to last
	hash   hash.Hash     // SHA-256 of what the last file has so far
	states slab[[stateLength]byte]
	done   []*Layer // sub-layers that were spilled
}

type fileKey struct{ path, datum string }

func (k fileKey) compare(other fileKey) int {
	return compare(k.path, k.datum, other.path, other.datum)
}

// pending is a file of the stream.
type pending struct {
	fileKey
	op    op
	gone  bool // by the deletion of a tree
	parts []pendingPart
	first [1]pendingPart // where parts lie at first: most files have one
	size  int64
	// What the hash was when the stream went on to another file.
	sum   [sha256.Size]byte
	state []byte
}

// pendingPart is inline data, a copied part, or a run of the chunk stream.
type pendingPart struct {
	part
	off, n int64 // in the chunk stream, when n > 0
}

// NewWriter begins a stream.
func (s *Storage) NewWriter(ctx context.Context) *Writer {
	return &Writer{s: s, ctx: ctx, held: &held{make: s.opt.NewPins}, trees: map[string]bool{}, hash: sha256.New()}
}

// file returns the stream's file at a key, made with an append if it is new.
func (w *Writer) file(path, datum string) *pending {
	k := fileKey{path, datum}
	if w.last != nil && w.last.fileKey == k {
		return w.last
	}
	if n := len(w.order); w.files == nil && n > 0 && w.order[n-1].compare(k) >= 0 {
		w.index()
	}
	p := w.files[k]
	if p == nil {
		p = &w.fresh.take(len(w.order))[0]
		p.fileKey, p.op, p.parts = k, opAppend, p.first[:0]
		if w.files != nil {
			w.files[k] = p
		}
		w.order = append(w.order, p)
		w.weight += 320 + int64(len(path)+len(datum))
	}
	return p
}

// index makes files, for keys that do not come in order.
func (w *Writer) index() {
	w.files = make(map[fileKey]*pending, 2*len(w.order))
	for _, p := range w.order {
		w.files[p.fileKey] = p
	}
}

// begin makes p the file being written to and readies the hash.
func (w *Writer) begin(p *pending) error {
	if w.last == p {
		return nil
	}
	if err := w.rest(); err != nil {
		return err
	}
	if p.state != nil {
		if err := w.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(p.state); err != nil {
			return fmt.Errorf("hash state: %w", err)
		}
	} else {
		w.hash.Reset()
	}
	w.last = p
	if w.chunks != nil {
		return w.chunks.Boundary()
	}
	return nil
}

// rest puts the hash of the file written to last away.
func (w *Writer) rest() error {
	p := w.last
	if p == nil {
		return nil
	}
	w.last = nil
	w.hash.Sum(p.sum[:0])
	at := p.state[:0]
	if cap(at) < stateLength {
		at = w.states.take(len(w.order))[0][:0]
	}
	var err error
	if p.state, err = w.hash.(encoding.BinaryAppender).AppendBinary(at); err != nil {
		return fmt.Errorf("hash state: %w", err)
	}
	return nil
}

// Append adds data, given in pieces, to the end of a file, which it makes if need
// be: without data an empty one. It does not keep data.
func (w *Writer) Append(path, datum string, data ...[]byte) error {
	p := w.file(path, datum)
	if p.op == opDelete {
		p.op = opReplace
	}
	if err := w.begin(p); err != nil {
		return err
	}
	for _, b := range data {
		if len(b) == 0 {
			continue
		}
		w.hash.Write(b)
		p.size += int64(len(b))
		if err := w.put(p, b); err != nil {
			return err
		}
	}
	return w.spillIfLarge()
}

// put stores data of p: inline as long as there is little.
func (w *Writer) put(p *pending, data []byte) error {
	if w.chunks == nil && w.inline+int64(len(data)) > maxInlineData {
		if err := w.toChunks(); err != nil {
			return err
		}
	}
	if w.chunks != nil {
		return w.toStream(p, data)
	}
	w.inline += int64(len(data))
	w.weight += int64(len(data)) + 32
	p.parts = append(p.parts, pendingPart{part: part{data: bytes.Clone(data)}})
	return nil
}

// toStream writes data of p to the chunk stream.
func (w *Writer) toStream(p *pending, data []byte) error {
	off := w.chunks.Offset()
	if err := w.chunks.Write(data); err != nil {
		return err
	}
	n := int64(len(data))
	if k := len(p.parts) - 1; k >= 0 && p.parts[k].n > 0 && p.parts[k].off+p.parts[k].n == off {
		p.parts[k].n += n
		return nil
	}
	p.parts = append(p.parts, pendingPart{off: off, n: n})
	w.weight += 64
	return nil
}

// toChunks opens the chunk stream and moves the inline content there.
func (w *Writer) toChunks() error {
	w.chunks = w.s.chunks.NewWriter(w.ctx, w.held)
	w.inline = 0
	for _, p := range w.sorted() {
		parts := slices.Clone(p.parts)
		p.parts = p.parts[:0]
		for _, q := range parts {
			if q.data == nil {
				p.parts = append(p.parts, q)
				continue
			}
			if err := w.toStream(p, q.data); err != nil {
				return err
			}
		}
	}
	return nil
}

// sorted gives the files in order. Most streams bring them so.
func (w *Writer) sorted() []*pending {
	if w.files == nil {
		return w.order
	}
	byKey := func(a, b *pending) int { return a.compare(b.fileKey) }
	w.order = slices.DeleteFunc(w.order, func(p *pending) bool { return p.gone })
	if !slices.IsSortedFunc(w.order, byKey) {
		slices.SortFunc(w.order, byKey)
	}
	return w.order
}

// Delete removes the file of one datum; a missing one is no error.
func (w *Writer) Delete(path, datum string) error {
	p := w.file(path, datum)
	w.forget(p)
	*p = pending{fileKey: p.fileKey, op: opDelete}
	return w.spillIfLarge()
}

// forget lets go of a file whose content no longer counts.
func (w *Writer) forget(p *pending) {
	if w.last == p {
		w.last = nil
	}
	for _, q := range p.parts {
		if w.chunks == nil {
			w.inline -= int64(len(q.data))
		}
		w.weight -= int64(len(q.data))
	}
}

// DeleteTree removes everything below a directory, which ends in a slash; "/" is
// everything.
func (w *Writer) DeleteTree(dir string) error {
	if w.files == nil {
		w.index()
	}
	for k, p := range w.files {
		if strings.HasPrefix(k.path, dir) {
			w.forget(p)
			p.gone = true
			delete(w.files, k)
		}
	}
	for t := range w.trees {
		if strings.HasPrefix(t, dir) {
			delete(w.trees, t)
		}
	}
	w.trees[dir] = true
	w.weight += 64 + int64(len(dir))
	return w.spillIfLarge()
}

// Copy makes dst have the content of src, or appends it. No bytes are moved:
// both share the chunks. The hash of what is copied is known unless it has to
// follow other bytes of this stream. Chunks that are gone, because the commit of
// src was deleted meanwhile, give a *chunk.MissingError.
func (w *Writer) Copy(dst, datum string, src *File, appendTo bool) error {
	if !appendTo {
		if err := w.Delete(dst, datum); err != nil {
			return err
		}
	}
	p := w.file(dst, datum)
	if p.op == opDelete {
		p.op = opReplace
	}
	if err := w.begin(p); err != nil {
		return err
	}
	if p.size == 0 {
		h, err := w.s.hashAll(w.ctx, src.from)
		if err != nil {
			return err
		}
		w.hash = h
	} else if err := src.Stream(w.ctx, 0, func(b []byte) error {
		w.hash.Write(b)
		return nil
	}); err != nil {
		return err
	}
	p.size += src.Size
	for _, q := range src.parts() {
		if q.data == nil {
			if err := w.s.chunks.Keep(w.ctx, w.held, q.ref.Hash); err != nil {
				return err
			}
		}
		if q.data != nil && w.chunks != nil {
			if err := w.toStream(p, q.data); err != nil {
				return err
			}
			continue
		}
		w.inline += int64(len(q.data))
		w.weight += int64(len(q.data)) + 96
		p.parts = append(p.parts, pendingPart{part: q})
	}
	if w.chunks == nil && w.inline > maxInlineData {
		if err := w.toChunks(); err != nil {
			return err
		}
	}
	return w.spillIfLarge()
}

// spillIfLarge turns what is in memory into a layer of its own.
func (w *Writer) spillIfLarge() error {
	if w.weight < w.s.opt.StreamBytes {
		return nil
	}
	return w.spill()
}

func (w *Writer) spill() error {
	if err := w.rest(); err != nil {
		return err
	}
	var index *chunk.Index
	settled := make(chan error, 1)
	if chunks := w.chunks; chunks != nil {
		w.chunks = nil
		var err error
		if index, err = chunks.Seal(); err != nil {
			chunks.Abort()
			return err
		}
		// The disk gets its data while the layer is put together.
		go func() { settled <- chunks.Settle() }()
	} else {
		settled <- nil
	}
	l, err := w.layer(index)
	if settleErr := <-settled; err == nil {
		err = settleErr
	}
	if err != nil {
		return err
	}
	if l != nil {
		l.Pins = w.held.used() // by now all chunks are pinned
		w.done = append(w.done, l)
	}
	w.files, w.order, w.trees = nil, nil, map[string]bool{}
	w.fresh, w.states = slab[pending]{}, slab[[stateLength]byte]{}
	w.weight, w.inline, w.last = 0, 0, nil
	return nil
}

// layer stores the layer of what is in memory; nil if there is nothing.
func (w *Writer) layer(index *chunk.Index) (*Layer, error) {
	out := w.s.newObjectWriter(w.ctx, w.held)
	trees := make([]string, 0, len(w.trees))
	for t := range w.trees {
		trees = append(trees, t)
	}
	slices.Sort(trees)
	out.plain = len(trees) == 0
	var e *entry
	for _, p := range w.sorted() {
		for len(trees) > 0 && trees[0] < p.path {
			out.add(&entry{path: trees[0], op: opDeleteTree})
			trees = trees[1:]
		}
		if e == nil || out.keeps() {
			e = &entry{}
		}
		w.entry(e, p, index)
		out.add(e)
	}
	for _, t := range trees {
		out.add(&entry{path: t, op: opDeleteTree})
	}
	return out.finish()
}

// entry fills in the layer's entry of a pending file, in the memory of the one
// that was there.
func (w *Writer) entry(e *entry, p *pending, index *chunk.Index) {
	*e = entry{path: p.path, datum: p.datum, op: p.op, size: p.size, parts: e.parts[:0]}
	if p.op == opDelete {
		return
	}
	for _, q := range p.parts {
		if q.n == 0 {
			e.parts = appendPart(e.parts, q.part)
			continue
		}
		w.refs = index.AppendRefs(w.refs[:0], q.off, q.n)
		for _, ref := range w.refs {
			e.parts = append(e.parts, part{ref: ref})
		}
	}
	e.sum = p.sum
	if e.size > keepState {
		e.state = p.state
	}
}

// appendPart adds a part, joining inline data with inline data before it.
func appendPart(parts []part, p part) []part {
	if k := len(parts) - 1; p.data != nil && k >= 0 && parts[k].data != nil {
		parts[k].data = slices.Concat(parts[k].data, p.data)
		return parts
	}
	if p.data != nil && len(p.data) == 0 {
		return parts
	}
	return append(parts, p)
}

// Finish makes everything durable and returns the stream's layers, bottom first:
// none without operations, several after a very long stream. Abort has to be
// called once they are stored.
func (w *Writer) Finish() ([]*Layer, error) {
	if err := w.spill(); err != nil {
		w.Abort()
		return nil, fmt.Errorf("finish file set: %w", err)
	}
	return w.done, nil
}

// Abort ends the stream and releases its pins: after Finish it must not be called
// before the layers are stored or given up. What reached the bucket for nothing
// stays until garbage collection.
func (w *Writer) Abort() {
	if w.chunks != nil {
		w.chunks.Abort()
		w.chunks = nil
	}
	w.files, w.order, w.done = nil, nil, nil
	w.held.release()
}
