// Package scheduler keeps the workers of spouts alive.
//
// It watches the pipelines in etcd and makes a pps/runtime run what they ask for:
// N workers per spout, each started again whenever and however it ends or hangs,
// with growing pauses; none of a stopped, deleted or superseded version. What it
// observes it writes as the pipeline's PipelineStatus. Each start gets a token of
// its own, which is the only one of its slot that may write (pps/fence).
//
// The decisions are two pure functions: next in machine.go, about the workers of
// one pipeline, and assign in assign.go, about who of several daemons on one etcd
// runs which. pipeline.go and hold.go carry them out, one goroutine per pipeline;
// roster.go keeps the whole, membership.go the lease. docs/scheduler.md has the
// state machine as a drawing.
//
// The package does not know how a program is started (pps/runtime), what a valid
// spec is (pps) or what workers write.
package scheduler
