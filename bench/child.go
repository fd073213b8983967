package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/minipachd/minipachd/server"
)

// childEnv makes this program the daemon under test: it holds the data directory.
const childEnv = "PACHD_BENCH_DATA_DIR"

// runChild is the daemon: it says where it listens and ends with its input.
func runChild(dir string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := server.New(ctx, server.Config{Listen: "127.0.0.1:0", DataDir: dir, MemoryLimit: server.DefaultMemoryLimit})
	if err != nil {
		return err
	}
	go func() {
		defer cancel()
		serveProfiles(os.Stdin)
	}()
	return s.Run(ctx, func() { fmt.Println(s.Addr()) })
}

// serveProfiles takes one command a line from its parent until its input ends: the
// name of a file begins a CPU profile that goes there, an empty line ends it and puts the
// profile of the heap beside it.
func serveProfiles(in io.Reader) {
	var out *os.File
	stop := func() {
		if out != nil {
			pprof.StopCPUProfile()
			out.Close()
			if heap, err := os.Create(strings.TrimSuffix(out.Name(), ".pprof") + ".heap.pprof"); err == nil {
				_ = pprof.WriteHeapProfile(heap) // a profile less
				heap.Close()
			}
			out = nil
		}
	}
	defer stop()
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		stop()
		if lines.Text() == "" {
			continue
		}
		var err error
		if out, err = os.Create(lines.Text()); err == nil {
			err = pprof.StartCPUProfile(out)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "profile:", err)
		}
	}
}

// child is the running daemon.
type child struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	addr string
}

// profile begins a CPU profile of the daemon in a file; the result ends it.
func (c *child) profile(file string) (stop func(), err error) {
	if _, err := fmt.Fprintln(c.in, file); err != nil {
		return nil, err
	}
	return func() { fmt.Fprintln(c.in) }, nil
}

// cpu is the processor time that the daemon has used so far.
func (c *child) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may have blanks
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("the daemon's stat has %d fields", len(f))
	}
	var ticks int64
	for _, v := range f[11:13] { // user and system time
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100), nil // USER_HZ is 100 on Linux
}

func startChild(ctx context.Context, dir string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.CommandContext(ctx, self)}
	c.cmd.Env = append(os.Environ(), childEnv+"="+dir)
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		c.stop()
		return nil, fmt.Errorf("the daemon ended at its start: %w", err)
	}
	c.addr = strings.TrimSpace(line)
	return c, nil
}

// stop ends the daemon gracefully.
func (c *child) stop() {
	c.in.Close()
	_ = c.cmd.Wait() // what it has to say is on stderr
}

// peak is the high-water mark of the daemon's resident memory so far, in MB.
func (c *child) peak() (float64, error) { return c.memory("VmHWM") }

// memory is a line of the daemon's status, in MB.
func (c *child) memory(name string) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("the daemon's status has no line %s", name)
}
