package chunk

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// randomBytes gives n bytes that do not compress.
func randomBytes(tb testing.TB, n int) []byte {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		tb.Fatal(err)
	}
	return b
}

// BenchmarkRawDisk is the floor under BenchmarkWriter: the same bytes in files of
// 2 MiB, each fsynced.
func BenchmarkRawDisk(b *testing.B) {
	data := randomBytes(b, 64<<20)
	dir := b.TempDir()
	b.SetBytes(int64(len(data)))
	for i := 0; b.Loop(); i++ {
		for off := 0; off < len(data); off += 2 << 20 {
			f, err := os.Create(filepath.Join(dir, strconv.Itoa(i)+"-"+strconv.Itoa(off)))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := f.Write(data[off : off+2<<20]); err != nil {
				b.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
			if err := f.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkCut measures finding the cuts alone.
func BenchmarkCut(b *testing.B) {
	data := randomBytes(b, 64<<20)
	c := cutter{cutRule: newCutRule(Sizes{Min: MinSize, Avg: AvgSize, Max: MaxSize})}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		for p := data; len(p) > 0; {
			n, _ := c.next(p)
			p = p[n:]
		}
	}
}

// BenchmarkSum measures hashing alone.
func BenchmarkSum(b *testing.B) {
	data := randomBytes(b, AvgSize)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		Sum(data)
	}
}

// BenchmarkCompressTrial measures finding out that a chunk does not compress.
func BenchmarkCompressTrial(b *testing.B) {
	data := randomBytes(b, AvgSize)
	c := newCodec()
	free := &buffers{}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, pays := c.compress(data, free); pays {
			b.Fatal("random bytes were compressed")
		}
	}
}
