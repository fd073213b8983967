package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// unified is a directory of its own in the version 2 hierarchy, or the test is skipped.
func unified(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(mounts)) {
		before, after, _ := strings.Cut(line, " - ")
		if f := strings.Fields(before); strings.HasPrefix(after, "cgroup2 ") && len(f) > 4 {
			dir, err := os.MkdirTemp(f[4], "minipachd-test-")
			if err != nil {
				t.Skip("no right to make groups:", err)
			}
			t.Cleanup(func() { os.Remove(dir) })
			return dir
		}
	}
	t.Skip("no cgroup2 is mounted")
	return ""
}

// The kernel's own version 2, without controllers, which version 1 may have: a group
// is entered, finds who hides from everything else, is killed at once, and leaves nothing.
func TestGroup_Unified(t *testing.T) {
	home := unified(t)
	g := &Group{Dirs: []Dir{{Path: filepath.Join(home, "base", "w"), Home: home, V2: true}}}
	if err := g.Make(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(g.Dirs[0].Path, "cgroup.kill")); err != nil {
		t.Skip("Linux before 5.14:", err)
	}
	// The program enters by itself; its child leaves session, parent and environment.
	cmd := exec.Command("sh", "-c", `echo $$ > "$0"/cgroup.procs; env -i setsid sleep 1000 & wait`, g.Dirs[0].Path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for end := time.Now().Add(30 * time.Second); len(g.Pids()) < 2; {
		if time.Now().After(end) {
			t.Fatalf("in the group: %v, want a program and its child", g.Pids())
		}
		time.Sleep(time.Millisecond) // paces the questions only
	}
	if in := g.Pids(); !slices.Contains(in, cmd.Process.Pid) {
		t.Errorf("in the group: %v, and not %d", in, cmd.Process.Pid)
	}
	if err := g.killAtOnce(); err != nil {
		t.Error(err)
	}
	if err := g.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := <-ended; !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the program ended with %v", err)
	}
	if _, err := os.Stat(filepath.Join(home, "base")); err == nil {
		t.Error("the base is left behind")
	}
	// A process that is moved in by its id goes, and one that moves back stays.
	if err := g.Make(t.Context()); err != nil {
		t.Fatal(err)
	}
	sleep := exec.Command("sleep", "1000")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { ended <- sleep.Wait() }()
	if err := enter(g.Dirs[0].Path, sleep.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if in := g.Pids(); !slices.Equal(in, []int{sleep.Process.Pid}) {
		t.Errorf("in the group: %v, want %s alone", in, strconv.Itoa(sleep.Process.Pid))
	}
	if err := enter(home, sleep.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := g.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := sleep.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("a process that had left was killed: %v", err)
	}
	_ = sleep.Process.Kill()
	<-ended
}
