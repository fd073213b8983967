package scheduler

import (
	"math"
	"slices"
	"time"
)

// policy says when a worker is started again.
type policy struct {
	initial, max time.Duration // first and longest pause
	factor       float64       // from one pause to the next
	jitter       float64       // each pause varies by this share, up and down
	resetAfter   time.Duration // a worker that was up so long starts over with the first pause
	settle       time.Duration // a worker that crashed before counts as recovered after so long
	crashAfter   int           // so many failures in a row make a pipeline crashing
}

// pause is how long to wait after the n-th failure in a row, n from 1. luck is in [0, 1).
func (p policy) pause(n int, luck float64) time.Duration {
	d := math.Min(float64(p.initial)*math.Pow(p.factor, float64(n-1)), float64(p.max))
	d *= 1 + p.jitter*(2*luck-1)
	return time.Duration(math.Min(d, float64(p.max)))
}

// target is what should run, distilled from a pipeline's record. The zero
// target wants nothing.
type target struct {
	id         string // of the version; workers with another id must go first
	generation uint64 // of the record
	workers    int
	paused     bool   // by its user
	gone       bool   // the pipeline was deleted
	halted     bool   // the scheduler ends
	failure    string // why it can never run
}

// wanted is the number of workers that should run now.
func (t target) wanted() int {
	if t.paused || t.gone || t.halted || t.failure != "" {
		return 0
	}
	return t.workers
}

// phase is where a worker's slot is.
type phase int

const (
	idle     phase = iota // nothing runs, nothing is planned
	waiting               // nothing runs, the next start is at slot.nextStart
	starting              // a start was ordered, its outcome is not known
	running
	stopping // a stop was ordered, the end has not been seen
)

func (p phase) String() string {
	return [...]string{"idle", "waiting", "starting", "running", "stopping"}[p]
}

// slot is the place of one worker. At most one worker is alive in it.
type slot struct {
	phase     phase
	id        string    // target.id of what lives here
	started   time.Time // since when, when running or stopping
	nextStart time.Time // when waiting
	failures  int       // ends and failed starts in a row
	unable    bool      // the last failure was one to start
	why       string    // the last failure in words
	failedAt  time.Time
}

func (s slot) alive() bool { return s.phase == starting || s.phase == running || s.phase == stopping }

// state is all that is known about the workers of one pipeline. A state is
// never modified: next returns another one.
type state struct {
	target      target
	slots       []slot
	starts      uint64    // of this version, all slots together
	recentError string    // last failure of this version
	upSince     time.Time // when it became running or crashing
	notice      string    // about the service port
}

// event is what can happen; luck is a random number from [0, 1).
type event interface {
	happen(p policy, s *state, now time.Time)
}

type (
	want        struct{ target target }
	started     struct{ slot int }
	startFailed struct {
		slot      int
		why, long string // a line for the reason, a text for recent_error
		luck      float64
	}
	exited struct {
		slot      int
		why, long string
		luck      float64
	}
	noticed struct{ text string }
	tick    struct{}
)

// action is what the loop has to do.
type action struct {
	kind actionKind
	slot int
}

type actionKind int

const (
	startWorker actionKind = iota // its outcome comes back as started or startFailed
	stopWorker                    // its end comes back as exited
)

// next is the whole policy of the scheduler: what is known after an event, and
// what is to be done about it. It promises, for any order of events:
//
//   - a slot is started only when nothing is alive in it, and a version only when
//     nothing of another version is alive in any slot;
//   - after it, a wanted slot is alive, or waiting, or held back by such a worker;
//   - the pause before a start is that of policy.pause.
func next(p policy, s state, e event, now time.Time) (state, []action) {
	s.slots = slices.Clone(s.slots)
	e.happen(p, &s, now)
	actions := s.reconcile(now)
	switch up := s.condition(p, now); {
	case up != running && up != crashing:
		s.upSince = time.Time{}
	case s.upSince.IsZero():
		s.upSince = now
	}
	return s, actions
}

func (e want) happen(_ policy, s *state, _ time.Time) {
	touched := e.target.generation != s.target.generation
	if e.target.id != s.target.id {
		touched = true
		s.starts, s.recentError = 0, ""
	}
	if e.target.wanted() == 0 {
		s.notice = ""
	}
	s.target = e.target
	for i := range s.slots {
		// Whoever stops, starts or edits a pipeline gets the next start at once.
		if touched || i >= s.target.wanted() {
			s.slots[i].failures, s.slots[i].unable, s.slots[i].why = 0, false, ""
			if s.slots[i].phase == waiting {
				s.slots[i] = slot{}
			}
		}
	}
}

func (e started) happen(_ policy, s *state, now time.Time) {
	if l := s.at(e.slot, starting); l != nil {
		l.phase, l.started = running, now
	}
}

func (e startFailed) happen(p policy, s *state, now time.Time) {
	if l := s.at(e.slot, starting); l != nil {
		s.fail(p, e.slot, e.why, e.long, true, e.luck, now)
	}
}

func (e exited) happen(p policy, s *state, now time.Time) {
	l := s.at(e.slot, running, stopping)
	switch {
	case l == nil:
	case l.phase == stopping:
		*l = slot{}
	default:
		if now.Sub(l.started) >= p.resetAfter {
			l.failures = 0
		}
		s.fail(p, e.slot, e.why, e.long, false, e.luck, now)
	}
}

func (e noticed) happen(_ policy, s *state, _ time.Time) { s.notice = e.text }

func (tick) happen(policy, *state, time.Time) {}

// at returns slot i if it is in one of the phases; events about others are stale.
func (s *state) at(i int, phases ...phase) *slot {
	if i < len(s.slots) && slices.Contains(phases, s.slots[i].phase) {
		return &s.slots[i]
	}
	return nil
}

// fail ends the worker in slot i against our will.
func (s *state) fail(p policy, i int, why, long string, unable bool, luck float64, now time.Time) {
	l := &s.slots[i]
	if i >= s.target.wanted() || l.id != s.target.id {
		*l = slot{}
		return
	}
	l.failures++
	l.phase, l.started = waiting, time.Time{}
	l.why, l.unable, l.failedAt = why, unable, now
	l.nextStart = now.Add(p.pause(l.failures, luck))
	s.recentError = long
}

// reconcile orders what is missing between the slots and the target.
func (s *state) reconcile(now time.Time) []action {
	var actions []action
	n := s.target.wanted()
	for len(s.slots) < n {
		s.slots = append(s.slots, slot{})
	}
	for i := range s.slots {
		l := &s.slots[i]
		if l.phase == running && (i >= n || l.id != s.target.id) {
			l.phase = stopping
			actions = append(actions, action{stopWorker, i})
		}
	}
	for i := range s.slots {
		l := &s.slots[i]
		due := l.phase == idle || l.phase == waiting && !now.Before(l.nextStart)
		if i < n && due && !s.stale() {
			l.phase, l.id, l.nextStart = starting, s.target.id, time.Time{}
			s.starts++
			actions = append(actions, action{startWorker, i})
		}
	}
	for k := len(s.slots); k > n && s.slots[k-1].phase == idle; k-- {
		s.slots = s.slots[:k-1]
	}
	return actions
}

// stale tells whether a worker of another version is alive.
func (s *state) stale() bool {
	return slices.ContainsFunc(s.slots, func(l slot) bool { return l.alive() && l.id != s.target.id })
}

// drained tells whether nothing is alive.
func (s *state) drained() bool { return !slices.ContainsFunc(s.slots, slot.alive) }

// wake is when time alone changes something; zero if never.
func (s *state) wake(p policy, now time.Time) time.Time {
	var first time.Time
	add := func(t time.Time) {
		if first.IsZero() || t.Before(first) {
			first = t
		}
	}
	for _, l := range s.slots {
		switch {
		case l.phase == waiting:
			add(l.nextStart)
		case l.phase == running && l.failures > 0 && now.Before(l.started.Add(p.settle)):
			add(l.started.Add(p.settle))
		}
	}
	return first
}
