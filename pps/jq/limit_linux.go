package jq

import "golang.org/x/sys/unix"

// executable is what the process of a program is started from. The link survives
// an update or removal of the file.
func executable() (string, error) { return "/proc/self/exe", nil }

// limit bounds this process: memory that it may write to, processor time, and no
// core file when it dies of either.
func limit(memory, seconds uint64) error {
	for _, l := range []struct {
		resource int
		most     uint64
	}{{unix.RLIMIT_DATA, memory}, {unix.RLIMIT_CPU, seconds}, {unix.RLIMIT_CORE, 0}} {
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.most, Max: l.most}); err != nil {
			return err
		}
	}
	return nil
}
