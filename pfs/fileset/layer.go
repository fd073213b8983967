package fileset

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"sort"
	"time"

	"github.com/minipachd/minipachd/pfs/cache"
	"github.com/minipachd/minipachd/pfs/chunk"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// LayerSource finds the record of a layer. Records never change.
type LayerSource interface {
	Layer(ctx context.Context, ref *recordpb.LayerRef) (*recordpb.LayerRecord, error)
}

// Layer is a layer that the caller has yet to store: Record under Ref.Id.
type Layer struct {
	Ref     *recordpb.LayerRef
	Record  *recordpb.LayerRecord
	Content int64 // bytes of files in it, whatever lies below
	// Pins hold what the layer needs in the bucket and no stored layer may refer to
	// yet; nil if there is nothing of that kind. The layer may be stored while they
	// are held and Err is nil.
	Pins Pins
	// plain tells that the layer has nothing but files, which can stand together.
	plain bool
}

// Release lets go of the pins of a layer that Compact made, once it is stored or
// given up. Of a layer that a Writer made, the Writer's Abort does it. The layer
// may be nil.
func (l *Layer) Release() {
	if l != nil && l.Pins != nil {
		l.Pins.Release()
	}
}

// Options bound what a Storage uses. Zero means the default.
type Options struct {
	// CacheBytes bounds decoded layers and blocks kept for readers; default 16 MiB.
	CacheBytes int64
	// StreamBytes bounds the entries of one stream kept in memory before they
	// become a layer of their own; default 32 MiB.
	StreamBytes int64
	// NewPins gives the pins of a new writer; nil where nothing is ever swept.
	NewPins func() Pins
}

// Storage writes and reads layers.
type Storage struct {
	chunks *chunk.Store
	bucket chunk.Bucket
	src    LayerSource
	opt    Options
	zip    *compressor
	open   *cache.Cache[string, *layer]    // by layer id
	blocks *cache.Cache[blockID, []*entry] // decoded
}

// New makes a storage over a bucket and the chunks in it.
func New(chunks *chunk.Store, bucket chunk.Bucket, src LayerSource, opt Options) *Storage {
	if opt.CacheBytes == 0 {
		opt.CacheBytes = 16 << 20
	}
	if opt.StreamBytes == 0 {
		opt.StreamBytes = 32 << 20
	}
	return &Storage{
		chunks: chunks, bucket: bucket, src: src, opt: opt, zip: newCompressor(),
		open:   cache.New[string, *layer](opt.CacheBytes / 2),
		blocks: cache.New[blockID, []*entry](opt.CacheBytes / 2),
	}
}

// Limits of what stays in etcd.
const (
	maxInline     = 32 << 10 // bytes of an encoded layer
	maxInlineData = 24 << 10 // bytes of file content in one stream
)

const layerMagic = "pl\x01"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// layer is an open layer: all its entries, or the index of its blocks.
type layer struct {
	id      string
	trees   []string // deleted trees, sorted
	entries []*entry // of a layer without blocks
	key     string   // in the bucket, for one with blocks
	index   []blockRef
}

// encodeInline encodes entries as a layer without blocks: magic, number of
// entries, entries, CRC-32C of all before.
func encodeInline(es []*entry) []byte {
	c := encoder{buf: append(make([]byte, 0, 512), layerMagic...)}
	c.buf = binary.AppendUvarint(c.buf, uint64(len(es)))
	for _, e := range es {
		c.add(e)
	}
	return binary.LittleEndian.AppendUint32(c.buf, crc32.Checksum(c.buf, castagnoli))
}

func decodeInline(b []byte) ([]*entry, error) {
	if len(b) < len(layerMagic)+4 || string(b[:len(layerMagic)]) != layerMagic {
		return nil, errors.New("it does not begin like a layer")
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, errors.New("its checksum does not match")
	}
	d := decoder{buf: body[len(layerMagic):]}
	n, err := d.uvarint()
	if err != nil {
		return nil, err
	}
	return d.all(n)
}

// all decodes n entries, which must be in order and use up the input.
func (d *decoder) all(n uint64) ([]*entry, error) {
	es := make([]*entry, 0, min(n, uint64(len(d.buf))))
	for d.left = n; d.left > 0; d.left-- {
		e, err := d.next()
		if err != nil {
			return nil, err
		}
		if k := len(es); k > 0 && compare(es[k-1].path, es[k-1].datum, e.path, e.datum) >= 0 {
			return nil, errors.New("its entries are out of order")
		}
		es = append(es, e)
	}
	if len(d.buf) > 0 {
		return nil, errors.New("there is more after its entries")
	}
	return es, nil
}

// newLayer makes an inline layer of sorted entries and keeps it open.
func (s *Storage) newLayer(es []*entry) (*Layer, bool) {
	b := encodeInline(es)
	if len(b) > maxInline {
		return nil, false
	}
	l := &Layer{
		Ref:    &recordpb.LayerRef{Id: newID(), EncodedBytes: uint64(len(b)), Entries: uint64(len(es)), Inline: true},
		Record: &recordpb.LayerRecord{Body: &recordpb.LayerRecord_Inline{Inline: b}},
	}
	for _, e := range es {
		l.Content += e.size
	}
	s.open.Put(string(l.Ref.Id), openInline(l.Ref, es), 4*int64(len(b)))
	return l, true
}

// newID gives a time-ordered id of 16 bytes.
func newID() []byte {
	id := make([]byte, 16)
	binary.BigEndian.PutUint64(id, uint64(time.Now().UnixNano()))
	_, _ = rand.Read(id[8:]) // never fails
	return id
}

func openInline(ref *recordpb.LayerRef, es []*entry) *layer {
	l := &layer{id: hex.EncodeToString(ref.GetId()), entries: es}
	for _, e := range es {
		if e.op == opDeleteTree {
			l.trees = append(l.trees, e.path)
		}
	}
	return l
}

// layer opens the layer of a reference; extra has records that are not stored yet.
func (s *Storage) layer(ctx context.Context, ref *recordpb.LayerRef, extra []*Layer) (*layer, error) {
	if l, ok := s.open.Get(string(ref.GetId())); ok {
		return l, nil
	}
	var rec *recordpb.LayerRecord
	for _, x := range extra {
		if string(x.Ref.GetId()) == string(ref.GetId()) {
			rec = x.Record
		}
	}
	if rec == nil {
		var err error
		if rec, err = s.src.Layer(ctx, ref); err != nil {
			return nil, err
		}
	}
	var l *layer
	size := int64(ref.GetEncodedBytes())
	switch body := rec.GetBody().(type) {
	case *recordpb.LayerRecord_Inline:
		es, err := decodeInline(body.Inline)
		if err != nil {
			return nil, &CorruptError{Layer: hex.EncodeToString(ref.GetId()), Err: err}
		}
		l, size = openInline(ref, es), 4*size
	case *recordpb.LayerRecord_Object:
		var err error
		if l, size, err = s.openObject(ctx, ref, body.Object); err != nil {
			return nil, err
		}
	default:
		return nil, &CorruptError{Layer: hex.EncodeToString(ref.GetId()), Err: fmt.Errorf("unknown kind of record %T", body)}
	}
	s.open.Put(string(ref.GetId()), l, size)
	return l, nil
}

// covers gives the tree that the layer deletes and that holds path, or is path.
func (l *layer) covers(path string) (string, bool) {
	if len(l.trees) == 0 {
		return "", false
	}
	for i := range len(path) {
		if path[i] != '/' {
			continue
		}
		dir := path[:i+1]
		k := sort.SearchStrings(l.trees, dir)
		if k < len(l.trees) && l.trees[k] == dir {
			return dir, true
		}
	}
	return "", false
}
