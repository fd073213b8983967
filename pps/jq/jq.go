// Package jq runs the jq programs that callers send as filters.
//
// A program may loop for ever, and ten letters of one can ask for more memory than
// a machine has, in a step that nothing interrupts. So none runs in the daemon: it
// runs in a process of its own, the daemon's executable started again under an
// environment variable that MaybeRun recognises, which is killed when its time or
// memory is used up. The package knows nothing of what it filters.
package jq

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/itchyny/gojq"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxProgram bounds the text of a program, in bytes. Reading one is recursive.
const maxProgram = 16 << 10

// ownFailure is the exit status with which run fails. A higher one comes from the
// Go runtime (2), or the race detector's (66), when it gets no more memory.
const ownFailure = 1

// Config bounds what programs may use. The zero value of a field means its default.
type Config struct {
	Timeout time.Duration // of one program, all its inputs together; default: 10 s
	Memory  uint64        // of its process, in bytes; default: 512 MiB
	Most    int           // processes at a time, others wait; default: 4
}

// Runner runs programs within bounds. Its methods may be called concurrently.
type Runner struct {
	cfg  Config
	free chan struct{} // holds one element for each process
}

// NewRunner starts nothing.
func NewRunner(cfg Config) *Runner {
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Memory == 0 {
		cfg.Memory = 512 << 20
	}
	if cfg.Most == 0 {
		cfg.Most = 4
	}
	return &Runner{cfg: cfg, free: make(chan struct{}, cfg.Most)}
}

// Filter is one program. It is not for concurrent use; nil lets everything through.
type Filter struct {
	runner  *Runner
	program string

	cmd    *exec.Cmd // nil until the first input
	ctx    context.Context
	cancel context.CancelFunc
	in     io.WriteCloser
	out    *bufio.Reader
}

// request is what the process of a program is told first.
type request struct {
	Program string `json:"program"`
	Memory  uint64 `json:"memory"`  // in bytes
	Seconds uint64 `json:"seconds"` // of processor time
}

// verdict is its answer to one input.
type verdict struct {
	Keep  bool   `json:"keep"`
	Error string `json:"error,omitempty"`
}

// Compile checks a program; an empty one gives nil. The program sees no
// environment, files or other inputs. Whoever uses the filter closes it.
func (r *Runner) Compile(program string) (*Filter, error) {
	if program == "" {
		return nil, nil
	}
	if len(program) > maxProgram {
		return nil, status.Errorf(codes.InvalidArgument, "error parsing jq filter: it has %d bytes, more than %d", len(program), maxProgram)
	}
	if _, err := compile(program); err != nil {
		return nil, fmt.Errorf("error parsing jq filter: %w", err)
	}
	return &Filter{runner: r, program: program}, nil
}

func compile(program string) (*gojq.Code, error) {
	query, err := gojq.Parse(program)
	if err != nil {
		return nil, err
	}
	return gojq.Compile(query)
}

// Match tells whether the first result for input, one JSON text, is neither false
// nor null. The first call's context holds for all of them.
func (f *Filter) Match(ctx context.Context, input []byte) (bool, error) {
	if f == nil {
		return true, nil
	}
	if f.cmd == nil {
		if err := f.start(ctx); err != nil {
			return false, fmt.Errorf("apply jq filter: %w", err)
		}
	}
	v, err := f.ask(input)
	if err != nil {
		return false, f.explain(ctx, err)
	}
	if v.Error != "" {
		return false, fmt.Errorf("apply jq filter: %s", v.Error)
	}
	return v.Keep, nil
}

func (f *Filter) start(ctx context.Context) error {
	if !runCalled.Load() {
		return errors.New("main has not called jq.MaybeRun")
	}
	select {
	case f.runner.free <- struct{}{}:
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	exe, err := executable()
	if err != nil {
		<-f.runner.free
		return err
	}
	f.ctx, f.cancel = context.WithTimeout(ctx, f.runner.cfg.Timeout)
	cmd := exec.CommandContext(f.ctx, exe)
	cmd.Env = []string{runEnv + "=1", "GOMAXPROCS=2"}
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
		f.cancel()
		<-f.runner.free
		return err
	}
	f.cmd, f.in, f.out = cmd, in, bufio.NewReader(out)
	seconds := uint64(f.runner.cfg.Timeout/time.Second) + 1
	return json.NewEncoder(in).Encode(request{Program: f.program, Memory: f.runner.cfg.Memory, Seconds: seconds})
}

// ask sends one input and waits for what the program makes of it.
func (f *Filter) ask(input []byte) (v verdict, err error) {
	if err := json.NewEncoder(f.in).Encode(json.RawMessage(input)); err != nil {
		return v, err
	}
	line, err := f.out.ReadBytes('\n')
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal(line, &v)
}

// explain says why the process does not answer.
func (f *Filter) explain(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case f.ctx.Err() != nil:
		return status.Errorf(codes.DeadlineExceeded, "apply jq filter: it ran for more than %v", f.runner.cfg.Timeout)
	case errors.Is(err, io.EOF):
		err = f.cmd.Wait()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() > ownFailure {
			return status.Errorf(codes.ResourceExhausted, "apply jq filter: it needs more than %d MiB of memory", f.runner.cfg.Memory>>20)
		}
	}
	return fmt.Errorf("apply jq filter: %w", err)
}

// Close ends the program's process, if there is one.
func (f *Filter) Close() {
	if f == nil || f.cmd == nil {
		return
	}
	f.cancel()
	_ = f.cmd.Wait() // it was killed, or has ended already
	f.cmd = nil
	<-f.runner.free
}
