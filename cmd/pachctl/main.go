// Pachctl is the command line client of pachd.
package main

import (
	"os"

	"github.com/minipachd/minipachd/client/pachctl"
)

func main() { os.Exit(pachctl.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
