// Package chunk stores bytes in a bucket as content-defined, deduplicated chunks.
//
// A Writer cuts one stream of bytes where its content says so, names every chunk
// by its BLAKE3-256 hash, compresses it where that pays, and writes it unless the
// bucket has it already. When Writer.Close has returned, everything it wrote
// survives a power cut. A Store reads chunks back through a bounded cache and
// checks each against its hash, so no wrong byte is ever served.
//
// A Bucket is all that the package asks of the place where objects lie: a
// directory, or memory. The package knows nothing of files, commits or etcd.
// docs/storage-format.md describes what it writes.
package chunk
