package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// witness is the spec of a spout whose program commits what it sees of itself.
func witness(t *testing.T, name, project, more string) string {
	t.Helper()
	script := `
{ pwd; echo ---; cat; echo ---; cat "$PACH_CONFIG"; echo ---; printf '%s\n' "$@"; echo ---; env; } > "$TMPDIR/seen"
pachctl put file "$PPS_PIPELINE_NAME@master:/seen" -f "$TMPDIR/seen"
echo committed
echo and said so >&2
sleep 1000`
	cmd, err := json.Marshal([]string{"sh", "-c", script, "sh", "first argument", "second"})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"pipeline":{"name":%q,"project":{"name":%q}},"spout":{},"transform":{"cmd":%s%s}}`, name, project, cmd, more)
}

// seen is what a witness committed.
type seen struct {
	dir, stdin, config, args string
	env                      map[string]string
}

func (w *wire) seen(name, project string) seen {
	w.t.Helper()
	commit := fmt.Sprintf(`{"branch":{"name":"master","repo":{"name":%q,"project":{"name":%q}}}}`, name, project)
	ctx := within(w.t)
	for w.call(ctx, "pfs_v2.API/InspectFile", `{"file":{"commit":`+commit+`,"path":"/seen"}}`).err != nil {
		if ctx.Err() != nil {
			w.t.Fatalf("%s committed nothing:\n%v", name, w.call(w.t.Context(), "pps_v2.API/GetLogs", fmt.Sprintf(`{"pipeline":{"name":%q,"project":{"name":%q}}}`, name, project)))
		}
		time.Sleep(20 * time.Millisecond) // nothing waits for a file
	}
	parts := strings.SplitN(w.read(commit, "/seen"), "---\n", 5)
	if len(parts) != 5 {
		w.t.Fatalf("the worker saw %q", parts)
	}
	s := seen{dir: strings.TrimSpace(parts[0]), stdin: parts[1], config: parts[2], args: parts[3], env: map[string]string{}}
	for line := range strings.Lines(parts[4]) {
		k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		s.env[k] = v
	}
	return s
}

// TestWireWorker_Environment looks at a worker from within: its arguments, its
// standard input, where it runs, and every way in which clients find the daemon.
func TestWireWorker_Environment(t *testing.T) {
	t.Setenv("PACHD_ETCD_PASSWORD", "hunter2")
	t.Setenv("DATABASE_PASSWORD", "hunter3")
	w := newWire(t)
	w.ok("pfs_v2.API/CreateProject", `{"project":{"name":"other"}}`)
	dir := t.TempDir()
	w.created(witness(t, "eyes", "other", fmt.Sprintf(`,"stdin":["one","two"],"workingDir":%q,"env":{"MINE":"a b=c","PPS_PIPELINE_NAME":"forged","PACHD_SERVICE_PORT":"7"}`, dir)))
	w.created(witness(t, "plain", "default", ""))
	s := w.seen("eyes", "other")
	info := w.one("pps_v2.API/InspectPipeline", `{"pipeline":{"name":"eyes","project":{"name":"other"}}}`)
	host, port, err := net.SplitHostPort(w.proc.addr)
	if err != nil {
		t.Fatal(err)
	}
	if s.dir != dir || s.stdin != "one\ntwo\n" || s.args != "first argument\nsecond\n" {
		t.Errorf("directory %q, standard input %q, arguments %q", s.dir, s.stdin, s.args)
	}
	for name, want := range map[string]string{
		"PPS_PIPELINE_NAME":       "eyes",
		"PPS_PROJECT_NAME":        "other",
		"PPS_SPEC_COMMIT":         fmt.Sprint(at(info, "specCommit", "id")),
		"PACH_IN_WORKER":          "true",
		"PACHD_ADDRESS":           "grpc://" + w.proc.addr,
		"PACHD_SERVICE_HOST":      host,
		"PACHD_PEER_SERVICE_HOST": host,
		"PACHD_PEER_SERVICE_PORT": port,
		"PEER_PORT":               port,
		"PPS_WORKER_IP":           host,
		"MINE":                    "a b=c",
		"PACHD_SERVICE_PORT":      "7", // the user's own word counts
	} {
		if s.env[name] != want {
			t.Errorf("%s is %q, want %q", name, s.env[name], want)
		}
	}
	if s.env["PPS_POD_NAME"] == "" {
		t.Error("PPS_POD_NAME is not set")
	}
	for name, value := range s.env {
		if strings.Contains(value, "hunter") {
			t.Errorf("the worker sees the daemon's %s", name)
		}
		for _, never := range []string{"PACH_JOB_ID", "PACH_OUTPUT_COMMIT_ID", "PACH_DATUM_ID"} {
			if name == never {
				t.Errorf("%s is set, though a spout has no jobs", name)
			}
		}
	}
	var cfg struct {
		UserID string `json:"user_id"`
		V2     struct {
			ActiveContext string `json:"active_context"`
			Contexts      map[string]map[string]any
			Metrics       bool
		}
	}
	if err := json.Unmarshal([]byte(s.config), &cfg); err != nil {
		t.Fatalf("PACH_CONFIG names a file with %q: %v", s.config, err)
	}
	active := cfg.V2.Contexts[cfg.V2.ActiveContext]
	// Also without auth: it is what tells this start of the worker from others.
	if token := s.env["PACH_TOKEN"]; len(token) < 64 || active["session_token"] != token || active["project"] != "other" || active["pachd_address"] != "grpc://"+w.proc.addr && active["pachd_address"] != w.proc.addr || cfg.UserID == "" {
		t.Errorf("the configuration is %s", s.config)
	}
	// Without a word about it: no input, and the directory pachd was started in.
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if s := w.seen("plain", "default"); s.stdin != "" || s.dir != wd {
		t.Errorf("directory %q, standard input %q; want %q and none", s.dir, s.stdin, wd)
	}
}

// TestWireWorker_Logs reads a spout's lines as pachctl and the SDK ask for them.
func TestWireWorker_Logs(t *testing.T) {
	w := newWire(t)
	w.created(witness(t, "eyes", "default", ""))
	ctx := within(t)
	// With follow they come as they are written.
	follow, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := ppspb.NewAPIClient(w.conn).GetLogs(follow, &ppspb.GetLogsRequest{Pipeline: &ppspb.Pipeline{Name: "eyes"}, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	for said := map[string]bool{}; !said["committed"] || !said["and said so"]; {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		said[m.Message] = true
	}
	cancel()
	for {
		if _, err = stream.Recv(); err != nil {
			break
		}
	}
	if status.Code(err) != codes.Canceled {
		t.Errorf("a follower that went away is told %v", err)
	}
	for _, request := range []string{
		`{"pipeline":{"name":"eyes"}}`,
		`{"pipeline":{"name":"eyes"},"since":"0s","job":{},"datum":{}}`,
		`{"pipeline":{"name":"eyes"},"since":"3600s","useLokiBackend":true}`,
		`{"pipeline":{"name":"eyes","project":{"name":"default"}},"master":true}`,
	} {
		master := strings.Contains(request, "master")
		user, own := []string{}, []string{}
		for _, m := range w.ok("pps_v2.API/GetLogs", request).decoded(t) {
			text := fmt.Sprint(at(m, "message"))
			if at(m, "user") == true {
				user = append(user, text)
			} else {
				own = append(own, text)
			}
			if at(m, "projectName") != "default" || at(m, "pipelineName") != "eyes" || at(m, "workerId") == nil || at(m, "ts") == nil || at(m, "jobId") != nil || (at(m, "master") == true) != master {
				t.Errorf("%s: %v", request, m)
			}
		}
		if !slices.Contains(user, "committed") || !slices.Contains(user, "and said so") {
			t.Errorf("%s: the program's lines are %q", request, user)
		}
		if !slices.Contains(own, "beginning to run user code") {
			t.Errorf("%s: the lines about it are %q", request, own)
		}
	}
	w.exchange([]exchange{
		{"pps_v2.API/GetLogs", `{"dataFilters":["/x"]}`, codes.Unknown, "must specify the Job or Pipeline that the datum is from to get logs for it"},
		{"pps_v2.API/GetLogs", `{"datum":{"id":"x"}}`, codes.Unknown, "must specify the Job or Pipeline that the datum is from to get logs for it"},
		{"pps_v2.API/GetLogs", `{"job":{"id":"0123456789ab4def0123456789abcdef"}}`, codes.Unknown, "pipeline must be specified for the given job"},
		{"pps_v2.API/GetLogs", `{"pipeline":{"name":"eyes"},"job":{"pipeline":{"name":"b"},"id":"0123456789ab4def0123456789abcdef"}}`, codes.Unknown, "job is from the wrong pipeline"},
		{"pps_v2.API/GetLogs", `{"pipeline":{"name":"nope"}}`, codes.NotFound, `could not get pipeline information for default/nope: ...not found`},
		{"pps_v2.API/GetLogs", `{"pipeline":{"name":"eyes"},"dataFilters":["/x"]}`, codes.OK, ""},
	})
}

// TestWireWorker_States follows spouts that cannot run, or not for long.
func TestWireWorker_States(t *testing.T) {
	w := newWire(t)
	w.created(`{"pipeline":{"name":"nothing"},"spout":{}}`)
	w.created(`{"pipeline":{"name":"missing"},"spout":{},"transform":{"cmd":["no-such-program"]}}`)
	w.created(`{"pipeline":{"name":"ends"},"spout":{},"transform":{"cmd":["true"]}}`)
	w.created(`{"pipeline":{"name":"ill"},"spout":{},"transform":{"cmd":["sh","-c","echo the cause >&2; exit 7"]}}`)
	failed := w.waitFor("nothing", inState("PIPELINE_FAILURE"))
	if at(failed, "reason") != "nothing to run: no transform.cmd" {
		t.Errorf("a spout without cmd: %v", failed)
	}
	if missing := w.waitFor("missing", inState("PIPELINE_CRASHING")); !strings.Contains(fmt.Sprint(at(missing, "reason")), "no-such-program") {
		t.Errorf("a program that is not there: %v", missing)
	}
	ill := w.waitFor("ill", inState("PIPELINE_CRASHING"))
	if reason := fmt.Sprint(at(ill, "reason")); !strings.Contains(reason, "exit status 7") {
		t.Errorf("reason %q", reason)
	}
	if recent := fmt.Sprint(at(ill, "details", "recentError")); !strings.Contains(recent, "the cause") {
		t.Errorf("recent error %q", recent)
	}
	// An exit without an error is no end either.
	if ends := w.waitFor("ends", inState("PIPELINE_CRASHING")); at(ends, "details", "workersStartedAt") == nil {
		t.Errorf("a program that ends: %v", ends)
	}
	w.exchange([]exchange{
		{"pps_v2.API/PipelinesSummary", `{}`, codes.OK, `"failedPipelines":"4"`},
		{"pps_v2.API/GetLogs", `{"pipeline":{"name":"ill"}}`, codes.OK, `errored running user code after`},
		{"pps_v2.API/GetLogs", `{"pipeline":{"name":"ends"}}`, codes.OK, `finished running user code after`},
	})
	// An update brings back even what failed for good.
	w.created(sleeper("nothing"), "update")
	w.waitFor("nothing", inState("PIPELINE_RUNNING"))
}
