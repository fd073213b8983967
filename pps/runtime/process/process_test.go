//go:build unix

package process

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap/zaptest"

	"github.com/minipachd/minipachd/pps/runtime"
)

const limit = 30 * time.Second

func newRuntime(t *testing.T, environ ...string) *Runtime {
	t.Helper()
	r, err := New(Config{DataDir: t.TempDir(), Environ: environ, Logger: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// started is a worker whose standard output is read line by line.
type started struct {
	*worker
	t     *testing.T
	lines *bufio.Reader
}

func start(t *testing.T, r *Runtime, mode string, edit ...func(*runtime.Spec)) *started {
	t.Helper()
	read, write := io.Pipe()
	t.Cleanup(func() { read.Close() })
	spec := runtime.Spec{
		WorkerID: "default-s-v1-0", Incarnation: "i1", Cmd: []string{self()}, Env: []string{"TEST_MODE=" + mode}, Stdout: write,
	}
	for _, e := range edit {
		e(&spec)
	}
	w, err := r.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return &started{worker: w.(*worker), t: t, lines: bufio.NewReader(read)}
}

func (s *started) expect(want string) {
	s.t.Helper()
	line, err := s.lines.ReadString('\n')
	if got := strings.TrimSpace(line); err != nil || !strings.HasPrefix(got, want) {
		s.t.Fatalf("worker said %q (%v), want %q", got, err, want)
	}
}

func (s *started) ended() runtime.Exit {
	s.t.Helper()
	go io.Copy(io.Discard, s.lines)
	select {
	case e := <-s.Wait():
		return e
	case <-time.After(limit):
		s.t.Fatal("worker does not end")
		return runtime.Exit{}
	}
}

func TestStart_EnvironmentIsAnAllowList(t *testing.T) {
	r := newRuntime(t, "PATH=/usr/bin:/bin", "HOME=/root", "LANG=C.UTF-8", "GOCACHE=/c", "GOPROXY=off",
		"PACHD_ETCD_PASSWORD=secret", "AWS_SECRET_ACCESS_KEY=secret", "TMPDIR=/elsewhere")
	s := start(t, r, "env", func(spec *runtime.Spec) {
		spec.Env = append(spec.Env, "PPS_PIPELINE_NAME=s", "HOME=/mine", "A=1", "A=2", "PACHD_WORKER_OWNER=forged")
		spec.ConfigFile = []byte("{}")
		spec.Cmd = append(spec.Cmd, "an argument")
	})
	var got struct {
		Env, Args []string
		Dir       string
	}
	if err := json.NewDecoder(s.lines).Decode(&got); err != nil {
		t.Fatal(err)
	}
	scratch := filepath.Join(r.cfg.DataDir, "workers", "default-s-v1-0")
	want := []string{
		"A=2", "GOCACHE=/c", "GOPROXY=off", "HOME=/mine", "LANG=C.UTF-8",
		"PACHD_WORKER_INCARNATION=i1", "PACHD_WORKER_OWNER=" + r.owner, "PACH_CONFIG=" + scratch + "/config.json",
		"PATH=" + r.binDir + ":/usr/bin:/bin", "PPS_PIPELINE_NAME=s", "TEST_MODE=env", "TMPDIR=" + scratch + "/tmp",
	}
	slices.Sort(got.Env)
	if diff := cmp.Diff(want, got.Env); diff != "" {
		t.Error("environment (-want +got):\n" + diff)
	}
	here, _ := os.Getwd()
	if got.Dir != here {
		t.Errorf("started in %s, want %s", got.Dir, here)
	}
	if diff := cmp.Diff([]string{self(), "an argument"}, got.Args); diff != "" {
		t.Error(diff)
	}
	if e := s.ended(); e.Code != 0 || e.Err != nil {
		t.Error(e)
	}
	if _, err := os.Stat(scratch); !os.IsNotExist(err) {
		t.Errorf("the scratch directory is still there: %v", err)
	}
}

func TestNew_PachctlIsOnThePath(t *testing.T) {
	r := newRuntime(t)
	if at, err := os.Readlink(filepath.Join(r.binDir, "pachctl")); err != nil || at != self() {
		t.Errorf("pachctl -> %q, %v", at, err)
	}
}

func TestStart_StdinLinesThenEnd(t *testing.T) {
	s := start(t, newRuntime(t), "cat", func(spec *runtime.Spec) { spec.Stdin = []string{"one", "two"} })
	s.expect("one")
	s.expect("two")
	if e := s.ended(); e.String() != "exit status 0" {
		t.Error(e)
	}
}

func TestStart_ErrorsSayWhatToChange(t *testing.T) {
	r := newRuntime(t, "PATH=/usr/bin")
	script := filepath.Join(t.TempDir(), "x.sh")
	if err := os.WriteFile(script, []byte("#!/no/such/interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		spec runtime.Spec
		want string
	}{
		{runtime.Spec{}, "there is no command"},
		{runtime.Spec{Cmd: []string{"no-such"}}, `command "no-such" not found on PATH ` + r.binDir + ":/usr/bin"},
		{runtime.Spec{Cmd: []string{"./no-such"}}, `command "./no-such": ` + r.cfg.WorkingDir + "/no-such does not exist"},
		{runtime.Spec{Cmd: []string{"/etc"}}, `command "/etc": /etc is a directory`},
		{runtime.Spec{Cmd: []string{"/etc/passwd"}}, `/etc/passwd is not executable`},
		{runtime.Spec{Cmd: []string{script}}, "is the interpreter named in its first line installed?"},
		{runtime.Spec{Cmd: []string{"env"}, WorkingDir: "/no/such"}, "working directory /no/such does not exist"},
		{runtime.Spec{Cmd: []string{"env"}, User: "nobody-here"}, `user "nobody-here": there is no such user on this machine`},
		{runtime.Spec{Cmd: []string{"env"}, Env: []string{"=x"}}, "the name is empty"},
	} {
		c.spec.WorkerID = "w"
		w, err := r.Start(t.Context(), c.spec)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, %v; want an error with %q", c.spec.Cmd, w, err, c.want)
		}
	}
}

func TestStart_SecondUnderTheSameIDIsRefused(t *testing.T) {
	r := newRuntime(t)
	s := start(t, r, "answer")
	s.expect("ready")
	if _, err := r.Start(t.Context(), runtime.Spec{WorkerID: s.id, Cmd: []string{self()}}); err == nil ||
		err.Error() != "start worker default-s-v1-0: it is still alive" {
		t.Error(err)
	}
	go io.Copy(io.Discard, s.lines)
	if err := s.Stop(t.Context(), limit); err != nil {
		t.Error(err)
	}
	next := start(t, r, "exit")
	if e := next.ended(); e.Code != 0 {
		t.Error(e)
	}
}

func TestWait_CodeSignalAndTail(t *testing.T) {
	r := newRuntime(t)
	s := start(t, r, "exit", func(spec *runtime.Spec) { spec.Env = append(spec.Env, "TEST_CODE=7") })
	e := s.ended()
	if e.String() != "exit status 7" || len(e.StderrTail) != runtime.TailBytes || !strings.HasSuffix(e.StderrTail, "last words\n") {
		t.Errorf("%v, tail %q", e, e.StderrTail)
	}
	if e.Started.IsZero() || e.Ended.Before(e.Started.Add(-time.Second)) {
		t.Errorf("from %v to %v", e.Started, e.Ended)
	}
	s = start(t, r, "answer")
	s.expect("ready")
	syscall.Kill(s.PID(), syscall.SIGKILL)
	if e := s.ended(); e.String() != "signal SIGKILL" || e.Code != -1 {
		t.Error(e)
	}
}

func TestStop_AsksFirst(t *testing.T) {
	s := start(t, newRuntime(t), "answer")
	s.expect("ready")
	stopped := make(chan error, 1)
	go func() { stopped <- s.Stop(context.Background(), limit) }()
	s.expect("terminated")
	if e := s.ended(); e.Code != 3 {
		t.Error(e)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if err := s.Stop(t.Context(), limit); err != nil {
		t.Errorf("second stop: %v", err)
	}
}

func TestStop_KillsTheStubborn(t *testing.T) {
	s := start(t, newRuntime(t), "stubborn")
	s.expect("ready")
	if err := s.Stop(t.Context(), 20*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if e := s.ended(); e.Signal != "SIGKILL" {
		t.Error(e)
	}
}

func TestStop_EndOfContextEndsGrace(t *testing.T) {
	s := start(t, newRuntime(t), "stubborn")
	s.expect("ready")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Stop(ctx, time.Hour); err != nil {
		t.Fatal(err)
	}
	if e := s.ended(); e.Signal != "SIGKILL" {
		t.Error(e)
	}
}

// `go run` dies of SIGTERM at once; the program that it built gets its grace.
func TestStop_GraceIsForDescendantsToo(t *testing.T) {
	s := start(t, newRuntime(t), "gorun")
	s.expect("ready")
	if err := s.Stop(t.Context(), limit); err != nil {
		t.Fatal(err)
	}
	if e := s.ended(); e.Signal != "SIGTERM" || !strings.Contains(e.StderrTail, "finished in time") {
		t.Errorf("%v, %q", e, e.StderrTail)
	}
}

// A worker must not notice that the goroutine which started it, and its thread, are gone.
func TestStart_SurvivesTheEndOfTheCallersThread(t *testing.T) {
	r := newRuntime(t)
	workers := make([]*started, 2)
	var locked, ended sync.WaitGroup
	locked.Add(len(workers))
	for i := range workers {
		ended.Go(func() {
			goruntime.LockOSThread() // the thread ends with the goroutine
			locked.Done()
			locked.Wait() // at least one is not the main thread, which never ends
			workers[i] = start(t, r, "answer", func(spec *runtime.Spec) { spec.WorkerID = fmt.Sprint("w", i) })
		})
	}
	ended.Wait()
	for _, s := range workers {
		s.expect("ready")
		for range 3 {
			syscall.Kill(s.PID(), syscall.SIGUSR1)
			s.expect("user defined signal 1")
		}
		go io.Copy(io.Discard, s.lines)
		if err := s.Stop(t.Context(), limit); err != nil {
			t.Error(err)
		}
	}
}

func TestClose_KillsAll(t *testing.T) {
	r := newRuntime(t)
	s := start(t, r, "stubborn")
	s.expect("ready")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if e := s.ended(); e.Signal != "SIGKILL" {
		t.Error(e)
	}
	if _, err := r.Start(t.Context(), runtime.Spec{WorkerID: "w", Cmd: []string{"env"}}); err == nil {
		t.Error("a closed runtime starts workers")
	}
}

func TestStart_AsAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	data := t.TempDir()
	for dir := data; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		os.Chmod(dir, 0o711)
	}
	r, err := New(Config{DataDir: data, WorkingDir: "/", Environ: []string{"PATH=/usr/bin:/bin", "HOME=/root", "GOCACHE=/root/c"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	s := start(t, r, "", func(spec *runtime.Spec) {
		spec.User, spec.Env, spec.ConfigFile = "65534:65534", nil, []byte("hello\n")
		spec.Cmd = []string{"sh", "-c", `id -u; cat "$PACH_CONFIG"; echo "cache $GOCACHE"; cat /dev/stdin; echo named >/dev/stdout; echo >/dev/stderr && touch "$TMPDIR/x" && echo ok`}
		spec.Stdin = []string{"input"}
	})
	for _, want := range []string{"65534", "hello", "cache", "input", "named", "ok"} {
		s.expect(want)
	}
	if e := s.ended(); e.Code != 0 {
		t.Error(e, e.StderrTail)
	}
	os.Chmod(data, 0o700)
	_, err = r.Start(t.Context(), runtime.Spec{WorkerID: "w", Cmd: []string{"env"}, User: "65534:65534"})
	if err == nil || !strings.Contains(err.Error(), "cannot enter "+data) {
		t.Error(err)
	}
}

func TestStart_SecretFilesAreTheUsersAlone(t *testing.T) {
	files := []runtime.File{{Path: "etc/kafka/password", Data: []byte("s3cret")}, {Path: "etc/kafka/user", Data: []byte("me")}}
	account := ""
	if os.Geteuid() == 0 {
		account = "12345:12345"
	}
	r := newRuntime(t)
	open := func(dir string) {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	for dir := r.cfg.DataDir; strings.HasPrefix(dir, os.TempDir()) && dir != os.TempDir(); dir = filepath.Dir(dir) {
		open(dir)
	}
	s := start(t, r, "", func(spec *runtime.Spec) {
		spec.User, spec.SecretFiles, spec.WorkingDir = account, files, "/"
		spec.Cmd = []string{"sh", "-c", `cd "$PPS_SECRETS_DIR" && cat etc/kafka/password && stat -c ' %a %u %n' etc etc/kafka etc/kafka/*; echo; read x`}
		spec.Env = []string{"PPS_SECRETS_DIR=/forged"}
	})
	uid := strconv.Itoa(os.Geteuid())
	if account != "" {
		uid = "12345"
	}
	s.expect("s3cret 700 " + uid + " etc")
	s.expect("700 " + uid + " etc/kafka")
	s.expect("400 " + uid + " etc/kafka/password")
	s.expect("400 " + uid + " etc/kafka/user")
	s.ended()
	if _, err := os.Stat(filepath.Join(r.cfg.DataDir, "workers", "default-s-v1-0")); !os.IsNotExist(err) {
		t.Error("the scratch directory is still there:", err)
	}
	_, err := r.Start(t.Context(), runtime.Spec{
		WorkerID: "x", Cmd: []string{"sh"}, SecretFiles: []runtime.File{{Path: "../x"}},
	})
	if err == nil || !strings.Contains(err.Error(), `secret file "../x": not a path below`) {
		t.Error(err)
	}
}

func TestStart_UmaskIsNotTheDaemons(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	name := filepath.Join(t.TempDir(), "f")
	for umask, want := range map[string]os.FileMode{"": 0o644, "027": 0o640, "0": 0o666, "0777": 0} {
		start(t, newRuntime(t), "umask", func(spec *runtime.Spec) {
			spec.Umask, spec.Env = umask, append(spec.Env, "TEST_FILE="+name)
		}).ended()
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("umask %q: %v, %v", umask, info.Mode(), err)
		}
		os.Remove(name)
	}
}
