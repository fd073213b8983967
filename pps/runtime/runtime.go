// Package runtime says what the scheduler needs from whatever runs worker
// programs: start one, learn how it ended, stop it together with everything it
// started, and clean up after a daemon that died.
//
// An implementation keeps no policy: when to start again, how long to wait and
// what to report are decided in pps/scheduler. It knows nothing of etcd, of
// pipelines as stored objects or of logs beyond two writers.
package runtime

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Spec describes one start of one worker. The runtime does not change it and
// keeps it only as long as the worker lives.
type Spec struct {
	// Project, Pipeline and Version say whose worker this is; for names and logs.
	Project, Pipeline string
	Version           uint64
	// Worker is the ordinal of the worker's slot, from 0.
	Worker int
	// WorkerID names the slot, unique among all pipelines and stable over
	// restarts; letters, digits, '-', '_' and '.'. A runtime refuses a second
	// start under an id that is still alive.
	WorkerID string
	// Incarnation is unique to this start.
	Incarnation string

	// Cmd is the program with its arguments, never empty. A name without a
	// slash is looked up on the worker's own PATH, a relative path is taken
	// from the working directory.
	Cmd []string
	// Stdin holds the lines of standard input; each is followed by a line
	// feed, then comes end of file. Nil means no input at all.
	Stdin []string
	// Env is what the worker sees, as NAME=value, allow-listed by the caller;
	// of two entries with one name the later counts. The runtime adds what
	// only it knows (PATH, HOME, TMPDIR, PACH_CONFIG and the like, see the
	// implementation), but never replaces an entry of Env with that, and adds
	// nothing else of the daemon's environment.
	Env []string
	// WorkingDir is where the program starts; empty means the runtime's default.
	WorkingDir string
	// User is "name", "uid", "name:group" or "uid:gid"; empty means the
	// runtime's own user.
	User string
	// Umask is what ParseUmask reads.
	Umask string

	// Dir is the worker's scratch directory. Empty, as it usually is, lets the
	// runtime choose; either way the runtime makes it, empties it before
	// every start and removes it when the worker is gone.
	Dir string
	// ConfigFile is written to <Dir>/config.json with mode 0600, readable by the
	// worker's user, and its path given as PACH_CONFIG. Nil: no file.
	ConfigFile []byte
	// SecretFiles are made in a directory of their own before the program
	// starts, readable by the worker's user alone (mode 0400), and removed when
	// the worker is gone. The directory's path is given as PPS_SECRETS_DIR.
	SecretFiles []File

	// Resources says how much of the machine the worker may have.
	Resources Resources

	// Stdout and Stderr receive the program's output as it is written, each
	// from one goroutine, until the Exit is delivered. An error of a writer
	// is ignored: the worker is never blocked or killed for it. Nil discards.
	Stdout, Stderr io.Writer
}

// DefaultUmask is the umask of a worker that is given none.
const DefaultUmask = 0o022

// ParseUmask reads a umask: one to four octal digits, at most 777; empty means
// DefaultUmask.
func ParseUmask(text string) (int, error) {
	if text == "" {
		return DefaultUmask, nil
	}
	mask, err := strconv.ParseUint(text, 8, 32)
	if err != nil || mask > 0o777 || len(text) > 4 {
		return 0, fmt.Errorf("umask must be an octal number from 000 to 777, such as \"027\", not %q", text)
	}
	return int(mask), nil
}

// File is a file to be made for a worker.
type File struct {
	Path string // relative, slash-separated, without "." and ".."
	Data []byte
}

// Resources bounds a worker with everything that it starts. Zero is no bound.
type Resources struct {
	CPULimit      float64 // processors' time
	CPURequest    float64 // its share when processors are short, against other workers
	MemoryLimit   int64   // bytes
	MemoryRequest int64   // bytes that are taken away from it last
	DiskLimit     int64   // bytes that its files in the scratch directory may take
	DiskRequest   int64   // bytes of disk that are there for it
	GPUs          int64
}

// Exit says how a worker ended.
type Exit struct {
	// Code is the exit status, or -1 when the program did not return one.
	Code int
	// Signal names what killed the program ("SIGKILL"), empty if none did.
	Signal string
	// Err is set when the runtime lost track of the program, so that Code
	// and Signal say nothing; the worker is gone nevertheless.
	Err error
	// Started and Ended bound the life of the program.
	Started, Ended time.Time
	// OutOfMemory tells that the worker, or a process that it started, was killed
	// because it had more than MemoryLimit bytes.
	OutOfMemory bool
	MemoryLimit int64
	// OutOfDisk tells that the worker was killed because its files in the scratch
	// directory took more than DiskLimit bytes.
	OutOfDisk bool
	DiskLimit int64
	// StderrTail is the end of what the program wrote to standard error, at
	// most TailBytes.
	StderrTail string
}

// TailBytes bounds Exit.StderrTail.
const TailBytes = 2048

// String gives the ending in a few words: "exit status 3", "signal SIGKILL".
func (e Exit) String() string {
	const kill = "killed: out of memory (limit %s)"
	switch {
	case e.Err != nil:
		return e.Err.Error()
	case e.OutOfDisk:
		return fmt.Sprintf("killed: its files take more disk than allowed (limit %s)", Bytes(e.DiskLimit))
	case e.OutOfMemory && (e.Signal == "SIGKILL" || e.Code == 128+9): // which a shell passes on
		return fmt.Sprintf(kill, Bytes(e.MemoryLimit))
	case e.OutOfMemory:
		e.OutOfMemory = false
		return fmt.Sprintf("%s, a process of it was "+kill, e.String(), Bytes(e.MemoryLimit))
	case e.Signal != "":
		return "signal " + e.Signal
	default:
		return fmt.Sprintf("exit status %d", e.Code)
	}
}

// Bytes words an amount of memory: "64 MiB".
func Bytes(n int64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	v, i := float64(n), 0
	for ; v >= 1024 && i < len(units)-1; i++ {
		v /= 1024
	}
	return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0") + " " + units[i]
}

// Worker is a program that was started. All methods may be called from any
// goroutine.
type Worker interface {
	// PID is the process id of the program itself, 0 where there is none.
	PID() int
	// Wait returns the channel that receives exactly one Exit, once the
	// program and everything that it started is gone and all output has been
	// handed to the writers. The channel is the same for every call and is
	// never closed.
	Wait() <-chan Exit
	// Stop asks the program and its descendants to end (SIGTERM), kills
	// what is left after grace (SIGKILL), and returns when everything is gone;
	// at once if it already is. When ctx ends the rest of the grace period is
	// dropped. Repeated and concurrent calls are fine. The error is not nil
	// only if processes outlive SIGKILL for many seconds.
	Stop(ctx context.Context, grace time.Duration) error
	// Exec runs a command beside the program: as its user, in its environment and
	// working directory, without input and output. It returns when the command
	// has ended, nil if with status 0. When ctx ends the command's whole process
	// group is killed. The command ends with the worker at the latest.
	Exec(ctx context.Context, cmd []string) error
}

// Runtime starts workers. Its methods may be called from any goroutine.
type Runtime interface {
	// Name is the word that selects the runtime: "process".
	Name() string
	// Start starts a worker and returns once the program runs, or with an
	// error whose text tells the pipeline's author what to change (command not
	// found, no such directory, unknown user). After an error nothing runs. ctx
	// bounds the start only, not the life of the worker.
	Start(ctx context.Context, spec Spec) (Worker, error)
	// Unenforced says in words which bounds this runtime cannot hold a worker
	// to here, and why.
	Unenforced(r Resources) []string
	// Sweep kills what an earlier daemon with the same data directory left
	// running, and returns when it is gone. Workers of this Runtime are spared.
	Sweep(ctx context.Context) error
	// Close kills all workers that still live and frees the runtime's
	// resources; Start fails afterwards.
	Close() error
}
