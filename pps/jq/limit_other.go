//go:build !linux

package jq

import (
	"os"
	"runtime/debug"
)

func executable() (string, error) { return os.Executable() }

// limit asks the collector to stay below memory: these systems do not bound what a
// process may write to. The daemon kills it when its time is over.
func limit(memory, _ uint64) error {
	debug.SetMemoryLimit(int64(memory))
	return nil
}
