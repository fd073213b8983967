//go:build unix && !linux

package process

import (
	"context"
	"os"
	"syscall"
	"time"
)

func executable() (string, error) { return os.Executable() }

func becomeSubreaper() error { return nil }

func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}

// proc is one process of the table.
type proc struct{ pid, parent, group int }

// descendants knows none here: the keeper reaches the process group only.
func descendants(int) []proc { return nil }

// memoryOf cannot be told here.
func memoryOf([]proc, int64) int64 { return 0 }

// canMeasure tells whether memoryOf works.
const canMeasure = false

// killGroupLeftovers ends what is left of the group after the program is gone.
func (k *keeper) killGroupLeftovers() {
	sig := syscall.SIGKILL
	if k.asked && !k.killing {
		sig = syscall.SIGTERM
	}
	for i := 0; syscall.Kill(-k.program, sig) == nil && i < 500; i++ {
		time.Sleep(10 * time.Millisecond)
		if i > 100 {
			sig = syscall.SIGKILL
		}
	}
}

// killMarked finds nothing without /proc.
func killMarked(context.Context, func(environ) bool) error { return nil }
