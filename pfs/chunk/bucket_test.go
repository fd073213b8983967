package chunk

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestBucket_Contract holds every bucket to the words of the Bucket interface that
// TestBucket does not touch.
func TestBucket_Contract(t *testing.T) {
	for name, url := range map[string]string{
		"dir": "file://" + filepath.ToSlash(t.TempDir()) + "/objects",
		"mem": "mem://",
	} {
		t.Run(name, func(t *testing.T) {
			b, err := OpenURL(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			t.Run("keys", func(t *testing.T) { bucketKeys(t, b) })
			t.Run("cancelled", func(t *testing.T) { bucketCancelled(t, b) })
			t.Run("pieces", func(t *testing.T) { bucketPieces(t, b) })
			t.Run("order", func(t *testing.T) { bucketOrder(t, b) })
			t.Run("concurrent", func(t *testing.T) { bucketConcurrent(t, b) })
		})
	}
}

func bucketKeys(t *testing.T, b Bucket) {
	for _, key := range []string{"", ".", "..", "/a", "a/", "a//b", "a/../b", "tmp", "tmp/x"} {
		if err := b.Put(t.Context(), key, []byte("x")); err == nil {
			t.Errorf("put accepts key %q", key)
		}
		if _, err := b.Get(t.Context(), key, 0, -1); err == nil {
			t.Errorf("get accepts key %q", key)
		}
	}
	if err := b.Sync(t.Context(), "never/put", "never"); err != nil {
		t.Errorf("sync of missing keys: %v", err)
	}
	if _, err := b.Get(t.Context(), "never/put", 3, 4); !errors.Is(err, ErrNotFound) {
		t.Errorf("get of a missing key: %v", err)
	}
	data := []byte("reused")
	if err := b.Put(t.Context(), "k/reused", data); err != nil {
		t.Fatal(err)
	}
	data[0] = 'X'
	got, err := b.Get(t.Context(), "k/reused", 0, -1)
	if err != nil || string(got) != "reused" {
		t.Errorf("the bucket kept the caller's buffer: %q, %v", got, err)
	}
	got[0] = 'Y'
	if again, err := b.Get(t.Context(), "k/reused", 0, -1); err != nil || string(again) != "reused" {
		t.Errorf("the bucket gave away its own memory: %q, %v", again, err)
	}
}

func bucketPieces(t *testing.T, b Bucket) {
	begin := func(ctx context.Context, pieces ...string) Object {
		t.Helper()
		o, err := b.Begin(ctx, "p/1")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pieces {
			if n, err := o.Write([]byte(p)); n != len(p) || err != nil {
				t.Fatalf("write %q: %d, %v", p, n, err)
			}
		}
		return o
	}
	want := func(content string) {
		t.Helper()
		got, err := b.Get(t.Context(), "p/1", 0, -1)
		if content == "" && errors.Is(err, ErrNotFound) {
			return
		}
		if err != nil || string(got) != content {
			t.Errorf("got %q, %v; want %q", got, err, content)
		}
		for o, err := range b.List(t.Context(), "") {
			if err != nil || strings.HasPrefix(o.Key, tmpDir) {
				t.Errorf("the listing has %q, %v", o.Key, err)
			}
		}
	}
	o := begin(t.Context(), "lost")
	want("")
	o.Abort()
	want("")
	o = begin(t.Context(), "one ", "", "two")
	want("")
	if err := o.Put(); err != nil {
		t.Fatal(err)
	}
	o.Abort()
	want("one two")
	ctx, cancel := context.WithCancel(t.Context())
	o = begin(ctx, "three")
	cancel()
	if err := o.Put(); !errors.Is(err, context.Canceled) {
		t.Errorf("put after the context's end: %v", err)
	}
	want("one two")
	if o, err := b.Begin(t.Context(), "tmp/x"); err == nil {
		o.Abort()
		t.Error("a key in tmp/ was accepted")
	}
	if err := b.Delete(t.Context(), "p/1"); err != nil {
		t.Error(err)
	}
}

func bucketCancelled(t *testing.T, b Bucket) {
	if err := b.Put(t.Context(), "c/1", []byte("x")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	check := func(op string, err error) {
		t.Helper()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v", op, err)
		}
	}
	check("put", b.Put(ctx, "c/2", []byte("x")))
	_, err := b.Get(ctx, "c/1", 0, -1)
	check("get", err)
	_, err = b.Exists(ctx, "c/1")
	check("exists", err)
	check("delete", b.Delete(ctx, "c/1"))
	check("sync", b.Sync(ctx, "c/1"))
	for _, e := range b.List(ctx, "c/") {
		err = e
	}
	check("list", err)
	if ok, err := b.Exists(t.Context(), "c/2"); ok || err != nil {
		t.Errorf("a cancelled put left something: %v, %v", ok, err)
	}
}

func bucketOrder(t *testing.T, b Bucket) {
	for _, key := range []string{"o/a/1", "o/a-b", "o/ab", "o/a.x", "o/b/c/d", "o/a0"} {
		if err := b.Put(t.Context(), key, []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	list := func(prefix string, limit int) string {
		var keys []string
		for o, err := range b.List(t.Context(), prefix) {
			if err != nil {
				t.Fatal(err)
			}
			if o.Size != int64(len(o.Key)) || o.Modified.IsZero() {
				t.Errorf("%+v", o)
			}
			if keys = append(keys, strings.TrimPrefix(o.Key, "o/")); len(keys) == limit {
				break
			}
		}
		return strings.Join(keys, " ")
	}
	for _, tc := range []struct {
		prefix string
		limit  int
		want   string
	}{
		{"o/", -1, "a-b a.x a/1 a0 ab b/c/d"},
		{"o/a", -1, "a-b a.x a/1 a0 ab"},
		{"o/a/", -1, "a/1"},
		{"o/b/c/d", -1, "b/c/d"},
		{"o/b/c/de", -1, ""},
		{"o/", 3, "a-b a.x a/1"},
		{"p", -1, ""},
	} {
		if got := list(tc.prefix, tc.limit); got != tc.want {
			t.Errorf("list %q: %s, want %s", tc.prefix, got, tc.want)
		}
	}
}

func bucketConcurrent(t *testing.T, b Bucket) {
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			data := bytes.Repeat([]byte{byte(i)}, 10_000)
			for range 20 {
				if err := errors.Join(b.Put(t.Context(), "s/same", data[:5000], data[5000:]), b.Sync(t.Context(), "s/same")); err != nil {
					t.Error(err)
				}
				got, err := b.Get(t.Context(), "s/same", 0, -1)
				if err != nil || len(got) != len(data) || bytes.Count(got, got[:1]) != len(data) {
					t.Errorf("a mixture was read: %d bytes, %v", len(got), err)
				}
			}
		})
	}
	all.Wait()
}
