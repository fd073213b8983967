// Package process runs workers as processes of this machine.
//
// Between the daemon and every worker stands a keeper: the daemon's own
// executable, started again under an environment variable that MaybeInit
// recognises. The keeper starts the program in a process group of its own,
// adopts whatever the program's children leave behind (Linux: child subreaper) and
// kills all of it when the program ends, when the daemon asks for it, or when the
// socket to the daemon closes, which happens however the daemon dies. So no
// descendant outlives the daemon, also none that is not its child (`go run` and
// the binary it built) or that left the process group (setsid).
//
// Behind that are three further lines: the program dies with its keeper and
// the keeper ends with the daemon by parent-death signals (Linux), the daemon
// searches /proc for the worker's marker when it loses a keeper, and Sweep
// does the same at the next start for all workers of the data directory.
//
// On systems other than Linux the keeper reaches only the process group.
package process
