//go:build unix

package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	goruntime "runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/minipachd/minipachd/pps/runtime/cgroup"
)

// keeperEnv makes a start of the executable a keeper.
const keeperEnv = "MINIPACHD_WORKER_INIT"

// initCalled guards New: without MaybeInit in main, a keeper would be a second
// daemon (or a second run of all tests).
var initCalled atomic.Bool

// MaybeInit turns this process into a keeper if it was started as one, and then
// never returns; otherwise it does nothing. main, and TestMain of packages that
// start workers, call it before anything else, on the main goroutine.
func MaybeInit() {
	initCalled.Store(true)
	if os.Getenv(keeperEnv) == "" {
		return
	}
	// The program dies with the thread that forks it, so that thread must
	// live as long as the keeper: this goroutine never leaves it.
	goruntime.LockOSThread()
	os.Exit(keep())
}

// keep is the life of a keeper; it returns the exit status.
func keep() int {
	debug.SetGCPercent(100)
	syscall.CloseOnExec(controlFD)
	file := os.NewFile(controlFD, "control")
	conn, err := net.FileConn(file)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s is set, but descriptor %d is not the socket of a pachd: %v\n", keeperEnv, controlFD, err)
		return 2
	}
	file.Close()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)

	in, out := json.NewDecoder(conn), json.NewEncoder(conn)
	var l launch
	if err := in.Decode(&l); err != nil {
		return 2 // the daemon is gone already
	}
	if err := becomeSubreaper(); err != nil {
		out.Encode(report{Error: err.Error()})
		return 1
	}
	if os.Getppid() != l.Daemon {
		return 1 // it died before the parent-death signal was armed
	}
	err = makeGroup(&l)
	syscall.Umask(l.Umask) // the program's; the keeper itself makes no files from here on
	pid := 0
	if err == nil {
		pid, err = forkInGroup(&l, 0, 1, 2)
	}
	if err != nil {
		if l.Group != nil {
			disband(l.Group)
		}
		out.Encode(report{Error: explain(err)})
		return 1
	}
	k := &keeper{program: pid, memoryLimit: l.MemoryLimit, launch: &l, commands: map[int]int{}, out: out}
	out.Encode(report{PID: pid})

	orders := make(chan command)
	go func() {
		for {
			var c command
			if in.Decode(&c) != nil {
				close(orders)
				return
			}
			orders <- c
		}
	}()
	end := k.run(orders, signals)
	if l.Group != nil {
		end.Memory = end.Memory || l.Group.OutOfMemory()
		disband(l.Group)
	}
	out.Encode(report{Exit: &end})
	if end.Code < 0 {
		return 1
	}
	return end.Code
}

// forkInGroup starts a program in the worker's control group. The keeper is there for
// that moment only, so that it outlives the worker's memory.
func forkInGroup(l *launch, files ...uintptr) (int, error) {
	leave, err := enterGroup(l)
	if err != nil {
		return 0, err
	}
	pid, err := fork(l, files...)
	if e := leave(); e != nil && err == nil {
		syscall.Kill(-pid, syscall.SIGKILL)
		err = e
	}
	return pid, err
}

// makeGroup makes the control group of a launch, empty. A program without bounds
// runs outside of it rather than not at all.
func makeGroup(l *launch) error {
	if l.Group == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), groupTime)
	defer cancel()
	if err := l.Group.Make(ctx); err != nil && l.Bounded {
		return err
	}
	return nil
}

// enterGroup moves into the control group of a launch; without bounds it is no
// error that there is none.
func enterGroup(l *launch) (leave func() error, err error) {
	outside := func() error { return nil }
	if l.Group == nil {
		return outside, nil
	}
	leave, err = l.Group.Enter()
	if err != nil && !l.Bounded {
		return outside, nil
	}
	return leave, err
}

// disband ends the program's control group. The daemon may be dead, and nobody
// else there to do it.
func disband(g *cgroup.Group) {
	ctx, cancel := context.WithTimeout(context.Background(), disbandTime)
	defer cancel()
	_ = g.End(ctx) // the daemon tries again, now or at its next start
}

// fork starts a program on the calling thread, with files as its first descriptors.
func fork(l *launch, files ...uintptr) (int, error) {
	attr := &syscall.ProcAttr{Dir: l.Dir, Env: l.Env, Files: files, Sys: &syscall.SysProcAttr{Setpgid: true}}
	setDeathSignal(attr.Sys, syscall.SIGKILL)
	if l.As != nil {
		attr.Sys.Credential = &syscall.Credential{Uid: l.As.UID, Gid: l.As.GID, Groups: l.As.Groups}
	}
	return syscall.ForkExec(l.Path, l.Args, attr)
}

// explain words an error of exec for the author of a pipeline.
func explain(err error) string {
	switch {
	case errors.Is(err, syscall.ENOENT):
		return "no such file or directory (is the interpreter named in its first line installed?)"
	case errors.Is(err, syscall.ENOEXEC):
		return "exec format error (a script needs a first line such as #!/bin/sh)"
	}
	return err.Error()
}

const (
	memoryLook  = 250 * time.Millisecond // between two looks at the memory of a worker
	disbandTime = 2 * time.Second
)

// keeper watches over one program and all its descendants.
type keeper struct {
	program int
	reaped  bool // the program's pid is no longer ours to signal
	killing bool
	asked   bool // to terminate: descendants may outlive the program for the grace period
	end     ending

	memoryLimit int64 // in bytes, to watch over; 0: none
	launch      *launch
	commands    map[int]int // of opExec: process id to the daemon's id
	out         *json.Encoder
}

// reaping is a child that ended.
type reaping struct {
	pid    int
	status syscall.WaitStatus
}

// run returns when no descendant is left.
func (k *keeper) run(orders <-chan command, signals <-chan os.Signal) ending {
	children := make(chan reaping)
	go reap(children)
	var full <-chan struct{}
	if k.launch.DiskLimit > 0 {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		full = overfull(ctx, k.launch.Scratch, k.launch.DiskLimit)
	}
	var again, look <-chan time.Time
	if k.memoryLimit > 0 {
		ticker := time.NewTicker(memoryLook)
		defer ticker.Stop()
		look = ticker.C
	}
	for {
		select {
		case c, ok := <-orders:
			if !ok {
				orders = nil // the daemon died
			}
			switch {
			case ok && c.Op == opTerm:
				k.asked = true
				k.signalAll(syscall.SIGTERM)
				k.signalAll(syscall.SIGCONT) // a stopped process handles nothing
			case ok && c.Op == opExec:
				k.exec(c)
			case ok && c.Op == opCancel:
				k.cancel(c.ID)
			default:
				k.killing = true
			}
		case <-signals:
			k.killing = true
		case <-again:
		case <-look:
			if memoryOf(descendants(os.Getpid()), k.memoryLimit) > k.memoryLimit {
				k.killing, k.end.Memory, look = true, true, nil
			}
		case <-full:
			k.killing, k.end.Disk, full = true, true, nil
		case c, ok := <-children:
			if !ok {
				k.killGroupLeftovers()
				return k.end
			}
			if c.pid == k.program {
				k.reaped = true
				memory, disk := k.end.Memory, k.end.Disk
				k.end = endingOf(c.status)
				k.end.Memory, k.end.Disk = memory, disk
				k.killing = k.killing || !k.asked
			} else if id, ok := k.commands[c.pid]; ok {
				delete(k.commands, c.pid)
				syscall.Kill(-c.pid, syscall.SIGKILL) // what it left in its group
				k.out.Encode(report{Exec: &result{ID: id, ending: endingOf(c.status)}})
			}
		}
		if k.killing {
			// Each death can hand us orphans that forked while we looked,
			// hence again after every reaping, and by the clock to be sure.
			k.signalAll(syscall.SIGKILL)
			again = time.After(100 * time.Millisecond)
		}
	}
}

// exec starts a command beside the program, with nothing on its descriptors.
func (k *keeper) exec(c command) {
	refuse := func(why string) { k.out.Encode(report{Exec: &result{ID: c.ID, Error: why}}) }
	if k.asked || k.killing || k.reaped {
		refuse("the worker is ending")
		return
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		refuse(err.Error())
		return
	}
	defer null.Close()
	l := *k.launch
	l.Path, l.Args = c.Path, c.Args
	pid, err := forkInGroup(&l, null.Fd(), null.Fd(), null.Fd())
	if err != nil {
		refuse(explain(err))
		return
	}
	k.commands[pid] = c.ID
}

// cancel kills a command that has not ended.
func (k *keeper) cancel(id int) {
	for pid, of := range k.commands {
		if of == id {
			syscall.Kill(-pid, syscall.SIGKILL)
		}
	}
}

// reap collects children until there are none, then closes the channel. On Linux
// orphaned descendants become children, so none left means all gone.
func reap(to chan<- reaping) {
	defer close(to)
	for {
		var r reaping
		var err error
		r.pid, err = syscall.Wait4(-1, &r.status, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return
		}
		to <- r
	}
}

// signalAll sends sig to the program's group and to every other descendant.
func (k *keeper) signalAll(sig syscall.Signal) {
	if !k.reaped {
		syscall.Kill(-k.program, sig)
	}
	for _, p := range descendants(os.Getpid()) {
		if k.reaped || p.group != k.program {
			syscall.Kill(p.pid, sig)
		}
	}
}

func endingOf(ws syscall.WaitStatus) ending {
	e := ending{Code: ws.ExitStatus(), Ended: time.Now().UnixNano()}
	if ws.Signaled() {
		e.Code, e.Signal = -1, unix.SignalName(ws.Signal())
		if e.Signal == "" {
			e.Signal = ws.Signal().String()
		}
	}
	return e
}
