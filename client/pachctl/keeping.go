package pachctl

import (
	"cmp"
	"fmt"
	"net"
	"strconv"
	"strings"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// restartsText is how often a pipeline's workers were started again, and when last.
func restartsText(s *session, d *ppspb.PipelineInfo_Details) string {
	if d.GetRestarts() == 0 || d.GetLastExit() == nil {
		return fmt.Sprint(d.GetRestarts())
	}
	return fmt.Sprintf("%d (%s)", d.GetRestarts(), s.when(d.GetLastExit().GetEnded()))
}

// showKeeping tells how the workers of a spout are kept alive, and how that went.
func showKeeping(s *session, t *table, d *ppspb.PipelineInfo_Details) {
	t.field("Restarts", fmt.Sprint(d.GetRestarts()))
	if e := d.GetLastExit(); e != nil {
		t.field("Last exit", fmt.Sprintf("worker %d, %s%s: %s", e.GetWorker(), s.when(e.GetEnded()), exitText(e), e.GetReason()))
	}
	t.field("Last commit", s.when(d.GetLastCommit()))
	if r := d.GetSpout().GetRestart(); r != nil {
		var parts []string
		if r.InitialBackoff != nil {
			parts = append(parts, fmt.Sprintf("first pause %v", r.InitialBackoff.AsDuration()))
		}
		if r.MaxBackoff != nil {
			parts = append(parts, fmt.Sprintf("longest %v", r.MaxBackoff.AsDuration()))
		}
		if r.Factor != nil {
			parts = append(parts, fmt.Sprintf("each %v times the one before", r.GetFactor()))
		}
		if r.Jitter != nil {
			parts = append(parts, fmt.Sprintf("varied by %v", r.GetJitter()))
		}
		if r.ResetAfter != nil {
			parts = append(parts, fmt.Sprintf("anew after %v up", r.ResetAfter.AsDuration()))
		}
		t.field("Restart", strings.Join(parts, ", "))
	}
	t.field("Liveness", livenessText(d.GetSpout().GetLiveness()))
	if g := d.GetSpout().GetGracePeriod(); g != nil {
		t.field("Grace period", g.AsDuration().String())
	}
	t.field("Commit policy", policyText(d.GetSpout().GetCommit()))
	t.field("Retention", retentionText(d.GetSpout().GetRetention()))
}

// exitText is how a worker ended, after a comma, as far as its reason does not tell.
func exitText(e *ppspb.WorkerExit) string {
	how := fmt.Sprintf("exit status %d", e.GetCode())
	switch {
	case e.GetSignal() != "":
		how = "signal " + e.GetSignal()
	case e.GetCode() < 0:
		return ", not started"
	}
	if strings.HasPrefix(e.GetReason(), how+" after ") {
		return ""
	}
	return fmt.Sprintf(", %s, ran for %v", how, e.GetRanFor().AsDuration())
}

// serviceText is where a spout's service is reached, and what answers there.
func serviceText(sv *ppspb.Service) string {
	at := fmt.Sprintf("port %d", sv.GetExternalPort())
	if sv.GetIp() != "" {
		at = net.JoinHostPort(sv.GetIp(), strconv.Itoa(int(sv.GetExternalPort())))
	}
	switch sv.GetInternalPort() {
	case sv.GetExternalPort():
		return at + ", where the worker itself listens"
	case 0:
		return at + " leads to the PPS_SERVICE_PORT of the worker"
	}
	return fmt.Sprintf("%s leads to the PPS_SERVICE_PORT of the worker, %d if that is free", at, sv.GetInternalPort())
}

func policyText(p *ppspb.Spout_CommitPolicy) string {
	var parts []string
	if p.GetInterval() != nil {
		parts = append(parts, "after "+p.Interval.AsDuration().String())
	}
	if p.GetBytes() > 0 {
		parts = append(parts, fmt.Sprintf("at %d bytes", p.Bytes))
	}
	if p.GetFiles() > 0 {
		parts = append(parts, fmt.Sprintf("at %d files", p.Files))
	}
	return strings.Join(parts, ", ")
}

func retentionText(r *ppspb.Spout_Retention) string {
	var parts []string
	if r.GetCommits() > 0 {
		parts = append(parts, fmt.Sprintf("the newest %d commits", r.Commits))
	}
	if r.GetAge() != nil {
		parts = append(parts, "those younger than "+r.Age.AsDuration().String())
	}
	return strings.Join(parts, " and ")
}

func livenessText(l *ppspb.Spout_Liveness) string {
	switch check := l.GetCheck().(type) {
	case *ppspb.Spout_Liveness_Tcp_:
		return "TCP :" + probedPort(check.Tcp.GetPort())
	case *ppspb.Spout_Liveness_Http_:
		return "GET :" + probedPort(check.Http.GetPort()) + cmp.Or(check.Http.GetPath(), "/")
	case *ppspb.Spout_Liveness_Exec_:
		return "exec " + strings.Join(check.Exec.GetCommand(), " ")
	case *ppspb.Spout_Liveness_CommitEvery:
		return fmt.Sprintf("a commit every %v", check.CommitEvery.AsDuration())
	}
	return ""
}

func probedPort(port int32) string {
	if port == 0 {
		return "$PPS_SERVICE_PORT"
	}
	return strconv.Itoa(int(port))
}
