package scheduler

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// row is one of the table of docs/scheduler.md: what an event does to a slot in a phase.
type row struct{ event, in, leadsTo, action string }

// documentedRows reads the table. An empty event is that of the row above; "the same"
// is its action.
func documentedRows(t *testing.T) (rows []row) {
	t.Helper()
	doc, err := os.ReadFile("../../docs/scheduler.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(doc), "| event | in | leads to | action |\n| --- | --- | --- | --- |\n")
	if !found {
		t.Fatal("docs/scheduler.md has no table of events")
	}
	var last row
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 6 {
			break
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		r := row{cells[1], cells[2], cells[3], cells[4]}
		if r.event == "" {
			r.event = last.event
		}
		if r.action == "the same" {
			r.action = last.action
		}
		last = r
		for _, in := range strings.Split(r.in, ", ") {
			rows = append(rows, row{r.event, in, r.leadsTo, r.action})
		}
	}
	return rows
}

// TestNext_IsAsDocumented holds next against the table of docs/scheduler.md, and every
// phase and event that is not in it against nothing.
func TestNext_IsAsDocumented(t *testing.T) {
	v1 := target{id: "1", generation: 1, workers: 1}
	edited := target{id: "1", generation: 2, workers: 1}
	v2 := target{id: "2", generation: 2, workers: 1}
	paused := target{id: "1", generation: 2, workers: 1, paused: true}
	cut := target{id: "1", generation: 1, workers: 1, halted: true, cut: true}
	p := rules
	p.liveness = liveness{interval: time.Minute, delay: time.Minute, misses: 1}
	now := epoch
	// in is a slot of version 1 in a phase, as it is for the event.
	in := func(ph phase, edit func(*slot)) slot {
		l := slot{phase: ph, id: "1", serial: 1}
		switch ph {
		case idle:
			l = slot{}
		case waiting:
			l.failures, l.nextStart = 1, now.Add(time.Second)
		case running, stopping:
			l.started, l.nextProbe = now.Add(-time.Second), now.Add(time.Minute)
		}
		if edit != nil {
			edit(&l)
		}
		return l
	}
	probing := func(l *slot) { l.probing = l.phase == running }
	failure := exit{code: 1, why: "exit status 1"}
	type scenario struct {
		before target // the target so far, v1 unless given
		edit   func(*slot)
		event  event
	}
	scenarios := map[string]scenario{
		"the target changes: wanted":          {before: target{}, event: want{edited}},
		"the target changes: another version": {before: v1, event: want{v2}},
		"the target changes: not wanted (stopped, deleted, fewer workers, shutdown, another daemon's)": {before: v1, event: want{paused}},
		"cut off from etcd":                            {before: v1, event: want{cut}},
		"started":                                      {before: v1, event: started{0}},
		"started, and not wanted any more":             {before: paused, event: started{0}},
		"start failed":                                 {before: v1, event: startFailed{failure, 0}},
		"start failed, and not wanted any more":        {before: paused, event: startFailed{failure, 0}},
		"a probe is due":                               {before: v1, edit: func(l *slot) { l.nextProbe = now }, event: tick{}},
		"a probe's outcome: it lives, or nobody knows": {before: v1, edit: probing, event: probed{serial: 1}},
		"a probe's outcome: it is dead":                {before: v1, edit: probing, event: probed{serial: 1, why: "dead"}},
		"ended by itself, exit status 0 included":      {before: v1, event: exited{exit: failure}},
		"ended": {before: paused, event: exited{exit: failure}},
		"ended, having been found dead, and nobody has edited the pipeline since": {
			before: v1, edit: func(l *slot) { l.dead = "dead" }, event: exited{exit: failure},
		},
		"pause over": {before: v1, edit: func(l *slot) { l.nextStart = now }, event: tick{}},
	}
	actions := map[string][]actionKind{
		"": nil, "the next pause": nil, "stopped as soon as it has started": nil, "then the next start at once, if wanted": nil,
		"start": {startWorker}, "start, once nothing of another version lives in any slot": {startWorker},
		"the pause is cut short: whoever edits, stops or starts is answered at once": {startWorker},
		"SIGTERM, grace, SIGKILL": {stopWorker}, "SIGKILL": {killWorker}, "probe": {probeWorker},
	}
	possible := func(name string, ph phase) bool {
		switch {
		case name == "the target changes: wanted":
			return ph == idle || ph == waiting // the others are not new to it
		case strings.HasPrefix(name, "ended by itself"):
			return ph == running
		case strings.HasPrefix(name, "ended"):
			return ph == stopping
		case scenarios[name].before.paused:
			return ph == starting // what else runs is being stopped
		case name == "pause over" || strings.Contains(name, "probe"):
			return ph != idle && ph != stopping // idle is not wanted, and what is stopping has a reason
		}
		return ph != idle && ph != stopping || strings.HasPrefix(name, "cut off") && ph == stopping
	}
	rows := documentedRows(t)
	seen := map[string]bool{}
	for _, ph := range []phase{idle, waiting, starting, running, stopping} {
		for name, sc := range scenarios {
			documented := row{name, ph.String(), ph.String(), ""}
			at := slices.IndexFunc(rows, func(r row) bool { return r.event == name && r.in == ph.String() })
			if at < 0 && !possible(name, ph) {
				continue
			}
			if at < 0 && name == "cut off from etcd" { // as anything that is not wanted
				at = slices.IndexFunc(rows, func(r row) bool {
					return strings.HasPrefix(r.event, "the target changes: not wanted") && r.in == ph.String()
				})
			}
			if at < 0 && name == "the target changes: another version" { // a version that is wanted
				at = slices.IndexFunc(rows, func(r row) bool { return r.event == "the target changes: wanted" && r.in == ph.String() })
			}
			if at >= 0 {
				documented = rows[at]
			}
			seen[name+ph.String()] = true
			before := state{target: sc.before, slots: []slot{in(ph, sc.edit)}, serial: 1}
			after, did := next(p, before, sc.event, now)
			got := idle
			if len(after.slots) > 0 {
				got = after.slots[0].phase
			}
			var kinds []actionKind
			for _, a := range did {
				kinds = append(kinds, a.kind)
			}
			expected, known := actions[documented.action]
			if !known {
				t.Fatalf("%+v: the test does not know this action", documented)
			}
			if got.String() != documented.leadsTo || !slices.Equal(kinds, expected) {
				t.Errorf("%s: %s leads to %v with %v; the table says %+v", ph, name, got, did, documented)
			}
		}
	}
	for _, r := range rows {
		if !seen[r.event+r.in] {
			t.Errorf("%+v: the test does not know this event in this phase", r)
		}
	}
	if len(rows) < len(scenarios) {
		t.Errorf("%d rows for %d events", len(rows), len(scenarios))
	}
}
