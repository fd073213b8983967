package process

import (
	"errors"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minipachd/minipachd/pps/runtime"
	"github.com/minipachd/minipachd/pps/runtime/cgroup"
)

// bounded is a runtime that can make control groups, or the test is skipped.
func bounded(t *testing.T) *Runtime {
	t.Helper()
	r := newRuntime(t)
	if err := errors.Join(r.groups.Without()); err != nil {
		t.Skip("no control groups here:", err)
	}
	return r
}

func with(want runtime.Resources) func(*runtime.Spec) {
	return func(spec *runtime.Spec) { spec.Resources = want }
}

// eventually waits for what has no event to wait for.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); goruntime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("not so after a long time: " + what)
		}
	}
}

func TestResources_MemoryLimitKillsAndSaysSo(t *testing.T) {
	r := bounded(t)
	for mode, want := range map[string]string{
		"eat":    "killed: out of memory (limit 64 MiB)",
		"feeder": "exit status 7, a process of it was killed: out of memory (limit 64 MiB)",
	} {
		s := start(t, r, mode, with(runtime.Resources{MemoryLimit: 64 << 20}))
		end := s.ended()
		// As one group the whole of the worker is killed (cgroup version 2).
		if got := end.String(); got != want && got != "killed: out of memory (limit 64 MiB)" {
			t.Errorf("%s: %s", mode, got)
		}
	}
	if s := start(t, r, "exit", with(runtime.Resources{MemoryLimit: 64 << 20})); s.ended().OutOfMemory {
		t.Error("an ordinary exit is taken for a lack of memory")
	}
}

// With so little not even the keeper lives while it starts the program.
func TestResources_MemoryLimitInWhichNothingStarts(t *testing.T) {
	r := bounded(t)
	for range 5 {
		w, err := r.Start(t.Context(), runtime.Spec{
			WorkerID: "w", Incarnation: "1", Cmd: []string{"sleep", "1000"}, Resources: runtime.Resources{MemoryLimit: 16 << 10},
		})
		if err == nil {
			end := <-w.Wait()
			err = errors.New(end.String())
		}
		if !strings.Contains(err.Error(), "killed: out of memory (limit 16 KiB)") {
			t.Error(err)
		}
	}
}

// Where the kernel cannot be told, the keeper looks itself.
func TestResources_MemoryLimitWithoutControlGroups(t *testing.T) {
	r := newRuntime(t)
	r.groups = &cgroup.Tree{}
	want := runtime.Resources{MemoryLimit: 64 << 20, CPULimit: 0.5, CPURequest: 0.5, MemoryRequest: 1 << 20, DiskLimit: 1 << 30, DiskRequest: 1 << 20, GPUs: 1}
	s := start(t, r, "eat", with(want))
	if got := s.ended().String(); got != "killed: out of memory (limit 64 MiB)" {
		t.Error(got)
	}
	if got := r.Unenforced(want); len(got) != 6 || !strings.Contains(got[0], "64 MiB, is enforced only by looking") {
		t.Errorf("%q", got)
	}
	if got := r.Unenforced(runtime.Resources{}); got != nil {
		t.Errorf("%q", got)
	}
}

// Its files in the scratch directory count, those with two names once, and what it has
// deleted does not.
func TestResources_DiskLimitKillsAndSaysSo(t *testing.T) {
	r := newRuntime(t)
	want := runtime.Resources{DiskLimit: 8 << 20}
	if got := r.Unenforced(want); got != nil {
		t.Errorf("%q", got)
	}
	s := start(t, r, "hoard", with(want))
	s.expect("ready") // with 6 MiB under two names, and 6 MiB under none
	if used := diskUse(t.Context(), s.dir); used < 6<<20 || used > 7<<20 {
		t.Errorf("the files take %d bytes", used)
	}
	syscall.Kill(s.PID(), syscall.SIGUSR1)
	if got := s.ended().String(); got != "killed: its files take more disk than allowed (limit 8 MiB)" {
		t.Error(got)
	}
}

func TestResources_CPULimitThrottles(t *testing.T) {
	r := bounded(t)
	want := runtime.Resources{CPULimit: 0.1, CPURequest: 0.05}
	if got := r.Unenforced(want); got != nil {
		t.Errorf("%q", got)
	}
	s := start(t, r, "spin", with(want))
	s.expect("ready")
	eventually(t, "the worker is throttled", func() bool {
		for _, d := range s.launch.Group.Dirs {
			stat, _ := os.ReadFile(filepath.Join(d.Path, "cpu.stat"))
			for line := range strings.Lines(string(stat)) {
				if n, ok := strings.CutPrefix(line, "nr_throttled "); ok && strings.TrimSpace(n) != "0" {
					return true
				}
			}
		}
		return false
	})
}

// The keeper is killed, and the child has neither parent, session nor marks.
func TestGroup_FindsWhatHidesFromEverythingElse(t *testing.T) {
	r := bounded(t)
	s := start(t, r, "escape")
	line, err := s.lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	tree := handles(t, line)
	pid, _ := strconv.Atoi(strings.TrimSpace(line))
	if in := s.launch.Group.Pids(); !slices.Contains(in, pid) || !slices.Contains(in, s.PID()) || slices.Contains(in, s.keeper.Process.Pid) {
		t.Errorf("in the group: %v; child %d, program %d, keeper %d", in, pid, s.PID(), s.keeper.Process.Pid)
	}
	syscall.Kill(s.keeper.Process.Pid, syscall.SIGKILL)
	s.ended()
	gone(t, tree)
	for _, d := range s.launch.Group.Dirs {
		if _, err := os.Stat(d.Path); err == nil {
			t.Error("left behind:", d.Path)
		}
	}
}

// Two daemons die; nobody is there to clean up but the keepers.
func TestGroup_NoneIsLeftAfterTheDaemonIsKilled(t *testing.T) {
	bounded(t)
	cmd, line := daemon(t)
	tree := handles(t, line)
	var data string
	for _, entry := range cmd.Env {
		if dir, ok := strings.CutPrefix(entry, "TEST_DATA="); ok {
			data = dir
		}
	}
	owner := ownerOf(data)
	bases := func() (found []string) {
		for _, pattern := range []string{"/sys/fs/cgroup/minipachd-", "/sys/fs/cgroup/*/minipachd-", "/sys/fs/cgroup/*/*/minipachd-", "/sys/fs/cgroup/*/*/*/minipachd-"} {
			list, _ := filepath.Glob(pattern + owner)
			found = append(found, list...)
		}
		return found
	}
	if len(bases()) == 0 {
		t.Fatal("the daemon has no groups")
	}
	cmd.Process.Kill()
	gone(t, tree)
	eventually(t, "the groups are removed", func() bool { return len(bases()) == 0 })
}

func TestSweep_EmptiesGroupsOfAnEarlierDaemon(t *testing.T) {
	r := bounded(t)
	dir := t.TempDir()
	earlier, err := New(Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	g := earlier.groups.Group("default.old-v1-0", cgroup.Limits{})
	if err := g.Make(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A process that has no marks at all.
	s := start(t, r, "answer")
	s.expect("ready")
	for _, d := range g.Dirs {
		if err := os.WriteFile(filepath.Join(d.Path, "cgroup.procs"), []byte(strconv.Itoa(s.PID())), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := earlier.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := s.ended(); e.Signal != "SIGKILL" {
		t.Error(e)
	}
	for _, d := range g.Dirs {
		if _, err := os.Stat(d.Path); err == nil {
			t.Error("left behind:", d.Path)
		}
	}
	if err := earlier.Close(); err != nil {
		t.Error(err)
	}
}
