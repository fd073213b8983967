package scheduler

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of one proxy.
const (
	proxyConns    = 1024                   // connections at a time; more are closed at once
	proxyHeld     = 64                     // of these, waiting for a worker
	proxyHold     = 10 * time.Second       // and so long
	proxyRetry    = 50 * time.Millisecond  // between two attempts to reach the worker
	proxyListen   = time.Second            // first pause when the port is taken
	proxyListenTo = 30 * time.Second       // longest such pause
	proxyDial     = 5 * time.Second        // for one attempt
	proxyAccept   = 100 * time.Millisecond // after accept fails, for want of descriptors say
)

// proxy forwards TCP connections from a spout's external port to the ports of its
// workers on this machine, in turn. While none takes them it holds new
// connections back. It begins to listen when made, and tries again when the port is
// taken.
type proxy struct {
	host     string // to listen on; empty means every address
	external int
	workers  atomic.Pointer[[]int] // their ports, never nil
	turn     atomic.Uint32         // whose it is
	hold     time.Duration

	ctx           context.Context // of everything
	cancel        context.CancelFunc
	acceptCtx     context.Context    // of listening
	stopAccepting context.CancelFunc // closes the port, leaves connections alone
	conns, held   places
	wait          sync.WaitGroup
}

// places counts those who are in, up to a limit.
type places struct {
	limit int32
	taken atomic.Int32
}

func (p *places) take() bool {
	if p.taken.Add(1) > p.limit {
		p.taken.Add(-1)
		return false
	}
	return true
}

func (p *places) leave() { p.taken.Add(-1) }

// newProxy starts a proxy without workers. notice is told why the port cannot be listened on, and
// "" when it can; its context ends when the proxy closes.
//
// The port is closed by stopAccepting already, connections by close.
func newProxy(host string, external int, hold time.Duration, notice func(ctx context.Context, text string)) *proxy {
	p := &proxy{
		host: host, external: external, hold: hold,
		conns: places{limit: proxyConns}, held: places{limit: proxyHeld},
	}
	p.route(nil)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.acceptCtx, p.stopAccepting = context.WithCancel(p.ctx)
	p.wait.Go(func() { p.listen(notice) })
	return p
}

// route says where the workers listen that are alive.
func (p *proxy) route(bySlot map[int]int) {
	list := slices.Sorted(maps.Values(bySlot))
	p.workers.Store(&list)
}

// serves tells whether the proxy is open, or tries to be, on the port.
func (p *proxy) serves(external int) bool { return p.external == external && p.acceptCtx.Err() == nil }

// close ends all connections and returns when nothing is left.
func (p *proxy) close() {
	p.cancel()
	p.wait.Wait()
}

// listen takes the port, as often as needed, and serves it.
func (p *proxy) listen(notice func(context.Context, string)) {
	for pause := proxyListen; ; pause = min(2*pause, proxyListenTo) {
		var lc net.ListenConfig
		l, err := lc.Listen(p.acceptCtx, "tcp", net.JoinHostPort(p.host, strconv.Itoa(p.external)))
		if err == nil {
			notice(p.ctx, "")
			p.serve(l)
			return
		}
		if p.acceptCtx.Err() != nil {
			return
		}
		notice(p.ctx, fmt.Sprintf("service port %d: %v; trying again", p.external, err))
		if !sleep(p.acceptCtx, pause) {
			return
		}
	}
}

func (p *proxy) serve(l net.Listener) {
	defer context.AfterFunc(p.acceptCtx, func() { l.Close() })()
	for {
		conn, err := l.Accept()
		switch {
		case p.acceptCtx.Err() != nil:
			if conn != nil {
				conn.Close()
			}
			return
		case err != nil:
			sleep(p.acceptCtx, proxyAccept)
		case !p.conns.take():
			conn.Close()
		default:
			p.wait.Go(func() {
				defer p.conns.leave()
				p.forward(conn.(*net.TCPConn))
			})
		}
	}
}

// forward serves one connection.
func (p *proxy) forward(from *net.TCPConn) {
	defer from.Close()
	to := p.reach()
	if to == nil {
		return
	}
	defer to.Close()
	defer context.AfterFunc(p.ctx, func() {
		from.Close()
		to.Close()
	})()
	var both sync.WaitGroup
	both.Go(func() { transfer(to, from) })
	both.Go(func() { transfer(from, to) })
	both.Wait()
}

// reach connects to a worker, waiting for it if need be; nil if in vain.
func (p *proxy) reach() *net.TCPConn {
	if conn, ok := p.dial(p.ctx); ok {
		return conn
	}
	if !p.held.take() {
		return nil
	}
	defer p.held.leave()
	ctx, cancel := context.WithTimeout(p.ctx, p.hold)
	defer cancel()
	for sleep(ctx, proxyRetry) {
		if conn, ok := p.dial(ctx); ok {
			return conn
		}
	}
	return nil
}

// dial tries every worker once, beginning with the one whose turn it is.
func (p *proxy) dial(ctx context.Context) (*net.TCPConn, bool) {
	d := net.Dialer{Timeout: proxyDial}
	list := *p.workers.Load()
	turn := int(p.turn.Add(1) % (1 << 16))
	for i := range list {
		port := list[(turn+i)%len(list)]
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			return conn.(*net.TCPConn), true
		}
	}
	return nil, false
}

// transfer copies one direction and passes the end of it on.
func transfer(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		// One side broke: without this the other direction could wait for ever.
		to.Close()
		from.Close()
		return
	}
	to.CloseWrite()
}

// sleep waits and tells whether ctx still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
