// Package scheduler keeps the workers of spouts alive.
//
// It watches the pipelines in etcd and makes a pps/runtime run what they ask for:
// N workers per spout, each started again whenever and however it ends,
// with growing pauses; none of a stopped, deleted or superseded version. What it
// observes it writes as the pipeline's PipelineStatus, the only thing it writes.
//
// The decisions are one pure function, next in machine.go; pipeline.go carries
// them out, one goroutine per pipeline. Of several daemons on one etcd the
// holder of one leased key runs all spouts (owner.go). docs/scheduler.md has the state machine
// as a drawing.
//
// The package does not know how a program is started (pps/runtime), what a valid
// spec is (pps) or what workers write.
package scheduler
