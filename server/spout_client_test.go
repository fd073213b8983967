package server_test

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"

	"github.com/minipachd/minipachd/client"
	"github.com/minipachd/minipachd/client/spout"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// TestSpoutClient_CursorAndData are in one commit or in none.
func TestSpoutClient_CursorAndData(t *testing.T) {
	t.Parallel()
	p := startPachd(t, t.TempDir())
	ctx := within(t)
	c, err := client.New(p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.PFS.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("r")}); err != nil {
		t.Fatal(err)
	}
	open := func(cursor string) *spout.Spout {
		t.Helper()
		s, err := spout.Open(ctx, spout.Options{Client: c, Pipeline: "r", Branch: "master", CursorPath: "/at"})
		if err != nil {
			t.Fatal(err)
		}
		if s.Cursor() != cursor {
			t.Errorf("the cursor is %q, want %q", s.Cursor(), cursor)
		}
		return s
	}
	write := func(path, text string) func(*client.Modifier) error {
		return func(m *client.Modifier) error { return m.PutFile(path, strings.NewReader(text), client.Append()) }
	}
	holds := func(want string) {
		t.Helper()
		if got, err := get(ctx, c.PFS, "r", "/log"); err != nil || string(got) != want {
			t.Errorf("/log holds %q, %v, want %q", got, err, want)
		}
	}
	s := open("") // without a branch
	for _, n := range []string{"1", "2"} {
		if err := s.Commit(ctx, n, write("/log", n)); err != nil {
			t.Fatal(err)
		}
	}
	holds("12")
	no := errors.New("no")
	err = s.Commit(ctx, "3", func(m *client.Modifier) error {
		if err := write("/log", "3")(m); err != nil {
			return err
		}
		return no
	})
	if !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
	holds("12")
	if err := s.Commit(ctx, "3", write("/log", "3")); err != nil {
		t.Fatal(err)
	}
	holds("123")
	s = open("3")
	// Files that cannot stand beside what is there: it is not done, and not forgotten.
	if err := s.Commit(ctx, "4", write("/log/4", "4")); err == nil || !strings.Contains(err.Error(), "has an error") {
		t.Errorf("got %v, want that the commit has an error", err)
	}
	if err := s.Commit(ctx, "5", write("/log", "5")); err == nil || !strings.Contains(err.Error(), "in doubt") {
		t.Errorf("got %v, want that the commit before is in doubt", err)
	}
	s = open("3")
	if err := s.Commit(ctx, "4", write("/log", "4")); err != nil {
		t.Fatal(err)
	}
	holds("1234")
	if _, err := spout.Open(ctx, spout.Options{Client: c, Pipeline: "none"}); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("a pipeline that is not there: %v", err)
	}
	if err := p.stop(); err != nil {
		t.Errorf("stop: %v\n%s", err, p.log.String())
	}
}

// deafConn is a connection that breaks, when it is armed, at the next thing that it
// would have heard: the answer to what was sent, as a rule.
type deafConn struct {
	net.Conn
	armed *atomic.Bool
}

func (c *deafConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.armed.CompareAndSwap(true, false) {
		c.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// TestSpoutClient_AnswersAreLost: each commit is made once, though nobody heard so.
func TestSpoutClient_AnswersAreLost(t *testing.T) {
	t.Parallel()
	p := startPachd(t, t.TempDir())
	ctx := within(t)
	var armed atomic.Bool
	c, err := client.New(p.addr, client.WithDialOptions(grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		return &deafConn{conn, &armed}, err
	})))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.PFS.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("r")}); err != nil {
		t.Fatal(err)
	}
	s, err := spout.Open(ctx, spout.Options{Client: c, Pipeline: "r", Branch: "master"})
	if err != nil {
		t.Fatal(err)
	}
	want := ""
	for i := range 20 {
		n := strconv.Itoa(i) + "\n"
		want += n
		first := true
		err := s.Commit(ctx, n, func(m *client.Modifier) error {
			if first {
				armed.Store(true)
			}
			first = false
			return m.PutFile("/log", strings.NewReader(n), client.Append())
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got, err := get(ctx, c.PFS, "r", "/log"); err != nil || string(got) != want {
		t.Errorf("/log holds %q, %v, want %q", got, err, want)
	}
	if err := p.stop(); err != nil {
		t.Errorf("stop: %v\n%s", err, p.log.String())
	}
}
