package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"
	"google.golang.org/grpc/codes"
)

// memory is a bucket with objects, real but for being in memory.
func memory(t *testing.T, objects map[string]string) *blob.Bucket {
	t.Helper()
	b := memblob.OpenBucket(nil)
	t.Cleanup(func() { b.Close() })
	for key, text := range objects {
		if err := b.WriteAll(t.Context(), key, []byte(text), nil); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// pullAll is what a fetch of a key of b does.
func pullAll(t *testing.T, c *Client, b *blob.Bucket, key string, recursive bool, concurrency int) (map[string]string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	got := map[string]string{}
	var order []string
	bb := &blobBucket{b: b, end: func() {}}
	err := c.pull(ctx, bb, objects(ctx, bb, key, recursive), concurrency, func(rel string, data []byte) error {
		if n := len(order); n == 0 || order[n-1] != rel {
			order = append(order, rel)
		}
		got[rel] += string(data)
		return nil
	})
	if len(order) != len(got) {
		t.Errorf("objects came in pieces among each other: %v", order)
	}
	if !c.memory.TryAcquire(maxBuffered) {
		t.Error("memory was not given back")
	}
	c.memory.Release(maxBuffered)
	return got, err
}

func TestPull_ManyPiecesInOrder(t *testing.T) {
	want := map[string]string{"large": strings.Repeat("0123456789", 2_000_000), "exact": strings.Repeat("x", pieceSize), "empty": ""}
	stored := map[string]string{"d/": "", "d2/no": "no"}
	for i := range 40 {
		want[fmt.Sprintf("many/%03d", i)] = fmt.Sprint(i)
	}
	for rel, text := range want {
		stored["d/"+rel] = text
	}
	b := memory(t, stored)
	for _, concurrency := range []int{1, 7, 1000} {
		c := newClient(t, Policy{})
		got, err := pullAll(t, c, b, "d", true, concurrency)
		if err != nil || len(got) != len(want) {
			t.Errorf("%d at a time: %d objects, %v", concurrency, len(got), err)
		}
		for rel, text := range want {
			if got[rel] != text {
				t.Errorf("%d at a time: %s has %d bytes, want %d", concurrency, rel, len(got[rel]), len(text))
			}
		}
	}
	c := newClient(t, Policy{MaxBytes: pieceSize})
	_, err := pullAll(t, c, b, "d/", true, 3)
	wantError(t, wrap("s3://b/d", false, err), codes.ResourceExhausted, "it has more than the 4194304 bytes")
	_, err = pullAll(t, newClient(t, Policy{}), b, "nothing", true, 3)
	wantError(t, wrap("s3://b/nothing", false, err), codes.NotFound, `error retrieving content from "s3://b/nothing"`)
	_, err = pullAll(t, newClient(t, Policy{}), b, "d/", false, 3)
	wantError(t, wrap("s3://b/d/", false, err), codes.InvalidArgument, "it names no object; recursive takes everything below it")
	_, err = pullAll(t, newClient(t, Policy{}), b, "none/", true, 3)
	wantError(t, wrap("s3://b/none/", false, err), codes.NotFound, "there are no objects below it")
}

func TestPull_AChangedObjectIsNoticed(t *testing.T) {
	b := memory(t, map[string]string{"a": "1"})
	bb := &blobBucket{b: b, end: func() {}}
	c := newClient(t, Policy{})
	err := c.pull(t.Context(), bb, func(yield func(object, error) bool) {
		o, err := bb.stat(t.Context(), "a")
		if err == nil {
			err = b.WriteAll(t.Context(), "a", []byte("22"), nil)
		}
		yield(o, err)
	}, 1, func(string, []byte) error { return nil })
	if !errors.Is(err, errChanged) {
		t.Errorf("got %v", err)
	}
}

func TestPull_EndsWithItsSinkAndItsContext(t *testing.T) {
	stored := map[string]string{}
	for i := range 200 {
		stored[fmt.Sprint("d/", i)] = strings.Repeat("x", 1000)
	}
	b := &blobBucket{b: memory(t, stored), end: func() {}}
	c := newClient(t, Policy{})
	own := errors.New("full")
	n := 0
	err := c.pull(t.Context(), b, objects(t.Context(), b, "d", true), 4, func(string, []byte) error {
		if n++; n == 3 {
			return own
		}
		return nil
	})
	if !errors.Is(err, own) || n != 3 {
		t.Errorf("after %d calls: %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = c.pull(ctx, b, objects(ctx, b, "d", true), 4, func(string, []byte) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// store is an object store of one bucket "b" that speaks as much of a protocol as
// the tests need.
type store struct {
	mu      sync.Mutex
	objects map[string]string
}

func (s *store) keys(prefix string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for k := range s.objects {
		if strings.HasPrefix(k, prefix) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

var modified = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// serve answers a read of one object, ranges included.
func (s *store) serve(w http.ResponseWriter, r *http.Request, key string) {
	s.mu.Lock()
	text, ok := s.objects[key]
	s.mu.Unlock()
	if !ok {
		w.Header().Set("Content-Type", "application/xml")
		w.Header().Set("x-ms-error-code", "BlobNotFound")
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `<Error><Code>NoSuchKey</Code></Error>`)
		return
	}
	w.Header().Set("ETag", `"e"`)
	w.Header().Set("x-ms-creation-time", modified.Format(http.TimeFormat))
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", modified, strings.NewReader(text))
}

func (s *store) put(r *http.Request, key string) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	// Signed uploads come in chunks with a line before and after each.
	if strings.Contains(r.Header.Get("Content-Encoding"), "aws-chunked") {
		_, rest, _ := bytes.Cut(b, []byte("\r\n"))
		b, _, _ = bytes.Cut(rest, []byte("\r\n"))
	}
	s.mu.Lock()
	s.objects[key] = string(b)
	s.mu.Unlock()
}

func (s *store) s3(w http.ResponseWriter, r *http.Request) {
	key := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/b"), "/")
	switch {
	case r.Method == http.MethodPut:
		s.put(r, key)
	case key != "":
		s.serve(w, r, key)
	default:
		w.Header().Set("Content-Type", "application/xml")
		fmt.Fprint(w, `<ListBucketResult><IsTruncated>false</IsTruncated>`)
		for _, k := range s.keys(r.URL.Query().Get("prefix")) {
			fmt.Fprintf(w, `<Contents><Key>%s</Key><Size>%d</Size><LastModified>%s</LastModified><ETag>"e"</ETag></Contents>`, k, len(s.objects[k]), modified.Format(time.RFC3339))
		}
		fmt.Fprint(w, `</ListBucketResult>`)
	}
}

func (s *store) gcs(w http.ResponseWriter, r *http.Request) {
	for name := range r.Header {
		if strings.Contains(strings.ToLower(name), "amz") {
			http.Error(w, "header "+name+" is of another maker", http.StatusBadRequest)
			return
		}
	}
	s.s3(w, r)
}

func (s *store) azure(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("x-ms-version", "2021-01-01")
	key, isObject := strings.CutPrefix(r.URL.Path, "/account/b/")
	switch {
	case isObject && r.Method == http.MethodPut:
		s.put(r, key)
		w.WriteHeader(http.StatusCreated)
	case isObject:
		if x := r.Header.Get("x-ms-range"); x != "" {
			r.Header.Set("Range", x)
		}
		s.serve(w, r, key)
	default:
		w.Header().Set("Content-Type", "application/xml")
		fmt.Fprint(w, `<EnumerationResults><Blobs>`)
		for _, k := range s.keys(r.URL.Query().Get("prefix")) {
			fmt.Fprintf(w, `<Blob><Name>%s</Name><Properties><Last-Modified>%s</Last-Modified><Content-Length>%d</Content-Length><Etag>e</Etag><BlobType>BlockBlob</BlobType></Properties></Blob>`, k, modified.Format(http.TimeFormat), len(s.objects[k]))
		}
		fmt.Fprint(w, `</Blobs><NextMarker /></EnumerationResults>`)
	}
}

// clouds starts a store of each kind and makes the environment lead to it.
func clouds(t *testing.T, objects map[string]string) *store {
	s := &store{objects: objects}
	start := func(h http.HandlerFunc) string {
		srv := httptest.NewServer(h)
		t.Cleanup(srv.Close)
		return srv.URL
	}
	t.Setenv("AWS_ENDPOINT_URL_S3", start(s.s3))
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("STORAGE_EMULATOR_HOST", strings.TrimPrefix(start(s.gcs), "http://"))
	t.Setenv("AZURE_STORAGE_ACCOUNT", "account")
	t.Setenv("AZURE_STORAGE_KEY", "c2VjcmV0")
	t.Setenv("AZURE_STORAGE_PROTOCOL", "http")
	t.Setenv("AZURE_STORAGE_DOMAIN", strings.TrimPrefix(start(s.azure), "http://"))
	return s
}

func TestFetch_ObjectStores(t *testing.T) {
	clouds(t, map[string]string{"a": "1", "d/b": "two", "d/e/c": "", "d2/x": "no"})
	c := newClient(t, Policy{AllowPrivate: true})
	for _, scheme := range []string{"s3", "gs", "azblob", "wasb"} {
		got, err := fetch(t, c, Source{URL: scheme + "://b/a"})
		if err != nil || got != "=1" {
			t.Errorf("%s, one object: %q, %v", scheme, got, err)
		}
		got, err = fetch(t, c, Source{URL: scheme + "://b/d", Recursive: true, Concurrency: 5000})
		if err != nil || got != "b=two e/c=" {
			t.Errorf("%s, many: %q, %v", scheme, got, err)
		}
		_, err = fetch(t, c, Source{URL: scheme + "://b/missing"})
		wantError(t, err, codes.NotFound, fmt.Sprintf(`error retrieving content from "%s://b/missing": `, scheme))
	}
}

func TestTarget_ObjectStores(t *testing.T) {
	s := clouds(t, map[string]string{})
	c := newClient(t, Policy{AllowPrivate: true})
	for _, scheme := range []string{"s3", "gs", "azblob"} {
		target, err := c.Target(t.Context(), scheme+"://b/out/"+scheme)
		if err != nil {
			t.Fatal(err)
		}
		err = target.Put("/d/f", func(w io.Writer) error { _, err := io.WriteString(w, "text"); return err })
		if err != nil {
			t.Errorf("%s: %v", scheme, err)
		}
		if got := s.objects["out/"+scheme+"/d/f"]; got != "text" {
			t.Errorf("%s: stored %q of %v", scheme, got, s.keys(""))
		}
		if err := target.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestObjectStores_CannotBeUsedToReachOthers tries every way to another address.
func TestObjectStores_CannotBeUsedToReachOthers(t *testing.T) {
	clouds(t, map[string]string{"a": "1"})
	c := newClient(t, Policy{})
	start := time.Now()
	for _, tc := range []struct {
		url  string
		code codes.Code
		text string
	}{
		{"s3://b/a", codes.PermissionDenied, "address 127.0.0.1 is not allowed on this server: it is not public"},
		{"gs://b/a", codes.PermissionDenied, "address 127.0.0.1 is not allowed on this server: it is not public"},
		{"azblob://b/a", codes.PermissionDenied, "address 127.0.0.1 is not allowed on this server: it is not public"},
		{"s3://b/a?endpoint=http://127.0.0.1:1", codes.InvalidArgument, `it has the parameter "endpoint"`},
		{"s3://b/a?disable_https=true", codes.InvalidArgument, `it has the parameter "disable_https"`},
		{"s3://b/a?profile=other", codes.InvalidArgument, `it has the parameter "profile"`},
		{"s3://b/a?region=x.evil.example%23", codes.InvalidArgument, "is no name of a region"},
		{"s3://b:80/a", codes.InvalidArgument, "is no name of a bucket"},
		{"s3://id:secret@b/a", codes.InvalidArgument, "is no name of a bucket"},
		{"gs://b/a?private_key_path=/etc/passwd", codes.InvalidArgument, `it has the parameter "private_key_path"`},
		{"azblob://b/a?domain=evil.example", codes.InvalidArgument, `it has the parameter "domain"`},
		{"azblob://b@account.evil.example/a", codes.InvalidArgument, "is no account of"},
		{"s3://b/a#x", codes.InvalidArgument, "it has a fragment"},
	} {
		_, err := fetch(t, c, Source{URL: tc.url})
		if err == nil {
			t.Errorf("%s was fetched", tc.url)
			continue
		}
		wantError(t, err, tc.code, tc.text)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("refusals took %v: they were tried again", took)
	}
	// The environment names the endpoint, but the policy counts for it too.
	c.admit = func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.1") }
	if got, err := fetch(t, c, Source{URL: "s3://b/a"}); err != nil || got != "=1" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestNew_Refusals(t *testing.T) {
	for _, tc := range []struct {
		p    Policy
		text string
	}{
		{Policy{Schemes: []string{"ftp"}}, `URL scheme "ftp" is not supported, only http, https, s3, gs, azblob are`},
		{Policy{Schemes: []string{"file"}}, "URL scheme file is allowed by naming the directory"},
		{Policy{FileRoot: "/does/not/exist"}, "directory of file URLs"},
		{Policy{MaxBytes: -1}, "must not be negative"},
	} {
		if _, err := New(tc.p); err == nil || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("got %v, want %q", err, tc.text)
		}
	}
}
