package server_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// wantStatus fails the test unless err has the code and a message with text.
func wantStatus(t *testing.T, what string, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("%s: %v; want %v with %q", what, err, code, text)
	}
}

// noise gives n incompressible bytes.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}

// smallDisk mounts a disk of its own for a data directory.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("a disk of a known size needs the right to mount one: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// leave fills a disk with a file of the test's own until about free bytes are left.
func leave(t *testing.T, dir string, free int64) string {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "filler")
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zeros := make([]byte, 1<<20)
	for left := int64(fs.Bavail)*fs.Bsize - free; left > 0; left -= int64(len(zeros)) {
		if _, err := f.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// TestFullDisk_IsRefusedNotFatal fills the daemon's disk, first with its own data
// and then from outside: writers hear why, readers read on, nothing is half
// there, and with space again everything goes on by itself.
func TestFullDisk_IsRefusedNotFatal(t *testing.T) {
	dir := smallDisk(t, "512m")
	p := startPachd(t, filepath.Join(dir, "data"), "--disk-reserve", "160MiB")
	ctx := within(t)
	pfs, _, _ := dial(t, p.addr)
	for _, name := range []string{"r", "doomed"} {
		if _, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo(name)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(ctx, pfs, "r", "/kept", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	stream, err := pfs.ModifyFile(ctx)
	if err == nil {
		err = stream.Send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: head("r")}})
	}
	if err != nil {
		t.Fatal(err)
	}
	source := rand.NewChaCha8([32]byte{3})
	for sent := 0; sent < 512<<20 && err == nil; sent += 2 << 20 {
		piece := make([]byte, 2<<20)
		_, _ = source.Read(piece) // never fails
		err = stream.Send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{
			Path: "/huge", Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes(piece)},
		}}})
	}
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	_, err = stream.CloseAndRecv()
	wantStatus(t, "more than fits", err, codes.ResourceExhausted, "is full: it has ")

	leave(t, dir, 120<<20)
	wantStatus(t, "a small put on a full disk", put(ctx, pfs, "r", "/small", []byte("x")), codes.ResourceExhausted, "free some space and try again")
	if got, err := get(ctx, pfs, "r", "/kept"); err != nil || string(got) != "kept" {
		t.Errorf("reading on a full disk: %q, %v", got, err)
	}
	if _, err := pfs.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repo("doomed")}); err != nil {
		t.Errorf("deleting on a full disk: %v", err)
	}
	filler := leave(t, dir, 40<<20)
	_, err = pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("new")})
	wantStatus(t, "metadata on a very full disk", err, codes.ResourceExhausted, "is full")
	if got, err := get(ctx, pfs, "r", "/kept"); err != nil || string(got) != "kept" {
		t.Errorf("reading on a very full disk: %q, %v", got, err)
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "data", "objects", "chunk")); err != nil { // what the failed put left
		t.Fatal(err)
	}
	if err := put(ctx, pfs, "r", "/small", []byte("x")); err != nil {
		t.Errorf("with space again: %v", err)
	}
	commits, err := collect(pfs.ListCommit(ctx, &pfspb.ListCommitRequest{Repo: repo("r")}))
	if err != nil || len(commits) != 2 {
		t.Errorf("%d commits, %v; want the 2 that were acknowledged", len(commits), err)
	}
	checkFsck(ctx, t, pfs)
}

// TestFullDisk_StartIsRefused: a daemon that could not write says so at once.
func TestFullDisk_StartIsRefused(t *testing.T) {
	dir := smallDisk(t, "64m")
	_, err := tryPachd(t, filepath.Join(dir, "data"))
	if err == nil || !strings.Contains(err.Error(), "is full: it has 64 MiB free, and 128 MiB of it are kept free") {
		t.Errorf("start on a small disk: %v", err)
	}
}

// cutConn is a client connection that is cut off after some bytes.
type cutConn struct {
	net.Conn
	left int
}

func (c *cutConn) Write(b []byte) (int, error) {
	if len(b) > c.left {
		c.Conn.Close()
		return 0, net.ErrClosed
	}
	c.left -= len(b)
	return c.Conn.Write(b)
}

// TestModifyFile_CutConnectionLeavesNothing cuts the TCP connection at several
// points of a stream, small and large, into a branch and into an open commit.
func TestModifyFile_CutConnectionLeavesNothing(t *testing.T) {
	p := startPachd(t, t.TempDir())
	ctx := within(t)
	pfs, _, _ := dial(t, p.addr)
	for _, name := range []string{"r", "open"} {
		if _, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo(name)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := put(ctx, pfs, "r", "/kept", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	if _, err := pfs.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branch("open")}); err != nil {
		t.Fatal(err)
	}
	if err := put(ctx, pfs, "open", "/kept", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ size, cut int }{{100, 300}, {1 << 20, 500 << 10}, {8 << 20, 6 << 20}} {
		for _, name := range []string{"r", "open"} {
			conn := dialCut(t, p.addr, tc.cut)
			stream, err := conn.ModifyFile(ctx)
			if err != nil {
				t.Fatal(err)
			}
			err = stream.Send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: head(name)}})
			for rest := noise(tc.size); len(rest) > 0 && err == nil; rest = rest[min(len(rest), 1<<20):] {
				err = stream.Send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{
					Path: "/lost", Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes(rest[:min(len(rest), 1<<20)])},
				}}})
			}
			if err == nil || errors.Is(err, io.EOF) {
				err = stream.RecvMsg(&pfspb.ModifyFileRequest{}) // ends with the connection
			}
			if status.Code(err) != codes.Unavailable {
				t.Errorf("%d bytes into %s: %v; want Unavailable", tc.size, name, err)
			}
		}
	}
	for _, name := range []string{"r", "open"} {
		files, err := collect(pfs.ListFile(ctx, &pfspb.ListFileRequest{File: &pfspb.File{Commit: head(name), Path: "/"}}))
		if err != nil || len(files) != 1 || files[0].File.Path != "/kept" {
			t.Errorf("%s holds %v, %v; want only what was acknowledged", name, files, err)
		}
	}
	commits, err := collect(pfs.ListCommit(ctx, &pfspb.ListCommitRequest{Repo: repo("r")}))
	if err != nil || len(commits) != 1 {
		t.Errorf("%d commits, %v; want 1", len(commits), err)
	}
	if _, err := pfs.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: head("open")}); err != nil {
		t.Error(err)
	}
	if got, err := get(ctx, pfs, "open", "/kept"); err != nil || !bytes.Equal(got, []byte("kept")) {
		t.Errorf("the open commit finished with %q, %v", got, err)
	}
}
