package fileset

import (
	"context"
	"fmt"
	"math/bits"
	"slices"

	"github.com/minipachd/minipachd/pfs/chunk"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// fanOut is how many layers of one tier are folded into one of the next: every
// byte of a layer is written again about once for each power of fanOut by which
// the content grows. It is the size-tiered scheme of log-structured merge trees
// (O'Neil et al., "The Log-Structured Merge-Tree", Acta Informatica 33, 1996).
const fanOut = 4

// tier is the power of 4 of a layer's size, from 512 bytes on. It is the size before
// compression, in which layers with and without it compare.
func tier(ref *recordpb.LayerRef) int {
	return (bits.Len64(max(ref.GetRawBytes(), ref.GetEncodedBytes())/512) + 1) / 2
}

// run finds the layers on top of the stack that should become one: fanOut of one
// tier, for the lowest tier there is, with all smaller ones above and between.
func run(stack []*recordpb.LayerRef) (lo, hi int) {
	hi = len(stack)
	highest := 0
	for _, ref := range stack {
		highest = max(highest, tier(ref))
	}
	for t := range highest + 1 {
		n := 0
		for lo = hi; lo > 0 && tier(stack[lo-1]) <= t; lo-- {
			if tier(stack[lo-1]) == t {
				n++
			}
		}
		if n >= fanOut {
			return lo, hi
		}
	}
	return hi, hi
}

// Plan finds a run of a stack that is worth folding with Compact; lo == hi if
// there is none. Folding whatever it finds keeps a stack at about three layers
// for each power of four between the smallest layer and the largest.
func Plan(stack []*recordpb.LayerRef) (lo, hi int) { return run(stack) }

// fold merges small layers on top of the stack while the result stays inline.
func (s *Storage) fold(ctx context.Context, a *Applied, known []*Layer) ([]*Layer, error) {
	var folded []*Layer
	for {
		lo, hi := run(a.Stack)
		if lo == hi {
			return folded, nil
		}
		var size uint64
		for _, ref := range a.Stack[lo:hi] {
			size += ref.GetEncodedBytes()
			if !ref.GetInline() {
				size += maxInline
			}
		}
		if size > maxInline {
			return folded, nil // for the background
		}
		es, err := s.mergeRun(ctx, a.Stack[lo:hi], lo == 0, known)
		if err != nil {
			return nil, err
		}
		if len(es) == 0 {
			a.Stack = slices.Delete(a.Stack, lo, hi)
			return folded, nil
		}
		l, ok := s.newLayer(es)
		if !ok {
			return folded, nil
		}
		for _, k := range known { // what the layer takes over may hang on their pins
			if k.Pins != nil && slices.ContainsFunc(a.Stack[lo:hi], func(r *recordpb.LayerRef) bool { return string(r.GetId()) == string(k.Ref.GetId()) }) {
				l.Pins = k.Pins
			}
		}
		known = append(slices.Clip(known), l)
		folded = append(folded, l)
		a.Stack = slices.Replace(a.Stack, lo, hi, l.Ref)
	}
}

// mergeRun folds layers that fit into memory.
func (s *Storage) mergeRun(ctx context.Context, refs []*recordpb.LayerRef, bottom bool, known []*Layer) ([]*entry, error) {
	var es []*entry
	err := s.eachFolded(ctx, refs, bottom, known, func(e *entry) error {
		es = append(es, e)
		return nil
	})
	return es, err
}

// CompactOption changes how Compact works.
type CompactOption func(dropDeletions *bool)

// KeepDeletions keeps deletions though nothing lies below, for layers that are
// to be put on something else.
func KeepDeletions() CompactOption { return func(drop *bool) { *drop = false } }

// Compact folds stack[lo:hi] into one layer, stored durably in the bucket if it
// does not fit into etcd, that may replace them in any stack. Deletions are left
// out when nothing lies below, that is when lo is 0. The result is nil if nothing
// is left; the caller releases it. Chunks that it takes over from the folded
// layers are not pinned: it may be stored only by a transaction that compares a
// record which refers to all of these. What Compact holds in memory is a block
// of each layer, and the index of the new one.
func (s *Storage) Compact(ctx context.Context, stack []*recordpb.LayerRef, lo, hi int, opts ...CompactOption) (*Layer, error) {
	bottom := lo == 0
	for _, o := range opts {
		o(&bottom)
	}
	h := &held{make: s.opt.NewPins}
	w := s.newObjectWriter(ctx, h)
	if err := s.eachFolded(ctx, stack[lo:hi], bottom, nil, func(e *entry) error {
		packed, err := s.repack(ctx, h, e)
		if err == nil {
			w.add(packed)
		}
		return err
	}); err != nil {
		w.abort()
		h.release()
		return nil, fmt.Errorf("fold %d layers: %w", hi-lo, err)
	}
	l, err := w.finish()
	if err != nil || l == nil {
		h.release()
	}
	return l, err
}

// eachFolded calls fn with the entries of the layer that refs fold into.
func (s *Storage) eachFolded(ctx context.Context, refs []*recordpb.LayerRef, bottom bool, known []*Layer, fn func(*entry) error) error {
	m, err := s.Open(refs, known...).merge(ctx, "")
	if err != nil {
		return err
	}
	var g group
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		ok, err := m.next(ctx, &g)
		if err != nil || !ok {
			return err
		}
		e, err := s.folded(ctx, &g, bottom)
		if err != nil {
			return err
		}
		if e == nil {
			continue
		}
		if err := fn(e); err != nil {
			return err
		}
	}
}

// folded gives the one entry that a group of entries amounts to, nil for none.
func (s *Storage) folded(ctx context.Context, g *group, bottom bool) (*entry, error) {
	if g.tree {
		if bottom {
			return nil, nil
		}
		return &entry{path: g.path, op: opDeleteTree}, nil
	}
	if len(g.entries) == 0 {
		return nil, nil // a deleted tree, itself in this layer, hides it
	}
	live := g.live()
	if len(live) == 0 {
		if bottom || g.treeBelow {
			return nil, nil
		}
		return g.entries[0], nil
	}
	if len(g.entries) == 1 {
		return g.entries[0], nil
	}
	e := &entry{path: g.path, datum: g.datum, op: opReplace}
	if g.entries[0].op == opAppend {
		e.op = opAppend
	}
	for _, l := range live {
		e.size += l.size
	}
	e.parts = joinParts(live)
	h, err := s.hashAll(ctx, live)
	if err != nil {
		return nil, err
	}
	return e, e.setSum(h)
}

// joinParts concatenates parts, inline runs into one.
func joinParts(es []*entry) []part {
	var parts []part
	var run []byte
	flush := func() {
		if len(run) > 0 {
			parts = append(parts, part{data: run})
			run = nil
		}
	}
	for _, e := range es {
		for _, p := range e.parts {
			if p.data != nil {
				run = append(run, p.data...)
				continue
			}
			flush()
			parts = append(parts, p)
		}
	}
	flush()
	return parts
}

// Limits at which a fold writes a file's bytes anew.
const (
	maxEntryInline = 64 << 10      // inline bytes of one entry
	smallChunk     = chunk.MinSize // a part below it counts as small
	maxSmallParts  = 8             // small parts in a row
)

// repack moves much inline content into chunks, and rows of small chunks into
// larger ones, so that a file appended to for ever has few parts.
func (s *Storage) repack(ctx context.Context, h *held, e *entry) (*entry, error) {
	if len(e.parts) < maxSmallParts && e.size <= maxEntryInline {
		return e, nil // as most are
	}
	var parts []part
	for i := 0; i < len(e.parts); {
		j := i
		var size, inline int64
		for j < len(e.parts) && e.parts[j].size() < smallChunk {
			size += e.parts[j].size()
			inline += int64(len(e.parts[j].data))
			j++
		}
		if inline <= maxEntryInline && j-i < maxSmallParts {
			j = max(j, i+1)
			parts = append(parts, e.parts[i:j]...)
			i = j
			continue
		}
		w := s.chunks.NewWriter(ctx, h)
		if err := s.stream(ctx, e.parts[i:j], 0, w.Write); err != nil {
			w.Abort()
			return nil, err
		}
		index, err := w.Close()
		if err != nil {
			return nil, err
		}
		for _, ref := range index.AppendRefs(nil, 0, size) {
			parts = append(parts, part{ref: ref})
		}
		i = j
	}
	packed := *e
	packed.parts = parts
	return &packed, nil
}
