//go:build !unix

package process

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/minipachd/minipachd/pps/runtime"
)

// Config says how workers run.
type Config struct {
	DataDir, WorkingDir string
	Environ             []string
	Logger              *zap.Logger
}

// Runtime exists on this system in name only.
type Runtime struct{}

var _ runtime.Runtime = (*Runtime)(nil)

var errUnsupported = errors.New("process runtime: needs a Unix system")

// MaybeInit does nothing on this system.
func MaybeInit() {}

// New always fails on this system.
func New(Config) (*Runtime, error) { return nil, errUnsupported }

// Name implements runtime.Runtime.
func (r *Runtime) Name() string { return "process" }

// Start implements runtime.Runtime.
func (r *Runtime) Start(context.Context, runtime.Spec) (runtime.Worker, error) {
	return nil, errUnsupported
}

// Sweep implements runtime.Runtime.
func (r *Runtime) Sweep(context.Context) error { return errUnsupported }

// Close implements runtime.Runtime.
func (r *Runtime) Close() error { return nil }
