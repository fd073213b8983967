// Pachd is the daemon: it serves versioned repos, pipelines and their spouts
// over gRPC and REST. Started under the name pachctl it is the command line
// client, so that a worker always has one that fits.
package main

import (
	"os"

	"github.com/minipachd/minipachd/client/pachctl"
	"github.com/minipachd/minipachd/pps/jq"
	"github.com/minipachd/minipachd/pps/runtime/process"
)

func main() {
	process.MaybeInit()
	jq.MaybeRun()
	if pachctl.InvokedAs(os.Args[0]) {
		os.Exit(pachctl.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}
