// Package cgroup puts a worker with everything that it starts into control groups
// of Linux, version 2 or, where a controller is still there, version 1. A group
// bounds memory and processor time, tells of processes that were killed for
// want of memory, and finds every process of the worker, whatever it did to
// leave its parents.
//
// A daemon makes its groups below the group that it runs in, so whatever bounds
// the daemon bounds its workers with it. It needs the right to do so: it is root,
// or its group was delegated to it (systemd: Delegate=yes).
package cgroup

import "errors"

// Limits of a group; zero is none.
type Limits struct {
	CPU       float64 `json:"cpu,omitempty"`        // processors' time
	CPUShare  float64 `json:"cpu_share,omitempty"`  // weight when processors are short, in processors
	Memory    int64   `json:"memory,omitempty"`     // bytes; beyond it the kernel kills
	MemoryLow int64   `json:"memory_low,omitempty"` // bytes that are reclaimed last
}

// ErrUnsupported says that this system has no control groups.
var ErrUnsupported = errors.New("this system has no control groups")

// Group holds the processes of one worker. It can be handed to another process
// as JSON. There is nothing of it in the system before Make.
type Group struct {
	Dirs   []Dir  `json:"dirs"`
	Limits Limits `json:"limits"`
}

// Dir is a group in one hierarchy.
type Dir struct {
	Path        string   `json:"path"`
	Home        string   `json:"home"` // the group to go back to
	V2          bool     `json:"v2"`
	Controllers []string `json:"controllers"` // that have limits here
}
