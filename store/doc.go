// Package store keeps all metadata in etcd, embedded or remote.
//
// It gives one kind of transaction (Txn): reads come from one snapshot and are
// compared when it commits, so that either nothing it read has changed or it
// runs again. On top are typed collections of protobuf messages, watches that
// survive compaction and lost connections, and leases. Keys are relative to a
// prefix; docs/keys.md lists them. The package knows nothing of what it stores.
package store
