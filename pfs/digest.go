package pfs

import (
	"encoding/binary"

	"github.com/zeebo/blake3"

	"github.com/minipachd/minipachd/pfs/frame"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// digestSize is the length of a digest in bytes.
const digestSize = 16

// digest stands for a sequence of ModifyFile operations. Two are equal if the
// operations are the same in the same order; into how many messages the bytes of
// a file are cut makes no difference.
type digest struct {
	ops *blake3.Hasher
	// The file that the last messages appended to.
	file        *blake3.Hasher
	path, datum string
	appending   bool
}

func newDigest() *digest { return &digest{ops: blake3.New(), file: blake3.New()} }

// add takes one message into account.
func (d *digest) add(o *frame.Operation) {
	if o.IsAppend {
		if path, datum := o.Path, datumOf(o.Datum); !d.appending || path != d.path || datum != d.datum {
			d.flush()
			d.path, d.datum, d.appending = path, datum, true
		}
		for _, b := range o.Data {
			_, _ = d.file.Write(b) // never fails
		}
		return
	}
	switch body := o.GetBody().(type) {
	case *pfspb.ModifyFileRequest_AddFile:
		add := body.AddFile
		d.flush()
		d.op("url", add.GetPath(), datumOf(add.GetDatum()), add.GetUrl().GetURL(), flag(add.GetUrl().GetRecursive()))
	case *pfspb.ModifyFileRequest_DeleteFile:
		d.flush()
		d.op("delete", body.DeleteFile.GetPath(), datumOf(body.DeleteFile.GetDatum()))
	case *pfspb.ModifyFileRequest_CopyFile:
		d.flush()
		cp := body.CopyFile
		src := cp.GetSrc()
		d.op("copy", cp.GetDst(), datumOf(cp.GetDatum()), flag(cp.GetAppend()),
			CommitName(src.GetCommit()), src.GetPath(), src.GetDatum())
	default: // refused where it is carried out
		d.flush()
		d.op("other")
	}
}

// flush ends the file that is being appended to.
func (d *digest) flush() {
	if !d.appending {
		return
	}
	d.op("append", d.path, d.datum, string(d.file.Sum(nil)))
	d.file.Reset()
	d.appending = false
}

// op writes one operation so that no two different ones read alike.
func (d *digest) op(kind string, args ...string) {
	b := binary.AppendUvarint(nil, uint64(len(args)))
	for _, s := range append(args, kind) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	_, _ = d.ops.Write(b) // never fails
}

// sum ends the sequence.
func (d *digest) sum() []byte {
	d.flush()
	return d.ops.Sum(nil)[:digestSize]
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// digested takes the digest of the operations that come from others.
type digested struct {
	operations
	digest *digest
}

func (d *digested) receive(o *frame.Operation) error {
	err := d.operations.receive(o)
	if err == nil {
		d.digest.add(o)
	}
	return err
}
