//go:build unix

package process

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/minipachd/minipachd/pps/runtime"
	"github.com/minipachd/minipachd/pps/runtime/cgroup"
)

// groupTime bounds making and removing a control group.
const groupTime = 5 * time.Second

// Unenforced implements runtime.Runtime.
func (r *Runtime) Unenforced(want runtime.Resources) []string {
	var list []string
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	memory, cpu := r.groups.Without()
	if want.MemoryLimit > 0 && memory != nil {
		if canMeasure {
			add("resource_limits.memory, %s, is enforced only by looking every %v (%v)", runtime.Bytes(want.MemoryLimit), memoryLook, memory)
		} else {
			add("resource_limits.memory, %s, is not enforced (%v)", runtime.Bytes(want.MemoryLimit), memory)
		}
	}
	if want.MemoryRequest > 0 && memory != nil {
		add("resource_requests.memory, %s, has no effect (%v)", runtime.Bytes(want.MemoryRequest), memory)
	}
	if want.CPULimit > 0 && cpu != nil {
		add("resource_limits.cpu, %v, is not enforced (%v)", number64(want.CPULimit), cpu)
	}
	if want.CPURequest > 0 && cpu != nil {
		add("resource_requests.cpu, %v, has no effect (%v)", number64(want.CPURequest), cpu)
	}
	if want.DiskRequest > 0 {
		add("resource_requests.disk, %s, has no effect: the process runtime keeps no space free for a worker", runtime.Bytes(want.DiskRequest))
	}
	if want.GPUs > 0 {
		add("gpu means nothing to the process runtime: workers see the devices of this machine")
	}
	return list
}

func number64(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// confine gives a launch its bounds. Every worker gets a control group, if there
// can be groups: it also finds processes that nothing else does. A worker
// without bounds runs without one rather than not at all.
//
// The keeper makes the group: it is also the one that removes it, whatever
// becomes of the daemon.
func (r *Runtime) confine(spec *runtime.Spec, l *launch) {
	want := spec.Resources
	l.DiskLimit, l.Scratch = want.DiskLimit, spec.Dir
	memory, _ := r.groups.Without()
	if memory != nil {
		l.MemoryLimit = want.MemoryLimit
	}
	if !r.groups.Usable() {
		return
	}
	l.Bounded = want.CPULimit > 0 || want.CPURequest > 0 || want.MemoryLimit > 0 || want.MemoryRequest > 0
	l.Group = r.groups.Group(spec.WorkerID, cgroup.Limits{
		CPU: want.CPULimit, CPUShare: want.CPURequest, Memory: want.MemoryLimit, MemoryLow: want.MemoryRequest,
	})
}

// release ends the control group of a worker that is gone, or did not start.
func (l *launch) release() error {
	if l == nil || l.Group == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), groupTime)
	defer cancel()
	return l.Group.End(ctx)
}
