package fileset

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/minipachd/minipachd/pfs/chunk"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// memory is a LayerSource of what a test has stored.
type memory map[string]*recordpb.LayerRecord

func (m memory) Layer(_ context.Context, ref *recordpb.LayerRef) (*recordpb.LayerRecord, error) {
	rec, ok := m[string(ref.GetId())]
	if !ok {
		return nil, fmt.Errorf("layer %x was never stored", ref.GetId())
	}
	return rec, nil
}

func (m memory) put(ls ...*Layer) {
	for _, l := range ls {
		m[string(l.Ref.Id)] = l.Record
	}
}

func newStorage(t interface{ Fatal(...any) }, opt Options) (*Storage, memory) {
	b, err := chunk.OpenURL(context.Background(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	m := memory{}
	return New(chunk.NewStore(b, chunk.Options{}), b, m, opt), m
}

// model is what the files should be: content by path and datum.
type model map[fileKey]string

func (m model) deleteTree(dir string) {
	maps.DeleteFunc(m, func(k fileKey, _ string) bool { return strings.HasPrefix(k.path, dir) })
}

func (m model) size() (n int64) {
	for _, c := range m {
		n += int64(len(c))
	}
	return n
}

// invalid tells whether two files cannot stand together.
func (m model) invalid() bool {
	for a := range m {
		for b := range m {
			if a != b && (a.path == b.path || strings.HasPrefix(b.path, a.path+"/")) {
				return true
			}
		}
	}
	return false
}

func content(t interface{ Fatal(...any) }, f *File) string {
	var b bytes.Buffer
	if err := f.Stream(context.Background(), 0, func(p []byte) error { b.Write(p); return nil }); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// check compares a stack with the model, file by file and as a tree.
func check(t *rapid.T, s *Storage, stack []*recordpb.LayerRef, want model) {
	ctx := context.Background()
	v := s.Open(stack)
	got := model{}
	last := ""
	for f, err := range v.Files(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		if f.Path < last {
			t.Fatalf("%s comes after %s", f.Path, last)
		}
		last = f.Path
		c := content(t, f)
		got[fileKey{f.Path, f.Datum}] = c
		sum := sha256.Sum256([]byte(c))
		if h, err := f.Hash(ctx); err != nil || !bytes.Equal(h, sum[:]) || f.Size != int64(len(c)) {
			t.Fatalf("%s: size %d, hash %x, %v; want %d, %x", f.Path, f.Size, h, err, len(c), sum)
		}
	}
	if !maps.Equal(got, want) {
		t.Fatalf("files are\n%v\nwant\n%v", got, want)
	}
	for k, c := range want {
		files, err := v.Lookup(ctx, k.path)
		if err != nil || !slices.ContainsFunc(files, func(f *File) bool { return f.Datum == k.datum && f.Size == int64(len(c)) }) {
			t.Fatalf("lookup of %v: %v, %v", k, files, err)
		}
	}
	if want.invalid() {
		return
	}
	dirs := map[string]int64{}
	for k, c := range want {
		for i := range len(k.path) {
			if k.path[i] == '/' {
				dirs[k.path[:i+1]] += int64(len(c))
			}
		}
	}
	var nodes []string
	for n, err := range v.Walk(ctx, "/", nil) {
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, n.Path)
		if n.Dir && n.Size != dirs[n.Path] {
			t.Fatalf("directory %s has %d bytes, want %d", n.Path, n.Size, dirs[n.Path])
		}
		if st, err := v.Stat(ctx, n.Path, ""); err != nil || st.Size != n.Size || !bytes.Equal(st.Hash, n.Hash) {
			t.Fatalf("stat of %s: %v, %v; walk has %v", n.Path, st, err, n)
		}
	}
	var paths []string
	for k := range want {
		paths = append(paths, k.path)
	}
	paths = slices.Sorted(slices.Values(slices.Concat(paths, slices.Collect(maps.Keys(dirs)))))
	if !slices.Equal(nodes, paths) {
		t.Fatalf("walk gives %q, want %q", nodes, paths)
	}
	for dir := range dirs {
		wantChildren := slices.DeleteFunc(slices.Clone(paths), func(p string) bool {
			return p == dir || !strings.HasPrefix(p, dir) || strings.Contains(strings.TrimSuffix(p[len(dir):], "/"), "/")
		})
		whole := map[string]*Node{}
		for _, after := range append([]string{"", "/0", "/b0", "/d/e/z", "/z"}, paths...) {
			var children []string
			for n, err := range v.Children(ctx, dir, after) {
				if err != nil {
					t.Fatal(err)
				}
				children = append(children, n.Path)
				if after == "" {
					whole[n.Path] = n
				} else if w := whole[n.Path]; w == nil || n.Size != w.Size || !bytes.Equal(n.Hash, w.Hash) {
					t.Fatalf("child %s of %s after %s is %v, in the whole listing %v", n.Path, dir, after, n, w)
				}
			}
			if rest := slices.DeleteFunc(slices.Clone(wantChildren), func(p string) bool { return p <= after }); !slices.Equal(children, rest) {
				t.Fatalf("children of %s after %q are %q, want %q", dir, after, children, rest)
			}
		}
	}
}

// TestModel drives random streams against a map of files, and folds random runs
// in between: content, sizes, hashes and trees are always those of the map.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		opt := Options{}
		if rapid.Bool().Draw(t, "spill") {
			opt.StreamBytes = 2000
		}
		s, mem := newStorage(t, opt)
		name := rapid.SampledFrom([]string{"/a", "/b", "/a/x", "/a/y", "/a-b", "/d/e/f", "/d/e/g", "/d/h", "/d"})
		dir := rapid.SampledFrom([]string{"/", "/a/", "/d/", "/d/e/"})
		datum := rapid.SampledFrom([]string{"default", "default", "default", "other"})
		var stack []*recordpb.LayerRef
		var size int64
		want := model{}
		for range rapid.IntRange(1, 12).Draw(t, "streams") {
			before := maps.Clone(want)
			w := s.NewWriter(ctx)
			for range rapid.IntRange(0, 6).Draw(t, "operations") {
				k := fileKey{name.Draw(t, "path"), datum.Draw(t, "datum")}
				var err error
				switch rapid.IntRange(0, 9).Draw(t, "operation") {
				case 0:
					tree := dir.Draw(t, "tree")
					err = w.DeleteTree(tree)
					want.deleteTree(tree)
				case 1, 2:
					err = w.Delete(k.path, k.datum)
					delete(want, k)
				case 3:
					src := name.Draw(t, "source")
					files, lookErr := s.Open(stack).Lookup(ctx, src)
					if lookErr != nil {
						t.Fatal(lookErr)
					}
					if len(files) == 0 {
						continue
					}
					appendTo := rapid.Bool().Draw(t, "append")
					err = w.Copy(k.path, k.datum, files[0], appendTo)
					if !appendTo {
						want[k] = ""
					}
					want[k] += before[fileKey{src, files[0].Datum}]
				default:
					n := rapid.SampledFrom([]int{0, 1, 10, 300, 20_000, 70_000}).Draw(t, "bytes")
					data := bytes.Repeat([]byte{rapid.Byte().Draw(t, "byte")}, n)
					err = w.Append(k.path, k.datum, data)
					want[k] += string(data)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			layers, err := w.Finish()
			if err != nil {
				t.Fatal(err)
			}
			a, err := s.Apply(ctx, stack, size, layers)
			if err != nil {
				t.Fatal(err)
			}
			if (a.Invalid != nil) != want.invalid() {
				t.Fatalf("invalid: %v, want %v of %v", a.Invalid, want.invalid(), want)
			}
			if a.Invalid != nil { // such a commit is no base for others
				want = before
				continue
			}
			if a.Size != want.size() {
				t.Fatalf("size is %d, want %d", a.Size, want.size())
			}
			mem.put(a.New...)
			stack, size = a.Stack, a.Size
			if rapid.Bool().Draw(t, "fold") && len(stack) > 1 {
				lo := rapid.IntRange(0, len(stack)-1).Draw(t, "lo")
				hi := rapid.IntRange(lo+1, len(stack)).Draw(t, "hi")
				l, err := s.Compact(ctx, stack, lo, hi)
				if err != nil {
					t.Fatal(err)
				}
				if l == nil {
					stack = slices.Delete(slices.Clone(stack), lo, hi)
				} else {
					mem.put(l)
					stack = slices.Replace(slices.Clone(stack), lo, hi, l.Ref)
				}
			}
			// What is open is forgotten, so that stored bytes are read.
			fresh := New(s.chunks, s.bucket, mem, opt)
			check(t, fresh, stack, want)
		}
	})
}

// TestApply_StackStaysShort makes 10,000 small changes, as one-shot commits do.
func TestApply_StackStaysShort(t *testing.T) {
	ctx := t.Context()
	s, mem := newStorage(t, Options{})
	var stack []*recordpb.LayerRef
	var size int64
	longest, written := 0, 0
	var moved uint64 // entries that folds in the background wrote
	for i := range 10_000 {
		w := s.NewWriter(ctx)
		if err := w.Append(fmt.Sprintf("/f%d", i%1000), "default", bytes.Repeat([]byte{byte(i)}, 100)); err != nil {
			t.Fatal(err)
		}
		layers, err := w.Finish()
		if err != nil {
			t.Fatal(err)
		}
		a, err := s.Apply(ctx, stack, size, layers)
		if err != nil || a.Invalid != nil {
			t.Fatal(err, a.Invalid)
		}
		for _, l := range a.New {
			written += len(l.Record.GetInline())
		}
		mem.put(a.New...)
		stack, size = a.Stack, a.Size
		longest = max(longest, len(stack))
		if lo, hi := Plan(stack); hi > lo && i%10 == 0 { // the background, a little late
			l, err := s.Compact(ctx, stack, lo, hi)
			if err != nil {
				t.Fatal(err)
			}
			mem.put(l)
			stack = slices.Replace(stack, lo, hi, l.Ref)
			moved += l.Ref.Entries
		}
	}
	if moved > 25_000 { // bytes that compress well do not make a large layer a small one
		t.Errorf("%d entries folded in the background for 10,000 appends", moved)
	}
	if size != 1_000_000 || longest > 32 {
		t.Errorf("size %d, longest stack %d", size, longest)
	}
	t.Logf("longest stack %d, final %d, %.1f bytes of layers in etcd per byte of data, %.1f entries folded in the background per append",
		longest, len(stack), float64(written)/float64(size), float64(moved)/10_000)
	files, err := s.Open(stack).Lookup(ctx, "/f999")
	if err != nil || len(files) != 1 || files[0].Size != 1000 {
		t.Errorf("%v, %v", files, err)
	}
}

// FuzzDecode feeds the decoders garbage: errors, no panic, no huge allocation.
func FuzzDecode(f *testing.F) {
	e := &entry{path: "/a/b", datum: "default", op: opReplace, parts: []part{{data: []byte("x")}, {ref: chunk.Ref{Size: 10, Len: 5}}}}
	f.Add(encodeInline([]*entry{e, {path: "/c/", op: opDeleteTree}}))
	f.Add(encodeInline(nil)[3:])
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeInline(b)
		d := decoder{buf: b}
		_, _ = d.all(3)
		l := &layer{}
		_ = l.decodeIndex(b, 100)
	})
}

func BenchmarkWriter20000Files(b *testing.B) {
	s, mem := newStorage(b, Options{})
	data := make([]byte, 1024)
	for n := range b.N {
		w := s.NewWriter(b.Context())
		for i := range 20_000 {
			data = append([]byte(nil), data...)
			data[0], data[1], data[2] = byte(i), byte(i>>8), byte(n)
			if err := w.Append(fmt.Sprintf("/dir/%07d", i), "default", data); err != nil {
				b.Fatal(err)
			}
		}
		layers, err := w.Finish()
		if err != nil {
			b.Fatal(err)
		}
		a, err := s.Apply(b.Context(), nil, 0, layers)
		if err != nil || a.Invalid != nil {
			b.Fatal(err, a.Invalid)
		}
		mem.put(a.New...)
		nodes := 0
		for _, err := range s.Open(a.Stack).Walk(b.Context(), "/", nil) {
			if err != nil {
				b.Fatal(err)
			}
			nodes++
		}
		if nodes != 20_002 {
			b.Fatalf("%d nodes", nodes)
		}
	}
	b.ReportMetric(20_000*float64(b.N)/b.Elapsed().Seconds(), "files/s")
}

func BenchmarkDecodeBlock(b *testing.B) {
	c := encoder{}
	const n = 600
	for i := range n {
		c.add(&entry{path: fmt.Sprintf("/dir/%07d", i), datum: "default", parts: []part{{ref: chunk.Ref{Size: 1 << 20, Off: uint32(i), Len: 1024}}}})
	}
	b.ReportAllocs()
	for b.Loop() {
		d := decoder{buf: c.buf}
		if _, err := d.all(n); err != nil {
			b.Fatal(err)
		}
	}
}
