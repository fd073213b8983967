package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// splitter serves two protocols on one port by the first bytes of a
// connection: the HTTP/2 preface goes to gRPC, which keeps its own fast
// transport, everything else to HTTP/1.1.
type splitter struct {
	roots []net.Listener
	grpc  *queue
	http  *queue
}

// sniffTimeout bounds how long a connection may stay silent before it has said
// which protocol it speaks.
const sniffTimeout = 10 * time.Second

// preface is how every HTTP/2 connection begins (RFC 9113, section 3.4); four
// bytes tell it from any HTTP/1.1 method.
const preface = "PRI "

// plainText answers a client that speaks HTTP where TLS is wanted.
const plainText = "HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nthis port speaks TLS: use https:// or grpcs://\n"

// newSplitter serves root, and local if it is not nil.
func newSplitter(root, local net.Listener) *splitter {
	s := &splitter{roots: []net.Listener{root}, grpc: newQueue(root.Addr()), http: newQueue(root.Addr())}
	if local != nil {
		s.roots = append(s.roots, local)
	}
	return s
}

// Run accepts until ctx ends or a listener fails, then closes everything that
// nobody took.
func (s *splitter) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	defer s.close()
	for _, root := range s.roots {
		g.Go(func() error { return s.accept(ctx, root) })
	}
	return g.Wait()
}

func (s *splitter) close() {
	for _, root := range s.roots {
		root.Close()
	}
	s.grpc.Close()
	s.http.Close()
}

// accept takes what comes to one listener.
func (s *splitter) accept(ctx context.Context, root net.Listener) error {
	var sniffing sync.WaitGroup
	defer sniffing.Wait()
	for {
		conn, err := root.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			var temporary net.Error
			if errors.As(err, &temporary) && temporary.Timeout() {
				continue
			}
			return err
		}
		sniffing.Go(func() { s.route(conn) })
	}
}

// route looks at the first bytes of conn and hands it on.
func (s *splitter) route(conn net.Conn) {
	if err := conn.SetReadDeadline(time.Now().Add(sniffTimeout)); err != nil {
		conn.Close()
		return
	}
	r := bufio.NewReaderSize(conn, 512)
	first, err := r.Peek(len(preface))
	var plain tls.RecordHeaderError
	if errors.As(err, &plain) && plain.Conn != nil && isHTTP(plain.RecordHeader) {
		_, _ = plain.Conn.Write([]byte(plainText)) // it is told, or it is gone
	}
	if err != nil || conn.SetReadDeadline(time.Time{}) != nil {
		conn.Close()
		return
	}
	c := &sniffedConn{Conn: conn, r: r}
	if string(first) == preface {
		s.grpc.push(&mergedConn{Conn: c})
		return
	}
	s.http.push(c)
}

// isHTTP tells whether a connection's first bytes begin a request in HTTP/1.
func isHTTP(b [5]byte) bool {
	for _, method := range []string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET"} {
		if string(b[:]) == method {
			return true
		}
	}
	return false
}

// sniffedConn reads what was peeked first, then straight from the connection.
type sniffedConn struct {
	net.Conn
	r *bufio.Reader // nil once drained
}

func (c *sniffedConn) Read(p []byte) (int, error) {
	if c.r == nil {
		return c.Conn.Read(p)
	}
	if c.r.Buffered() == 0 {
		c.r = nil
		return c.Conn.Read(p)
	}
	return c.r.Read(p[:min(len(p), c.r.Buffered())])
}

// queue is a net.Listener fed by push.
type queue struct {
	addr net.Addr
	ch   chan net.Conn
	done chan struct{}
	once sync.Once
}

func newQueue(addr net.Addr) *queue {
	return &queue{addr: addr, ch: make(chan net.Conn), done: make(chan struct{})}
}

// push hands conn to Accept, or closes it when the queue is closed.
func (q *queue) push(conn net.Conn) {
	select {
	case q.ch <- conn:
	case <-q.done:
		conn.Close()
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case conn := <-q.ch:
		return conn, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

func (q *queue) Addr() net.Addr { return q.addr }

// dial gives the client end of a connection that Accept returns the other end
// of: how the REST gateway reaches gRPC without a network between them.
func (q *queue) dial(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case q.ch <- server:
		return client, nil
	case <-q.done:
		err := net.ErrClosed
		return nil, errors.Join(err, client.Close(), server.Close())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), client.Close(), server.Close())
	}
}
