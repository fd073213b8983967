// Package secrets keeps values that workers need and nobody may read back:
// passwords, tokens, keys. They are stored in etcd, encrypted with a key that is
// not there, and come out again only for a worker that is about to start.
//
// No error and no log line of this package has a value in it. The package knows
// nothing of pipelines beyond the mounts that a spec asks for.
package secrets
