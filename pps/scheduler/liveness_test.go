package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// probes is the outcome of a probe of slot 0.
func probes(serial uint64, why, head string) event {
	return probed{slot: 0, serial: serial, why: why, head: head}
}

func TestNext_Liveness(t *testing.T) {
	v1 := target{id: "1", generation: 1, workers: 1}
	paused := target{id: "1", generation: 2, workers: 1, paused: true}
	ports, commits, long := rules, rules, rules
	ports.liveness = liveness{interval: 10 * time.Second, delay: 20 * time.Second, misses: 2}
	commits.liveness = liveness{interval: 10 * time.Second, delay: 5 * time.Second, silence: 25 * time.Second}
	long.liveness = liveness{interval: 10 * time.Second, delay: 5 * time.Second, silence: 20 * time.Minute}
	const ending = "pachd shuts down, or gives the pipeline to another one, and waits for the workers to end"
	const refused = "TCP :80: connection refused"
	type step struct {
		after time.Duration
		event event
		want  string // actions, the state, the reason
	}
	begin := []step{
		{0, want{v1}, "[start 0] STARTING starting"},
		{0, started{0}, "[] RUNNING running"},
	}
	for name, c := range map[string]struct {
		p     policy
		steps []step
	}{
		"two failed probes in a row": {ports, []step{
			{19 * time.Second, tick{}, "[] RUNNING running"},
			{time.Second, tick{}, "[probe 0] RUNNING running"},
			{time.Second, tick{}, "[] RUNNING running"},
			{0, probes(1, refused, ""), "[] RUNNING running"},
			{9 * time.Second, tick{}, "[] RUNNING running"},
			{time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, "", ""), "[] RUNNING running"},
			{10 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, refused, ""), "[] RUNNING running"},
			{10 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probed{slot: 0, serial: 1, unknown: true}, "[] RUNNING running"},
			{10 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, refused, ""), "[stop 0] STARTING stopping TCP :80: connection refused (2 times in a row); stopping it"},
			{time.Second, ends(0), "[] STARTING waiting(1s) TCP :80: connection refused (2 times in a row); next start at 2026-01-01T00:01:03Z"},
			{time.Second, tick{}, "[start 0] STARTING starting TCP :80: connection refused (2 times in a row); starting again"},
			{0, started{0}, "[] RUNNING running"},
			{20 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, refused, ""), "[] RUNNING running"}, // of the start before
			{0, probes(2, refused, ""), "[] RUNNING running"},
		}},
		"silence": {commits, []step{
			{5 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, "", "a"), "[] RUNNING running"},
			{10 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, "", "a"), "[] RUNNING running"},
			{10 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, "", "b"), "[] RUNNING running"},
			{10 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, "", "b"), "[] RUNNING running"},
			{10 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, "", "b"), "[] RUNNING running"},
			{5 * time.Second, tick{}, "[probe 0] RUNNING running"}, // not a moment later
			{0, probes(1, "", "b"), "[stop 0] STARTING stopping no commit for 25s; stopping it"},
			{0, ends(0), "[] STARTING waiting(1s) no commit for 25s; next start at 2026-01-01T00:00:51Z"},
		}},
		"found dead again and again": {ports, []step{
			{20 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, refused, ""), "[] RUNNING running"},
			{10 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, refused, ""), "[stop 0] STARTING stopping TCP :80: connection refused (2 times in a row); stopping it"},
			{0, ends(0), "[] STARTING waiting(1s) TCP :80: connection refused (2 times in a row); next start at 2026-01-01T00:00:31Z"},
			{time.Second, tick{}, "[start 0] STARTING starting TCP :80: connection refused (2 times in a row); starting again"},
			{0, started{0}, "[] RUNNING running"},
			{20 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(2, refused, ""), "[] RUNNING running"},
			{10 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(2, refused, ""), "[stop 0] CRASHING stopping TCP :80: connection refused (2 times in a row); stopping it"},
			{0, ends(0), "[] CRASHING waiting(2s) TCP :80: connection refused (2 times in a row); next start at 2026-01-01T00:01:03Z"},
			{2 * time.Second, tick{}, "[start 0] CRASHING starting TCP :80: connection refused (2 times in a row); starting again"},
			{0, started{0}, "[] CRASHING running TCP :80: connection refused (2 times in a row); started again at 2026-01-01T00:01:03Z"},
			// To be up is not enough after that.
			{20 * time.Second, tick{}, "[probe 0] CRASHING running TCP :80: connection refused (2 times in a row); started again at 2026-01-01T00:01:03Z"},
			{0, probed{slot: 0, serial: 3, unknown: true}, "[] CRASHING running TCP :80: connection refused (2 times in a row); started again at 2026-01-01T00:01:03Z"},
			{10 * time.Second, tick{}, "[probe 0] CRASHING running TCP :80: connection refused (2 times in a row); started again at 2026-01-01T00:01:03Z"},
			{0, probes(3, "", ""), "[] RUNNING running"},
			// And when it has done well for long, all begins anew.
			{10 * time.Minute, tick{}, "[probe 0] RUNNING running"},
			{0, probes(3, "", ""), "[] RUNNING running"},
			{10 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(3, refused, ""), "[] RUNNING running"},
			{10 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(3, refused, ""), "[stop 0] STARTING stopping TCP :80: connection refused (2 times in a row); stopping it"},
			{0, ends(0), "[] STARTING waiting(1s) TCP :80: connection refused (2 times in a row); next start at 2026-01-01T00:11:54Z"},
		}},
		"hanging for long is not doing well for long": {long, []step{
			{5 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, "", "a"), "[] RUNNING running"},
			{20 * time.Minute, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, "", "a"), "[stop 0] STARTING stopping no commit for 20m0s; stopping it"},
			{0, ends(0), "[] STARTING waiting(1s) no commit for 20m0s; next start at 2026-01-01T00:20:06Z"},
			{time.Second, tick{}, "[start 0] STARTING starting no commit for 20m0s; starting again"},
			{0, started{0}, "[] RUNNING running"},
			{20*time.Minute + 5*time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(2, "", "a"), "[stop 0] CRASHING stopping no commit for 20m0s; stopping it"},
			{0, ends(0), "[] CRASHING waiting(2s) no commit for 20m0s; next start at 2026-01-01T00:40:13Z"},
			{2 * time.Second, tick{}, "[start 0] CRASHING starting no commit for 20m0s; starting again"},
			{0, started{0}, "[] CRASHING running no commit for 20m0s; started again at 2026-01-01T00:40:13Z"},
			{15 * time.Minute, tick{}, "[probe 0] CRASHING running no commit for 20m0s; started again at 2026-01-01T00:40:13Z"},
			{0, probes(3, "", "b"), "[] RUNNING running"}, // it has committed, and hangs from now on
			{20 * time.Minute, tick{}, "[probe 0] RUNNING running"},
			{0, probes(3, "", "b"), "[stop 0] STARTING stopping no commit for 20m0s; stopping it"},
			{0, ends(0), "[] STARTING waiting(1s) no commit for 20m0s; next start at 2026-01-01T01:15:14Z"},
		}},
		"nobody can commit when etcd is away": {commits, []step{
			{5 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, "", "a"), "[] RUNNING running"},
			{10 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{5 * time.Second, probed{slot: 0, serial: 1, unknown: true}, "[] RUNNING running"},
			{10 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{time.Hour, probed{slot: 0, serial: 1, unknown: true}, "[] RUNNING running"},
			{10 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, "", "a"), "[] RUNNING running"},
			{10 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, "", "a"), "[] RUNNING running"},
			{10 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, "", "a"), "[] RUNNING running"},
			{5 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, "", "a"), "[stop 0] STARTING stopping no commit for 25s; stopping it"},
		}},
		"whoever stops it meanwhile has the last word": {commits, []step{
			{30 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, probes(1, "", ""), "[stop 0] STARTING stopping no commit for 25s; stopping it"},
			{0, want{paused}, "[] PAUSED stopping"},
			{0, ends(0), "[] PAUSED"},
		}},
		"an outcome after the end": {ports, []step{
			{20 * time.Second, tick{}, "[probe 0] RUNNING running"},
			{0, ends(0), "[] STARTING waiting(1s) exit status 1; next start at 2026-01-01T00:00:21Z"},
			{0, probes(1, refused, ""), "[] STARTING waiting(1s) exit status 1; next start at 2026-01-01T00:00:21Z"},
		}},
		"cut off": {ports, []step{
			{0, want{target{id: "1", generation: 1, workers: 1, halted: true}}, "[stop 0] STARTING stopping " + ending},
			{0, want{target{id: "1", generation: 1, workers: 1, halted: true, cut: true}}, "[kill 0] STARTING stopping " + ending},
			{0, tick{}, "[] STARTING stopping " + ending},
			{0, ends(0), "[] STARTING pachd has shut down"},
		}},
		"cut off at once": {ports, []step{
			{0, want{target{id: "1", generation: 1, workers: 1, halted: true, cut: true}}, "[kill 0] STARTING stopping " + ending},
			{0, ends(0), "[] STARTING pachd has shut down"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var s state
			now := epoch
			for i, step := range append(begin, c.steps...) {
				now = now.Add(step.after)
				var actions []action
				s, actions = next(c.p, s, step.event, now)
				got := strings.TrimSpace(fmt.Sprint(actions, " ", describe(s, now), " ", s.status(c.p, now).GetReason()))
				if got != step.want {
					t.Fatalf("step %d, %T:\n got %s\nwant %s", i, step.event, got, step.want)
				}
			}
		})
	}
}

func TestStatus_LastExitAndRestarts(t *testing.T) {
	now := epoch
	var s state
	do := func(after time.Duration, e event) {
		now = now.Add(after)
		s, _ = next(rules, s, e, now)
	}
	do(0, want{target{id: "1", workers: 1}})
	do(0, started{0})
	do(3*time.Second, exited{exit{code: -1, signal: "SIGSEGV", why: "signal SIGSEGV after 3s", long: "more"}, 0.5})
	do(time.Second, tick{})
	do(0, started{0})
	st := s.status(rules, now)
	want := &ppspb.WorkerExit{
		Code: -1, Signal: "SIGSEGV", Reason: "signal SIGSEGV after 3s",
		Ended: timestamppb.New(epoch.Add(3 * time.Second)), RanFor: durationpb.New(3 * time.Second),
	}
	if diff := cmp.Diff(want, st.GetLastExit(), protocmp.Transform()); diff != "" || st.GetRestarts() != 1 || st.GetStarts() != 2 {
		t.Errorf("%v\n%s", st, diff)
	}
	do(0, wantOf("2"))
	if st := s.status(rules, now); st.GetRestarts() != 0 || st.GetLastExit() != nil {
		t.Errorf("of the version before: %v", st)
	}
}

func wantOf(id string) event { return want{target{id: id, workers: 1}} }

func TestPolicy_SpecsReplaceDefaults(t *testing.T) {
	seconds := func(n float64) *durationpb.Duration { return durationpb.New(time.Duration(n * float64(time.Second))) }
	p := rules.with(&ppspb.Spout{
		Restart:  &ppspb.Spout_Restart{InitialBackoff: seconds(600), ResetAfter: seconds(7)},
		Liveness: &ppspb.Spout_Liveness{Check: &ppspb.Spout_Liveness_Tcp_{Tcp: &ppspb.Spout_Liveness_Tcp{Port: 1}}},
	})
	if p.initial != 10*time.Minute || p.max != 10*time.Minute || p.resetAfter != 7*time.Second ||
		p.liveness != (liveness{interval: 10 * time.Second, delay: 10 * time.Second, misses: 3}) {
		t.Errorf("%+v", p)
	}
	if p.factor != 2 || p.jitter != 0.2 {
		t.Errorf("%+v", p)
	}
	p = rules.with(&ppspb.Spout{Restart: &ppspb.Spout_Restart{Factor: proto.Float64(3), Jitter: proto.Float64(0)}})
	if p.pause(3, 0.99) != 9*time.Second {
		t.Errorf("%+v: the third pause is %v", p, p.pause(3, 0.99))
	}
	p = rules.with(&ppspb.Spout{
		Restart: &ppspb.Spout_Restart{MaxBackoff: seconds(0.5)},
		Liveness: &ppspb.Spout_Liveness{
			Check: &ppspb.Spout_Liveness_CommitEvery{CommitEvery: seconds(60)}, Interval: seconds(2), InitialDelay: seconds(0),
		},
	})
	if p.initial != 500*time.Millisecond || p.max != 500*time.Millisecond ||
		p.liveness != (liveness{interval: 2 * time.Second, misses: 3, silence: time.Minute}) {
		t.Errorf("%+v", p)
	}
	if p := rules.with(nil); p != rules {
		t.Errorf("%+v", p)
	}
}
