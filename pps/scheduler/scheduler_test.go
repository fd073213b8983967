package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/minipachd/minipachd/pps/fence"
	"github.com/minipachd/minipachd/pps/logs"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

const (
	stStarting = ppspb.PipelineState_PIPELINE_STARTING
	stRunning  = ppspb.PipelineState_PIPELINE_RUNNING
	stCrashing = ppspb.PipelineState_PIPELINE_CRASHING
	stPaused   = ppspb.PipelineState_PIPELINE_PAUSED
	stFailure  = ppspb.PipelineState_PIPELINE_FAILURE
)

func stopped(r *recordpb.PipelineRecord)  { r.Generation, r.Info.Stopped = r.Generation+100, true }
func started2(r *recordpb.PipelineRecord) { r.Generation += 200 }
func workers(n uint64) func(*recordpb.PipelineRecord) {
	return func(r *recordpb.PipelineRecord) { r.Info.Parallelism = n }
}

func env(name, value string) func(*recordpb.PipelineRecord) {
	return func(r *recordpb.PipelineRecord) { r.Info.Details.Transform.Env[name] = value }
}

func TestRun_StartsAgainWhateverTheEnd(t *testing.T) {
	d := start(t, newStore(t))
	d.put(d.spout(1))
	f := d.crew.next()
	if f.Pod != "p.s-v1-0" {
		t.Error(f.Pod)
	}
	d.status(stRunning, 1, "")
	f.tell("0")
	f.said("")
	d.status(stStarting, 0, "exit status 0 after")
	d.crew.nobody()
	d.clock.Advance(time.Second)
	f = d.crew.next()
	d.status(stRunning, 1, "")
	f.tell(`7 "first\nboom"`)
	f.said("")
	st := d.status(stCrashing, 0, `: "first\nboom"; next start at 2026-01-01T00:00:03Z`)
	if !strings.HasPrefix(st.GetReason(), "exit status 7 after") || !strings.HasSuffix(st.GetRecentError(), "first\nboom") || st.GetStarts() != 2 {
		t.Error(st)
	}
	d.clock.Advance(2 * time.Second)
	f = d.crew.next()
	d.status(stCrashing, 1, "started again at 2026-01-01T00:00:03Z")
	d.clock.Advance(10 * time.Second)
	d.status(stRunning, 1, "")
	syscall.Kill(f.PID, syscall.SIGKILL)
	d.status(stCrashing, 0, "signal SIGKILL after")
	d.clock.Advance(4 * time.Second)
	f = d.crew.next()
	d.clock.Advance(10 * time.Minute)
	f.tell("1")
	d.status(stStarting, 0, "exit status 1")
	d.clock.Advance(time.Second)
	d.crew.next()
	if st := d.status(stRunning, 1, ""); st.GetStarts() != 5 {
		t.Error(st)
	}
}

func TestRun_StopStartDelete(t *testing.T) {
	d := start(t, newStore(t))
	d.put(d.spout(1))
	f := d.crew.next()
	d.status(stRunning, 1, "")
	d.put(d.spout(1, stopped))
	f.said("term")
	f.said("")
	if st := d.status(stPaused, 0, ""); st.GetGeneration() != 101 || st.GetReason() != "" {
		t.Error(st)
	}
	d.crew.nobody()
	d.put(d.spout(1, started2))
	f = d.crew.next()
	if st := d.status(stRunning, 1, ""); st.GetStarts() != 2 {
		t.Error(st)
	}
	d.put(nil)
	f.said("term")
	f.said("")
	d.await(func(st *recordpb.PipelineStatus) bool { return st == nil })
	// The next one of that name has nothing to do with it.
	d.put(d.spout(1, func(r *recordpb.PipelineRecord) { r.Info.SpecCommit.Id = "other"; r.Generation = 300 }))
	d.crew.next()
	if st := d.status(stRunning, 1, ""); st.GetStarts() != 1 {
		t.Error(st)
	}
}

func TestRun_UpdateStartsWhenTheOldAreGone(t *testing.T) {
	d := start(t, newStore(t), func(c *Config) { c.Grace = 200 * time.Millisecond })
	d.put(d.spout(1, workers(2), env("TEST_STUBBORN", "1")))
	old := []*fellow{d.crew.next(), d.crew.next()}
	if old[0].Pod == old[1].Pod {
		t.Errorf("two workers are %s", old[0].Pod)
	}
	d.status(stRunning, 2, "")
	d.put(d.spout(2))
	d.status(stStarting, 2, "waiting for the workers of the earlier version")
	f := d.crew.next()
	if f.Mark != "v2" {
		t.Error(f.Mark)
	}
	for _, f := range old {
		f.said("term")
		if err := syscall.Kill(f.PID, 0); err != syscall.ESRCH {
			t.Errorf("worker %s of the old version: %v", f.Pod, err)
		}
		f.said("")
	}
	d.status(stRunning, 1, "")
}

func TestRun_WhatCannotRun(t *testing.T) {
	d := start(t, newStore(t))
	d.put(d.spout(1, func(r *recordpb.PipelineRecord) { r.Info.Details.Transform.Cmd = nil }))
	d.status(stFailure, 0, "nothing to run: no transform.cmd")
	d.put(d.spout(2, func(r *recordpb.PipelineRecord) { r.Info.Details.Transform.Cmd = []string{"no-such-command"} }))
	d.status(stCrashing, 0, `command "no-such-command" not found on PATH`)
	d.put(d.spout(3, func(r *recordpb.PipelineRecord) { r.Info.Details.Transform.WorkingDir = "/no/such" }))
	d.status(stCrashing, 0, "working directory /no/such does not exist")
	d.put(d.spout(4))
	d.crew.next()
	d.status(stRunning, 1, "")
	d.crew.nobody()
}

func TestRun_EndStopsAllAndHandsOver(t *testing.T) {
	etcd := newStore(t)
	first := start(t, etcd)
	first.put(first.spout(1, workers(3)))
	fellows := []*fellow{first.crew.next(), first.crew.next(), first.crew.next()}
	first.status(stRunning, 3, "")
	second := start(t, etcd)
	second.crew = first.crew
	first.crew.nobody()
	first.stop()
	for _, f := range fellows {
		f.said("term")
		f.said("")
	}
	first.crew.next()
	if st := second.status(stRunning, 3, ""); st.GetStarts() != 6 {
		t.Error(st) // counted on
	}
}

// What a daemon leaves behind that was killed: claims with a live lease.
func TestRun_TakesOverItsOwnClaimsAtOnce(t *testing.T) {
	etcd := newStore(t)
	dir := t.TempDir()
	dead := &membership{store: etcd, log: New(Config{}).log, ttl: time.Hour, dir: dir}
	if !dead.join(t.Context()) {
		t.Fatal("not a member")
	}
	claim(t, etcd, dead, "p/s")
	dead.lock.Close()
	d := start(t, etcd, func(c *Config) { c.DataDir = dir })
	d.put(d.spout(1))
	d.crew.next()
	if d.sched.members.id != dead.id {
		t.Error("another daemon")
	}
	t.Cleanup(dead.release)
}

// claim makes a pipeline that of a member.
func claim(t *testing.T, etcd *store.Store, m *membership, key string) {
	t.Helper()
	if _, err := etcd.Update(t.Context(), func(tx *store.Txn) error { return m.claim(tx, claimPrefix+key) }); err != nil {
		t.Fatal(err)
	}
}

func TestMembership_TwoOnOneDirectoryDiffer(t *testing.T) {
	etcd, dir := newStore(t), t.TempDir()
	log := New(Config{}).log
	first := &membership{store: etcd, log: log, ttl: time.Hour, dir: dir}
	defer first.close()
	second := &membership{store: etcd, log: log, ttl: time.Hour, dir: dir}
	defer second.close()
	if !first.join(t.Context()) || !second.join(t.Context()) {
		t.Fatal("not members")
	}
	if first.id == second.id {
		t.Error("two daemons, one id")
	}
}

func TestRun_LostLeaseIsRenewedAndWorkersLive(t *testing.T) {
	d := start(t, newStore(t), func(c *Config) { c.LeaseTTL = 2 * time.Second })
	d.put(d.spout(1))
	f := d.crew.next()
	d.status(stRunning, 1, "")
	lost := d.sched.members.current()
	if _, err := d.store.Client().Revoke(t.Context(), lost.ID()); err != nil {
		t.Fatal(err)
	}
	f.tell("2") // the status of this end needs the new lease
	f.said("")
	d.status(stStarting, 0, "exit status 2")
	if d.sched.members.current() == lost {
		t.Error("written without a lease")
	}
	d.clock.Advance(time.Second)
	d.crew.next()
}

// A daemon whose lease ended and whose pipeline another one took ends its workers.
func TestRun_WorkersEndWhenAnotherHasTheClaim(t *testing.T) {
	etcd := newStore(t)
	d := start(t, etcd, func(c *Config) { c.LeaseTTL = 2 * time.Second })
	d.put(d.spout(1, env("TEST_STUBBORN", "1")))
	f := d.crew.next()
	d.status(stRunning, 1, "")
	other := &membership{store: etcd, log: New(Config{}).log, ttl: time.Hour}
	if !other.join(t.Context()) {
		t.Fatal("not a member")
	}
	claim(t, etcd, other, "p/s")
	if _, err := etcd.Client().Revoke(t.Context(), d.sched.members.current().ID()); err != nil {
		t.Fatal(err)
	}
	f.said("") // killed, not asked
	d.crew.nobody()
	other.close()
	d.crew.next() // free again
}

// What a dead daemon has written is not shown as what the next one observes.
func TestRun_TakeoverWithdrawsWhatTheDeadDaemonSaid(t *testing.T) {
	etcd := newStore(t)
	d := start(t, etcd)
	dead := &membership{store: etcd, log: d.sched.log, ttl: time.Hour}
	if !dead.join(t.Context()) {
		t.Fatal("not a member")
	}
	record := d.spout(1)
	if _, err := etcd.Update(t.Context(), func(tx *store.Txn) error {
		if err := dead.claim(tx, claimPrefix+"p/s"); err != nil {
			return err
		}
		st := &recordpb.PipelineStatus{State: stRunning, WorkersAvailable: 1, Generation: record.Generation, Starts: 7, RecentError: "before"}
		if err := d.sched.statuses.Put(tx, "p/s", st); err != nil {
			return err
		}
		return d.sched.pipelines.Put(tx, "p/s", record)
	}); err != nil {
		t.Fatal(err)
	}
	go dead.close() // the lease ends
	var said []string
	last := d.await(func(st *recordpb.PipelineStatus) bool {
		if st.GetStarts() == 7 {
			said = append(said, fmt.Sprint(st.GetState(), st.GetWorkersAvailable(), " ", st.GetReason()))
		}
		return st.GetStarts() == 8 && st.GetState() == stRunning
	})
	if want := fmt.Sprint(stStarting, 0, " taken over from a pachd that is gone"); !slices.Contains(said, want) {
		t.Errorf("%q, want %q among them", said, want)
	}
	if last.GetRecentError() != "before" {
		t.Errorf("not counted on: %v", last)
	}
	d.crew.next()
}

func TestTakenOver_LeavesWhatSaysItself(t *testing.T) {
	for _, st := range []*recordpb.PipelineStatus{
		nil, {State: stStarting, Reason: "pachd has shut down"}, {State: stPaused}, {State: stFailure, Reason: "nothing to run"},
	} {
		if got := takenOver(st); got != nil {
			t.Errorf("%v: %v", st, got)
		}
	}
	if got := takenOver(&recordpb.PipelineStatus{State: stPaused, WorkersAvailable: 1}); got.GetState() != stPaused || got.GetWorkersAvailable() != 0 {
		t.Error(got)
	}
}

// Daemons share the pipelines, and a pipeline moves when a daemon comes or goes.
func TestRun_DaemonsShareThePipelines(t *testing.T) {
	etcd := newStore(t)
	first := start(t, etcd)
	record := first.spout(1)
	for _, name := range []string{"p/a", "p/b", "p/c", "p/d"} {
		if _, err := etcd.Update(t.Context(), func(tx *store.Txn) error {
			r := proto.CloneOf(record)
			r.Info.Pipeline.Name = name[2:]
			return first.sched.pipelines.Put(tx, name, r)
		}); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		first.crew.next()
	}
	second := start(t, etcd)
	two := []*fellow{first.crew.next(), first.crew.next()} // moved to the second
	second.stop()
	for _, f := range two {
		f.said("term")
		f.said("")
		first.crew.next() // and back
	}
	first.crew.nobody()
}

// A daemon that has claims on pipelines that it does not run, and is not to run, lets
// go of them: nobody else could start their workers.
func TestRun_ClaimsOfOthersPipelinesAreGivenUp(t *testing.T) {
	etcd := newStore(t)
	first := start(t, etcd)
	second := start(t, etcd)
	record := first.spout(1)
	create := func(names ...string) {
		t.Helper()
		if _, err := etcd.Update(t.Context(), func(tx *store.Txn) error {
			for _, name := range names {
				r := proto.CloneOf(record)
				r.Info.Pipeline.Name = name
				if err := first.sched.pipelines.Put(tx, "p/"+name, r); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	create("x", "y")
	holders := map[string]string{} // one each once they know of each other
	watching, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := first.sched.claims.Watch(watching, etcd, "", func(e store.Event[*recordpb.DaemonRecord]) error {
		if !e.Synced {
			holders[e.Key] = e.Value.GetId()
		}
		if x, y := holders["p/x"], holders["p/y"]; x != "" && y != "" && x != y {
			return errSeen
		}
		return nil
	}); !errors.Is(err, errSeen) {
		t.Fatal(err)
	}
	names := []string{"a", "b", "c", "d"}
	for _, name := range names {
		claim(t, etcd, &first.sched.members, "p/"+name)
	}
	create(names...)
	for _, name := range names {
		second.awaitAs(name, func(st *recordpb.PipelineStatus) bool { return st.GetState() == stRunning })
	}
}

func TestRun_LogLines(t *testing.T) {
	d := start(t, newStore(t))
	never := filepath.Join(t.TempDir(), "never")
	d.put(d.spout(1, func(r *recordpb.PipelineRecord) {
		r.Info.UserSpecJson = `{"transform": {"image": "python:3"}}`
		r.Info.Details.Transform.AcceptReturnCode = []int64{4}
		r.Info.Details.Transform.ErrCmd = []string{"touch", never}
	}))
	f := d.crew.next()
	f.tell("a line")
	f.tell("4")
	d.status(stStarting, 0, "")
	d.clock.Advance(time.Second)
	f = d.crew.next()
	f.tell("3")
	d.status(stCrashing, 0, "")
	if _, err := os.Stat(never); err == nil {
		t.Error("err_cmd was run")
	}
	var got []string
	err := d.logs.Read(t.Context(), logs.Query{Project: "p", Pipeline: "s"}, func(m *ppspb.LogMessage) error {
		words := strings.Fields(strings.TrimSpace(m.GetMessage()))
		for i, w := range words {
			if _, err := time.ParseDuration(strings.TrimSuffix(w, ":")); err == nil {
				words[i] = "D" + w[len(strings.TrimSuffix(w, ":")):]
			}
		}
		got = append(got, fmt.Sprint(m.GetWorkerId(), " ", m.GetUser(), " ", strings.Join(words, " ")))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		` false transform.image "python:3" means nothing to the process runtime: the command runs on this machine as it is`,
		"p.s-v1-0 false beginning to run user code",
		"p.s-v1-0 true a line",
		"p.s-v1-0 false finished running user code after D",
		"p.s-v1-0 false beginning to run user code",
		"p.s-v1-0 false errored running user code after D: exit status 3",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWorkerSpec_EnvironmentAndContext(t *testing.T) {
	d := start(t, newStore(t))
	d.sched.cfg.Address = "0.0.0.0:1234"
	record := d.spout(5, func(r *recordpb.PipelineRecord) { r.Info.Parallelism = 3 }, env("PACHD_ADDRESS", "grpc://mine:1"), env("PPS_PIPELINE_NAME", "forged"), env("B", "x"))
	delete(record.Info.Details.Transform.Env, "TEST_CREW")
	delete(record.Info.Details.Transform.Env, "TEST_MARK")
	spec, claims, _ := d.sched.workerSpec(2, record.Info)
	token := lookupEnv(spec.Env, "PACH_TOKEN")
	if c, ok := fence.Parse(token); !ok || c != claims || c.Pipeline != "p/s" || c.Slot != 2 || c.Version != 5 || c.ID != spec.Incarnation {
		t.Errorf("token %q says %+v, %v", token, c, ok)
	}
	want := []string{
		"PACH_IN_WORKER=true", "PACH_NAMESPACE=default", "PACHD_ADDRESS=grpc://127.0.0.1:1234",
		"PACHD_SERVICE_HOST=127.0.0.1", "PACHD_SERVICE_PORT=1234",
		"PACHD_PEER_SERVICE_HOST=127.0.0.1", "PACHD_PEER_SERVICE_PORT=1234", "PEER_PORT=1234", "PACH_TOKEN=" + token,
		"B=x", "PACHD_ADDRESS=grpc://mine:1", "PPS_PIPELINE_NAME=forged", // later ones count
		"PPS_PIPELINE_NAME=s", "PPS_PROJECT_NAME=p", "PPS_SPEC_COMMIT=" + record.Info.SpecCommit.Id,
		"PPS_POD_NAME=p.s-v5-2", "PPS_WORKER_IP=127.0.0.1", "PPS_WORKER_ORDINAL=2",
		"PACH_WORKER_INDEX=2", "PACH_WORKER_COUNT=3",
	}
	if diff := cmp.Diff(want, spec.Env); diff != "" {
		t.Error(diff)
	}
	var config map[string]any
	if err := json.Unmarshal(spec.ConfigFile, &config); err != nil {
		t.Fatal(err)
	}
	delete(config, "user_id")
	wantConfig := map[string]any{"v2": map[string]any{
		"active_context": "default", "metrics": false,
		"contexts": map[string]any{"default": map[string]any{
			"pachd_address": "grpc://127.0.0.1:1234", "session_token": token, "project": "p",
		}},
	}}
	if diff := cmp.Diff(wantConfig, config); diff != "" {
		t.Error(diff)
	}
}

// Every worker is told which of how many it is, and all are told anew when there are more.
func TestRun_WorkersDivideASource(t *testing.T) {
	d := start(t, newStore(t))
	for version, n := range []uint64{2, 3} {
		d.put(d.spout(uint64(version)+1, shell(`echo "part=$PACH_WORKER_INDEX/$PACH_WORKER_COUNT"; exec sleep 1000`), func(r *recordpb.PipelineRecord) {
			r.Info.Parallelism = n
		}))
		d.status(stRunning, int64(n), "")
		for i := range n {
			d.line(fmt.Sprintf("part=%d/%d", i, n))
		}
	}
}

func TestReport_NoStatusWithoutPipelineOrLease(t *testing.T) {
	d := start(t, newStore(t))
	d.put(d.spout(1))
	d.crew.next()
	d.status(stRunning, 1, "")
	claim(t, d.store, &d.sched.members, "p/none")
	r := newReporter(d.sched, "p/none")
	defer r.close()
	if err := r.write(t.Context(), &recordpb.PipelineStatus{Starts: 1}); err != nil {
		t.Error(err)
	}
	if err := d.store.View(t.Context(), func(tx *store.Txn) error {
		if st, ok, err := d.sched.statuses.Get(tx, "p/none"); ok || err != nil {
			t.Errorf("a status of nothing: %v, %v", st, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if _, err := d.store.Update(t.Context(), func(tx *store.Txn) error {
		return d.sched.claims.Put(tx, "p/s", &recordpb.DaemonRecord{Id: "another"})
	}); err != nil {
		t.Fatal(err)
	}
	other := newReporter(d.sched, "p/s")
	defer other.close()
	if err := other.write(t.Context(), &recordpb.PipelineStatus{Starts: 99}); err == nil {
		t.Error("written without running the pipeline")
	}
}

func lookupEnv(env []string, name string) (value string) {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			value = v
		}
	}
	return value
}

func TestLockFile_NeedsADirectory(t *testing.T) {
	if f, err := lockFile(filepath.Join(t.TempDir(), "none", "x")); err == nil {
		f.Close()
		t.Error("no error")
	}
}
