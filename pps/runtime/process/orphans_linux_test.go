package process

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/minipachd/minipachd/pps/runtime"
	"github.com/minipachd/minipachd/pps/runtime/cgroup"
)

// handles holds on to processes so that their end can be awaited.
func handles(t *testing.T, line string) []int {
	t.Helper()
	var fds []int
	for _, word := range strings.Fields(strings.ReplaceAll(line, "ready", "")) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			t.Fatalf("%q is not a list of pids", line)
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatalf("process %d: %v", pid, err)
		}
		t.Cleanup(func() {
			unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // should the test have failed
			unix.Close(fd)
		})
		fds = append(fds, fd)
	}
	return fds
}

func gone(t *testing.T, fds []int) {
	t.Helper()
	for i, fd := range fds {
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(limit.Milliseconds()))
			if err == unix.EINTR {
				continue
			}
			if n != 1 {
				t.Errorf("process no. %d of the tree lives on", i)
			}
			break
		}
	}
}

// daemon runs a pachd-like process with a tree of workers, and returns the line of the tree.
func daemon(t *testing.T, env ...string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(self())
	cmd.Env = append(env, "TEST_MODE=daemon", "TEST_DATA="+t.TempDir())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err, line)
	}
	return cmd, line
}

func TestOrphans_NoneAfterTheDaemonIsKilled(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		cmd, line := daemon(t)
		tree := handles(t, line)
		if len(tree) != 4 {
			t.Fatalf("%q: want 4 pids", line)
		}
		cmd.Process.Signal(sig)
		gone(t, tree)
	}
}

// What `go run` starts is not the daemon's child, nor the keeper's.
func TestOrphans_NoneOfGoRun(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no Go toolchain on PATH")
	}
	program := filepath.Join(t.TempDir(), "main.go")
	err := os.WriteFile(program, []byte(`package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	fmt.Println(os.Getpid(), os.Getppid())
	time.Sleep(time.Hour)
}
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cmd, line := daemon(t, append(os.Environ(), "TEST_PROGRAM="+program)...)
	tree := handles(t, line)
	cmd.Process.Kill()
	gone(t, tree)
}

func TestOrphans_NoneAfterTheProgramEnds(t *testing.T) {
	s := start(t, newRuntime(t), "tree")
	line, err := s.lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	tree := handles(t, line)
	syscall.Kill(s.PID(), syscall.SIGKILL)
	if e := s.ended(); e.Signal != "SIGKILL" {
		t.Error(e)
	}
	gone(t, tree)
}

func TestOrphans_NoneAfterStop(t *testing.T) {
	s := start(t, newRuntime(t), "tree")
	line, err := s.lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	tree := handles(t, line)
	if err := s.Stop(t.Context(), 50*1e6); err != nil {
		t.Fatal(err)
	}
	gone(t, tree)
	s.ended()
}

// A process whose first thread has ended looks like a zombie, and has no environment.
func TestOrphans_NoneWithoutItsFirstThread(t *testing.T) {
	for _, c := range []struct {
		env string
		end func(s *started)
	}{
		{"TEST_UNMARKED=1", func(s *started) { s.Stop(t.Context(), 0) }}, // only the keeper finds it
		{"TEST_UNMARKED=", func(s *started) { s.keeper.Process.Kill() }}, // only its marks tell
	} {
		r := newRuntime(t)
		r.groups = &cgroup.Tree{} // which would find it
		s := start(t, r, "beheaded", func(spec *runtime.Spec) { spec.Env = append(spec.Env, c.env) })
		line, err := s.lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		tree := handles(t, line)
		pid, _ := strconv.Atoi(strings.TrimSpace(line))
		eventually(t, "its first thread has ended", func() bool { return headless(pid) })
		c.end(s)
		gone(t, tree)
		s.ended()
	}
}

// The program "headless" is here, since its first thread runs this, and nothing later
// for certain.
func init() {
	if os.Getenv("TEST_MODE") == "headless" {
		os.Stdout.WriteString("ready\n")
		syscall.RawSyscall(syscall.SYS_EXIT, 0, 0, 0)
	}
}

// headless tells whether a process lives, but its first thread does not.
func headless(pid int) bool {
	data, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(pid) + "/stat")
	_, state, _ := strings.Cut(string(data), ") ")
	return strings.HasPrefix(state, "Z")
}

func TestOrphans_NoneAfterTheKeeperIsKilled(t *testing.T) {
	s := start(t, newRuntime(t), "tree")
	line, err := s.lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	tree := handles(t, line)
	s.keeper.Process.Kill()
	if e := s.ended(); e.Err == nil {
		t.Errorf("%v, want a lost keeper", e)
	}
	gone(t, tree)
}

// Sweep is for what even the keeper could not prevent.
func TestSweep_KillsByTheMarkOnly(t *testing.T) {
	r := newRuntime(t)
	own := start(t, r, "answer")
	own.expect("ready")
	begin := func(mark string) (*exec.Cmd, chan error) {
		cmd := exec.Command(self())
		cmd.Env = []string{"TEST_MODE=stubborn", mark}
		out, _ := cmd.StdoutPipe()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		out.Read(make([]byte, 10))
		end := make(chan error, 1)
		go func() { end <- cmd.Wait() }()
		return cmd, end
	}
	_, ours := begin(ownerEnv + "=" + r.owner)
	other, others := begin(ownerEnv + "=" + r.owner + "0")
	scratch := filepath.Join(r.cfg.DataDir, "workers", "earlier")
	if err := os.MkdirAll(filepath.Join(scratch, "readonly"), 0o500); err != nil {
		t.Fatal(err)
	}
	if err := r.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(scratch)); len(left) != 1 || left[0].Name() != own.id {
		t.Errorf("scratch directories: %v, want that of %s only", left, own.id)
	}
	if err := <-ours; err == nil || err.Error() != "signal: killed" {
		t.Error(err)
	}
	if other.Process.Signal(syscall.Signal(0)) != nil {
		t.Error("Sweep killed another daemon's process")
	}
	other.Process.Kill()
	<-others
	syscall.Kill(own.PID(), syscall.SIGUSR1)
	own.expect("user defined signal 1")
	if err := own.Stop(t.Context(), 0); err != nil {
		t.Error(err)
	}
	own.ended()
}
