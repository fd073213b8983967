package server_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

var soakTime = flag.Duration("soak", 8*time.Second, "how long the soak of spouts attacks")

const soakLease = 3 * time.Second

// besieged is a spout under attack.
type besieged struct {
	name    string
	workers int
	fields  string // of the spec, beside name, spout and transform
	spout   string
	env     string // further entries
}

// slots names its workers: empty, 1, 2 ...
func (b *besieged) slots() []string {
	all := []string{""}
	for i := 1; i < b.workers; i++ {
		all = append(all, fmt.Sprint(i))
	}
	return all
}

// siege is three daemons on one etcd and one bucket, and what is known of them.
type siege struct {
	t        *testing.T
	etcd     *embed.Etcd
	proxies  []*etcdProxy
	dirs     []string
	shared   string
	counter  string
	external int // port of the service
	spouts   []besieged
	victim   atomic.Int64 // the daemon under attack, or -1

	mu      sync.Mutex
	daemons []*proc
	attacks []attack
	pauses  map[string][]interval // of a spout, by its user
	trouble []trouble
}

type interval struct{ from, to time.Time }

// trouble is a time in which a daemon cannot know that it was given up.
type trouble struct {
	dir  string
	kind string
	interval
}

// attack is one that was made, and how long it was until all that it hit committed again.
type attack struct {
	kind string
	at   time.Time
	took time.Duration
	slot string // of the worker that was killed
	by   string // its process
}

// TestSoak_SpoutsCannotBeKilled attacks three daemons that share an etcd, each of which
// reaches it through a proxy of its own, and at the same time the workers and
// pipelines on them. Whatever happens, the spouts commit on; in the end nothing
// acknowledged is missing, each number is there once, no process that was given up
// has committed after its successor, no slot had two processes but where a daemon was
// frozen, a deep fsck is clean, and no process is left.
func TestSoak_SpoutsCannotBeKilled(t *testing.T) {
	t.Parallel() // it waits most of the time
	s := newSiege(t)
	ctx, cancel := context.WithTimeout(t.Context(), *soakTime+10*time.Minute)
	defer cancel()
	for _, b := range s.spouts {
		s.create(ctx, &b, 0)
	}
	if !s.goOn(ctx, time.Now()) {
		return
	}
	small, stop := context.WithTimeout(ctx, *soakTime)
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	served := 0
	wg.Go(func() { s.harass(ctx, small) })
	wg.Go(func() { served = s.visit(small) })
	var kinds []int
	for small.Err() == nil && !t.Failed() {
		if len(kinds) == 0 {
			n := len(daemonAttacks)
			if *soakTime < time.Minute {
				n--
			}
			kinds = rand.Perm(n)
		}
		s.attackDaemon(ctx, daemonAttacks[kinds[0]])
		kinds = kinds[1:]
	}
	stop()
	wg.Wait()
	if t.Failed() {
		return
	}
	s.checkCalm(ctx)
	s.checkEnd(ctx)
	if served == 0 {
		t.Error("the service has never answered")
	}
	t.Logf("the service answered %d times", served)
}

func newSiege(t *testing.T) *siege {
	t.Helper()
	s := &siege{t: t, shared: t.TempDir(), counter: counterBinary(t), external: freePort(t), pauses: map[string][]interval{}}
	pachdBinary(t)
	var addr string
	s.etcd, addr = startEtcd(t, s.path("etcd"), "")
	t.Cleanup(func() { s.etcd.Close() }) // after the daemons' end
	for i := range 3 {
		s.proxies = append(s.proxies, startEtcdProxy(t, addr))
		s.dirs = append(s.dirs, t.TempDir())
		s.daemons = append(s.daemons, nil)
		s.start(i)
	}
	if err := os.Mkdir(s.path("witness"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.spouts = []besieged{
		{name: "plain", workers: 1, env: `, "STUBBORN": "1"`, spout: `{"retention": {"commits": 20}}`},
		{name: "three", workers: 3, env: `, "STUBBORN": "1"`, spout: `{}`, fields: `"parallelism_spec": {"constant": 3},`},
		{name: "hangs", workers: 1, env: `, "HANG": "0.005"`, spout: `{"liveness": {"commit_every": "1.5s", "interval": "0.2s", "initial_delay": "0s"}}`},
		{name: "crashes", workers: 1, env: `, "CRASH": "0.02"`, spout: `{}`},
		{name: "serves", workers: 1, spout: fmt.Sprintf(`{"service": {"internal_port": %d, "external_port": %d}, "liveness": {"exec":
			{"command": ["sh", "-c", "test -e $CALM || test $(($(date +%%s) %% 20)) != 0 || sleep 100"]}, "interval": "0.4s", "timeout": "0.4s", "failure_threshold": 2}}`, freePort(t), s.external)},
		{name: "policy", workers: 1, spout: `{"commit": {"interval": "0.3s"}, "retention": {"commits": 1, "age": "3s"}}`},
	}
	return s
}

func (s *siege) path(name string) string { return filepath.Join(s.shared, name) }

func (s *siege) start(i int) {
	s.t.Helper()
	p := startPachd(s.t, s.dirs[i], "--etcd-endpoints", s.proxies[i].addr, "--bucket", "file://"+s.path("bucket"), "--lease-ttl", soakLease.String(),
		"--initial-backoff", "100ms", "--max-backoff", "500ms", "--grace-period", "1s", "--log-level", "info")
	s.mu.Lock()
	s.daemons[i] = p
	s.mu.Unlock()
}

// create makes a spout, or with a version another version of it.
func (s *siege) create(ctx context.Context, b *besieged, version int) {
	spec := fmt.Sprintf(`{"pipeline": {"name": %q}, %s "spout": %s, "transform": {"cmd": [%q],
		"env": {"ACKS": %q, "WITNESS": %q, "CALM": %q, "PAUSE": "25ms", "VERSION": "%d" %s}}}`,
		b.name, b.fields, b.spout, s.counter, s.path(b.name), s.path("witness"), s.path("calm"), version, b.env)
	s.ask(ctx, "create "+b.name, func(ctx context.Context, _ pfspb.APIClient, pps ppspb.APIClient) error {
		_, err := pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: spec, Update: version > 0})
		return err
	})
}

// daemonAttacks hit a daemon, its way to etcd, or etcd, which takes long to stop and
// is last: the short form goes without.
var daemonAttacks = []string{
	"daemon killed and started again", "daemon killed, others take over", "daemon stopped and started again",
	"daemon frozen beyond its lease", "daemon frozen for a moment",
	"etcd out of reach beyond the lease", "etcd out of reach for a moment",
	"etcd silent beyond the lease", "etcd silent for a moment", "etcd started again",
}

// attackDaemon makes one attack, undoes it, and waits until everything commits again.
func (s *siege) attackDaemon(ctx context.Context, kind string) {
	i := rand.IntN(len(s.daemons))
	s.victim.Store(int64(i))
	defer s.victim.Store(-1)
	p, proxy := s.daemons[i], s.proxies[i]
	for _, d := range s.daemons {
		if err := d.cmd.Process.Signal(syscall.Signal(0)); err != nil {
			s.t.Fatalf("a daemon has ended by itself: %v\n%s", err, tail(d.log.String()))
		}
	}
	at := time.Now()
	moment := time.Duration(rand.Int64N(int64(soakLease)))
	long := strings.Contains(kind, "beyond")
	hold := func() {
		if long {
			s.goOn(ctx, at)
		} else {
			time.Sleep(moment) // the length of the attack, nothing waits for it
		}
	}
	troubled := ""
	switch strings.Fields(kind)[0] + " " + strings.Fields(kind)[1] {
	case "daemon killed", "daemon killed,":
		p.kill()
		if strings.Contains(kind, "others") {
			s.goOn(ctx, at)
			if alive := workersOf(s.t, s.dirs[i], p); len(alive) > 0 {
				s.t.Errorf("still alive after the daemon was killed: %v", alive)
			}
			s.record(attack{kind: kind, at: at, took: time.Since(at)})
		}
		s.start(i)
	case "daemon stopped":
		if err := p.stop(); err != nil {
			s.t.Errorf("stop: %v\n%s", err, tail(p.log.String()))
		}
		if alive := workersOf(s.t, s.dirs[i], p); len(alive) > 0 {
			s.t.Errorf("still alive after the daemon was stopped: %v", alive)
		}
		s.start(i)
	case "daemon frozen":
		troubled = "frozen"
		signal(s.t, p, syscall.SIGSTOP)
		hold()
		signal(s.t, p, syscall.SIGCONT)
	case "etcd out":
		troubled = "cut off"
		proxy.sever()
		hold()
		proxy.heal()
	case "etcd silent":
		troubled = "cut off"
		proxy.stall()
		hold()
		proxy.heal()
	case "etcd started":
		s.etcd.Close()
		var addr string
		s.etcd, addr = startEtcd(s.t, s.path("etcd"), "")
		for _, proxy := range s.proxies {
			proxy.lead(addr)
		}
	default:
		s.t.Fatalf("attack %q is not known", kind)
	}
	if long {
		s.record(attack{kind: kind, at: at, took: time.Since(at)})
	}
	undone := time.Now()
	if !s.goOn(ctx, undone) {
		return
	}
	if !long && !strings.Contains(kind, "others") {
		s.record(attack{kind: kind, at: at, took: time.Since(at)})
	}
	if troubled != "" {
		s.mu.Lock()
		s.trouble = append(s.trouble, trouble{s.dirs[i], troubled, interval{at, time.Now()}})
		s.mu.Unlock()
	}
	s.t.Logf("%s: %s: %v, %v of it after it was undone", at.Format("15:04:05.000"), kind, time.Since(at).Round(time.Millisecond), time.Since(undone).Round(time.Millisecond))
}

func (s *siege) record(a attack) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attacks = append(s.attacks, a)
}

// goOn returns when every slot has committed five times since then.
func (s *siege) goOn(ctx context.Context, since time.Time) bool {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, b := range s.spouts {
		for _, slot := range b.slots() {
			for done := 0; done < 5; {
				done = 0
				for _, a := range lastAcks(s.t, s.path(b.name)+slot) {
					if a.at.After(since) {
						done++
					}
				}
				if done >= 5 {
					break
				}
				if ctx.Err() != nil {
					s.t.Errorf("worker %q of %s does not go on: %d commits in %v", slot, b.name, done, time.Since(since))
					s.explain(b.name)
					return false
				}
				time.Sleep(10 * time.Millisecond) // paces the looks
			}
		}
	}
	return true
}

// explain tells what the daemons say of a spout.
func (s *siege) explain(name string) {
	for i, p := range s.running() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), 3*time.Second) // it may be frozen
		_, pps, _ := dial(s.t, p.addr)
		info, err := pps.InspectPipeline(ctx, &ppspb.InspectPipelineRequest{Pipeline: &ppspb.Pipeline{Name: name}, Details: true})
		cancel()
		s.t.Logf("daemon %d: %v %s, %d workers, %s, %v\n%s", i, info.GetState(), info.GetReason(), info.GetDetails().GetWorkersAvailable(),
			info.GetDetails().GetRecentError(), err, tail(p.log.String()))
	}
}

func (s *siege) running() []*proc {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.daemons)
}

// tail is the end of a daemon's log, without what tells of requests.
func tail(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if !strings.Contains(line, `"msg":"request"`) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-100):], "")
}

// lastAcks is the end of readAcks.
func lastAcks(t *testing.T, file string) []ack {
	t.Helper()
	f, err := os.Open(file)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, min(info.Size(), 2<<10))
	n, _ := f.ReadAt(buf, info.Size()-int64(len(buf)))
	text := string(buf[:n])
	if int64(n) < info.Size() {
		_, text, _ = strings.Cut(text, "\n")
	}
	return parseAcks(text)
}
