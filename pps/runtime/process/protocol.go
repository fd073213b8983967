//go:build unix

package process

import "github.com/minipachd/minipachd/pps/runtime/cgroup"

// The daemon and a keeper exchange JSON values over a socket pair, descriptor
// controlFD in the keeper. The daemon sends one launch, then any number of
// commands. The keeper sends one report with PID or Error; after a PID it
// sends one more, with Exit, when the last process is gone, and before it one
// with Exec for each opExec.

// controlFD is the keeper's end of the socket pair.
const controlFD = 3

// launch is what a keeper starts. Standard input, output and error are the keeper's own.
type launch struct {
	Path   string   `json:"path"`
	Args   []string `json:"args"`
	Env    []string `json:"env"`
	Dir    string   `json:"dir"`
	As     *account `json:"as,omitempty"`
	Umask  int      `json:"umask"`
	Daemon int      `json:"daemon"`
	// Group is where the program runs; nil without control groups.
	Group *cgroup.Group `json:"group,omitempty"`
	// Bounded tells that the program must not run outside of its group.
	Bounded bool `json:"bounded,omitempty"`
	// MemoryLimit is what the keeper itself watches over, in bytes; 0 if the
	// kernel does it, or nobody has to.
	MemoryLimit int64 `json:"memory_limit,omitempty"`
	// DiskLimit is what the files in Scratch may take, in bytes; 0 for any amount. The
	// keeper watches over it.
	DiskLimit int64  `json:"disk_limit,omitempty"`
	Scratch   string `json:"scratch,omitempty"`
}

// account is whom a worker runs as.
type account struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`

	name, home string
}

// command is an order to a keeper.
type command struct {
	Op string `json:"op"`
	// Of opExec and opCancel: which command, chosen by the daemon, and of the
	// former the program.
	ID   int      `json:"id,omitempty"`
	Path string   `json:"path,omitempty"`
	Args []string `json:"args,omitempty"`
}

const (
	opTerm = "term" // SIGTERM to all, then wait for them
	opKill = "kill" // SIGKILL to all
	// A command beside the program, and SIGKILL to its process group.
	opExec, opCancel = "exec", "cancel"
)

// report is what a keeper has to say.
type report struct {
	PID   int     `json:"pid,omitempty"`
	Error string  `json:"error,omitempty"`
	Exit  *ending `json:"exit,omitempty"`
	Exec  *result `json:"exec,omitempty"`
}

// result is how the command of an opExec ended, or why it did not start.
type result struct {
	ID    int    `json:"id"`
	Error string `json:"error,omitempty"`
	ending
}

// ending is how the program itself ended.
type ending struct {
	Code   int    `json:"code"`   // -1 after a signal
	Signal string `json:"signal"` // "SIGKILL"
	Memory bool   `json:"memory"` // a process was killed for want of memory
	Disk   bool   `json:"disk"`   // it was killed for its files
	Ended  int64  `json:"ended"`  // Unix nanoseconds
}
