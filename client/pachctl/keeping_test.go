package pachctl

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

func TestShowKeeping_TellsOfRestartsAndHowTheyAreMade(t *testing.T) {
	at := timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	seconds := func(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Second) }
	d := &ppspb.PipelineInfo_Details{
		Restarts: 3, LastCommit: at,
		LastExit: &ppspb.WorkerExit{Worker: 1, Code: -1, Signal: "SIGKILL", Reason: "no commit for 5m0s", Ended: at, RanFor: seconds(90)},
		Spout: &ppspb.Spout{
			Restart:     &ppspb.Spout_Restart{InitialBackoff: seconds(2), MaxBackoff: seconds(60), ResetAfter: seconds(600)},
			Liveness:    &ppspb.Spout_Liveness{Check: &ppspb.Spout_Liveness_CommitEvery{CommitEvery: seconds(300)}},
			GracePeriod: seconds(5),
			Commit:      &ppspb.Spout_CommitPolicy{Interval: seconds(10), Bytes: 1 << 20, Files: 1000},
			Retention:   &ppspb.Spout_Retention{Commits: 100, Age: seconds(3600)},
		},
	}
	s := &session{app: &app{full: true}}
	var b bytes.Buffer
	tab := newTable(&b, "")
	showKeeping(s, tab, d)
	if err := tab.flush(); err != nil {
		t.Fatal(err)
	}
	want := `Restarts: 3
Last exit: worker 1, 2026-01-02T03:04:05Z, signal SIGKILL, ran for 1m30s: no commit for 5m0s
Last commit: 2026-01-02T03:04:05Z
Restart: first pause 2s, longest 1m0s, anew after 10m0s up
Liveness: a commit every 5m0s
Grace period: 5s
Commit policy: after 10s, at 1048576 bytes, at 1000 files
Retention: the newest 100 commits and those younger than 1h0m0s
`
	var lines []string
	for line := range strings.Lines(b.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " ")+"\n")
	}
	if got := strings.Join(lines, ""); got != want {
		t.Errorf("printed\n%s", got)
	}
	for want, e := range map[string]*ppspb.WorkerExit{
		"":                               {Code: 3, Reason: "exit status 3 after 4ms", RanFor: seconds(1)},
		", not started":                  {Code: -1, Reason: `command "x" not found`},
		", signal SIGKILL, ran for 2s":   {Code: -1, Signal: "SIGKILL", Reason: "killed: out of memory (limit 64 MiB) after 2s", RanFor: seconds(2)},
		", exit status 0, ran for 1m30s": {Reason: "GET :80/: 503 (3 times in a row)", RanFor: seconds(90)},
	} {
		if got := exitText(e); got != want {
			t.Errorf("%v: %q, want %q", e, got, want)
		}
	}
	for want, sv := range map[string]*ppspb.Service{
		"10.0.0.7:90 leads to the PPS_SERVICE_PORT of the worker, 80 if that is free": {Ip: "10.0.0.7", ExternalPort: 90, InternalPort: 80},
		"port 90 leads to the PPS_SERVICE_PORT of the worker":                         {ExternalPort: 90},
		"port 90, where the worker itself listens":                                    {ExternalPort: 90, InternalPort: 90},
	} {
		if got := serviceText(sv); got != want {
			t.Errorf("%v: %q, want %q", sv, got, want)
		}
	}
	if text := restartsText(s, d); text != "3 (2026-01-02T03:04:05Z)" {
		t.Error(text)
	}
}
