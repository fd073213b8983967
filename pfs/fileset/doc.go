// Package fileset keeps sets of files as stacks of immutable layers.
//
// A layer is a sorted list of changes, each to one path and datum: append to the
// file, replace it, delete it, or delete a whole tree. The files of a commit are
// the merge of its layers, upper over lower. A small layer is a few bytes that
// the caller keeps in etcd, data included; a large one is an object in the
// bucket, made of blocks with an index, and its data are chunks. The package
// knows nothing of commits; docs/storage-format.md has the format.
package fileset
