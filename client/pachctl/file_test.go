package pachctl

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// breaking is a stream that fails once it has sent a message.
type breaking struct {
	grpc.ServerStream
	sent bool
}

func (b *breaking) SendMsg(m any) error {
	if b.sent {
		return status.Error(codes.DataLoss, "the rest is gone")
	}
	b.sent = true
	return b.ServerStream.SendMsg(m)
}

func TestGetFile_BrokenStreamLeavesNoFile(t *testing.T) {
	sh := newShell(t, grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		return next(srv, &breaking{ServerStream: ss})
	}))
	sh.s.AddFiles("default", "r", "master", map[string]string{"/big": strings.Repeat("x", 3<<20)})
	dir := sh.write(map[string]string{"old": "what was there"})
	sh.fails("the rest is gone", "get", "file", "r@master:/big", "-o", dir+"/new")
	sh.fails("the rest is gone", "get", "file", "r@master:/big", "-o", dir+"/old")
	if diff := cmp.Diff(map[string]string{"old": "what was there"}, sh.tree(dir)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestPutFile_Archives puts what is inside of tars, compressed or not.
func TestPutFile_Archives(t *testing.T) {
	sh := newShell(t)
	sh.s.AddFiles("default", "r", "master", nil)
	var plain, zipped bytes.Buffer
	w := tar.NewWriter(&plain)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "./d/x", Typeflag: tar.TypeReg, Size: 1, Mode: 0o600}), func() error { _, err := w.Write([]byte("1")); return err }(), w.Close()); err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(plain.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	dir := sh.write(map[string]string{"a.tar": plain.String(), "b.tar.gz": zipped.String(), "c.tgz": zipped.String(), "d.tar": "no tar at all, however one looks at it"})
	sh.ok("", "put", "file", "--untar", "r@master:/a", "-f", dir+"/a.tar")
	sh.ok("", "put", "file", "--untar", "r@master:/b", "-f", dir+"/b.tar.gz")
	sh.ok("", "put", "file", "--untar", "r@master:/c", "-f", dir+"/c.tgz")
	sh.ok(plain.String(), "put", "file", "--untar", "r@master:/e")
	sh.ok(zipped.String(), "put", "file", "--untar", "r@master:/f")
	for _, name := range []string{"/a", "/b", "/c", "/e", "/f"} {
		if got := sh.ok("", "get", "file", "r@master:"+name+"/d/x"); got != "1" {
			t.Errorf("%s/d/x holds %q", name, got)
		}
	}
	sh.fails(dir+"/d.tar is no tar, or a damaged one: unexpected EOF", "put", "file", "--untar", "r@master:/d", "-f", dir+"/d.tar")
	if code, _, stderr := sh.try("neither is this", "put", "file", "--untar", "r@master:/d", "-f", "-"); code != 1 || stderr != "standard input is no tar, or a damaged one: unexpected EOF\n" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

func TestGetFile_NoDirectoryToWriteTo(t *testing.T) {
	sh := newShell(t)
	sh.s.AddFiles("default", "r", "master", map[string]string{"/x": "1"})
	out := t.TempDir() + "/none/x"
	sh.fails(out+": no such file or directory", "get", "file", "r@master:/x", "-o", out)
}
