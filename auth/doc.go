// Package auth serves the auth, identity, enterprise and license APIs.
//
// Auth is off: every caller may do everything, tokens that are sent anyway are
// ignored, and each auth RPC answers Unimplemented with the text that clients
// take to mean "auth is off". Enterprise and license calls of older clients get
// the answers of a server that needs no licence. The identity server keeps the
// configuration and clients that it is given. The package knows nothing of repos
// or pipelines.
package auth
