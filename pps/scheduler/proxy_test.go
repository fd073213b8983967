package scheduler

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// freePort is one that nobody listens on.
func freePort(t *testing.T) int {
	l := listenOn(t, 0)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func listenOn(t *testing.T, port int) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// echo answers until the other side has said all.
func echo(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		io.Copy(conn, conn)
		conn.Close()
	}
}

func connect(t *testing.T, port int) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(limit))
	return conn.(*net.TCPConn)
}

func open(t *testing.T, external, internal int, hold time.Duration) (*proxy, chan string) {
	notices := make(chan string, 100)
	p := newProxy("127.0.0.1", external, hold, func(_ context.Context, text string) { notices <- text })
	p.route(map[int]int{0: internal})
	t.Cleanup(p.close)
	return p, notices
}

func TestProxy_ForwardsBothWaysAndHalfClose(t *testing.T) {
	worker := listenOn(t, 0)
	go echo(worker)
	external := freePort(t)
	_, notices := open(t, external, worker.Addr().(*net.TCPAddr).Port, limit)
	if text := <-notices; text != "" {
		t.Fatal(text)
	}
	conn := connect(t, external)
	fmt.Fprint(conn, "hello")
	conn.CloseWrite()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestProxy_HoldsWhileTheWorkerRestarts(t *testing.T) {
	external, internal := freePort(t), freePort(t)
	p, notices := open(t, external, internal, limit)
	<-notices
	conn := connect(t, external)
	fmt.Fprintln(conn, "early")
	for deadline := time.Now().Add(limit); p.held.taken.Load() == 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the connection is not held")
		}
	}
	go echo(listenOn(t, internal))
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "early\n" {
		t.Errorf("%q, %v", line, err)
	}
}

func TestProxy_HoldsSoManyAndSoLong(t *testing.T) {
	closed := func(conn *net.TCPConn) {
		t.Helper()
		if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read %d bytes, %v", n, err)
		}
	}
	external, internal := freePort(t), freePort(t)
	p, notices := open(t, external, internal, 100*time.Millisecond)
	<-notices
	closed(connect(t, external))
	p.close()
	if n := p.held.taken.Load(); n != 0 {
		t.Errorf("%d places still taken", n)
	}
	external = freePort(t)
	p, notices = open(t, external, internal, time.Hour)
	<-notices
	p.held.taken.Add(proxyHeld)
	closed(connect(t, external))
}

func TestProxy_CloseEndsEverything(t *testing.T) {
	worker := listenOn(t, 0)
	go echo(worker)
	external := freePort(t)
	p, notices := open(t, external, worker.Addr().(*net.TCPAddr).Port, limit)
	<-notices
	conn := connect(t, external)
	fmt.Fprint(conn, "x")
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p.close()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection lives")
	}
	listenOn(t, external).Close()
}

func TestProxy_PortInUse(t *testing.T) {
	taken := listenOn(t, 0)
	external := taken.Addr().(*net.TCPAddr).Port
	_, notices := open(t, external, 1, limit)
	want := fmt.Sprintf("service port %d: listen tcp 127.0.0.1:%d: bind: address already in use; trying again", external, external)
	if text := <-notices; text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	taken.Close()
	for text := range notices {
		if text == "" {
			break
		}
	}
}

// The whole way: a spout with a service, its port taken, freed, and given up with the pipeline.
func TestRun_Service(t *testing.T) {
	d := start(t, newStore(t))
	external, internal := freePort(t), freePort(t)
	taken := listenOn(t, external)
	d.put(d.spout(1, func(r *recordpb.PipelineRecord) {
		r.Info.Details.Spout.Service = &ppspb.Service{InternalPort: int32(internal), ExternalPort: int32(external)}
	}))
	d.crew.next()
	d.status(stRunning, 1, "address already in use")
	taken.Close()
	d.await(func(st *recordpb.PipelineStatus) bool { return st.GetState() == stRunning && st.GetReason() == "" })
	go echo(listenOn(t, internal))
	conn := connect(t, external)
	fmt.Fprintln(conn, "hello")
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || strings.TrimSpace(line) != "hello" {
		t.Errorf("%q, %v", line, err)
	}
	conn.Close()
	d.put(d.spout(1, stopped))
	d.status(stPaused, 0, "")
	if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", external)); err == nil {
		conn.Close()
		t.Error("the port of a stopped spout is open")
	}
}
