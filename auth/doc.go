// Package auth decides who may do what, and serves the auth, identity, enterprise
// and license APIs.
//
// Auth is off until Activate: every caller may do everything, tokens that are sent
// anyway are ignored, and each auth RPC answers Unimplemented with the text that
// clients take to mean "auth is off". Once it is on, a caller is the subject of a
// token, and has the permissions of the roles that the cluster, a project or a repo
// binds to it, to its groups or to everybody; roles.go is the table of roles. All of
// that is in etcd; each daemon remembers it, told of changes by a watch, and asks
// etcd before it denies anything. Enterprise and license calls of older clients get
// the answers of a server that needs no licence. The package does not know what a
// repo or a pipeline is.
package auth
