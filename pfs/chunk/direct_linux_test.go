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
			var err error
			if len(parts) == 1 {
				err = b.PutBulk(t.Context(), key, parts[0])
			} else {
				err = b.Put(t.Context(), key, parts...)
			}
			if err != nil {
				t.Fatalf("put %s: %v", key, err)
			}
			for _, bulk := range []bool{false, true} {
				for what, dst := range map[string][]byte{"new": nil, "a buffer": (&buffers{}).get(size), "little": make([]byte, 0, size)} {
					got, err := b.Append(t.Context(), dst, key, bulk)
					if err != nil || !bytes.Equal(got, data) {
						t.Errorf("%s, bulk %v, into %s: %d other bytes, %v", key, bulk, what, len(got), err)
					}
				}
				if got, err := b.Append(t.Context(), []byte("before"), key, bulk); err != nil || !bytes.Equal(got, append([]byte("before"), data...)) {
					t.Errorf("%s, bulk %v, behind other bytes: %d others, %v", key, bulk, len(got), err)
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
	if err := b.PutBulk(t.Context(), "object", data); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "object"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if inPageCache(f, len(data)) {
		t.Error("bulk that was written is in the page cache")
	}
	got := (&buffers{}).get(len(data))[:len(data)]
	if !readDirect(f, got) || !bytes.Equal(got, data) {
		t.Fatal("bulk is not read past the page cache, or wrongly")
	}
	if inPageCache(f, len(data)) {
		t.Error("bulk that was read is in the page cache")
	}
	if _, err := b.Append(t.Context(), nil, "object", false); err != nil {
		t.Fatal(err)
	}
	if !inPageCache(f, len(data)) {
		t.Error("what is read as no bulk is not in the page cache")
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
	n, err := writeDirect(f, data)
	if err != nil {
		t.Fatalf("write at an odd place: %v", err)
	}
	if _, err := f.Write(data[n:]); err != nil {
		t.Fatalf("write the rest: %v", err)
	}
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
	if err := b.PutBulk(t.Context(), "object", data); err != nil {
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

// TestWriter_MuchDataIsBulk: the page cache has the beginning of a long stream, where the file
// system can do otherwise not what comes later.
func TestWriter_MuchDataIsBulk(t *testing.T) {
	dir := t.TempDir()
	direct := canDirect(t, dir)
	b, err := OpenDir(filepath.Join(dir, "objects"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s := NewStore(b, Options{})
	data := randomBytes(t, BulkSize+4*MaxSize)
	refs := writeAll(t, s, data)
	cached := func(ref Ref) bool {
		f, err := os.Open(filepath.Join(dir, "objects", filepath.FromSlash(ref.Hash.Key())))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return inPageCache(f, int(ref.Size))
	}
	if !cached(refs[0]) {
		t.Error("the first chunk is not in the page cache")
	}
	for i, off := 0, 0; i < len(refs); i++ {
		ref := refs[i]
		if direct && off > BulkSize && ref.Size >= directSize && cached(ref) {
			t.Errorf("chunk %d, from byte %d on, is in the page cache", i, off)
		}
		got, back, err := s.Borrow(t.Context(), ref, true)
		if err != nil || !bytes.Equal(got, data[off:off+int(ref.Len)]) {
			t.Fatalf("chunk %d: %d other bytes, %v", i, len(got), err)
		}
		back()
		off += int(ref.Len)
	}
}
