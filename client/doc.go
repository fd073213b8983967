// Package client is the Go SDK of pachd: typed calls over gRPC for projects,
// repos, branches, commits, files and pipelines.
//
//	c, err := client.NewFromEnv()
//	defer c.Close()
//	err = c.PutFile(ctx, c.Branch("events", "master"), "/a.json", r)
//
// Constructors do no I/O: the connection is made, and made again when it is
// lost, by the calls that need it. Errors of calls are *Error and match the
// sentinels of this package (errors.Is(err, client.ErrNotFound)); their gRPC
// status is kept. Lists are iterators: they read from the network while they
// are ranged over, and leaving the loop ends the call. A Client may be used by
// many goroutines.
//
// Methods that this package does not wrap are reached through the generated
// stubs in the fields of Client; metadata and errors work the same there.
package client
