//go:build !linux

package cgroup

import "context"

// Tree is of no use on this system.
type Tree struct{}

// Open returns a Tree of no use.
func Open(string) *Tree { return &Tree{} }

// Without returns ErrUnsupported twice.
func (t *Tree) Without() (memoryErr, cpuErr error) { return ErrUnsupported, ErrUnsupported }

// Usable is false.
func (t *Tree) Usable() bool { return false }

// Group describes a group that cannot be made.
func (t *Tree) Group(string, Limits) *Group { return &Group{} }

// Make returns ErrUnsupported.
func (g *Group) Make(context.Context) error { return ErrUnsupported }

// Sweep does nothing.
func (t *Tree) Sweep(context.Context, func(string) bool) error { return nil }

// Enter returns ErrUnsupported.
func (g *Group) Enter() (leave func() error, err error) { return nil, ErrUnsupported }

// OutOfMemory is false.
func (g *Group) OutOfMemory() bool { return false }

// Pids returns none.
func (g *Group) Pids() []int { return nil }

// Kill does nothing.
func (g *Group) Kill(context.Context) error { return nil }

// End does nothing.
func (g *Group) End(context.Context) error { return nil }
