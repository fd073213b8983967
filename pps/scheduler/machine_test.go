package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var (
	epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	rules = policy{
		initial: time.Second, max: 5 * time.Minute, factor: 2, jitter: 0.2,
		resetAfter: 10 * time.Minute, settle: 10 * time.Second, crashAfter: 2,
	}
)

// ends is the exit of slot i without jitter; unable is a failed start.
func ends(i int) event {
	return exited{exit{slot: i, code: 1, why: "exit status 1", long: "exit status 1"}, 0.5}
}

func unable(i int) event {
	return startFailed{exit{slot: i, code: -1, why: "not found", long: "not found"}, 0.5}
}

func (a action) String() string {
	return [...]string{"start ", "stop ", "kill ", "probe "}[a.kind] + fmt.Sprint(a.slot)
}

// describe renders a state in one line: its status, then the slots.
func describe(s state, now time.Time) string {
	st := s.status(rules, now)
	text := strings.TrimPrefix(st.GetState().String(), "PIPELINE_")
	for _, l := range s.slots {
		text += " " + l.phase.String()
		if l.phase == waiting {
			text += fmt.Sprintf("(%v)", l.nextStart.Sub(now))
		}
	}
	return text
}

func TestNext(t *testing.T) {
	v1, v2 := target{id: "1", generation: 1, workers: 1}, target{id: "2", generation: 2, workers: 1}
	two := target{id: "1", generation: 1, workers: 2}
	paused := target{id: "1", generation: 2, workers: 1, paused: true}
	again := target{id: "1", generation: 3, workers: 1}
	gone := target{id: "1", workers: 1, gone: true}
	type step struct {
		after time.Duration
		event event
		want  string // actions, then the state
	}
	for name, steps := range map[string][]step{
		"a worker that ends is started again, with growing pauses": {
			{0, want{v1}, "[start 0] STARTING starting"},
			{0, started{0}, "[] RUNNING running"},
			{time.Second, ends(0), "[] STARTING waiting(1s)"},
			{999 * time.Millisecond, tick{}, "[] STARTING waiting(1ms)"},
			{time.Millisecond, tick{}, "[start 0] STARTING starting"},
			{0, started{0}, "[] RUNNING running"},
			{0, ends(0), "[] CRASHING waiting(2s)"},
			{2 * time.Second, tick{}, "[start 0] CRASHING starting"},
			{0, started{0}, "[] CRASHING running"},
			{9 * time.Second, tick{}, "[] CRASHING running"},
			{time.Second, tick{}, "[] RUNNING running"},
			{0, ends(0), "[] CRASHING waiting(4s)"},
			{4 * time.Second, tick{}, "[start 0] CRASHING starting"},
			{0, started{0}, "[] CRASHING running"},
			{10 * time.Minute, ends(0), "[] STARTING waiting(1s)"},
		},
		"a worker that cannot be started crashes at once": {
			{0, want{v1}, "[start 0] STARTING starting"},
			{0, unable(0), "[] CRASHING waiting(1s)"},
			{time.Second, tick{}, "[start 0] CRASHING starting"},
			{0, unable(0), "[] CRASHING waiting(2s)"},
		},
		"stop, start": {
			{0, want{v1}, "[start 0] STARTING starting"},
			{0, started{0}, "[] RUNNING running"},
			{0, want{paused}, "[stop 0] PAUSED stopping"},
			{0, tick{}, "[] PAUSED stopping"},
			{0, want{again}, "[] STARTING stopping"},
			{0, ends(0), "[start 0] STARTING starting"},
		},
		"stop while starting": {
			{0, want{v1}, "[start 0] STARTING starting"},
			{0, want{paused}, "[] PAUSED starting"},
			{0, started{0}, "[stop 0] PAUSED stopping"},
			{0, ends(0), "[] PAUSED"},
		},
		"a failed start while stopping": {
			{0, want{v1}, "[start 0] STARTING starting"},
			{0, want{paused}, "[] PAUSED starting"},
			{0, unable(0), "[] PAUSED"},
		},
		"start again cuts the pause short": {
			{0, want{v1}, "[start 0] STARTING starting"},
			{0, unable(0), "[] CRASHING waiting(1s)"},
			{0, want{again}, "[start 0] STARTING starting"},
		},
		"an update waits for the old version": {
			{0, want{two}, "[start 0 start 1] STARTING starting starting"},
			{0, started{0}, "[] RUNNING running starting"},
			{0, want{v2}, "[stop 0] STARTING stopping starting"},
			{0, started{1}, "[stop 1] STARTING stopping stopping"},
			{0, ends(0), "[] STARTING idle stopping"},
			{0, ends(1), "[start 0] STARTING starting"},
			{0, started{0}, "[] RUNNING running"},
		},
		"delete": {
			{0, want{v1}, "[start 0] STARTING starting"},
			{0, started{0}, "[] RUNNING running"},
			{0, want{gone}, "[stop 0] STATE_UNKNOWN stopping"},
			{0, ends(0), "[] STATE_UNKNOWN"},
		},
		"nothing to run": {
			{0, want{target{workers: 1, failure: "nothing to run: no transform.cmd"}}, "[] FAILURE"},
		},
		"one of two crashes": {
			{0, want{two}, "[start 0 start 1] STARTING starting starting"},
			{0, started{0}, "[] RUNNING running starting"},
			{0, started{1}, "[] RUNNING running running"},
			{0, ends(1), "[] RUNNING running waiting(1s)"},
			{time.Second, tick{}, "[start 1] RUNNING running starting"},
			{0, started{1}, "[] RUNNING running running"},
			{0, ends(1), "[] CRASHING running waiting(2s)"},
		},
		"stale and foreign events change nothing": {
			{0, ends(0), "[] STATE_UNKNOWN"},
			{0, want{v1}, "[start 0] STARTING starting"},
			{0, ends(0), "[] STARTING starting"},
			{0, started{7}, "[] STARTING starting"},
			{0, started{0}, "[] RUNNING running"},
			{0, started{0}, "[] RUNNING running"},
			{0, unable(0), "[] RUNNING running"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var s state
			now := epoch
			for i, step := range steps {
				now = now.Add(step.after)
				var actions []action
				s, actions = next(rules, s, step.event, now)
				got := fmt.Sprint(actions, " ", describe(s, now))
				if s.target.gone || s.target.id == "" && s.target.failure == "" {
					got = strings.Replace(got, "STARTING", "STATE_UNKNOWN", 1)
				}
				if got != step.want {
					t.Fatalf("step %d, %T:\n got %s\nwant %s", i, step.event, got, step.want)
				}
			}
		})
	}
}

func TestStatus_Reasons(t *testing.T) {
	now := epoch
	var s state
	do := func(after time.Duration, e event) {
		now = now.Add(after)
		s, _ = next(rules, s, e, now)
	}
	check := func(want string) {
		t.Helper()
		if diff := cmp.Diff(want, s.status(rules, now).GetReason()); diff != "" {
			t.Error(diff)
		}
	}
	do(0, want{target{id: "1", workers: 1}})
	check("")
	do(0, started{0})
	do(0, noticed{"port 80: in use"})
	check("port 80: in use")
	do(0, noticed{})
	check("")
	do(time.Second, exited{exit{slot: 0, code: 3, why: `exit status 3 after 1s: "boom"`, long: "long"}, 0.5})
	check(`exit status 3 after 1s: "boom"; next start at 2026-01-01T00:00:02Z`)
	do(time.Second, tick{})
	do(0, started{0})
	do(0, exited{exit{slot: 0, code: 3, why: "signal SIGKILL after 0s", long: "longer"}, 0.5})
	check("signal SIGKILL after 0s; next start at 2026-01-01T00:00:04Z")
	if st := s.status(rules, now); st.GetRecentError() != "longer" || st.GetStarts() != 2 ||
		!st.GetNextStart().AsTime().Equal(epoch.Add(4*time.Second)) || !st.GetWorkersStartedAt().AsTime().Equal(now) {
		t.Error(st)
	}
	do(2*time.Second, tick{})
	do(0, started{0})
	check("signal SIGKILL after 0s; started again at 2026-01-01T00:00:04Z")
	do(10*time.Second, tick{})
	check("")
	do(0, want{target{id: "2", workers: 2}})
	check("waiting for the workers of the earlier version to end")
	do(0, ends(0))
	do(0, unable(1))
	check("worker 1: not found; next start at 2026-01-01T00:00:15Z")
}

func TestPause_Bounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 10000).Draw(t, "failures")
		luck := rapid.Float64Range(0, 0.999999).Draw(t, "luck")
		d := rules.pause(n, luck)
		ideal := rules.max
		if n < 10 {
			ideal = min(rules.max, rules.initial<<(n-1))
		}
		if d > rules.max || float64(d) < 0.8*float64(ideal)-1 || float64(d) > 1.2*float64(ideal)+1 {
			t.Fatalf("pause after failure %d is %v", n, d)
		}
	})
}

// machine is the world around next: it carries out the actions, keeps an account
// of what really lives, and lets days pass.
type machine struct {
	now   time.Time
	state state
	lives map[int]string // slot -> version of the program alive in it
	asked map[int]bool   // slots with an order under way: true start, false stop
	fails map[int]int    // failures in a row
	since map[int]time.Time
	due   map[int][2]time.Time // bounds of the next start

	rules   policy
	probing map[int]uint64 // slot -> serial of the start that is probed
	well    map[int]time.Time
}

func (m *machine) do(t *rapid.T, e event) {
	var actions []action
	before := fmt.Sprintf("%+v", m.state)
	old := m.state
	m.state, actions = next(m.rules, m.state, e, m.now)
	if after := fmt.Sprintf("%+v", old); after != before {
		t.Fatalf("next changed its input:\n%s\n%s", before, after)
	}
	for _, a := range actions {
		if start, busy := m.asked[a.slot]; busy && (start || a.kind != killWorker) {
			t.Fatalf("%v while an order is under way (start: %v)", a, start)
		}
		switch a.kind {
		case startWorker:
			for slot, id := range m.lives {
				if slot == a.slot || id != m.state.target.id {
					t.Fatalf("%v, but version %s lives in slot %d", a, id, slot)
				}
			}
			if b, ok := m.due[a.slot]; ok && (m.now.Before(b[0]) || m.now.After(b[1])) {
				t.Fatalf("%v at %v, not within %v", a, m.now, b)
			}
			delete(m.due, a.slot)
			m.lives[a.slot] = m.state.target.id
			m.asked[a.slot] = true
		case probeWorker:
			if l := m.state.slots[a.slot]; l.phase != running || m.probing[a.slot] == l.serial {
				t.Fatalf("%v of a slot that is %v", a, l.phase)
			}
			m.probing[a.slot] = m.state.slots[a.slot].serial
		case stopWorker, killWorker:
			if _, ok := m.lives[a.slot]; !ok {
				t.Fatalf("%v, but nothing lives there", a)
			}
			m.asked[a.slot] = false
		}
	}
	m.check(t)
}

func (m *machine) check(t *rapid.T) {
	n := m.state.target.wanted()
	stale := false
	for _, id := range m.lives {
		stale = stale || id != m.state.target.id
	}
	for i := range max(n, len(m.state.slots)) {
		l := m.state.slots[i]
		if _, lives := m.lives[i]; lives != l.alive() {
			t.Fatalf("slot %d is %v; alive: %v", i, l.phase, lives)
		}
		switch {
		case i < n && l.phase == idle && !stale:
			t.Fatalf("slot %d is wanted, yet neither alive nor planned", i)
		case i < n && l.phase == waiting && l.nextStart.Sub(m.now) > rules.max:
			t.Fatalf("slot %d waits until %v", i, l.nextStart)
		case i >= n && (l.phase == running || l.phase == waiting):
			t.Fatalf("slot %d is not wanted, yet %v", i, l.phase)
		case l.phase == running && m.rules.liveness.interval > 0 && !l.probing && !l.nextProbe.After(m.now):
			t.Fatalf("slot %d is to be probed", i)
		case l.phase == stopping && m.state.target.cut && !l.hurried:
			t.Fatalf("slot %d has time to end", i)
		case l.phase == waiting && !l.nextStart.After(m.now):
			t.Fatalf("slot %d is overdue", i)
		}
	}
	if at := m.state.wake(m.rules, m.now); !at.IsZero() && !at.After(m.now) {
		t.Fatalf("wakes at %v, in the past", at)
	}
}

// end takes a program out of its slot, and sets the bounds for the next start.
func (m *machine) end(slot int, ours bool, up time.Duration) {
	delete(m.lives, slot)
	delete(m.asked, slot)
	delete(m.due, slot)
	if ours || slot >= m.state.target.wanted() {
		m.fails[slot] = 0
		return
	}
	if up >= rules.resetAfter {
		m.fails[slot] = 0
	}
	m.fails[slot]++
	ideal := rules.max
	if k := m.fails[slot]; k < 10 {
		ideal = min(ideal, rules.initial<<(k-1))
	}
	slack := time.Duration(float64(ideal)*rules.jitter) + 1
	m.due[slot] = [2]time.Time{m.now.Add(ideal - slack), m.now.Add(min(ideal+slack, rules.max))}
}

// pass lets time pass, tick by tick.
func (m *machine) pass(t *rapid.T, until time.Time) {
	for m.now.Before(until) {
		at := m.state.wake(m.rules, m.now)
		if at.IsZero() || at.After(until) {
			at = until
		}
		m.now = at
		m.do(t, tick{})
	}
}

// slots lists the slots that are alive and, if pending is set, have a start under
// way; otherwise those without any order under way or with a stop.
func (m *machine) slots(pending bool) []int {
	var list []int
	for _, i := range slices.Sorted(maps.Keys(m.lives)) {
		if start, busy := m.asked[i]; (busy && start) == pending {
			list = append(list, i)
		}
	}
	return list
}

// Days of random crashes, edits, stops and slow starts.
func TestNext_Properties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{
			now: epoch, lives: map[int]string{}, asked: map[int]bool{},
			fails: map[int]int{}, since: map[int]time.Time{}, due: map[int][2]time.Time{},
			rules: rules, probing: map[int]uint64{}, well: map[int]time.Time{},
		}
		switch rapid.IntRange(0, 2).Draw(t, "liveness") {
		case 1:
			m.rules.liveness = liveness{interval: 10 * time.Second, delay: time.Second, misses: 3}
		case 2:
			m.rules.liveness = liveness{interval: 10 * time.Second, silence: time.Minute}
		}
		generation, version := uint64(0), 0
		luck := rapid.Float64Range(0, 0.9999)
		edit := func() {
			generation++
			if rapid.Bool().Draw(t, "new version") {
				version++
			}
			tg := target{id: fmt.Sprint("v", version), generation: generation, workers: rapid.IntRange(1, 3).Draw(t, "workers")}
			switch rapid.IntRange(0, 11).Draw(t, "kind") {
			case 10: // the pipeline goes to another daemon, and comes back with the next edit
				tg.halted = true
			case 11:
				tg.halted, tg.cut = true, true
			case 7:
				tg.paused = true
			case 8:
				tg.gone = true
			case 9:
				tg.failure = "nothing to run"
			}
			clear(m.due) // an edit cuts pauses short
			clear(m.fails)
			m.do(t, want{tg})
		}
		edit()
		for range 150 {
			pending, up := m.slots(true), m.slots(false)
			switch k := rapid.IntRange(0, 19).Draw(t, "what happens"); {
			case k == 0:
				edit()
			case k < 6 && len(pending) > 0:
				i := rapid.SampledFrom(pending).Draw(t, "slot")
				delete(m.asked, i)
				m.since[i], m.well[i] = m.now, m.now
				m.do(t, started{i})
			case k < 8 && len(pending) > 0:
				i := rapid.SampledFrom(pending).Draw(t, "slot")
				m.end(i, m.lives[i] != m.state.target.id, 0)
				m.do(t, startFailed{exit{slot: i, why: "no", long: "no"}, luck.Draw(t, "luck")})
			case k < 13 && len(up) > 0:
				i := rapid.SampledFrom(up).Draw(t, "slot")
				_, asked := m.asked[i]
				asked = asked && m.state.slots[i].dead == "" // found dead is not of our own will
				if !asked && k == 8 {
					m.pass(t, m.since[i].Add(rules.resetAfter))
				}
				up := m.now.Sub(m.since[i])
				if m.state.slots[i].dead != "" {
					up = m.well[i].Sub(m.since[i])
				}
				m.end(i, asked, up)
				m.do(t, exited{exit{slot: i, why: "x", long: "x"}, luck.Draw(t, "luck")})
			case k < 16 && len(m.probing) > 0:
				i := rapid.SampledFrom(slices.Sorted(maps.Keys(m.probing))).Draw(t, "probed")
				outcome := probed{slot: i, serial: m.probing[i], head: fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "head"))}
				switch rapid.IntRange(0, 3).Draw(t, "outcome") {
				case 0:
					outcome.unknown = true
				case 1, 2:
					outcome.why = "no answer"
				}
				delete(m.probing, i)
				if l := m.state.at(i, running); l != nil && l.serial == outcome.serial && !outcome.unknown {
					if m.rules.liveness.silence == 0 && outcome.why == "" ||
						m.rules.liveness.silence > 0 && l.head != "" && l.head != outcome.head {
						m.well[i] = m.now
					}
				}
				m.do(t, outcome)
			case k >= 13:
				m.pass(t, m.now.Add(time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "time"))))
			}
		}
	})
}
