package scheduler

import (
	"fmt"
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
	liveness     liveness
}

// liveness says when a running worker counts as dead. The zero value never says so.
type liveness struct {
	interval time.Duration // from one probe to the next; 0: no probes
	delay    time.Duration // from the start to the first
	misses   int           // so many failed probes in a row
	silence  time.Duration // or so long without a commit; then misses means nothing
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
	halted     bool   // the scheduler ends, or another daemon takes over
	cut        bool   // with halted: nobody waits for graceful ends
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

	serial    uint64    // tells this start from all others
	hurried   bool      // SIGKILL was ordered
	dead      string    // why it was found dead, while it is stopped for that
	hung      bool      // the last failure was that
	nextProbe time.Time // when running
	probing   bool
	missed    int       // failed probes in a row
	wellAt    time.Time // when it started, or a probe has last seen it do well
	proven    bool      // a probe has
	head      string    // of the output branch, as last seen
	headAt    time.Time // since when; time in which it could not be seen is left out
	seenAt    time.Time // when last
	blind     bool      // it could not be seen since
}

func (s slot) alive() bool { return s.phase == starting || s.phase == running || s.phase == stopping }

// state is all that is known about the workers of one pipeline. A state is
// never modified: next returns another one.
type state struct {
	target      target
	slots       []slot
	starts      uint64    // of this version, all slots together
	restarts    uint64    // of these, those after a failure
	serial      uint64    // of the newest start
	lastExit    *exit     // the last failure
	recentError string    // last failure of this version
	upSince     time.Time // when it became running or crashing
	notice      string    // about the service port
}

// exit is how a worker ended against our will.
type exit struct {
	slot      int
	code      int    // -1 if there is none
	signal    string // empty if none
	why, long string // a line for the reason, a text for recent_error
	ended     time.Time
	ran       time.Duration
}

// event is what can happen; luck is a random number from [0, 1).
type event interface {
	happen(p policy, s *state, now time.Time)
}

type (
	want        struct{ target target }
	started     struct{ slot int }
	startFailed struct {
		exit
		luck float64
	}
	exited struct {
		exit
		luck float64
	}
	probed struct {
		slot    int
		serial  uint64 // of the start that was probed
		unknown bool   // nothing could be found out, and not for the worker's fault
		why     string // what is wrong; empty: nothing
		head    string // of the output branch, if that is the probe
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
	killWorker                    // the same without grace, also after stopWorker
	probeWorker                   // the outcome comes back as probed
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
	actions := s.reconcile(p, now)
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
		s.starts, s.restarts, s.recentError, s.lastExit = 0, 0, "", nil
	}
	if e.target.wanted() == 0 {
		s.notice = ""
	}
	s.target = e.target
	for i := range s.slots {
		// Whoever stops, starts or edits a pipeline gets the next start at once.
		if touched || i >= s.target.wanted() {
			s.slots[i].failures, s.slots[i].unable, s.slots[i].why, s.slots[i].dead = 0, false, "", ""
			if s.slots[i].phase == waiting {
				s.slots[i] = slot{}
			}
		}
	}
}

func (e started) happen(p policy, s *state, now time.Time) {
	if l := s.at(e.slot, starting); l != nil {
		l.phase, l.started, l.wellAt, l.nextProbe = running, now, now, now.Add(p.liveness.delay)
		l.headAt, l.seenAt = l.nextProbe, l.nextProbe
	}
}

func (e startFailed) happen(p policy, s *state, now time.Time) {
	if l := s.at(e.slot, starting); l != nil {
		s.fail(p, e.exit, true, e.luck, now)
	}
}

func (e exited) happen(p policy, s *state, now time.Time) {
	l := s.at(e.slot, running, stopping)
	if l == nil {
		return
	}
	if l.phase == stopping && l.dead == "" {
		*l = slot{}
		return
	}
	l.failures = l.failuresBefore(p, now)
	if l.dead != "" {
		e.exit.why, e.exit.long = l.dead, l.dead+"; stopped: "+e.exit.long
	}
	s.fail(p, e.exit, false, e.luck, now)
}

func (e probed) happen(p policy, s *state, now time.Time) {
	l := s.at(e.slot, running)
	if l == nil || l.serial != e.serial || !l.probing {
		return
	}
	l.probing, l.nextProbe = false, now.Add(p.liveness.interval)
	if e.unknown || p.liveness.interval == 0 {
		l.blind = true
		return
	}
	if l.blind {
		// Who could not be seen could not commit either, for want of etcd.
		l.headAt = l.headAt.Add(max(0, now.Sub(l.seenAt)))
	}
	l.seenAt, l.blind = now, false
	if p.liveness.silence > 0 {
		if e.head != l.head {
			if l.head != "" {
				l.wellAt, l.proven = now, true
			}
			l.head, l.headAt = e.head, now
		}
		if until := l.headAt.Add(p.liveness.silence); !now.Before(until) {
			l.dead = fmt.Sprintf("no commit for %v", p.liveness.silence)
		} else if until.Before(l.nextProbe) {
			l.nextProbe = until
		}
		return
	}
	if e.why == "" {
		l.missed, l.wellAt, l.proven = 0, now, true
		return
	}
	if l.missed++; l.missed >= p.liveness.misses {
		l.dead = e.why
		if l.missed > 1 {
			l.dead += fmt.Sprintf(" (%d times in a row)", l.missed)
		}
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

// fail ends the worker in a slot against our will.
func (s *state) fail(p policy, e exit, unable bool, luck float64, now time.Time) {
	l := &s.slots[e.slot]
	if e.slot >= s.target.wanted() || l.id != s.target.id {
		*l = slot{}
		return
	}
	failures := l.failures + 1
	e.ended = now
	if e.ran == 0 && !l.started.IsZero() {
		e.ran = now.Sub(l.started)
	}
	*l = slot{
		phase: waiting, id: l.id, failures: failures, unable: unable, hung: l.dead != "", why: e.why, failedAt: now,
		nextStart: now.Add(p.pause(failures, luck)), head: l.head,
	}
	s.recentError, s.lastExit = e.long, &e
}

// failuresBefore is how many failures in a row came before the end of a running worker,
// if that is one: none after it has done well for long. Hanging is not doing well.
func (l slot) failuresBefore(p policy, now time.Time) int {
	until := now
	if l.dead != "" {
		until = l.wellAt
	}
	if until.Sub(l.started) >= p.resetAfter {
		return 0
	}
	return l.failures
}

// reconcile orders what is missing between the slots and the target.
func (s *state) reconcile(p policy, now time.Time) []action {
	var actions []action
	n := s.target.wanted()
	for len(s.slots) < n {
		s.slots = append(s.slots, slot{})
	}
	for i := range s.slots {
		l := &s.slots[i]
		if l.phase == running && (i >= n || l.id != s.target.id || l.dead != "") {
			l.phase, l.probing = stopping, false
			if !s.target.cut {
				actions = append(actions, action{stopWorker, i})
			}
		}
		if l.phase == stopping && s.target.cut && !l.hurried {
			l.hurried = true
			actions = append(actions, action{killWorker, i})
		}
	}
	for i := range s.slots {
		l := &s.slots[i]
		due := l.phase == idle || l.phase == waiting && !now.Before(l.nextStart)
		if i < n && due && !s.stale() {
			if l.phase == waiting {
				s.restarts++
			}
			s.starts++
			s.serial++
			l.phase, l.id, l.nextStart, l.serial = starting, s.target.id, time.Time{}, s.serial
			actions = append(actions, action{startWorker, i})
		}
		if l.probeDue(p, now) {
			l.probing = true
			actions = append(actions, action{probeWorker, i})
		}
	}
	for k := len(s.slots); k > n && s.slots[k-1].phase == idle; k-- {
		s.slots = s.slots[:k-1]
	}
	return actions
}

func (l slot) probeDue(p policy, now time.Time) bool {
	return l.phase == running && p.liveness.interval > 0 && !l.probing && !now.Before(l.nextProbe)
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
		case l.phase == running:
			if l.failures > 0 && now.Before(l.started.Add(p.settle)) {
				add(l.started.Add(p.settle))
			}
			if p.liveness.interval > 0 && !l.probing {
				add(l.nextProbe)
			}
		}
	}
	return first
}
