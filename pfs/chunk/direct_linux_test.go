package chunk

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// canDirect tells whether the file system of a directory writes past the page cache.
func canDirect(t *testing.T, dir string) bool {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "probe"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := writeDirect(f, randomBytes(t, directSize))
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

// sizes are lengths of objects around those where something changes.
var sizes = []int{
	0, 1, directAlign, directSize - 1, directSize, directSize + 1,
	directSize + directAlign - 1, directSize + directAlign, 3<<20 + 77, MaxSize + headerSize,
}

func TestDirBucket_ObjectsOfAllSizes(t *testing.T) {
	dir := t.TempDir()
	b, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, size := range sizes {
		data := randomBytes(t, size)
		for name, parts := range map[string][][]byte{
			"one piece":      {data},
			"odd memory":     {append(make([]byte, 1, 1+size), data...)[1:]},
			"several pieces": {data[:size/3], data[size/3 : size/2], data[size/2:]},
		} {
			key := fmt.Sprintf("%d/%s", size, name)
			if err := b.Put(t.Context(), key, parts...); err != nil {
				t.Fatalf("put %s: %v", key, err)
			}
			for _, once := range []bool{false, true} {
				for what, dst := range map[string][]byte{"new": nil, "a buffer": (&buffers{}).get(size), "little": make([]byte, 0, size)} {
					got, err := b.Append(t.Context(), dst, key, once)
					if err != nil || !bytes.Equal(got, data) {
						t.Errorf("%s, once %v, into %s: %d other bytes, %v", key, once, what, len(got), err)
					}
				}
				if got, err := b.Append(t.Context(), []byte("before"), key, once); err != nil || !bytes.Equal(got, append([]byte("before"), data...)) {
					t.Errorf("%s, once %v, behind other bytes: %d others, %v", key, once, len(got), err)
				}
			}
		}
	}
}

// TestDirect has the bytes of a large object pass the page cache on their way to the disk and back,
// where the file system of the tests can do that.
func TestDirect(t *testing.T) {
	dir := t.TempDir()
	if !canDirect(t, dir) {
		t.Skip("the file system of the test's directory keeps everything in the page cache")
	}
	b, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	data := append((&buffers{}).get(3<<20), randomBytes(t, 3<<20-100)...)
	if err := b.Put(t.Context(), "object", data); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "object"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if inPageCache(f, len(data)) {
		t.Error("a large object that was written is in the page cache")
	}
	got := (&buffers{}).get(len(data))[:len(data)]
	if !readDirect(f, got) || !bytes.Equal(got, data) {
		t.Fatal("a large object is not read past the page cache, or wrongly")
	}
	if inPageCache(f, len(data)) {
		t.Error("a large object that was read once is in the page cache")
	}
	if _, err := b.Append(t.Context(), nil, "object", false); err != nil {
		t.Fatal(err)
	}
	if !inPageCache(f, len(data)) {
		t.Error("a large object that is likely to be read again is not in the page cache")
	}
	if readDirect(f, got) {
		t.Error("it is in the page cache, and the disk was asked")
	}
}

// TestDirect_Refused has the system refuse what it is asked for, since the place in the
// file or in memory is odd: then it is done in the ordinary way.
func TestDirect_Refused(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := append([]byte("odd"), randomBytes(t, directSize+5)...)
	if _, err := f.Write(want[:3]); err != nil {
		t.Fatal(err)
	}
	data := append((&buffers{}).get(len(want)), want[3:]...)
	o := &osFile{File: f}
	if n, err := o.Write(data); n != len(data) || err != nil {
		t.Fatalf("write at an odd place: %d, %v", n, err)
	}
	if n, err := o.Write([]byte("more")); n != 4 || err != nil {
		t.Fatalf("write more: %d, %v", n, err)
	}
	want = append(want, "more"...)
	got, err := io.ReadAll(io.NewSectionReader(f, 0, int64(len(want))+1))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d other bytes, %v", len(got), err)
	}
	if readDirect(f, make([]byte, directSize+1)[1:]) {
		t.Error("odd memory was filled past the page cache")
	}
}

// TestDirect_Truncated: a file that has become shorter is not taken for whole.
func TestDirect_Truncated(t *testing.T) {
	dir := t.TempDir()
	b, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	data := append((&buffers{}).get(1<<20), randomBytes(t, 1<<20)...)
	if err := b.Put(t.Context(), "object", data); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "object"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(directSize + 10); err != nil {
		t.Fatal(err)
	}
	if readDirect(f, data) {
		t.Error("a file of half the size was read whole")
	}
}
