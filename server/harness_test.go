package server_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// pachdPath builds pachd once for all tests of the package.
var pachdPath = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "pachd-bin-")
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "pachd")
	out, err := exec.Command("go", "build", "-o", name, "github.com/minipachd/minipachd/cmd/pachd").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build pachd: %w\n%s", err, out)
	}
	return name, nil
})

func pachdBinary(t *testing.T) string {
	t.Helper()
	name, err := pachdPath()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// proc is a running pachd.
type proc struct {
	t    *testing.T
	cmd  *exec.Cmd
	addr string
	log  *syncBuffer
	done chan error
}

// startPachd runs the real pachdPath on a free port and returns once it serves.
func startPachd(t *testing.T, dir string, args ...string) *proc {
	t.Helper()
	p, err := tryPachd(t, dir, args...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// tryPachd is startPachd for tests that expect a failure: the error holds what
// the daemon printed.
func tryPachd(t *testing.T, dir string, args ...string) (*proc, error) {
	t.Helper()
	p := &proc{t: t, log: &syncBuffer{}, done: make(chan error, 1)}
	p.cmd = exec.Command(pachdBinary(t), append([]string{"--data-dir", dir, "--listen", "127.0.0.1:0"}, args...)...)
	p.cmd.Stderr = p.log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan string, 1)
	go func() {
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			if rest, ok := strings.CutPrefix(sc.Text(), "pachd listens on "); ok {
				addr, _, _ := strings.Cut(rest, " ")
				ready <- addr
			}
		}
		p.done <- p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(p.kill)
	select {
	case p.addr = <-ready:
		return p, nil
	case err := <-p.done:
		return nil, fmt.Errorf("pachd ended: %w: %s", errors.Join(err, errors.New("no listener")), p.log.String())
	case <-time.After(2 * time.Minute):
		return nil, fmt.Errorf("pachd does not start: %s", p.log.String())
	}
}

// kill is kill -9; it returns when the process is gone.
func (p *proc) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// stop is Ctrl-C; it returns the exit status.
func (p *proc) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return err
	}
	select {
	case err := <-p.done:
		return err
	case <-time.After(time.Minute):
		return errors.New("pachd does not stop")
	}
}

// dial connects a plain gRPC client, one that knows only the wire.
func dial(t *testing.T, addr string) (pfspb.APIClient, ppspb.APIClient, *grpc.ClientConn) {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(20<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return pfspb.NewAPIClient(conn), ppspb.NewAPIClient(conn), conn
}

// dialCut is dial over a connection that is cut after n bytes have been sent.
func dialCut(t *testing.T, addr string, n int) pfspb.APIClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			return &cutConn{Conn: c, left: n}, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return pfspb.NewAPIClient(conn)
}

// within gives a context that ends with the test at the latest after two minutes.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func repo(name string) *pfspb.Repo {
	return &pfspb.Repo{Name: name, Type: "user", Project: &pfspb.Project{Name: "default"}}
}

func branch(name string) *pfspb.Branch {
	return &pfspb.Branch{Repo: repo(name), Name: "master"}
}

func head(name string) *pfspb.Commit {
	return &pfspb.Commit{Repo: repo(name), Branch: branch(name)}
}

// put appends data to a file of the head of master: one commit.
func put(ctx context.Context, c pfspb.APIClient, name, path string, data []byte) error {
	stream, err := c.ModifyFile(ctx)
	if err != nil {
		return err
	}
	for _, m := range []*pfspb.ModifyFileRequest{
		{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: head(name)}},
		{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{Path: path, Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes(data)}}}},
	} {
		if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	_, err = stream.CloseAndRecv()
	return err
}

// get reads a file of the head of master.
func get(ctx context.Context, c pfspb.APIClient, name, path string) ([]byte, error) {
	stream, err := c.GetFile(ctx, &pfspb.GetFileRequest{File: &pfspb.File{Commit: head(name), Path: path}})
	if err != nil {
		return nil, err
	}
	var all []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, m.Value...)
	}
}

// collect reads a server stream to its end.
func collect[T any](stream grpc.ServerStreamingClient[T], err error) ([]*T, error) {
	if err != nil {
		return nil, err
	}
	var all []*T
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
}

// syncBuffer is a bytes.Buffer that a process may write while a test reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
