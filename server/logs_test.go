package server_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/minipachd/minipachd/client"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// A follower sees every start of the program, over the program's ends and those of
// pachd, each line once; and pachd's own log is there too.
func TestLogs_FollowerSurvivesKillsOfWorkerAndDaemon(t *testing.T) {
	dir, port := t.TempDir(), freePort(t)
	address := "127.0.0.1:" + strconv.Itoa(port)
	p := startPachd(t, dir, "--listen", address)
	ctx := within(t)
	c, err := client.New(address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// Line n comes from the n-th start; each but every third ends at once.
	count := filepath.Join(t.TempDir(), "count")
	script := fmt.Sprintf(`echo x >> %s; n=$(wc -l < %[1]s); echo "start $n"; [ $((n %% 3)) = 0 ] && exec sleep 1000; exit 0`, count)
	spec := fmt.Sprintf(`{"pipeline":{"name":"s"},"spout":{},"transform":{"cmd":["sh","-c",%q]}}`, script)
	if _, err := c.CreatePipeline(ctx, spec); err != nil {
		t.Fatal(err)
	}
	next, lost := 1, 0
	req := &ppspb.GetLogsRequest{Pipeline: c.Pipeline("s")}
	for m, err := range c.FollowLogs(ctx, req, func(error) { lost++ }) {
		if err != nil {
			t.Fatal(err)
		}
		if !m.User {
			continue
		}
		if m.Message != fmt.Sprint("start ", next) {
			t.Fatalf("line %q, want start %d", m.Message, next)
		}
		if next == 3 {
			p.kill()
			p = startPachd(t, dir, "--listen", address)
		}
		if next++; next > 5 {
			break
		}
	}
	if lost != 1 {
		t.Errorf("pachd was lost %d times, want once", lost)
	}
	lines, err := client.Collect(c.GetLogs(ctx, &ppspb.GetLogsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	starts := 0
	for _, m := range lines {
		if strings.Contains(m.Message, `"msg":"worker started"`) {
			starts++
		}
	}
	if starts < 4 { // a killed daemon may lose its last line
		t.Errorf("%d lines of pachd, of which %d tell of a start", len(lines), starts)
	}
}

// A secret reaches the program, and otherwise nothing that stays.
func TestSecrets_AreNowhereInTheClear(t *testing.T) {
	const value = "correct-horse-battery-staple"
	dir := t.TempDir()
	p := startPachd(t, dir, "--log-level", "debug")
	ctx := within(t)
	c, err := client.New(p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	file := fmt.Sprintf(`{"metadata":{"name":"db"},"stringData":{"pw":%q}}`, value)
	pachctl := func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(ctx, pachdBinary(t))
		cmd.Args = append([]string{"pachctl"}, args...)
		cmd.Env, cmd.Stdin = append(os.Environ(), "PACHD_ADDRESS="+p.addr), strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("pachctl %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	pachctl(file, "create", "secret", "-f", "-")
	for _, args := range [][]string{{"list", "secret"}, {"inspect", "secret", "db", "--raw"}} {
		if out := pachctl("", args...); !strings.Contains(out, "db") || !strings.Contains(out, "Opaque") || strings.Contains(out, value) {
			t.Errorf("pachctl %v: %s", args, out)
		}
	}
	out := filepath.Join(t.TempDir(), "out")
	spec := fmt.Sprintf(`{"pipeline":{"name":"s"},"spout":{},"transform":{
		"cmd":["sh","-c","cat $PPS_SECRETS_DIR/etc/db/pw > %s; echo $PW >> %[1]s; echo ready; exec sleep 1000"],
		"secrets":[{"name":"db","key":"pw","env_var":"PW"},{"name":"db","mount_path":"/etc/db"}]}}`, out)
	if _, err := c.CreatePipeline(ctx, spec); err != nil {
		t.Fatal(err)
	}
	for m, err := range c.FollowLogs(ctx, &ppspb.GetLogsRequest{Pipeline: c.Pipeline("s")}, nil) {
		if err != nil {
			t.Fatal(err)
		}
		if m.Message == "ready" {
			break
		}
	}
	if got, err := os.ReadFile(out); err != nil || string(got) != value+value+"\n" {
		t.Errorf("the program saw %q, %v", got, err)
	}
	info, err := c.InspectPipeline(ctx, c.Pipeline("s"))
	if err != nil || strings.Contains(info.String(), value) {
		t.Error("InspectPipeline:", info, err)
	}
	pachctl("", "delete", "secret", "db")
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if strings.Contains(p.log.String(), value) {
		t.Error("the value is in the log")
	}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(value)) {
			t.Error("the value is in", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// Ctrl-C ends a command that waits for standard input which does not come.
func TestPachctl_InterruptedWhileItWaitsForInput(t *testing.T) {
	p := startPachd(t, t.TempDir())
	ctx := within(t)
	cmd := exec.CommandContext(ctx, pachdBinary(t))
	cmd.Args = []string{"pachctl", "put", "file", "r@master:/x"}
	cmd.Env = append(os.Environ(), "PACHD_ADDRESS="+p.addr)
	if _, err := cmd.StdinPipe(); err != nil { // stays open
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	pfs, _, _ := dial(t, p.addr)
	if _, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("r")}); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for ctx.Err() == nil && !strings.Contains(p.log.String(), "InspectCluster") {
		goruntime.Gosched() // until it has begun
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its exit status is what counts
	if code := cmd.ProcessState.ExitCode(); code != 130 || stderr.String() != "interrupted\n" {
		t.Errorf("exit code %d, stderr %q", code, stderr.String())
	}
}
