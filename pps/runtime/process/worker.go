//go:build unix

package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/minipachd/minipachd/pps/runtime"
)

const (
	startTimeout  = 30 * time.Second // for the keeper to answer, on a very busy machine
	drainTimeout  = 2 * time.Second  // for output after the last process is gone
	surviveLimit  = 5 * time.Second  // for SIGKILL to work through the keeper
	lostKillLimit = 15 * time.Second // for SIGKILL to work by the marks
)

// worker is the daemon's side of a keeper and its program.
type worker struct {
	runtime     *Runtime
	id, dir     string
	incarnation string
	pid         int
	started     time.Time
	keeper      *exec.Cmd
	conn        net.Conn
	outputs     []*os.File // read ends
	tail        *tail
	launch      *launch
	limits      runtime.Resources

	exit chan runtime.Exit
	done chan struct{} // closed after exit was sent

	path, workDir string // PATH and working directory of its program

	mu      sync.Mutex // guards writes to conn
	encoder *json.Encoder

	execMu sync.Mutex
	execs  map[int]chan *result // that have not ended
	execID int
}

// start does the work of Start for a reserved id.
func (r *Runtime) start(ctx context.Context, spec *runtime.Spec) (_ *worker, err error) {
	l, err := r.prepare(spec)
	defer func() {
		if err != nil && spec.Dir != "" {
			l.release()
			removeAll(spec.Dir)
		}
	}()
	if err != nil {
		return nil, err
	}
	r.confine(spec, l)
	w := &worker{
		runtime: r, id: spec.WorkerID, dir: spec.Dir, incarnation: spec.Incarnation,
		launch: l, limits: spec.Resources,
		tail: newTail(runtime.TailBytes), exit: make(chan runtime.Exit, 1), done: make(chan struct{}),
		path: lookup(l.Env)["PATH"], workDir: l.Dir, execs: map[int]chan *result{},
	}
	var files closers
	defer func() { files.close() }()
	defer func() {
		if err != nil {
			w.closeAll()
		}
	}()
	stdin, err := inputFile(spec)
	if err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	files.add(stdin)
	var ends [2]*os.File
	for i := range ends {
		read, write, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		w.outputs = append(w.outputs, read)
		ends[i] = write
		files.add(write)
	}
	if l.As != nil {
		// Programs open /dev/stdin, /dev/stdout and /dev/stderr by their names too.
		for _, f := range []*os.File{stdin, ends[0], ends[1]} {
			if err := l.As.own(f); err != nil {
				return nil, err
			}
		}
	}
	control, err := w.connect()
	if err != nil {
		return nil, err
	}
	files.add(control)
	if err := w.fork(stdin, ends[0], ends[1], control); err != nil {
		return nil, err
	}
	files.close() // or their end would never be seen
	in, err := w.await(ctx, l)
	if err != nil {
		w.conn.Close() // a keeper without a daemon kills everything and ends
		w.keeper.Wait()
		if l.Group != nil && l.Group.OutOfMemory() {
			err = errors.New(runtime.Exit{Signal: "SIGKILL", OutOfMemory: true, MemoryLimit: w.limits.MemoryLimit}.String() + " while it started")
		}
		return nil, err
	}
	r.mu.Lock()
	r.alive[w.id] = w
	closed := r.closed
	r.mu.Unlock()
	go w.watch(in, spec.Stdout, spec.Stderr)
	if closed { // Close did not see this one
		w.Stop(context.Background(), 0)
		return nil, errClosed
	}
	return w, nil
}

// connect makes the socket pair and returns the keeper's end.
func (w *worker) connect() (*os.File, error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		// Another keeper must not hold our end open after our death.
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "keeper")
	defer ours.Close()
	theirs := os.NewFile(uintptr(fds[1]), "control")
	if w.conn, err = net.FileConn(ours); err != nil {
		theirs.Close()
		return nil, err
	}
	w.encoder = json.NewEncoder(w.conn)
	return theirs, nil
}

// fork starts the keeper.
func (w *worker) fork(stdin, stdout, stderr, control *os.File) error {
	exe, err := executable()
	if err != nil {
		return err
	}
	w.keeper = &exec.Cmd{
		Path: exe,
		Args: []string{"pachd-worker " + w.id},
		Env: []string{
			keeperEnv + "=1", "GOMAXPROCS=1", "GOTRACEBACK=none",
			// A fifth of what its start costs would be collecting what packages of the
			// daemon make before main; keep turns it on.
			"GOGC=off",
			ownerEnv + "=" + w.runtime.owner, incarnationEnv + "=" + w.incarnation,
		},
		Stdin: stdin, Stdout: stdout, Stderr: stderr,
		ExtraFiles: []*os.File{control},
		// A session of its own: a Ctrl-C in pachd's terminal is for pachd,
		// which then stops its workers in order.
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	setDeathSignal(w.keeper.SysProcAttr, syscall.SIGTERM)
	if err := w.runtime.forker.do(w.keeper.Start); err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	return nil
}

// await hands over the launch and waits for the program to run.
func (w *worker) await(ctx context.Context, l *launch) (*json.Decoder, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { w.conn.SetDeadline(time.Unix(1, 0)) })()
	in := json.NewDecoder(w.conn)
	var first report
	err := w.encoder.Encode(l)
	if err == nil {
		err = in.Decode(&first)
	}
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("keeper did not answer: %w", ctx.Err())
	case err != nil:
		return nil, fmt.Errorf("keeper ended: %w", err)
	case first.Error != "":
		return nil, fmt.Errorf("command %q: %s", l.Args[0], first.Error)
	}
	w.pid, w.started = first.PID, time.Now()
	return in, nil
}

// watch lives as long as the worker.
func (w *worker) watch(in *json.Decoder, stdout, stderr io.Writer) {
	var pumps sync.WaitGroup
	pumps.Go(func() { pump(w.outputs[0], stdout, nil) })
	pumps.Go(func() { pump(w.outputs[1], stderr, w.tail) })

	last, err := w.follow(in)
	exit := runtime.Exit{Code: -1, Started: w.started, Ended: time.Now()}
	if err == nil && last.Exit != nil {
		exit.Code, exit.Signal, exit.Ended = last.Exit.Code, last.Exit.Signal, time.Unix(0, last.Exit.Ended)
		exit.OutOfMemory, exit.MemoryLimit = last.Exit.Memory, w.limits.MemoryLimit
		exit.OutOfDisk, exit.DiskLimit = last.Exit.Disk, w.limits.DiskLimit
	} else {
		exit.Err = errors.New("the keeper of the worker was killed")
	}
	w.conn.Close()
	w.keeper.Wait()
	if exit.Err != nil {
		for w.killByMark() != nil { // as long as one lives, the worker does
		}
	}
	w.killGroup()
	w.drain(&pumps)
	exit.StderrTail = w.tail.String()
	removeAll(w.dir)
	w.runtime.release(w.id)
	w.exit <- exit
	close(w.done)
}

// drain waits for the pumps; a descriptor that was handed to a stranger does
// not hold up the worker for ever.
func (w *worker) drain(pumps *sync.WaitGroup) {
	cut := time.AfterFunc(drainTimeout, func() {
		for _, f := range w.outputs {
			f.SetReadDeadline(time.Unix(1, 0))
		}
	})
	pumps.Wait()
	cut.Stop()
	for _, f := range w.outputs {
		f.Close()
	}
}

// killByMark is for when the keeper cannot do it.
func (w *worker) killByMark() error {
	ctx, cancel := context.WithTimeout(context.Background(), lostKillLimit)
	defer cancel()
	owner, incarnation := ownerEnv+"="+w.runtime.owner, incarnationEnv+"="+w.incarnation
	err := killMarked(ctx, func(env environ) bool { return env.has(owner) && env.has(incarnation) })
	w.runtime.cfg.Logger.Warn("lost the keeper of a worker, killed its processes by their mark",
		zap.String("worker", w.id), zap.Error(err))
	return err
}

// killGroup ends the worker's control group, which its keeper has done
// already unless it was killed. As long as a process is in there, the worker lives.
func (w *worker) killGroup() {
	for {
		err := w.launch.release()
		if err == nil {
			return
		}
		w.runtime.cfg.Logger.Warn("control group of a worker that ended", zap.String("worker", w.id), zap.Error(err))
		if len(w.launch.Group.Pids()) == 0 {
			return // an empty group does no harm; the next start tries again
		}
	}
}

// PID implements runtime.Worker.
func (w *worker) PID() int { return w.pid }

// Wait implements runtime.Worker.
func (w *worker) Wait() <-chan runtime.Exit { return w.exit }

// Stop implements runtime.Worker.
func (w *worker) Stop(ctx context.Context, grace time.Duration) error {
	if grace > 0 {
		w.send(command{Op: opTerm})
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-w.done:
			return nil
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	w.send(command{Op: opKill})
	if w.goneWithin(surviveLimit) {
		return nil
	}
	w.killByMark()
	if w.goneWithin(surviveLimit) {
		return nil
	}
	return fmt.Errorf("stop worker %s: processes survive SIGKILL", w.id)
}

func (w *worker) goneWithin(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-w.done:
		return true
	case <-timer.C:
		return false
	}
}

// send gives the keeper an order. If the keeper is gone, watch knows and acts.
func (w *worker) send(c command) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn.SetWriteDeadline(time.Now().Add(time.Second))
	w.encoder.Encode(c)
}

// closeAll undoes a start that came to nothing.
func (w *worker) closeAll() {
	for _, f := range w.outputs {
		f.Close()
	}
	if w.conn != nil {
		w.conn.Close()
	}
}

// inputFile gives the standard input as a file that has no name any more: it needs
// nobody to feed it, and a program may leave it unread.
func inputFile(spec *runtime.Spec) (*os.File, error) {
	if spec.Stdin == nil {
		return os.Open(os.DevNull)
	}
	f, err := os.CreateTemp(spec.Dir, "stdin")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	_, err = io.WriteString(f, strings.Join(spec.Stdin, "\n")+"\n")
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// closers closes files once.
type closers []io.Closer

func (c *closers) add(f io.Closer) { *c = append(*c, f) }

func (c *closers) close() {
	for _, f := range *c {
		f.Close()
	}
	*c = nil
}
