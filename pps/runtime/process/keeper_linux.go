package process

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// executable is what a keeper is started from. The link survives an update or
// removal of the file on disk, so daemon and keeper are always the same build.
func executable() (string, error) { return "/proc/self/exe", nil }

func becomeSubreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become child subreaper: %w", err)
	}
	return nil
}

// setDeathSignal has the kernel send sig when the forking thread ends.
func setDeathSignal(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }

// proc is one process of the table.
type proc struct{ pid, parent, group int }

// descendants lists all living processes below root, from /proc; zombies are left
// out. One that forks meanwhile may be missed: callers that kill look again.
func descendants(root int) []proc {
	if _, err := os.Stat("/proc/thread-self/children"); err == nil {
		return childrenOf(root, nil)
	}
	// Kernels without these files: the whole process table, which a machine with a
	// thousand workers would rather not have read a thousand times.
	children := map[int][]proc{}
	for _, pid := range pids() {
		if p, alive := readStat(pid); alive {
			children[p.parent] = append(children[p.parent], p)
		}
	}
	var found []proc
	for next := children[root]; len(next) > 0; {
		p := next[0]
		next = append(next[1:len(next):len(next)], children[p.pid]...)
		found = append(found, p)
	}
	return found
}

// childrenOf adds to found what lives below a process, thread by thread.
func childrenOf(pid int, found []proc) []proc {
	dir := "/proc/" + strconv.Itoa(pid) + "/task/"
	threads, err := os.ReadDir(dir)
	if err != nil {
		return found
	}
	for _, thread := range threads {
		list, err := os.ReadFile(dir + thread.Name() + "/children")
		if err != nil {
			continue // the thread has ended; its children are another's
		}
		for _, name := range bytes.Fields(list) {
			child, err := strconv.Atoi(string(name))
			if err != nil {
				continue
			}
			if p, alive := readStat(child); alive {
				found = childrenOf(child, append(found, p))
			}
		}
	}
	return found
}

// pids lists the process table; empty without /proc.
func pids() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var list []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			list = append(list, pid)
		}
	}
	return list
}

// readStat reads state, parent and group of a process. The name before them may
// hold spaces and parentheses, so the fields start after the last ')'.
func readStat(pid int) (p proc, alive bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return p, false
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 3 || fields[0][0] == 'X' {
		return p, false
	}
	p.pid = pid
	p.parent, _ = strconv.Atoi(string(fields[1]))
	p.group, _ = strconv.Atoi(string(fields[2]))
	// A zombie cannot be killed, and its children have been handed on; but one with
	// more than one thread is a process whose first thread has ended.
	const threads = 17
	return p, fields[0][0] != 'Z' || len(fields) > threads && string(fields[threads]) != "1"
}

// killGroupLeftovers has nothing to do: no child left means no descendant left.
func (k *keeper) killGroupLeftovers() {}
