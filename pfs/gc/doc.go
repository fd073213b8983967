// Package gc deletes what nothing refers to any longer: records of layers in
// etcd, chunks and layer objects in the bucket.
//
// A Collector is one daemon's part in it. Its Pins keep from being swept what a
// writer has put or found in the bucket before a stored layer refers to it. As a
// member, registered in etcd under a lease, it answers for these pins when a
// sweep is under way anywhere. And it runs the sweep itself, every so often, as
// long as no other daemon does.
//
// docs/storage-format.md, section Garbage, has the protocol and why nothing is
// lost by it. The package does not know what refers to a layer: a Source does.
package gc
