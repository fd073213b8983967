package pps

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// Bounds of the durations in a spout.
const (
	minPause    = 10 * time.Millisecond
	maxPause    = 24 * time.Hour
	maxGrace    = time.Hour
	minInterval = 100 * time.Millisecond
	maxMisses   = 1000
	maxAge      = 100 * 365 * 24 * time.Hour
	maxFactor   = 100
	maxJitter   = 0.5
)

// validateKeeping checks how a spout's workers are to be kept alive.
func validateKeeping(req *ppspb.CreatePipelineRequest) error {
	spout := req.GetSpout()
	restart := spout.GetRestart()
	for _, check := range []error{
		within("restart.initial_backoff", restart.GetInitialBackoff(), minPause, maxPause),
		within("restart.max_backoff", restart.GetMaxBackoff(), minPause, maxPause),
		within("restart.reset_after", restart.GetResetAfter(), minPause, maxPause),
		within("grace_period", spout.GetGracePeriod(), 0, maxGrace),
	} {
		if check != nil {
			return check
		}
	}
	first, longest := restart.GetInitialBackoff(), restart.GetMaxBackoff()
	if first != nil && longest != nil && longest.AsDuration() < first.AsDuration() {
		return invalid("spout.restart.max_backoff (%v) must not be shorter than spout.restart.initial_backoff (%v)", longest.AsDuration(), first.AsDuration())
	}
	// NaN is between nothing.
	if f := restart.GetFactor(); restart != nil && restart.Factor != nil && !(f >= 1 && f <= maxFactor) {
		return invalid("spout.restart.factor must be between 1 and %d, not %v", maxFactor, f)
	}
	if j := restart.GetJitter(); !(j >= 0 && j <= maxJitter) {
		return invalid("spout.restart.jitter must be between 0 and %v, not %v", maxJitter, j)
	}
	if err := validateCommits(spout); err != nil || spout.GetLiveness() == nil {
		return err
	}
	return validateLiveness(spout.GetLiveness(), spout.GetService() != nil)
}

func validateLiveness(l *ppspb.Spout_Liveness, serves bool) error {
	switch check := l.GetCheck().(type) {
	case *ppspb.Spout_Liveness_Tcp_:
		if err := probePort("tcp", check.Tcp.GetPort(), serves); err != nil {
			return err
		}
	case *ppspb.Spout_Liveness_Http_:
		if err := probePort("http", check.Http.GetPort(), serves); err != nil {
			return err
		}
		if p := check.Http.GetPath(); p != "" && (!strings.HasPrefix(p, "/") || strings.ContainsFunc(p, unprintable)) {
			return invalid("spout.liveness.http.path must begin with / and hold neither blanks nor control characters, not %q", p)
		}
	case *ppspb.Spout_Liveness_Exec_:
		if c := check.Exec.GetCommand(); len(c) == 0 || c[0] == "" {
			return invalid("spout.liveness.exec.command must name a program")
		}
	case *ppspb.Spout_Liveness_CommitEvery:
		if check.CommitEvery == nil {
			return invalid("spout.liveness.commit_every must be a duration in seconds such as \"300s\"")
		}
		if err := within("liveness.commit_every", check.CommitEvery, minInterval, 30*maxPause); err != nil {
			return err
		}
		if l.Timeout != nil || l.FailureThreshold != 0 {
			return invalid("spout.liveness.timeout and failure_threshold do not go with commit_every: its duration is all the patience there is")
		}
	default:
		return invalid("spout.liveness must have one of tcp, http, exec, commit_every")
	}
	for _, err := range []error{
		within("liveness.interval", l.Interval, minInterval, maxPause),
		within("liveness.timeout", l.Timeout, minInterval, maxPause),
		within("liveness.initial_delay", l.InitialDelay, 0, maxPause),
	} {
		if err != nil {
			return err
		}
	}
	if n := l.FailureThreshold; n < 0 || n > maxMisses {
		return invalid("spout.liveness.failure_threshold must be between 1 and %d, or left out, not %d", maxMisses, n)
	}
	return nil
}

func unprintable(r rune) bool { return r <= ' ' || r == 0x7f }

// probePort refuses what is no port. 0 is the one that a worker with a service is told.
func probePort(kind string, port int32, serves bool) error {
	switch {
	case port == 0 && serves, port >= 1 && port <= maxPort:
		return nil
	case port == 0:
		return invalid("spout.liveness.%s.port must be between 1 and %d; it may be left out only with a spout.service, whose port is checked then", kind, maxPort)
	}
	return invalid("spout.liveness.%s.port must be between 1 and %d, not %d", kind, maxPort, port)
}

// within refuses a duration out of bounds; one that is left out is fine.
func within(field string, d *durationpb.Duration, low, high time.Duration) error {
	if d == nil {
		return nil
	}
	if err := d.CheckValid(); err != nil || d.AsDuration() < low || d.AsDuration() > high {
		return invalid("spout.%s must be between %v and %v, not %v", field, low, high, d.AsDuration())
	}
	return nil
}

// validateCommits checks when puts become commits and which of these are kept.
func validateCommits(spout *ppspb.Spout) error {
	if c := spout.GetCommit(); c != nil {
		if c.Interval == nil && c.Bytes == 0 && c.Files == 0 {
			return invalid("spout.commit must have at least one of interval, bytes, files")
		}
		if err := within("commit.interval", c.Interval, minInterval, maxPause); err != nil {
			return err
		}
		if err := count("commit.bytes", c.Bytes); err != nil {
			return err
		}
		if err := count("commit.files", c.Files); err != nil {
			return err
		}
	}
	if r := spout.GetRetention(); r != nil {
		if r.Commits == 0 && r.Age == nil {
			return invalid("spout.retention must have at least one of commits, age")
		}
		if err := count("retention.commits", r.Commits); err != nil {
			return err
		}
		return within("retention.age", r.Age, time.Second, maxAge)
	}
	return nil
}

// count refuses a negative number; 0 is one that is left out.
func count(field string, n int64) error {
	if n < 0 {
		return invalid("spout.%s must be 1 or more, or left out, not %d", field, n)
	}
	return nil
}
