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
	hash hash.Hash // nil where it is not wanted
	n    int       // its place in the list of all directories
}

func (d *openDir) child(name string, size int64, sum []byte) {
	d.size += size
	if d.hash == nil {
		return
	}
	d.hash.Write([]byte(name))
	d.hash.Write([]byte{0})
	d.hash.Write(sum)
}

// walker turns a sorted row of files into directories: enter is called before
// what is in one, leave after it, with its totals.
type walker struct {
	root  string // "/" or "/d/": directories above it are not reported
	from  string // what comes before it is passed over; empty for nothing
	stack []*openDir
	// hashes tells whether to hash the directory at a depth, the root's being 0; nil
	// for all. Those below a hashed one must be hashed as well.
	hashes func(depth int) bool
	// want tells whether the hash of a file is wanted though that of its directory
	// is not; nil for always.
	want  func(path string) bool
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
	dir := w.stack[len(w.stack)-1]
	var sum []byte
	if w.want == nil || w.want(f.Path) || dir.hash != nil {
		var err error
		if sum, err = f.Hash(ctx); err != nil {
			return false, err
		}
	}
	dir.child(f.Path[len(dir.path):], f.Size, sum)
	return w.file(&Node{Path: f.Path, Datum: f.Datum, Size: f.Size, Hash: sum, File: f}), nil
}

func (w *walker) push(path string) bool {
	d := &openDir{path: path, n: w.count}
	if w.hashes == nil || w.hashes(len(w.stack)) {
		d.hash = sha256.New()
	}
	w.stack = append(w.stack, d)
	w.count++
	return w.enter(path, w.count-1)
}

func (w *walker) pop() bool {
	n := len(w.stack) - 1
	d := w.stack[n]
	w.stack = w.stack[:n]
	var sum []byte
	if d.hash != nil {
		sum = d.hash.Sum(nil)
	}
	if n > 0 {
		up := w.stack[n-1]
		up.child(d.path[len(up.path):], d.size, sum)
	}
	return w.leave(d.n, &Node{Path: d.path, Dir: true, Size: d.size, Hash: sum})
}

// run walks the files below root.
func (w *walker) run(ctx context.Context, v *View) error {
	for f, err := range v.Files(ctx, max(w.root, w.from)) {
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

// totals finds out the sizes and hashes of a directory and all below it, in the
// order of their paths.
func (v *View) totals(ctx context.Context, root string) ([]total, error) {
	var all []total
	w := &walker{
		root: root,
		enter: func(string, int) bool {
			all = append(all, total{})
			return true
		},
		file: func(*Node) bool { return true },
		leave: func(n int, node *Node) bool {
			all[n] = total{size: node.Size, hash: [sha256.Size]byte(node.Hash)}
			return true
		},
	}
	return all, w.run(ctx, v)
}

// Walk yields a directory ("/" or "/d/"), then everything below it in byte order
// of the paths, a directory before its contents. A directory without files yields
// nothing. Duplicate paths and collisions are errors.
//
// Want is asked about each node right before it is yielded: whether the hash of it is
// wanted, and of a directory the size; otherwise they are left out. Nil
// stands for always. Where a directory's are wanted, its files are passed over twice, and
// 40 bytes are held for each directory below it.
func (v *View) Walk(ctx context.Context, root string, want func(path string) bool) iter.Seq2[*Node, error] {
	if want == nil {
		want = func(string) bool { return true }
	}
	return func(yield func(*Node, error) bool) {
		known := "" // the directory whose totals are known
		var totals []total
		next := 0
		var failed error
		w := &walker{
			root:   root,
			hashes: func(int) bool { return false },
			want:   want,
			enter: func(path string, _ int) bool {
				wanted := want(path)
				if known == "" || !strings.HasPrefix(path, known) {
					if !wanted {
						return yield(&Node{Path: path, Dir: true}, nil)
					}
					known, next = path, 0
					if totals, failed = v.totals(ctx, path); failed != nil {
						return false
					}
				}
				t := &totals[next]
				next++
				return yield(&Node{Path: path, Dir: true, Size: t.size, Hash: t.hash[:]}, nil)
			},
			file:  func(n *Node) bool { return yield(n, nil) },
			leave: func(int, *Node) bool { return true },
		}
		err := w.run(ctx, v)
		if failed != nil {
			err = failed
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// Children yields the files and directories right below a directory ("/" or
// "/d/"), in byte order of their paths: all of them, or those after a path, which
// costs nothing for what comes before. A missing directory yields nothing.
func (v *View) Children(ctx context.Context, dir, after string) iter.Seq2[*Node, error] {
	return func(yield func(*Node, error) bool) {
		isChild := func(path string) bool {
			rest := strings.TrimSuffix(path[len(dir):], "/")
			return rest != "" && !strings.Contains(rest, "/")
		}
		emit := func(n *Node) bool { return !isChild(n.Path) || n.Path <= after || yield(n, nil) }
		w := &walker{
			root:   dir,
			from:   childAfter(dir, after),
			hashes: func(depth int) bool { return depth > 0 }, // its own is not shown
			enter:  func(string, int) bool { return true },
			file:   emit,
			leave:  func(_ int, n *Node) bool { return emit(n) },
		}
		if err := w.run(ctx, v); err != nil {
			yield(nil, err)
		}
	}
}

// childAfter is where the files begin that are, or are below, the children of a
// directory after a path.
func childAfter(dir, after string) string {
	rest, ok := strings.CutPrefix(after, dir)
	if i := strings.IndexByte(rest, '/'); ok && i >= 0 {
		return dir + rest[:i] + "0" // '/' + 1: the child that holds the path is before it
	}
	return after
}

// Stat returns the file at a path, or the directory: "/d" and "/d/" both find
// one. Nothing there gives *NotFoundError; a root without files is nothing. A datum
// that is not empty selects its file among those at the path, which otherwise must
// not be several.
func (v *View) Stat(ctx context.Context, path, datum string) (*Node, error) {
	n, err := v.Find(ctx, path, datum)
	if err != nil || !n.Dir {
		return n, err
	}
	all, err := v.totals(ctx, n.Path)
	if err != nil {
		return nil, err
	}
	n.Size, n.Hash = all[0].size, all[0].hash[:]
	return n, nil
}

// Find is Stat without the size and hash of a directory, which take a look at
// everything below it.
func (v *View) Find(ctx context.Context, path, datum string) (*Node, error) {
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
	for f, err := range v.Files(ctx, dir) {
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(f.Path, dir) {
			break
		}
		return &Node{Path: dir, Dir: true}, nil
	}
	return nil, &NotFoundError{Path: path}
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
