package scheduler

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// Defaults of a liveness check.
const (
	probeInterval = 10 * time.Second
	probeTimeout  = 5 * time.Second
	probeMisses   = 3
)

// with is the policy for a spout: what its spec leaves out is as in p.
func (p policy) with(spout *ppspb.Spout) policy {
	r := spout.GetRestart()
	p.initial = given(r.GetInitialBackoff(), p.initial)
	p.max = max(p.initial, given(r.GetMaxBackoff(), p.max))
	if r.GetMaxBackoff() != nil {
		p.max = r.GetMaxBackoff().AsDuration()
		p.initial = min(p.initial, p.max)
	}
	if r.GetFactor() != 0 {
		p.factor = r.GetFactor()
	}
	if r != nil && r.Jitter != nil {
		p.jitter = r.GetJitter()
	}
	p.resetAfter = given(r.GetResetAfter(), p.resetAfter)
	p.liveness = liveness{}
	if l := spout.GetLiveness(); l.GetCheck() != nil {
		p.liveness.interval = given(l.GetInterval(), probeInterval)
		p.liveness.delay = given(l.GetInitialDelay(), p.liveness.interval)
		p.liveness.misses = int(orElse(l.GetFailureThreshold(), probeMisses))
		p.liveness.silence = l.GetCommitEvery().AsDuration()
	}
	return p
}

func given(d *durationpb.Duration, otherwise time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	return d.AsDuration()
}
