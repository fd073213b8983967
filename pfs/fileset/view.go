package fileset

import (
	"context"
	"fmt"
	"iter"
	"strings"

	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// View is the merge of a stack of layers. It may be used concurrently.
type View struct {
	s     *Storage
	refs  []*recordpb.LayerRef
	extra []*Layer
}

// Open gives the merged view of a stack, bottom first. extra has layers of it
// that are not stored yet. Nothing is read before the view is used.
func (s *Storage) Open(refs []*recordpb.LayerRef, extra ...*Layer) *View {
	return &View{s: s, refs: refs, extra: extra}
}

// File is one file of a view: what one datum wrote to one path.
type File struct {
	Path  string
	Datum string
	Size  int64 // bytes
	s     *Storage
	from  []*entry  // what it consists of, lowest first
	one   [1]*entry // where from lies if it is one
}

// merge walks all layers of a view in step.
type merge struct {
	cursors []*cursor // bottom first
}

// group is everything that layers say of one path and datum.
type group struct {
	path, datum string
	entries     []*entry // bottom first, those that are hidden left out
	tree        bool     // the path is a deleted tree, in some layer
	treeBelow   bool     // a deleted tree of these layers hides what lies under the group
}

func (v *View) merge(ctx context.Context, from string) (*merge, error) {
	m := &merge{}
	for _, ref := range v.refs {
		l, err := v.s.layer(ctx, ref, v.extra)
		if err != nil {
			return nil, err
		}
		m.cursors = append(m.cursors, &cursor{s: v.s, l: l})
	}
	return m, m.seek(ctx, from)
}

func (m *merge) seek(ctx context.Context, path string) error {
	for _, c := range m.cursors {
		if err := c.seek(ctx, path); err != nil {
			return err
		}
	}
	return nil
}

// next fills in g with the next path and datum; false means the end. g is reused.
func (m *merge) next(ctx context.Context, g *group) (bool, error) {
	var least *entry
	for _, c := range m.cursors {
		if c.cur != nil && (least == nil || compare(c.cur.path, c.cur.datum, least.path, least.datum) < 0) {
			least = c.cur
		}
	}
	if least == nil {
		return false, nil
	}
	g.path, g.datum = least.path, least.datum
	g.entries, g.tree, g.treeBelow = g.entries[:0], false, false
	for _, c := range m.cursors {
		if c.tree != "" && !strings.HasPrefix(g.path, c.tree) {
			c.tree = ""
		}
		if c.tree != "" {
			g.entries, g.treeBelow = g.entries[:0], true
		}
		if c.cur == nil || c.cur.path != g.path || c.cur.datum != g.datum {
			continue
		}
		e := c.cur
		switch e.op {
		case opDeleteTree:
			g.tree = true
			if c.tree == "" {
				c.tree = e.path
			}
		case opAppend:
			g.entries = append(g.entries, e)
		case opReplace, opDelete:
			g.entries = append(g.entries[:0], e)
		}
		if err := c.next(ctx); err != nil {
			return false, err
		}
	}
	return true, nil
}

// live gives the entries that make up a file: none if it is deleted or absent.
func (g *group) live() []*entry {
	es := g.entries
	if len(es) > 0 && es[0].op == opDelete {
		es = es[1:]
	}
	return es
}

// file gives the file of a group, nil if there is none.
func (g *group) file(s *Storage) *File {
	if g.tree {
		return nil
	}
	es := g.live()
	if len(es) == 0 {
		return nil
	}
	f := &File{Path: g.path, Datum: g.datum, s: s}
	f.from = append(f.one[:0], es...)
	for _, e := range es {
		f.Size += e.size
	}
	return f
}

// Files yields the files whose path is from or later, in order of path and
// datum.
func (v *View) Files(ctx context.Context, from string) iter.Seq2[*File, error] {
	return func(yield func(*File, error) bool) {
		m, err := v.merge(ctx, from)
		if err != nil {
			yield(nil, err)
			return
		}
		var g group
		for n := 0; ; n++ {
			if n%1024 == 0 && ctx.Err() != nil {
				yield(nil, ctx.Err())
				return
			}
			ok, err := m.next(ctx, &g)
			if err != nil {
				yield(nil, err)
				return
			}
			if !ok {
				return
			}
			if f := g.file(v.s); f != nil && !yield(f, nil) {
				return
			}
		}
	}
}

// Lookup returns the files at exactly this path, one for each datum.
func (v *View) Lookup(ctx context.Context, path string) ([]*File, error) {
	var found []*File
	for f, err := range v.Files(ctx, path) {
		if err != nil {
			return nil, err
		}
		if f.Path != path {
			break
		}
		found = append(found, f)
	}
	return found, nil
}

// Hash is the SHA-256 of the file's content: equal content has an equal hash,
// however it was written.
func (f *File) Hash(ctx context.Context) ([]byte, error) {
	if len(f.from) == 1 {
		return f.from[0].sum[:], nil
	}
	h, err := f.s.hashAll(ctx, f.from)
	if err != nil {
		return nil, fmt.Errorf("hash %s: %w", f.Path, err)
	}
	return h.Sum(nil), nil
}

// Stream calls fn with the content from offset off on, in pieces of at most a
// chunk. Pieces are shared with other readers: fn must neither modify nor keep
// them. An offset at or beyond the end gives nothing.
func (f *File) Stream(ctx context.Context, off int64, fn func([]byte) error) error {
	return f.Lend(ctx, off, returning(fn))
}

// Lend is Stream for an fn that keeps the pieces until it has called what is given
// with each, once; it need not be called.
func (f *File) Lend(ctx context.Context, off int64, fn func(piece []byte, back func()) error) error {
	if off < 0 {
		return fmt.Errorf("read %s: the offset %d is negative", f.Path, off)
	}
	if err := f.s.lend(ctx, f.parts(), off, fn); err != nil {
		return fmt.Errorf("read %s: %w", f.Path, err)
	}
	return nil
}

// parts joins what the file consists of.
func (f *File) parts() []part {
	if len(f.from) == 1 {
		return f.from[0].parts
	}
	var all []part
	for _, e := range f.from {
		all = append(all, e.parts...)
	}
	return all
}
