package remote

import (
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
)

// tree writes files below a new directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFetch_FilesBelowTheRoot(t *testing.T) {
	outside := tree(t, map[string]string{"secret": "s"})
	dir := tree(t, map[string]string{"a": "1", "d/b": "2", "d/e/c": "", "d2/x": "no"})
	for link, target := range map[string]string{"out": filepath.Join(outside, "secret"), "outdir": outside, "in": "a"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "d", "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, Policy{FileRoot: dir})
	for _, tc := range []struct {
		path      string
		recursive bool
		want      string
	}{
		{"/a", false, "=1"},
		{"/in", false, "=1"},
		{"/d", true, "b=2 e/c="},
		{"/d/", true, "b=2 e/c="},
		{"/a", true, "=1"},
		{"", true, "a=1 d/b=2 d/e/c= d2/x=no"},
	} {
		got, err := fetch(t, c, Source{URL: "file://" + dir + tc.path, Recursive: tc.recursive})
		if err != nil || got != tc.want {
			t.Errorf("%s: %q, %v; want %q", tc.path, got, err, tc.want)
		}
	}
	for _, tc := range []struct {
		url       string
		recursive bool
		code      codes.Code
		text      string
	}{
		{"file://" + dir + "/missing", false, codes.NotFound, "there is no such file"},
		{"file://" + dir + "/missing", true, codes.NotFound, "there is no such file"},
		{"file://" + dir + "/d", false, codes.InvalidArgument, "it is a directory; recursive takes everything below it"},
		{"file://" + dir + "/d/", false, codes.InvalidArgument, "it names no object"},
		{"file://" + dir + "/d/pipe", false, codes.InvalidArgument, "it is not a regular file"},
		{"file://" + dir + "/out", false, codes.Unknown, "path escapes from parent"},
		{"file://" + dir + "/outdir/secret", false, codes.Unknown, "path escapes from parent"},
		{"file://" + outside + "/secret", false, codes.PermissionDenied, "outside of the directory"},
		{"file://" + dir + "/../x", false, codes.PermissionDenied, "outside of the directory"},
		{"file:///etc/passwd", false, codes.PermissionDenied, "outside of the directory"},
		{"file://host/etc/passwd", false, codes.InvalidArgument, "a file URL has three slashes"},
		{"file:///etc/passwd?x=1", false, codes.InvalidArgument, `it has the parameter "x"`},
	} {
		_, err := fetch(t, c, Source{URL: tc.url, Recursive: tc.recursive})
		wantError(t, err, tc.code, tc.text)
	}
	_, err := fetch(t, newClient(t, Policy{}), Source{URL: "file://" + dir + "/a"})
	wantError(t, err, codes.PermissionDenied, "file URLs are not allowed on this server")
}

func TestTarget_FilesBelowTheRoot(t *testing.T) {
	dir := tree(t, map[string]string{"old": "old"})
	c := newClient(t, Policy{FileRoot: dir})
	put := func(url, rel, text string, fail error) error {
		target, err := c.Target(t.Context(), url)
		if err != nil {
			return err
		}
		defer target.Close()
		return target.Put(rel, func(w io.Writer) error {
			if _, err := io.WriteString(w, text); err != nil {
				return err
			}
			return fail
		})
	}
	if err := put("file://"+dir+"/new/dir", "/a/b", "text", nil); err != nil {
		t.Fatal(err)
	}
	if err := put("file://"+dir+"/old", "", "replaced", nil); err != nil {
		t.Fatal(err)
	}
	if err := put("file://"+dir+"/old", "", "half", io.ErrUnexpectedEOF); err == nil {
		t.Error("a failed write counts as written")
	}
	got, err := fetch(t, c, Source{URL: "file://" + dir, Recursive: true})
	if want := "new/dir/a/b=text old=replaced"; err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	wantError(t, put("file:///tmp/x", "", "", nil), codes.PermissionDenied, "error storing content at \"file:///tmp/x\": file URLs outside")
	wantError(t, put("file://"+dir, "", "", nil), codes.InvalidArgument, "it names no object to store to")
	wantError(t, put("https://host/x", "", "", nil), codes.InvalidArgument, "nothing can be stored at an https URL, only in an object store")
}
