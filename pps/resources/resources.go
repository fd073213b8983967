// Package resources reads what a pipeline spec says about the processors and the
// memory of its workers.
package resources

import (
	"fmt"
	"math"

	"github.com/minipachd/minipachd/pps/runtime"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// Bounds of what is taken for a real wish.
const (
	minMemory = 1 << 20
	minCPU    = 0.01
	maxCPU    = 1 << 16
)

// Parse reads requests and limits, either of which may be nil. An error says
// which field is wrong and why.
func Parse(requests, limits *ppspb.ResourceSpec) (runtime.Resources, error) {
	var r runtime.Resources
	var request, diskRequest amount
	want, err := parse("resource_requests", requests)
	if err != nil {
		return r, err
	}
	most, err := parse("resource_limits", limits)
	if err != nil {
		return r, err
	}
	request, diskRequest = want.memory, want.disk
	switch {
	case most.memory.n > 0 && most.memory.n < minMemory:
		return r, fmt.Errorf("resource_limits.memory: %q is less than 1 MiB, in which nothing runs: is it meant to be, say, 64Mi?", most.memory.text)
	case most.cpu > 0 && most.cpu < minCPU:
		return r, fmt.Errorf("resource_limits.cpu: %v is less than %v of a processor, in which nothing runs", most.cpu, minCPU)
	case most.cpu > 0 && want.cpu > most.cpu:
		return r, fmt.Errorf("resource_requests.cpu: %v is more than resource_limits.cpu, %v", want.cpu, most.cpu)
	case most.memory.n > 0 && request.n > most.memory.n:
		return r, fmt.Errorf("resource_requests.memory: %q is more than resource_limits.memory, %q", request.text, most.memory.text)
	case most.disk.n > 0 && diskRequest.n > most.disk.n:
		return r, fmt.Errorf("resource_requests.disk: %q is more than resource_limits.disk, %q", diskRequest.text, most.disk.text)
	}
	return runtime.Resources{
		CPULimit: most.cpu, CPURequest: want.cpu,
		MemoryLimit: most.memory.n, MemoryRequest: request.n,
		DiskLimit: most.disk.n, DiskRequest: diskRequest.n, GPUs: max(want.gpus, most.gpus),
	}, nil
}

// Check refuses what cannot be read in a spec that has no effect here.
func Check(field string, spec *ppspb.ResourceSpec) error {
	_, err := parse(field, spec)
	return err
}

// amount is a quantity as written and as a number of bytes.
type amount struct {
	text string
	n    int64
}

type parsed struct {
	cpu          float64
	memory, disk amount
	gpus         int64
}

func parse(field string, spec *ppspb.ResourceSpec) (parsed, error) {
	// The shortest decimal that is this float32: 0.1 is meant to be 0.1.
	var cpu float64
	if _, err := fmt.Sscan(fmt.Sprint(spec.GetCpu()), &cpu); err != nil || math.IsNaN(cpu) || cpu < 0 || cpu > maxCPU {
		return parsed{}, fmt.Errorf("%s.cpu: %v is no number of processors: write a number from 0 to %d, such as 0.5", field, spec.GetCpu(), maxCPU)
	}
	if n := spec.GetGpu().GetNumber(); n < 0 {
		return parsed{}, fmt.Errorf("%s.gpu.number: %d is negative", field, n)
	}
	p := parsed{cpu: cpu, gpus: spec.GetGpu().GetNumber()}
	for _, q := range []struct {
		name, text string
		to         *amount
	}{
		{"memory", spec.GetMemory(), &p.memory},
		{"disk", spec.GetDisk(), &p.disk},
	} {
		if q.text == "" {
			continue
		}
		n, err := ParseQuantity(q.text)
		if err != nil {
			return parsed{}, fmt.Errorf("%s.%s: %w", field, q.name, err)
		}
		*q.to = amount{q.text, n}
	}
	return p, nil
}
