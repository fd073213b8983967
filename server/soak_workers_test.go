package server_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// ask asks one daemon after the other until one answers. An answer other than that
// it, or etcd, is out of reach is a fault.
func (s *siege) ask(ctx context.Context, what string, fn func(context.Context, pfspb.APIClient, ppspb.APIClient) error) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var last error
	first := rand.IntN(3)
	if int64(first) == s.victim.Load() && rand.IntN(4) > 0 {
		first++ // mostly one that can answer
	}
	for i := first; ctx.Err() == nil; i++ {
		last = s.askOne(ctx, s.running()[i%3].addr, fn)
		switch status.Code(last) {
		case codes.OK:
			return true
		case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		default:
			s.t.Errorf("%s: %v", what, last)
			return false
		}
		time.Sleep(10 * time.Millisecond) // paces the questions only
	}
	s.t.Errorf("%s: no daemon answers: %v", what, last)
	return false
}

func (s *siege) askOne(ctx context.Context, addr string, fn func(context.Context, pfspb.APIClient, ppspb.APIClient) error) error {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(20<<20)))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second) // it may be frozen
	defer cancel()
	return fn(ctx, pfspb.NewAPIClient(conn), ppspb.NewAPIClient(conn))
}

// harass attacks workers and edits pipelines until small ends, and finishes what it
// has begun. It leaves the spout that hangs alone: its liveness check alone is to help.
func (s *siege) harass(ctx, small context.Context) {
	for version := 1; small.Err() == nil && !s.t.Failed(); version++ {
		b := &s.spouts[rand.IntN(len(s.spouts))]
		if b.name == "hangs" {
			continue
		}
		at := time.Now()
		switch n := rand.IntN(12); {
		case n < 5:
			s.killWorker(b, false)
		case n < 9:
			s.killWorker(b, true)
		case n < 10:
			s.create(ctx, b, version)
			s.pause(b.name, at)
			s.record(attack{kind: "pipeline updated", at: at})
		default:
			s.stopAndStart(ctx, b)
			s.pause(b.name, at)
			s.record(attack{kind: "pipeline stopped and started", at: at})
		}
		select {
		case <-small.Done():
		case <-time.After(100*time.Millisecond + rand.N(time.Second)):
		}
	}
}

// pause remembers that a spout did not commit because its user wanted it so.
func (s *siege) pause(name string, from time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pauses[name] = append(s.pauses[name], interval{from, time.Now()})
}

// killWorker kills one process of a spout, or its keeper.
func (s *siege) killWorker(b *besieged, keeper bool) {
	found := s.workers(b.name)
	if len(found) == 0 {
		return // it waits for its next start
	}
	w := found[rand.IntN(len(found))]
	a := attack{kind: "worker killed", at: time.Now(), slot: b.name + w.slot, by: w.by}
	pid := w.pid
	if keeper {
		a.kind, pid = "keeper killed", w.keeper
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err == nil {
		s.record(a)
	}
}

type workerProcess struct {
	pid, keeper int
	slot, by    string
}

// workers finds the processes that count for a spout.
func (s *siege) workers(name string) (found []workerProcess) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		s.t.Errorf("look for processes: %v", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		env, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err != nil || !bytes.Contains(env, []byte("ACKS="+s.path(name)+"\x00")) {
			continue
		}
		exe, err := os.Readlink("/proc/" + e.Name() + "/exe")
		if err != nil || exe != s.counter {
			continue // a liveness command
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		w := workerProcess{pid: pid}
		if w.keeper, err = strconv.Atoi(fields[1]); err != nil || w.keeper <= 1 || w.keeper == os.Getpid() {
			continue // its keeper is dead, and it is about to be
		}
		for entry := range strings.SplitSeq(string(env), "\x00") {
			if v, ok := strings.CutPrefix(entry, "PACHD_WORKER_INCARNATION="); ok {
				w.by = fmt.Sprintf("%s.%d", v, pid)
			}
			if v, ok := strings.CutPrefix(entry, "PPS_WORKER_ORDINAL="); ok && v != "0" {
				w.slot = v
			}
		}
		found = append(found, w)
	}
	return found
}

// stopAndStart stops a spout, sees that it has left nothing open, and starts it.
func (s *siege) stopAndStart(ctx context.Context, b *besieged) {
	if !s.stopSpout(ctx, b) {
		return
	}
	s.ask(ctx, "start "+b.name, func(ctx context.Context, _ pfspb.APIClient, pps ppspb.APIClient) error {
		_, err := pps.StartPipeline(ctx, &ppspb.StartPipelineRequest{Pipeline: &ppspb.Pipeline{Name: b.name}})
		return err
	})
}

func (s *siege) stopSpout(ctx context.Context, b *besieged) bool {
	s.ask(ctx, "stop "+b.name, func(ctx context.Context, _ pfspb.APIClient, pps ppspb.APIClient) error {
		_, err := pps.StopPipeline(ctx, &ppspb.StopPipelineRequest{Pipeline: &ppspb.Pipeline{Name: b.name}})
		return err
	})
	if !s.await(ctx, b.name, func(info *ppspb.PipelineInfo) bool {
		return info.GetState() == ppspb.PipelineState_PIPELINE_PAUSED && info.GetDetails().GetWorkersAvailable() == 0
	}) {
		return false
	}
	return s.ask(ctx, "list the commits of "+b.name, func(ctx context.Context, pfs pfspb.APIClient, _ ppspb.APIClient) error {
		commits, err := collect(pfs.ListCommit(ctx, &pfspb.ListCommitRequest{Repo: repo(b.name), Number: 100}))
		if err != nil {
			return err
		}
		for _, c := range commits {
			if c.Finished == nil || c.Error != "" {
				s.t.Errorf("%s is stopped and has the commit %v", b.name, c)
			}
		}
		return nil
	})
}

// await returns once a daemon says of a spout what is wanted.
func (s *siege) await(ctx context.Context, name string, ok func(*ppspb.PipelineInfo) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var last *ppspb.PipelineInfo
	for done := false; !done; time.Sleep(10 * time.Millisecond) { // paces the questions only
		if ctx.Err() != nil {
			s.t.Errorf("pipeline %s stays as it is: %v", name, last)
			s.explain(name)
			return false
		}
		if !s.ask(context.WithoutCancel(ctx), "inspect "+name, func(ctx context.Context, _ pfspb.APIClient, pps ppspb.APIClient) (err error) {
			last, err = pps.InspectPipeline(ctx, &ppspb.InspectPipelineRequest{Pipeline: &ppspb.Pipeline{Name: name}, Details: true})
			done = err == nil && ok(last)
			return err
		}) {
			return false
		}
	}
	return true
}

// visit uses the service until ctx ends.
func (s *siege) visit(ctx context.Context) (answers int) {
	for ctx.Err() == nil {
		if _, err := s.service(ctx); err == nil {
			answers++
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond): // paces the visits only
		}
	}
	return answers
}

func (s *siege) service(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", s.external))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return 0, err
		}
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// checkCalm ends the misbehaviour and waits until all spouts run.
func (s *siege) checkCalm(ctx context.Context) {
	if err := os.WriteFile(s.path("calm"), nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	calm := time.Now()
	for _, b := range s.spouts {
		s.await(ctx, b.name, func(info *ppspb.PipelineInfo) bool {
			return info.GetState() == ppspb.PipelineState_PIPELINE_RUNNING && info.GetDetails().GetWorkersAvailable() == int64(b.workers) && info.GetReason() == ""
		})
	}
	s.t.Logf("all run %v after the last attack", time.Since(calm).Round(time.Millisecond))
	s.goOn(ctx, time.Now())
	if n, err := s.service(ctx); err != nil || n == 0 {
		s.t.Errorf("the service answers %d, %v", n, err)
	}
}

// checkEnd stops everything and checks what must hold whatever has happened.
func (s *siege) checkEnd(ctx context.Context) {
	pfs, _, _ := dial(s.t, s.daemons[0].addr)
	acks := map[string][]ack{}
	for _, b := range s.spouts {
		s.stopSpout(ctx, &b)
		for _, slot := range b.slots() {
			acks[b.name+slot] = checkCounter(ctx, s.t, pfs, b.name, slot, s.path(b.name))
		}
	}
	s.checkDoubles()
	faults, err := collect(pfs.Fsck(ctx, &pfspb.FsckRequest{Deep: true}))
	if err != nil {
		s.t.Errorf("fsck: %v", err)
	}
	for _, f := range faults {
		s.t.Errorf("fsck: %v", f)
	}
	for i, p := range s.daemons {
		if err := p.stop(); err != nil {
			s.t.Errorf("stop: %v\n%s", err, tail(p.log.String()))
		}
		if alive := workersOf(s.t, s.dirs[i], p); len(alive) > 0 {
			s.t.Errorf("still alive after the end: %v", alive)
		}
	}
	s.report(acks)
}

// checkDoubles judges what the workers have seen of others of their slot: only a
// frozen daemon may have left one alive when another began.
func (s *siege) checkDoubles() {
	data, err := os.ReadFile(s.path("witness/doubles"))
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	excused := 0
	for line := range strings.Lines(string(data)) {
		var slot, owner, theirs, by, their string
		var nanos int64
		if _, err := fmt.Sscanln(line, &slot, &owner, &theirs, &by, &their, &nanos); err != nil {
			s.t.Errorf("witness %q: %v", line, err)
			continue
		}
		at := time.Unix(0, nanos)
		if slices.ContainsFunc(s.trouble, func(t trouble) bool {
			return t.kind == "frozen" && strings.Contains(theirs, t.dir) && at.After(t.from) && at.Before(t.to)
		}) {
			excused++
			continue
		}
		s.t.Errorf("%v: %s of %s began while %s of %s lived", slot, by, owner, their, theirs)
	}
	s.t.Logf("%d times a worker began while one of a frozen daemon was not dead yet", excused)
}

// report logs the figures.
func (s *siege) report(acks map[string][]ack) {
	counts, times := map[string]int{}, map[string][]time.Duration{}
	for _, a := range s.attacks {
		counts[a.kind]++
		if a.took > 0 {
			times[a.kind] = append(times[a.kind], a.took)
		}
		if took, ok := s.recovery(a, acks[a.slot]); ok {
			times[a.kind] = append(times[a.kind], took)
		}
	}
	for kind, n := range counts {
		line := fmt.Sprintf("%s: %d", kind, n)
		if t := times[kind]; len(t) > 0 {
			slices.Sort(t)
			line += fmt.Sprintf("; commits again after %v (p50), %v (p99), %v (longest) of %d", t[len(t)/2].Round(time.Millisecond),
				t[len(t)*99/100].Round(time.Millisecond), t[len(t)-1].Round(time.Millisecond), len(t))
		}
		s.t.Log(line)
	}
	for slot, all := range acks {
		var longest time.Duration
		for i := 1; i < len(all); i++ {
			if !s.paused(slot, all[i-1].at, all[i].at) {
				longest = max(longest, all[i].at.Sub(all[i-1].at))
			}
		}
		s.t.Logf("%s: %d acknowledged, longest gap %v", slot, len(all), longest.Round(time.Millisecond))
	}
}

// recovery is how long after the death of its worker a slot's next one has committed.
func (s *siege) recovery(a attack, all []ack) (time.Duration, bool) {
	i := slices.IndexFunc(all, func(c ack) bool { return c.at.After(a.at) && c.by != a.by })
	if a.by == "" || i < 1 || all[i-1].by != a.by || s.paused(a.slot, a.at, all[i].at) {
		return 0, false
	}
	return all[i].at.Sub(a.at), true
}

// paused tells whether the slot's user has stopped or updated it in that time.
func (s *siege) paused(slot string, from, to time.Time) bool {
	return slices.ContainsFunc(s.pauses[strings.TrimRight(slot, "0123456789")], func(p interval) bool {
		return p.from.Before(to) && p.to.After(from)
	})
}
