package scheduler

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// crashing is the condition of a slot or pipeline beside the phases.
const crashing phase = -1

// condition is where the pipeline as a whole is: idle (paused, gone, failed),
// starting, running or crashing. One crashing slot makes the pipeline crashing; one
// running slot is enough for running.
func (s *state) condition(p policy, now time.Time) phase {
	if s.target.wanted() == 0 {
		return idle
	}
	c := starting
	for _, l := range s.slots {
		if l.crashing(p, now) {
			return crashing
		}
		if l.phase == running {
			c = running
		}
	}
	return c
}

// crashing tells whether the worker failed repeatedly, or could not even be
// started, and has not been up for a while since. One that was found dead must also
// have shown that it lives.
func (l slot) crashing(p policy, now time.Time) bool {
	switch {
	case l.phase == stopping:
		return l.dead != "" && l.failuresBefore(p, now)+1 >= p.crashAfter
	case l.failures < p.crashAfter && !l.unable:
		return false
	}
	return l.phase != running || now.Sub(l.started) < p.settle || l.hung && !l.proven
}

// status puts a state into words.
func (s *state) status(p policy, now time.Time) *recordpb.PipelineStatus {
	st := &recordpb.PipelineStatus{
		Starts:      s.starts,
		RecentError: s.recentError,
		Generation:  s.target.generation,
		Restarts:    s.restarts,
	}
	if e := s.lastExit; e != nil {
		st.LastExit = &ppspb.WorkerExit{
			Worker: int32(e.slot), Code: int32(e.code), Signal: e.signal, Reason: e.why,
			Ended: timestamppb.New(e.ended), RanFor: durationpb.New(e.ran.Round(time.Millisecond)),
		}
	}
	var next time.Time
	for _, l := range s.slots {
		if l.phase == running || l.phase == stopping {
			st.WorkersAvailable++
		}
		if l.phase == waiting && (next.IsZero() || l.nextStart.Before(next)) {
			next = l.nextStart
		}
	}
	if !next.IsZero() {
		st.NextStart = timestamppb.New(next)
	}
	if !s.upSince.IsZero() {
		st.WorkersStartedAt = timestamppb.New(s.upSince)
	}
	switch c := s.condition(p, now); {
	case s.target.failure != "":
		st.State, st.Reason = ppspb.PipelineState_PIPELINE_FAILURE, s.target.failure
	case s.target.paused:
		st.State = ppspb.PipelineState_PIPELINE_PAUSED
	case s.target.halted && !s.drained():
		st.State, st.Reason = ppspb.PipelineState_PIPELINE_STARTING, "pachd shuts down, or gives the pipeline to another one, and waits for the workers to end"
	case s.target.halted:
		st.State, st.Reason = ppspb.PipelineState_PIPELINE_STARTING, "pachd has shut down"
	case c == crashing:
		st.State, st.Reason = ppspb.PipelineState_PIPELINE_CRASHING, s.reason(p, now, true)
	case c == running:
		st.State = ppspb.PipelineState_PIPELINE_RUNNING
	default:
		st.State, st.Reason = ppspb.PipelineState_PIPELINE_STARTING, s.reason(p, now, false)
	}
	if s.notice != "" && s.target.wanted() > 0 {
		st.Reason = strings.TrimPrefix(st.Reason+"; "+s.notice, "; ")
	}
	return st
}

// reason explains why not all is well, by the first slot that can tell.
func (s *state) reason(p policy, now time.Time, crash bool) string {
	if s.stale() {
		return "waiting for the workers of the earlier version to end"
	}
	for i, l := range s.slots {
		if l.phase == stopping && l.dead != "" {
			return s.ofSlot(i, l.dead) + "; stopping it"
		}
		if l.why == "" || crash != l.crashing(p, now) {
			continue
		}
		text := s.ofSlot(i, l.why)
		switch l.phase {
		case waiting:
			text += "; next start at " + stamp(l.nextStart)
		case running:
			text += "; started again at " + stamp(l.started)
		case starting:
			text += "; starting again"
		}
		return text
	}
	return ""
}

// ofSlot says which worker a text is about, if there are several.
func (s *state) ofSlot(i int, text string) string {
	if len(s.slots) > 1 {
		return fmt.Sprintf("worker %d: %s", i, text)
	}
	return text
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Abandoned is what a status means when the daemon that wrote it is gone with its
// workers: it keeps none of its promises. Reason is said of it, unless it says itself
// why there are no workers. nil stays nil.
func Abandoned(written *recordpb.PipelineStatus, reason string) *recordpb.PipelineStatus {
	st := proto.CloneOf(written)
	if st == nil {
		return nil
	}
	left := st.WorkersAvailable > 0 || st.NextStart != nil
	st.WorkersAvailable, st.WorkersStartedAt, st.NextStart = 0, nil, nil
	switch st.State {
	case ppspb.PipelineState_PIPELINE_STARTING:
		left = left || st.Reason == ""
	case ppspb.PipelineState_PIPELINE_RUNNING, ppspb.PipelineState_PIPELINE_CRASHING:
		left = true
	default:
		left = false
	}
	if left {
		st.State, st.Reason = ppspb.PipelineState_PIPELINE_STARTING, reason
	}
	return st
}
