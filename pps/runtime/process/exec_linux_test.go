package process

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minipachd/minipachd/pps/runtime"
)

func TestExec_RunsBesideTheProgramInItsEnvironment(t *testing.T) {
	r := newRuntime(t, "PATH=/usr/bin:/bin")
	w := start(t, r, "answer", func(s *runtime.Spec) { s.Env = append(s.Env, "MARK=here") })
	w.expect("ready")
	sh := func(script string) error { return w.Exec(t.Context(), []string{"sh", "-c", script}) }
	if err := sh(`test "$MARK" = here && test -d "$TMPDIR"`); err != nil {
		t.Error(err)
	}
	for script, want := range map[string]string{"exit 7": "exit status 7", "kill -9 $$": "signal SIGKILL"} {
		if err := sh(script); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", script, err, want)
		}
	}
	if err := w.Exec(t.Context(), []string{"no-such-probe"}); err == nil || !strings.Contains(err.Error(), `"no-such-probe" not found on PATH`) {
		t.Error(err)
	}
	if err := w.Exec(t.Context(), nil); err == nil {
		t.Error("no command is no error")
	}
	if err := w.Stop(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if err := sh("true"); err == nil || !strings.Contains(err.Error(), "the worker has ended") {
		t.Error(err)
	}
}

// A probe that hangs is killed with what it started, and the worker lives on.
func TestExec_TimeoutKillsTheGroup(t *testing.T) {
	r := newRuntime(t, "PATH=/usr/bin:/bin")
	w := start(t, r, "answer")
	w.expect("ready")
	file := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if data, _ := os.ReadFile(file); strings.HasSuffix(string(data), "\n") {
				cancel()
			}
			time.Sleep(time.Millisecond) // polls a file that another process writes
		}
	}()
	err := w.Exec(ctx, []string{"sh", "-c", "sleep 1000 & echo $! > " + file + "; wait"})
	if err == nil || !strings.HasPrefix(err.Error(), "killed: ") {
		t.Error(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		if p, alive := readStat(pid); !alive || p.pid == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("what the probe started is still alive")
		}
	}
	if err := syscall.Kill(w.PID(), 0); err != nil {
		t.Errorf("the program: %v", err)
	}
}
