package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/minipachd/minipachd/server"
)

// childEnv makes this program the daemon under test: it holds the data directory.
const childEnv = "PACHD_BENCH_DATA_DIR"

// runChild is the daemon: it says where it listens and ends with its input.
func runChild(dir string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := server.New(ctx, server.Config{Listen: "127.0.0.1:0", DataDir: dir})
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return s.Run(ctx, func() { fmt.Println(s.Addr()) })
}

// child is the running daemon.
type child struct {
	cmd  *exec.Cmd
	in   io.Closer
	addr string
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
func (c *child) peak() (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib * 1024 / 1e6, err
		}
	}
	return 0, fmt.Errorf("the daemon's status has no VmHWM line")
}
