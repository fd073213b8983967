package server_test

import (
	"net"
	"sync"
	"testing"
)

// etcdProxy stands between one daemon and etcd, and can come between them.
type etcdProxy struct {
	addr string

	mu     sync.Mutex
	target string
	conns  map[net.Conn]bool
	gate   chan struct{} // closed: bytes pass
	cut    bool
	ended  bool
	wg     sync.WaitGroup
}

func startEtcdProxy(t *testing.T, target string) *etcdProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &etcdProxy{addr: l.Addr().String(), target: target, conns: map[net.Conn]bool{}, gate: make(chan struct{})}
	close(p.gate)
	p.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.forward(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.mu.Lock()
		p.ended = true
		p.mu.Unlock()
		p.heal()
		p.closeAll()
		p.wg.Wait()
	})
	return p
}

func (p *etcdProxy) forward(conn net.Conn) {
	defer conn.Close()
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	up, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer up.Close()
	p.mu.Lock()
	if p.cut || p.ended {
		p.mu.Unlock()
		return
	}
	p.conns[conn], p.conns[up] = true, true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.conns, conn)
		delete(p.conns, up)
		p.mu.Unlock()
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.pass(up, conn)
	}()
	p.pass(conn, up)
	<-done
}

// pass copies as long as the gate is open, and ends both ends.
func (p *etcdProxy) pass(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			p.mu.Lock()
			gate := p.gate
			p.mu.Unlock()
			<-gate
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *etcdProxy) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		conn.Close()
	}
}

// sever ends all connections and takes no others until heal.
func (p *etcdProxy) sever() {
	p.mu.Lock()
	p.cut = true
	p.mu.Unlock()
	p.closeAll()
}

// stall holds back all bytes until heal, which lets them through late.
func (p *etcdProxy) stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gate = make(chan struct{})
}

func (p *etcdProxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
	select {
	case <-p.gate:
	default:
		close(p.gate)
	}
}

// lead has new connections go to another address.
func (p *etcdProxy) lead(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}
