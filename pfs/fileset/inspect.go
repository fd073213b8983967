package fileset

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/minipachd/minipachd/pfs/chunk"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// Chunks calls fn with every chunk that the layer of a reference and its record
// refers to, as often as it does. It reads past the caches and leaves them alone.
func (s *Storage) Chunks(ctx context.Context, ref *recordpb.LayerRef, rec *recordpb.LayerRecord, fn func(chunk.Hash)) error {
	return s.entries(ctx, ref, rec, func(_ uint64, e *entry) error {
		for _, p := range e.parts {
			if p.data == nil {
				fn(p.ref.Hash)
			}
		}
		return nil
	})
}

// entries calls fn with every entry as it is stored now, in order, and its number.
func (s *Storage) entries(ctx context.Context, ref *recordpb.LayerRef, rec *recordpb.LayerRecord, fn func(n uint64, e *entry) error) error {
	var n uint64
	each := func(es []*entry) error {
		for _, e := range es {
			if err := fn(n, e); err != nil {
				return err
			}
			n++
		}
		return nil
	}
	switch body := rec.GetBody().(type) {
	case *recordpb.LayerRecord_Inline:
		es, err := decodeInline(body.Inline)
		if err != nil {
			return &CorruptError{Layer: hex.EncodeToString(ref.GetId()), Err: err}
		}
		return each(es)
	case *recordpb.LayerRecord_Object:
		l, _, err := s.openObject(ctx, ref, body.Object)
		if err != nil {
			return err
		}
		for i := range l.index {
			es, _, err := s.readBlock(ctx, l, i)
			if err != nil {
				return err
			}
			if err := each(es); err != nil {
				return err
			}
		}
		return nil
	default:
		return &CorruptError{Layer: hex.EncodeToString(ref.GetId()), Err: fmt.Errorf("unknown kind of record %T", body)}
	}
}

// VerifyLayer checks one layer as it is stored: that it decodes and is what the
// reference says, and that its chunks exist; with deep also that every byte has
// the recorded hashes. Faults are given to report with the path, empty if it is
// the layer itself; an error of report or of the context ends it.
func (s *Storage) VerifyLayer(ctx context.Context, ref *recordpb.LayerRef, rec *recordpb.LayerRecord, deep bool, report func(path string, fault error) error) error {
	id := hex.EncodeToString(ref.GetId())
	size := uint64(len(rec.GetInline()))
	if o := rec.GetObject(); o != nil {
		size = o.GetSize()
	}
	if _, inline := rec.GetBody().(*recordpb.LayerRecord_Inline); inline != ref.GetInline() || size != ref.GetEncodedBytes() {
		if err := report("", fmt.Errorf("layer %s has %d bytes (inline: %t), its reference says %d (inline: %t)", id, size, inline, ref.GetEncodedBytes(), ref.GetInline())); err != nil {
			return err
		}
	}
	v := &verifier{s: s, deep: deep}
	var n uint64
	var stop error // of report, which ends everything
	err := s.entries(ctx, ref, rec, func(i uint64, e *entry) error {
		n = i + 1
		fault := v.entry(ctx, e)
		if fault == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		stop = report(e.path, fault)
		return stop
	})
	switch {
	case stop != nil:
		return stop
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return report("", err)
	case n != ref.GetEntries():
		return report("", fmt.Errorf("layer %s has %d entries, its reference says %d", id, n, ref.GetEntries()))
	}
	return nil
}

// verifier checks entries; it remembers the chunk it dealt with last, since
// neighbours share one.
type verifier struct {
	s    *Storage
	deep bool
	last chunk.Hash
	seen bool
	data []byte
}

func (v *verifier) entry(ctx context.Context, e *entry) error {
	h := sha256.New()
	for _, p := range e.parts {
		data := p.data
		if data == nil {
			if err := v.chunk(ctx, p.ref); err != nil {
				return err
			}
			if !v.deep {
				continue
			}
			if end := uint64(p.ref.Off) + uint64(p.ref.Len); uint64(len(v.data)) != uint64(p.ref.Size) || end > uint64(len(v.data)) {
				return &chunk.CorruptError{Hash: p.ref.Hash, Reason: fmt.Sprintf("it has %d bytes, a reference says %d", len(v.data), p.ref.Size)}
			}
			data = v.data[p.ref.Off:][:p.ref.Len]
		}
		if v.deep {
			h.Write(data)
		}
	}
	if !v.deep || (e.op != opAppend && e.op != opReplace) {
		return nil
	}
	if [sha256.Size]byte(h.Sum(nil)) != e.sum {
		return fmt.Errorf("the content written to %s does not match its recorded hash", e.path)
	}
	if e.state == nil {
		return nil
	}
	resumed, err := resume(e.state)
	if err == nil && [sha256.Size]byte(resumed.Sum(nil)) != e.sum {
		err = errors.New("it does not lead to the recorded hash")
	}
	if err != nil {
		return fmt.Errorf("the recorded hash state of %s: %w", e.path, err)
	}
	return nil
}

// chunk finds out whether a chunk is there; with deep it reads and checks it.
func (v *verifier) chunk(ctx context.Context, ref chunk.Ref) error {
	if v.seen && v.last == ref.Hash {
		return nil
	}
	if v.deep {
		data, err := v.s.chunks.ReadStored(ctx, ref.Hash)
		if err != nil {
			return err
		}
		v.data = data
	} else if ok, err := v.s.chunks.Has(ctx, ref.Hash); err != nil {
		return err
	} else if !ok {
		return &chunk.MissingError{Hash: ref.Hash}
	}
	v.last, v.seen = ref.Hash, true
	return nil
}
