package fileset

import (
	"context"
	"errors"
	"slices"
	"strings"

	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// Applied is what a stack becomes when layers are put on top of it.
type Applied struct {
	// Stack is the new stack, bottom first.
	Stack []*recordpb.LayerRef
	// New are the layers of Stack that are not stored yet.
	New []*Layer
	// Size is the total size of all files.
	Size int64
	// Invalid says why the files cannot stand together: *DuplicatePathError or
	// *CollisionError; nil if they can.
	Invalid error
}

// walkRatio says when Apply looks at all files instead of the changed ones: when
// there are at most that many entries below for each one that changes.
const walkRatio = 4

// Apply puts the layers of one change on top of base. It checks the result,
// computes its size from baseSize, and folds small layers so that the stack
// stays short: at most 3 of each power of 4 in size. extra has layers of base
// that are not stored yet. Nothing is written.
func (s *Storage) Apply(ctx context.Context, base []*recordpb.LayerRef, baseSize int64, add []*Layer, extra ...*Layer) (*Applied, error) {
	a := &Applied{Stack: slices.Clone(base), Size: baseSize}
	known := slices.Concat(extra, add)
	var below, changed uint64
	for _, r := range base {
		below += r.GetEntries()
	}
	for _, l := range add {
		a.Stack = append(a.Stack, l.Ref)
		changed += l.Ref.GetEntries()
	}
	var err error
	switch {
	case len(add) == 0:
	case len(base) == 0 && len(add) == 1 && add[0].plain:
		a.Size = add[0].Content
	case below <= walkRatio*changed:
		a.Size, err = s.Open(a.Stack, known...).Total(ctx)
	default:
		a.Size, err = s.delta(ctx, base, baseSize, a.Stack, add, known)
	}
	if err != nil {
		var d *DuplicatePathError
		var c *CollisionError
		if !errors.As(err, &d) && !errors.As(err, &c) {
			return nil, err
		}
		a.Invalid = err
	}
	folded, err := s.fold(ctx, a, known)
	if err != nil {
		return nil, err
	}
	for _, ref := range a.Stack {
		for _, l := range slices.Concat(add, folded) {
			if l.Ref == ref {
				a.New = append(a.New, l)
			}
		}
	}
	return a, nil
}

// delta finds the new size by looking only at what changes.
func (s *Storage) delta(ctx context.Context, base []*recordpb.LayerRef, size int64, stack []*recordpb.LayerRef, add, known []*Layer) (int64, error) {
	old, err := s.Open(base, known...).merge(ctx, "")
	if err != nil {
		return 0, err
	}
	now, err := s.Open(stack, known...).merge(ctx, "")
	if err != nil {
		return 0, err
	}
	refs := make([]*recordpb.LayerRef, len(add))
	for i, l := range add {
		refs[i] = l.Ref
	}
	changes, err := s.Open(refs, known...).merge(ctx, "")
	if err != nil {
		return 0, err
	}
	d := &differ{s: s, old: old, now: now}
	var g group
	for {
		ok, err := changes.next(ctx, &g)
		if err != nil {
			return 0, err
		}
		if !ok {
			return size + d.delta, d.invalid
		}
		if g.tree {
			err = d.tree(ctx, g.path)
		} else {
			err = d.file(ctx, g.path)
		}
		if err != nil {
			return 0, err
		}
	}
}

// differ adds up how sizes change at changed paths, which come in order.
type differ struct {
	s        *Storage
	old, now *merge
	delta    int64
	invalid  error
	done     string   // the tree or path that was counted last
	parents  []string // of the last path: directories known to be no files
}

// tree counts everything below a deleted tree, once for nested ones.
func (d *differ) tree(ctx context.Context, dir string) error {
	if d.counted(dir) {
		return nil
	}
	d.done = dir
	before, err := d.below(ctx, d.old, dir)
	if err != nil {
		return err
	}
	after, err := d.below(ctx, d.now, dir)
	d.delta += after - before
	return err
}

func (d *differ) counted(path string) bool {
	return d.done == path || strings.HasSuffix(d.done, "/") && strings.HasPrefix(path, d.done)
}

func (d *differ) below(ctx context.Context, m *merge, dir string) (size int64, err error) {
	if err := m.seek(ctx, dir); err != nil {
		return 0, err
	}
	var g group
	for {
		ok, err := m.next(ctx, &g)
		if err != nil || !ok || !strings.HasPrefix(g.path, dir) {
			return size, err
		}
		if f := g.file(d.s); f != nil {
			size += f.Size
		}
	}
}

// file counts one path and checks that its file can stand there.
func (d *differ) file(ctx context.Context, path string) error {
	if !d.counted(path) {
		d.done = path
		before, _, err := d.at(ctx, d.old, path)
		if err != nil {
			return err
		}
		after, _, err := d.at(ctx, d.now, path)
		if err != nil {
			return err
		}
		d.delta += after - before
	}
	if d.invalid != nil {
		return nil
	}
	return d.check(ctx, path)
}

// at gives the size of all files at a path, and the files.
func (d *differ) at(ctx context.Context, m *merge, path string) (size int64, files []*File, err error) {
	if err := m.seek(ctx, path); err != nil {
		return 0, nil, err
	}
	var g group
	for {
		ok, err := m.next(ctx, &g)
		if err != nil || !ok || g.path != path {
			return size, files, err
		}
		if f := g.file(d.s); f != nil {
			size += f.Size
			files = append(files, f)
		}
	}
}

// check sets invalid if the file at path collides with another.
func (d *differ) check(ctx context.Context, path string) error {
	_, files, err := d.at(ctx, d.now, path)
	if err != nil || len(files) == 0 {
		return err
	}
	if len(files) > 1 {
		d.invalid = &DuplicatePathError{Path: path, First: files[0].Datum, Second: files[1].Datum}
		return nil
	}
	var parents []string
	for i := 1; i < len(path); i++ {
		if path[i] != '/' {
			continue
		}
		dir := path[:i]
		parents = append(parents, dir)
		if slices.Contains(d.parents, dir) {
			continue
		}
		_, above, err := d.at(ctx, d.now, dir)
		if err != nil {
			return err
		}
		if len(above) > 0 {
			d.invalid = &CollisionError{Path: path}
			return nil
		}
	}
	d.parents = parents
	// Anything below the file makes it a directory.
	inside := path + "/"
	if err := d.now.seek(ctx, inside); err != nil {
		return err
	}
	var g group
	for {
		ok, err := d.now.next(ctx, &g)
		if err != nil || !ok || !strings.HasPrefix(g.path, inside) {
			return err
		}
		if g.file(d.s) != nil {
			d.invalid = &CollisionError{Path: g.path}
			return nil
		}
	}
}
