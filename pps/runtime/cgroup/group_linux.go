package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Group describes the group of a worker.
func (t *Tree) Group(worker string, l Limits) *Group {
	g := &Group{Limits: l}
	for _, h := range t.hierarchies {
		g.Dirs = append(g.Dirs, h.dir(worker))
	}
	return g
}

// Make makes the group, empty and with limits. What is left of an earlier group of
// that name is killed. After an error there is no group.
func (g *Group) Make(ctx context.Context) error {
	if err := g.End(ctx); err != nil {
		return err
	}
	for _, d := range g.Dirs {
		if err := d.make(g.Limits); err != nil {
			_ = g.End(ctx) // nothing is in it
			return fmt.Errorf("make control group: %w", err)
		}
	}
	return nil
}

// make makes a group. The base may vanish meanwhile, with the last group in it.
func (d *Dir) make(l Limits) error {
	for attempt := 0; ; attempt++ {
		err := d.makeBase()
		if err == nil {
			err = mkdir(d.Path)
		}
		if errors.Is(err, fs.ErrNotExist) && attempt < 100 {
			continue
		}
		if err != nil {
			return err
		}
		return d.limit(l)
	}
}

// makeBase makes what holds the groups of workers, unless it is there. It is there
// only as long as there are groups, so that a daemon that is killed leaves nothing.
func (d *Dir) makeBase() error {
	base := filepath.Dir(d.Path)
	if err := mkdir(base); err != nil || !d.V2 {
		return err
	}
	return enable(base, d.Controllers)
}

// Sweep kills what is in groups of this daemon's name, and removes them. Workers for
// which spare is true are left alone.
func (t *Tree) Sweep(ctx context.Context, spare func(worker string) bool) error {
	var errs []error
	for _, h := range t.hierarchies {
		entries, err := os.ReadDir(h.base)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			if !e.IsDir() || spare(e.Name()) {
				continue
			}
			g := Group{Dirs: []Dir{{Path: filepath.Join(h.base, e.Name())}}}
			errs = append(errs, g.End(ctx))
		}
	}
	return errors.Join(errs...)
}

// Enter moves the calling process into the group. What it starts from then on is
// there too. leave moves it back alone.
func (g *Group) Enter() (leave func() error, err error) {
	leave = func() error {
		var errs []error
		for _, d := range g.Dirs {
			errs = append(errs, enter(d.Home, os.Getpid()))
		}
		return errors.Join(errs...)
	}
	for _, d := range g.Dirs {
		if err := enter(d.Path, os.Getpid()); err != nil {
			return nil, errors.Join(fmt.Errorf("enter control group: %w", err), leave())
		}
	}
	return leave, nil
}

// OutOfMemory tells whether the kernel has killed a process of the group
// because of its memory limit.
func (g *Group) OutOfMemory() bool {
	for _, d := range g.Dirs {
		file := "memory.oom_control"
		if d.V2 {
			file = "memory.events"
		}
		data, err := os.ReadFile(filepath.Join(d.Path, file))
		if err != nil {
			continue // it has no memory controller
		}
		for line := range strings.Lines(string(data)) {
			if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
				return n != "0"
			}
		}
	}
	return false
}

// tree lists the directories of the group and of those that a worker which may do
// so has made in it, inner ones first.
func (g *Group) tree() []string {
	var dirs []string
	for _, d := range g.Dirs {
		_ = filepath.WalkDir(d.Path, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return nil // what has vanished meanwhile need not be listed
		})
	}
	slices.Reverse(dirs)
	return dirs
}

// Pids lists the processes of the group; none if there is no group.
func (g *Group) Pids() []int {
	var list []int
	for _, dir := range g.tree() {
		data, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for _, text := range bytes.Fields(data) {
			if pid, err := strconv.Atoi(string(text)); err == nil && pid > 0 && !slices.Contains(list, pid) {
				list = append(list, pid)
			}
		}
	}
	return list
}

// Kill sends SIGKILL to every process of the group, also to those that are forked
// meanwhile, and waits until there are none; ctx bounds that.
func (g *Group) Kill(ctx context.Context) error {
	for {
		pids := g.Pids()
		if len(pids) == 0 {
			return nil
		}
		if g.killAtOnce() != nil {
			for _, pid := range pids {
				if pid != os.Getpid() {
					_ = syscall.Kill(pid, syscall.SIGKILL) // gone, or ours
				}
			}
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("%d processes of control group %s survive SIGKILL: %w", len(pids), g.Dirs[0].Path, err)
		}
	}
}

// killAtOnce is what version 2 has for it since Linux 5.14.
func (g *Group) killAtOnce() error {
	var errs []error
	for _, d := range g.Dirs {
		errs = append(errs, write(d.Path, "cgroup.kill", "1"))
	}
	return errors.Join(errs...)
}

// End kills what is in the group and removes it, and what held the groups of the
// daemon if it was the last. A group that is not there is no
// error.
func (g *Group) End(ctx context.Context) error {
	if err := g.Kill(ctx); err != nil {
		return err
	}
	for _, dir := range g.tree() {
		for {
			err := os.Remove(dir)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			// A process that has just ended still counts for a moment.
			if !errors.Is(err, syscall.EBUSY) || pause(ctx) != nil {
				return err
			}
		}
	}
	for _, d := range g.Dirs {
		_ = os.Remove(filepath.Dir(d.Path)) // fails if other groups are there
	}
	return nil
}

func pause(ctx context.Context) error {
	timer := time.NewTimer(2 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
