package pfs

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/minipachd/minipachd/pfs/remote"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// withURLs lets a server take files from URLs.
func withURLs(t *testing.T, p remote.Policy) *metaServer {
	t.Helper()
	m := newMeta(t)
	c, err := remote.New(p)
	m.must(nil, err)
	m.svc.remote = c
	return m
}

func TestAddFile_FromAURL(t *testing.T) {
	big := strings.Repeat("0123456789", 300_000)
	mux := http.NewServeMux()
	mux.HandleFunc("/text", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "text") })
	mux.HandleFunc("/big", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, big) })
	mux.HandleFunc("/empty", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, big)
		panic(http.ErrAbortHandler)
	})
	site := httptest.NewServer(mux)
	defer site.Close()
	m := withURLs(t, remote.Policy{Schemes: []string{"http"}, AllowPrivate: true})
	ctx := limit(t)
	m.repo("r")
	from := func(path string) *pfspb.AddFile_URLSource { return &pfspb.AddFile_URLSource{URL: site.URL + path} }
	m.apply("r@master", add("/a", "before "), addURL("/a", from("/text")), addURL("/big", from("/big")), addURL("/e", from("/empty")), add("/a", " after"))
	head := m.inspect(commitOf("r@master")).Commit
	if got := m.content(head, "/a"); got != "before text after" {
		t.Errorf("got %q", got)
	}
	if got := m.content(head, "/big"); got != big {
		t.Errorf("got %d bytes, want %d", len(got), len(big))
	}
	if info, err := m.InspectFile(ctx, &pfspb.InspectFileRequest{File: fileOf(head, "/e")}); err != nil || info.SizeBytes != 0 {
		t.Errorf("empty: %v, %v", info, err)
	}
	// A stream that fails while fetching leaves nothing, in an open commit either.
	open := m.start("r@open")
	for _, c := range []*pfspb.Commit{commitOf("r@master"), open} {
		err := m.modify(c, add("/x", "x"), addURL("/y", from("/cut")))
		wantError(t, err, codes.Unknown, `error retrieving content from "`+site.URL+`/cut": unexpected EOF`)
		err = m.modify(c, add("/x", "x"), addURL("/y", from("/missing")))
		wantError(t, err, codes.Unknown, `error retrieving content from "`+site.URL+`/missing": 404 Not Found`)
	}
	if now := m.inspect(commitOf("r@master")).Commit; now.Id != head.Id {
		t.Errorf("a failed stream made the commit %s", now.Id)
	}
	infos, err := all(m.ListFile(ctx, &pfspb.ListFileRequest{File: fileOf(open, "/")}))
	if err != nil || len(infos) != 0 {
		t.Errorf("the open commit has %v, %v", infos, err)
	}
}

func TestAddFile_FromATree(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a": "1", "d/b": "2", "d/c/d": "3", "bad/x*": "4"} {
		m := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(m), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(m, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := withURLs(t, remote.Policy{FileRoot: dir})
	m.repo("r")
	tree := func(path string) *pfspb.AddFile_URLSource {
		return &pfspb.AddFile_URLSource{URL: "file://" + dir + path, Recursive: true}
	}
	m.apply("r@master", addURL("/in/", tree("/d")), addURL("/one", tree("/a")))
	m.wantTree(commitOf("r@master"), "/ /in/ /in/b=2 /in/c/ /in/c/d=3 /one=1")
	id := m.fileSet(addURL("/", tree("/d")))
	m.wantTree(setOf(id), "/ /b=2 /c/ /c/d=3")
	err := m.modify(commitOf("r@master"), addURL("/", tree("")))
	wantError(t, err, codes.Unknown, "path (/bad/x*) invalid: globbing character (*) not allowed in path")
	err = m.modify(commitOf("r@master"), addURL("/", &pfspb.AddFile_URLSource{URL: "file://" + dir + "/a"}))
	wantError(t, err, codes.Unknown, "path (/) invalid: the root is a directory, not a file")
}

func TestURLs_AreOffByDefault(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	m.apply("r@master", add("/a", "1"))
	for _, url := range []string{"http://127.0.0.1/x", "s3://b/k", "file:///etc/passwd"} {
		wantError(t, m.modify(commitOf("r@master"), addURL("/x", &pfspb.AddFile_URLSource{URL: url})), codes.PermissionDenied, "not allowed on this server")
		file := fileOf(commitOf("r@master"), "/a")
		_, err := all(m.GetFile(ctx, &pfspb.GetFileRequest{File: file, URL: url}))
		wantError(t, err, codes.PermissionDenied, "not allowed on this server")
		_, err = all(m.GetFileTAR(ctx, &pfspb.GetFileRequest{File: file, URL: url}))
		wantError(t, err, codes.PermissionDenied, "not allowed on this server")
		_, err = m.Egress(ctx, &pfspb.EgressRequest{Commit: commitOf("r@master"), Target: &pfspb.EgressRequest_ObjectStorage{ObjectStorage: &pfspb.ObjectStorageEgress{Url: url}}})
		wantError(t, err, codes.PermissionDenied, "not allowed on this server")
	}
	_, err := m.Egress(ctx, &pfspb.EgressRequest{Commit: commitOf("r@master"), Target: &pfspb.EgressRequest_SqlDatabase{SqlDatabase: &pfspb.SQLDatabaseEgress{}}})
	wantError(t, err, codes.Unimplemented, "egress to a SQL database is not supported")
	_, err = m.Egress(ctx, &pfspb.EgressRequest{Commit: commitOf("r@master")})
	wantError(t, err, codes.InvalidArgument, "object_storage.url must be given")
}

func TestFiles_AreWrittenToAURL(t *testing.T) {
	dir := t.TempDir()
	m := withURLs(t, remote.Policy{FileRoot: dir})
	ctx := limit(t)
	m.repo("r")
	big := strings.Repeat("0123456789", 300_000)
	m.apply("r@master", add("/a", "1"), add("/d/b", "22"), add("/d/c/big", big))
	c := commitOf("r@master")
	written := func(name, want string) {
		t.Helper()
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s has %d bytes, %v; want %d", name, len(got), err, len(want))
		}
	}
	res, err := m.Egress(ctx, &pfspb.EgressRequest{Commit: c, Target: &pfspb.EgressRequest_ObjectStorage{ObjectStorage: &pfspb.ObjectStorageEgress{Url: "file://" + dir + "/all"}}})
	if err != nil || res.GetObjectStorage().GetBytesWritten() != int64(3+len(big)) {
		t.Errorf("egress: %v, %v", res, err)
	}
	written("all/a", "1")
	written("all/d/c/big", big)
	msgs, err := all(m.GetFile(ctx, &pfspb.GetFileRequest{File: fileOf(c, "/d/*b"), URL: "file://" + dir + "/one"}))
	if err != nil || len(msgs) != 0 {
		t.Errorf("GetFile: %d messages, %v", len(msgs), err)
	}
	written("one", "22")
	msgs, err = all(m.GetFileTAR(ctx, &pfspb.GetFileRequest{File: fileOf(c, "/d"), URL: "file://" + dir + "/sub/"}))
	if err != nil || len(msgs) != 0 {
		t.Errorf("GetFileTAR: %d messages, %v", len(msgs), err)
	}
	written("sub/d/b", "22")
	if _, err := os.Stat(filepath.Join(dir, "sub/a")); err == nil {
		t.Error("more was written than the glob matches")
	}
	_, err = all(m.GetFileTAR(ctx, &pfspb.GetFileRequest{File: fileOf(c, "/none*"), URL: "file://" + dir + "/sub/"}))
	wantError(t, err, codes.NotFound, "file /none* not found in repo default/r")
	_, err = all(m.GetFile(ctx, &pfspb.GetFileRequest{File: fileOf(c, "/a"), URL: "file://" + dir + "/sub/", Offset: 1}))
	wantError(t, err, codes.InvalidArgument, "without an offset")
}
