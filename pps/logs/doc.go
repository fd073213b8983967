// Package logs keeps what workers print: one bounded series of files per
// pipeline under <dir>/<project>/<pipeline>/, a JSON object per line, rotated by
// size and surviving restarts of the daemon.
//
// A line is visible to readers as soon as it is written and reaches the file
// within Options.FlushInterval, so a killed daemon loses at most that much; the
// files are not fsynced, as logs are not worth a disk flush. Writing is
// synchronous: a program that prints faster than the disk takes it, or than
// Options.BytesPerSecond, is slowed down by its pipe and costs no memory. A full or broken disk loses lines, never
// a worker.
//
// The time of each line of a pipeline is later than that of the line before, so
// a reader that was cut off can go on after the last line that it has.
//
// The package knows nothing of pipelines beyond their names.
package logs
