package fileset

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"iter"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Node is a file or a directory of a view.
type Node struct {
	Path  string // of a directory with a slash at its end; the root is "/"
	Datum string // of a file
	Dir   bool
	Size  int64 // of a directory: of all files below it
	// Hash of a file is that of its content; of a directory, SHA-256 over the
	// names and hashes of its children in order of their paths.
	Hash []byte
	File *File // nil for a directory
}

// NotFoundError reports a path with neither file nor directory.
type NotFoundError struct{ Path string }

func (e *NotFoundError) Error() string { return fmt.Sprintf("file %s not found", e.Path) }

// GRPCStatus makes it NotFound.
func (e *NotFoundError) GRPCStatus() *status.Status { return status.New(codes.NotFound, e.Error()) }

// DuplicatePathError reports a path that two datums wrote.
type DuplicatePathError struct{ Path, First, Second string }

func (e *DuplicatePathError) Error() string {
	return fmt.Sprintf("duplicate path output by different datums (%s from %s and %s from %s)", e.Path, e.First, e.Path, e.Second)
}

// CollisionError reports a file that stands where another needs a directory.
type CollisionError struct{ Path string }

func (e *CollisionError) Error() string {
	return fmt.Sprintf("file / directory path collision (%s)", e.Path)
}

// checker watches files in order and finds those that cannot stand together.
type checker struct {
	files []fileKey // each is a string prefix of the next
}

func (c *checker) add(f *File) error { return c.path(f.Path, f.Datum) }

func (c *checker) path(path, datum string) error {
	for n := len(c.files); n > 0 && !strings.HasPrefix(path, c.files[n-1].path); n-- {
		c.files = c.files[:n-1]
	}
	for _, p := range c.files {
		switch {
		case p.path == path:
			return &DuplicatePathError{Path: path, First: p.datum, Second: datum}
		case path[len(p.path)] == '/':
			return &CollisionError{Path: path}
		}
	}
	c.files = append(c.files, fileKey{path, datum})
	return nil
}

// openDir is a directory whose files are being walked.
type openDir struct {
	path string
	size int64
	hash hash.Hash
	n    int // its place in the list of all directories
}

func (d *openDir) child(name string, size int64, sum []byte) {
	d.size += size
	d.hash.Write([]byte(name))
	d.hash.Write([]byte{0})
	d.hash.Write(sum)
}

// walker turns a sorted row of files into directories: enter is called before
// what is in one, leave after it, with its totals.
type walker struct {
	root  string // "/" or "/d/": directories above it are not reported
	stack []*openDir
	check checker
	count int
	enter func(path string, n int) bool
	file  func(*Node) bool
	leave func(n int, node *Node) bool
}

func (w *walker) add(ctx context.Context, f *File) (bool, error) {
	if err := w.check.add(f); err != nil {
		return false, err
	}
	for len(w.stack) > 0 && !strings.HasPrefix(f.Path, w.stack[len(w.stack)-1].path) {
		if !w.pop() {
			return false, nil
		}
	}
	begin := len(w.root)
	if n := len(w.stack); n > 0 {
		begin = len(w.stack[n-1].path)
	} else if !w.push(w.root) {
		return false, nil
	}
	for i := begin; i < len(f.Path); i++ {
		if f.Path[i] == '/' && !w.push(f.Path[:i+1]) {
			return false, nil
		}
	}
	sum, err := f.Hash(ctx)
	if err != nil {
		return false, err
	}
	dir := w.stack[len(w.stack)-1]
	dir.child(f.Path[len(dir.path):], f.Size, sum)
	return w.file(&Node{Path: f.Path, Datum: f.Datum, Size: f.Size, Hash: sum, File: f}), nil
}

func (w *walker) push(path string) bool {
	w.stack = append(w.stack, &openDir{path: path, hash: sha256.New(), n: w.count})
	w.count++
	return w.enter(path, w.count-1)
}

func (w *walker) pop() bool {
	n := len(w.stack) - 1
	d := w.stack[n]
	w.stack = w.stack[:n]
	sum := d.hash.Sum(nil)
	if n > 0 {
		up := w.stack[n-1]
		up.child(d.path[len(up.path):], d.size, sum)
	}
	return w.leave(d.n, &Node{Path: d.path, Dir: true, Size: d.size, Hash: sum})
}

// run walks the files below root.
func (w *walker) run(ctx context.Context, v *View) error {
	for f, err := range v.Files(ctx, w.root) {
		if err != nil {
			return err
		}
		if !strings.HasPrefix(f.Path, w.root) {
			break
		}
		if more, err := w.add(ctx, f); err != nil || !more {
			return err
		}
	}
	for len(w.stack) > 0 {
		if !w.pop() {
			return nil
		}
	}
	return nil
}

// total is what Walk remembers of a directory between its two passes.
type total struct {
	size int64
	hash [sha256.Size]byte
}

// Walk yields a directory ("/" or "/d/"), then everything below it in byte order
// of the paths, a directory before its contents. It passes over the files twice
// and holds 40 bytes for each directory. A directory without files yields
// nothing. Duplicate paths and collisions are errors.
func (v *View) Walk(ctx context.Context, root string) iter.Seq2[*Node, error] {
	return func(yield func(*Node, error) bool) {
		var totals []total
		first := &walker{
			root: root,
			enter: func(string, int) bool {
				totals = append(totals, total{})
				return true
			},
			file: func(*Node) bool { return true },
			leave: func(n int, node *Node) bool {
				totals[n] = total{size: node.Size, hash: [sha256.Size]byte(node.Hash)}
				return true
			},
		}
		if err := first.run(ctx, v); err != nil {
			yield(nil, err)
			return
		}
		second := &walker{
			root: root,
			enter: func(path string, n int) bool {
				return yield(&Node{Path: path, Dir: true, Size: totals[n].size, Hash: totals[n].hash[:]}, nil)
			},
			file:  func(n *Node) bool { return yield(n, nil) },
			leave: func(int, *Node) bool { return true },
		}
		if err := second.run(ctx, v); err != nil {
			yield(nil, err)
		}
	}
}

// Children yields the files and directories right below a directory ("/" or
// "/d/"), in byte order of their paths. A missing directory yields nothing.
func (v *View) Children(ctx context.Context, dir string) iter.Seq2[*Node, error] {
	return func(yield func(*Node, error) bool) {
		isChild := func(path string) bool {
			rest := strings.TrimSuffix(path[len(dir):], "/")
			return rest != "" && !strings.Contains(rest, "/")
		}
		emit := func(n *Node) bool { return !isChild(n.Path) || yield(n, nil) }
		w := &walker{
			root:  dir,
			enter: func(string, int) bool { return true },
			file:  emit,
			leave: func(_ int, n *Node) bool { return emit(n) },
		}
		if err := w.run(ctx, v); err != nil {
			yield(nil, err)
		}
	}
}

// Stat returns the file at a path, or the directory: "/d" and "/d/" both find
// one. Nothing there gives *NotFoundError; a root without files is nothing. A datum
// that is not empty selects its file among those at the path, which otherwise must
// not be several.
func (v *View) Stat(ctx context.Context, path, datum string) (*Node, error) {
	if !strings.HasSuffix(path, "/") {
		files, err := v.Lookup(ctx, path)
		if err != nil {
			return nil, err
		}
		if datum != "" && len(files) > 0 {
			files = slices.DeleteFunc(files, func(f *File) bool { return f.Datum != datum })
			if len(files) == 0 {
				return nil, &NotFoundError{Path: path}
			}
		}
		if len(files) > 1 {
			return nil, &DuplicatePathError{Path: path, First: files[0].Datum, Second: files[1].Datum}
		}
		if len(files) == 1 {
			sum, err := files[0].Hash(ctx)
			if err != nil {
				return nil, err
			}
			return &Node{Path: path, Datum: files[0].Datum, Size: files[0].Size, Hash: sum, File: files[0]}, nil
		}
	}
	dir := strings.TrimSuffix(path, "/") + "/"
	var found *Node
	w := &walker{
		root:  dir,
		enter: func(string, int) bool { return true },
		file:  func(*Node) bool { return true },
		leave: func(_ int, n *Node) bool {
			if n.Path == dir {
				found = n
			}
			return true
		},
	}
	if err := w.run(ctx, v); err != nil {
		return nil, err
	}
	if found == nil {
		return nil, &NotFoundError{Path: path}
	}
	return found, nil
}

// Total adds up the sizes of all files and checks that they can stand together.
func (v *View) Total(ctx context.Context) (size int64, err error) {
	var c checker
	for f, err := range v.Files(ctx, "") {
		if err != nil {
			return 0, err
		}
		if err := c.add(f); err != nil {
			return size, err
		}
		size += f.Size
	}
	return size, nil
}
