package pachctl

import (
	"fmt"
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
		how := fmt.Sprintf("exit status %d", e.GetCode())
		switch {
		case e.GetSignal() != "":
			how = "signal " + e.GetSignal()
		case e.GetCode() < 0:
			how = "not started"
		}
		t.field("Last exit", fmt.Sprintf("worker %d, %s, %s, ran for %v: %s",
			e.GetWorker(), s.when(e.GetEnded()), how, e.GetRanFor().AsDuration(), e.GetReason()))
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
		if r.ResetAfter != nil {
			parts = append(parts, fmt.Sprintf("anew after %v up", r.ResetAfter.AsDuration()))
		}
		t.field("Restart", strings.Join(parts, ", "))
	}
	t.field("Liveness", livenessText(d.GetSpout().GetLiveness()))
	if g := d.GetSpout().GetGracePeriod(); g != nil {
		t.field("Grace period", g.AsDuration().String())
	}
}

func livenessText(l *ppspb.Spout_Liveness) string {
	switch check := l.GetCheck().(type) {
	case *ppspb.Spout_Liveness_Tcp_:
		return fmt.Sprintf("TCP :%d", check.Tcp.GetPort())
	case *ppspb.Spout_Liveness_Http_:
		return fmt.Sprintf("GET :%d%s", check.Http.GetPort(), check.Http.GetPath())
	case *ppspb.Spout_Liveness_Exec_:
		return "exec " + strings.Join(check.Exec.GetCommand(), " ")
	case *ppspb.Spout_Liveness_CommitEvery:
		return fmt.Sprintf("a commit every %v", check.CommitEvery.AsDuration())
	}
	return ""
}
