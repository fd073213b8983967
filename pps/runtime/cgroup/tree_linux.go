package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// daemonGroup is where a daemon moves that must leave its group.
const daemonGroup = "minipachd-daemon"

// Controllers that are used.
const (
	memory = "memory"
	cpu    = "cpu"
)

// hierarchy is one tree of groups with the controllers that are used in it.
type hierarchy struct {
	v2          bool
	home        string // group of the daemon
	base        string // holds the groups of its workers
	controllers []string
}

// Tree is where a daemon may make groups; the zero Tree is of no use.
type Tree struct {
	hierarchies []hierarchy
	missing     map[string]error // by controller
}

// Open finds out, by trying, what groups this process may make. name tells its
// groups from those of other daemons; the same name later finds what this one
// leaves behind. The Tree is never nil; it may be of no use, see Without.
//
// With version 2 the process may have to move into a group of its own, named
// daemonGroup, below the one that it is in: a group with groups in it has no
// processes.
func Open(name string) *Tree {
	t := &Tree{missing: map[string]error{}}
	found, err := findHierarchies()
	for _, c := range []string{memory, cpu} {
		t.missing[c] = err
		if err == nil {
			t.missing[c] = fmt.Errorf("the system has no control group with the controller %q", c)
		}
	}
	for _, h := range found {
		h.base = filepath.Join(h.base, "minipachd-"+name)
		if err := h.probe(); err != nil {
			for _, c := range h.controllers {
				t.missing[c] = err
			}
			continue
		}
		t.hierarchies = append(t.hierarchies, h)
	}
	return t
}

// Without tells why memory or processor time cannot be bounded; nil if it can.
func (t *Tree) Without() (memoryErr, cpuErr error) { return t.without(memory), t.without(cpu) }

func (t *Tree) without(controller string) error {
	for _, h := range t.hierarchies {
		if slices.Contains(h.controllers, controller) {
			return nil
		}
	}
	if err := t.missing[controller]; err != nil {
		return err
	}
	return ErrUnsupported
}

// Usable tells whether there are groups at all.
func (t *Tree) Usable() bool { return len(t.hierarchies) > 0 }

// findHierarchies lists those that have a controller we use. base is the parent of
// what will be ours.
func findHierarchies() ([]hierarchy, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	return parse(string(mounts), string(groups)), nil
}

// parse matches mounted hierarchies with the groups that a process is in, both
// as /proc shows them (cgroups(7), proc_pid_mountinfo(5)).
func parse(mountinfo, groups string) []hierarchy {
	// Group of the process, by controller; "" is version 2.
	own := map[string]string{}
	for line := range strings.Lines(groups) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 {
			continue
		}
		for c := range strings.SplitSeq(part[1], ",") {
			own[c] = part[2]
		}
	}
	var found []hierarchy
	taken := map[string]bool{}
	add := func(h hierarchy, root, mount, group string) {
		rel, err := filepath.Rel(root, group)
		if err != nil || strings.HasPrefix(rel, "..") {
			return // the process is outside of what is mounted
		}
		h.home = filepath.Join(unescape(mount), rel)
		h.base = h.home
		for _, c := range h.controllers {
			taken[c] = true
		}
		found = append(found, h)
	}
	for _, v2 := range []bool{true, false} {
		for line := range strings.Lines(mountinfo) {
			before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
			left, right := strings.Fields(before), strings.Fields(after)
			if !ok || len(left) < 6 || len(right) < 3 {
				continue
			}
			switch {
			case v2 && right[0] == "cgroup2":
				group, ok := own[""]
				if !ok {
					continue
				}
				h := hierarchy{v2: true}
				rel, err := filepath.Rel(left[3], group)
				if err != nil {
					continue
				}
				list, _ := os.ReadFile(filepath.Join(unescape(left[4]), rel, "cgroup.controllers"))
				for _, c := range strings.Fields(string(list)) {
					if (c == memory || c == cpu) && !taken[c] {
						h.controllers = append(h.controllers, c)
					}
				}
				if len(h.controllers) > 0 {
					add(h, left[3], left[4], group)
				}
			case !v2 && right[0] == "cgroup":
				h := hierarchy{}
				var group string
				for c := range strings.SplitSeq(right[2], ",") {
					if g, ok := own[c]; ok && (c == memory || c == cpu) && !taken[c] {
						group = g
						h.controllers = append(h.controllers, c)
					}
				}
				if len(h.controllers) > 0 {
					add(h, left[3], left[4], group)
				}
			}
		}
	}
	return found
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	for _, c := range []string{" ", "\t", "\n", `\`} {
		s = strings.ReplaceAll(s, fmt.Sprintf(`\%03o`, c[0]), c)
	}
	return s
}

// probe makes the base and one group in it, with limits, moves there and back, and
// removes the group again.
func (h *hierarchy) probe() error {
	if h.v2 {
		if err := h.delegate(); err != nil {
			return err
		}
	}
	g := Group{Dirs: []Dir{h.dir("probe")}, Limits: Limits{CPU: 1, CPUShare: 1, Memory: 1 << 40, MemoryLow: 1 << 20}}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := g.Make(ctx); err != nil {
		return err
	}
	// Whether a process may be moved is known only when one was.
	leave, err := g.Enter()
	if err == nil {
		err = leave()
	}
	return errors.Join(err, g.End(ctx))
}

// dir is where the group of a worker is in the hierarchy.
func (h *hierarchy) dir(worker string) Dir {
	return Dir{Path: filepath.Join(h.base, worker), Home: h.home, V2: h.v2, Controllers: h.controllers}
}

// delegate lets groups below our own have controllers. Unless our own is the root
// of all, it must have no processes for that, so we move below it.
func (h *hierarchy) delegate() error {
	parent := h.home
	if filepath.Base(h.home) == daemonGroup { // where an earlier Open moved to
		parent = filepath.Dir(h.home)
		h.base = filepath.Join(parent, filepath.Base(h.base))
	}
	err := enable(parent, h.controllers)
	if !errors.Is(err, syscall.EBUSY) {
		return err
	}
	leaf := filepath.Join(parent, daemonGroup)
	if err := mkdir(leaf); err != nil {
		return fmt.Errorf("make control groups: %w", err)
	}
	if err := enter(leaf, os.Getpid()); err != nil {
		return fmt.Errorf("move into a control group of its own: %w", err)
	}
	if err := enable(parent, h.controllers); err != nil {
		_ = enter(parent, os.Getpid()) // back to where it was
		_ = os.Remove(leaf)
		return fmt.Errorf("the control group %s has other processes than this daemon: %w", parent, err)
	}
	h.home = leaf
	return nil
}

// enable hands controllers on to the groups below dir.
func enable(dir string, controllers []string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	var orders []string
	for _, c := range controllers {
		if !slices.Contains(strings.Fields(string(have)), c) {
			orders = append(orders, "+"+c)
		}
	}
	if len(orders) == 0 {
		return nil
	}
	return write(dir, "cgroup.subtree_control", strings.Join(orders, " "))
}

// limit sets the limits of a group as far as the hierarchy has the controllers.
func (d *Dir) limit(l Limits) error {
	var errs []error
	set := func(file, value string) { errs = append(errs, write(d.Path, file, value)) }
	const period = 100_000 // µs
	quota := strconv.FormatInt(max(1000, int64(l.CPU*period)), 10)
	if slices.Contains(d.Controllers, cpu) {
		// Kubernetes' scale: 1024 shares a processor, and its conversion to weights.
		shares := min(262144, max(2, int64(l.CPUShare*1024)))
		switch {
		case l.CPU > 0 && d.V2:
			set("cpu.max", quota+" "+strconv.Itoa(period))
		case l.CPU > 0:
			set("cpu.cfs_period_us", strconv.Itoa(period))
			set("cpu.cfs_quota_us", quota)
		}
		switch {
		case l.CPUShare > 0 && d.V2:
			set("cpu.weight", strconv.FormatInt(1+(shares-2)*9999/262142, 10))
		case l.CPUShare > 0:
			set("cpu.shares", strconv.FormatInt(shares, 10))
		}
	}
	if slices.Contains(d.Controllers, memory) {
		limit, low := strconv.FormatInt(l.Memory, 10), strconv.FormatInt(l.MemoryLow, 10)
		switch {
		case l.Memory > 0 && d.V2:
			set("memory.max", limit)
			// Killed as one: half a worker is worse than none.
			_ = write(d.Path, "memory.oom.group", "1") // Linux 4.19
			_ = write(d.Path, "memory.swap.max", "0")  // where swap is counted
		case l.Memory > 0:
			set("memory.limit_in_bytes", limit)
			_ = write(d.Path, "memory.memsw.limit_in_bytes", limit) // where swap is counted
		}
		switch {
		case l.MemoryLow > 0 && d.V2:
			set("memory.low", low)
		case l.MemoryLow > 0:
			set("memory.soft_limit_in_bytes", low)
		}
	}
	return errors.Join(errs...)
}

func mkdir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

func write(dir, file, value string) error {
	// Never creates: what is no control file must not become one.
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func enter(dir string, pid int) error { return write(dir, "cgroup.procs", strconv.Itoa(pid)) }
