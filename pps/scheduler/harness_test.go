package scheduler

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/minipachd/minipachd/clock/clocktest"
	"github.com/minipachd/minipachd/pps/logs"
	"github.com/minipachd/minipachd/pps/runtime/process"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

const limit = 30 * time.Second

// TestMain lets the test binary be keeper and worker as well.
func TestMain(m *testing.M) {
	process.MaybeInit()
	if address := os.Getenv("TEST_CREW"); address != "" {
		os.Exit(obey(address))
	}
	goleak.VerifyTestMain(m)
}

// hello is what a worker says of itself.
type hello struct {
	PID  int
	Pod  string
	Mark string // TEST_MARK
}

// obey is a worker's program: it does what the test tells it over TCP.
func obey(address string) int {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if os.Getenv("TEST_SERVE") != "" {
		if err := serve(os.Getenv("PPS_SERVICE_PORT")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	json.NewEncoder(conn).Encode(hello{os.Getpid(), os.Getenv("PPS_POD_NAME"), os.Getenv("TEST_MARK")})
	go func() {
		for range signals {
			fmt.Fprintln(conn, "term")
			if os.Getenv("TEST_STUBBORN") == "" {
				os.Exit(0)
			}
		}
	}()
	for in := bufio.NewScanner(conn); in.Scan(); {
		var code int
		var text string
		switch n, _ := fmt.Sscanf(in.Text(), "%d %q", &code, &text); n {
		case 2:
			fmt.Fprintln(os.Stderr, text)
			fallthrough
		case 1:
			return code
		}
		fmt.Println(in.Text())
	}
	return 0
}

// serve answers every connection with who it is and where it listens.
func serve(port string) error {
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(conn, os.Getenv("PPS_POD_NAME"), port)
			conn.Close()
		}
	}()
	return nil
}

// crew is where workers report.
type crew struct {
	t      *testing.T
	listen net.Listener
}

func newCrew(t *testing.T) *crew {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &crew{t, l}
}

// fellow is a worker that reported.
type fellow struct {
	hello
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

// next waits for a worker to report.
func (c *crew) next() *fellow {
	c.t.Helper()
	c.listen.(*net.TCPListener).SetDeadline(time.Now().Add(limit))
	conn, err := c.listen.Accept()
	if err != nil {
		c.t.Fatal("no worker reports:", err)
	}
	c.t.Cleanup(func() { conn.Close() })
	f := &fellow{t: c.t, conn: conn, in: bufio.NewReader(conn)}
	line, err := f.in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &f.hello)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

// nobody checks that no worker has reported.
func (c *crew) nobody() {
	c.t.Helper()
	c.listen.(*net.TCPListener).SetDeadline(time.Unix(1, 0))
	if conn, err := c.listen.Accept(); err == nil {
		conn.Close()
		c.t.Fatal("a worker was started")
	}
}

func (f *fellow) tell(text string) { fmt.Fprintln(f.conn, text) }

// said waits for a line, "" for the worker's death.
func (f *fellow) said(want string) {
	f.t.Helper()
	f.conn.SetReadDeadline(time.Now().Add(limit))
	line, err := f.in.ReadString('\n')
	if errors.Is(err, syscall.ECONNRESET) {
		err = io.EOF
	}
	if got := strings.TrimSpace(line); got != want || want == "" && err != io.EOF {
		f.t.Fatalf("worker %s said %q (%v), want %q", f.Pod, got, err, want)
	}
}

// daemon is a scheduler with all that it needs.
type daemon struct {
	t     *testing.T
	store *store.Store
	logs  *logs.Store
	sched *Scheduler
	clock *clocktest.Clock
	dir   string
	crew  *crew
	stop  func() // and wait
}

// newStore is an embedded etcd.
func newStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Dir: filepath.Join(t.TempDir(), "etcd")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// start runs a daemon on an etcd.
func start(t *testing.T, etcd *store.Store, edit ...func(*Config)) *daemon {
	t.Helper()
	d := &daemon{t: t, store: etcd, dir: t.TempDir(), crew: newCrew(t), clock: clocktest.New(epoch)}
	logger := zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))
	r, err := process.New(process.Config{DataDir: d.dir, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	if d.logs, err = logs.Open(filepath.Join(d.dir, "logs"), logs.Options{}); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Store: etcd, Runtime: r, Logs: d.logs, Logger: logger, DataDir: d.dir, Clock: d.clock,
		Address: "127.0.0.1:30650", Jitter: -1, Grace: limit, LeaseTTL: limit, ServiceHost: "127.0.0.1",
	}
	for _, e := range edit {
		e(&cfg)
	}
	d.sched = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.sched.Run(ctx) }()
	d.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(limit):
			t.Error("Run does not return")
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		d.logs.Close()
	})
	t.Cleanup(d.stop)
	return d
}

// spout is a record whose worker obeys the crew; edits apply in order.
func (d *daemon) spout(version uint64, edit ...func(*recordpb.PipelineRecord)) *recordpb.PipelineRecord {
	exe, err := os.Executable()
	if err != nil {
		d.t.Fatal(err)
	}
	record := &recordpb.PipelineRecord{
		Generation: version,
		Info: &ppspb.PipelineInfo{
			Pipeline:    &ppspb.Pipeline{Project: &pfspb.Project{Name: "p"}, Name: "s"},
			Version:     version,
			SpecCommit:  &pfspb.Commit{Id: fmt.Sprintf("%032x", version)},
			Parallelism: 1,
			Type:        ppspb.PipelineInfo_PIPELINE_TYPE_SPOUT,
			Details: &ppspb.PipelineInfo_Details{
				Spout: &ppspb.Spout{},
				Transform: &ppspb.Transform{
					Cmd: []string{exe}, Image: "ubuntu:20.04",
					Env: map[string]string{"TEST_CREW": d.crew.listen.Addr().String(), "TEST_MARK": fmt.Sprint("v", version)},
				},
			},
			UserSpecJson: "{}",
		},
	}
	for _, e := range edit {
		e(record)
	}
	return record
}

// put stores a record; nil deletes it.
func (d *daemon) put(record *recordpb.PipelineRecord) {
	d.t.Helper()
	_, err := d.store.Update(d.t.Context(), func(tx *store.Txn) error {
		if record == nil {
			d.sched.pipelines.Delete(tx, "p/s")
			return nil
		}
		return d.sched.pipelines.Put(tx, "p/s", record)
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

// status waits for one with this state, number of workers and part of the reason.
func (d *daemon) status(state ppspb.PipelineState, workers int64, reason string) *recordpb.PipelineStatus {
	d.t.Helper()
	return d.await(func(st *recordpb.PipelineStatus) bool {
		return st.GetState() == state && st.GetWorkersAvailable() == workers && strings.Contains(st.GetReason(), reason)
	})
}

var errSeen = errors.New("seen")

// await waits for a status; nil stands for none.
func (d *daemon) await(ok func(*recordpb.PipelineStatus) bool) *recordpb.PipelineStatus {
	d.t.Helper()
	return d.awaitAs("s", ok)
}

// awaitAs is await for another pipeline.
func (d *daemon) awaitAs(name string, ok func(*recordpb.PipelineStatus) bool) *recordpb.PipelineStatus {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), limit)
	defer cancel()
	var last *recordpb.PipelineStatus
	err := d.sched.statuses.Watch(ctx, d.store, "p/"+name, func(e store.Event[*recordpb.PipelineStatus]) error {
		if !e.Synced {
			last = e.Value
		}
		if (e.Synced || e.Deleted || last != nil) && ok(last) {
			return errSeen
		}
		return nil
	})
	if !errors.Is(err, errSeen) {
		d.t.Fatalf("%v; last status: %v", err, last)
	}
	return last
}
