package fileset

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sort"

	"github.com/klauspost/compress/zstd"

	"github.com/minipachd/minipachd/pfs/chunk"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// A layer in the bucket is a row of blocks, their index and a footer of 16
// bytes: offset of the index (8), CRC-32C of the index (4), magic (4). A block
// and the index are zstd; a block is preceded by nothing, its place and CRC-32C
// are in the index.
const (
	blockSize   = 64 << 10 // raw bytes after which a block ends
	footerSize  = 16
	footerMagic = "plx\x01"
	// maxBlock bounds a decoded block: one entry of a very large file may need more
	// than blockSize.
	maxBlock = 1 << 30
)

// compressor is zstd for blocks.
type compressor struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newCompressor() *compressor {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(2),
		zstd.WithWindowSize(2*blockSize), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxBlock), zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(err)
	}
	return &compressor{enc: enc, dec: dec}
}

// blockRef locates a block and says where it begins in the order of entries.
type blockRef struct {
	path, datum string // of the first entry
	off, size   uint64
	entries     uint64
	sum         uint32
}

type blockID struct {
	layer string
	n     int
}

// objectWriter builds a layer in the bucket from sorted entries. What it holds
// in memory are some compressed blocks and the index.
type objectWriter struct {
	s       *Storage
	ctx     context.Context
	held    *held
	cur     encoder
	first   fileKey      // of the current block
	count   uint64       // entries of the current block
	blocks  []*block     // being compressed, in order
	spare   []byte       // room for another block
	out     []byte       // compressed, and not written yet
	written uint64       // bytes before out
	raw     uint64       // bytes of all blocks that are ended, before compression
	object  chunk.Object // nil before the first write
	id      []byte
	key     string // of the object
	failed  error
	index   []blockRef
	trees   []string
	entries uint64
	content int64
	// plain tells that there are files only, and that they can stand together.
	plain bool
	check checker
	// small keeps entries while the layer may still fit into etcd.
	small      []*entry
	smallBytes int64
}

// block is a part of the layer on its way.
type block struct {
	ref    blockRef
	raw    []byte
	packed []byte
	done   chan struct{} // closed when packed is there
}

// maxBlocks is how many blocks of a layer are compressed at a time.
const maxBlocks = 4

// maxUnwritten is how many compressed bytes are kept before they are written.
const maxUnwritten = 4 << 20

// newObjectWriter makes a writer, which ends with finish or abort.
func (s *Storage) newObjectWriter(ctx context.Context, h *held) *objectWriter {
	return &objectWriter{s: s, ctx: ctx, held: h}
}

// write hands the compressed bytes to the bucket. A failure shows at the end.
func (w *objectWriter) write() {
	if w.failed == nil && w.object == nil {
		w.id = newID()
		name := hex.EncodeToString(w.id)
		w.key = "layer/" + name[len(name)-2:] + "/" + name
		w.object, w.failed = w.s.bucket.Begin(w.ctx, w.key)
	}
	if w.failed == nil {
		_, w.failed = w.object.Write(w.out)
	}
	w.written += uint64(len(w.out))
	w.out = w.out[:0]
}

// abort gives up what was written.
func (w *objectWriter) abort() {
	for _, b := range w.blocks {
		<-b.done
	}
	w.blocks = nil
	if w.object != nil {
		w.object.Abort()
		w.object = nil
	}
}

// keeps tells whether the writer holds on to the next entry.
func (w *objectWriter) keeps() bool { return w.smallBytes <= maxInline }

func (w *objectWriter) add(e *entry) {
	if w.keeps() {
		w.small = append(w.small, e)
		w.smallBytes += 40 + int64(len(e.path))
		for _, p := range e.parts {
			w.smallBytes += max(36, int64(len(p.data)))
		}
	}
	if w.count == 0 {
		w.first = fileKey{e.path, e.datum}
	}
	if w.plain {
		w.plain = e.op != opDelete && w.check.path(e.path, e.datum) == nil
	}
	w.count++
	w.entries++
	w.content += e.size
	if e.op == opDeleteTree {
		w.trees = append(w.trees, e.path)
	}
	w.cur.add(e)
	if len(w.cur.buf) >= blockSize {
		w.flush()
	}
}

// flush ends the current block.
func (w *objectWriter) flush() {
	if w.count == 0 {
		return
	}
	if len(w.blocks) == maxBlocks {
		w.collect()
	}
	b := &block{
		ref: blockRef{path: w.first.path, datum: w.first.datum, entries: w.count},
		raw: w.cur.buf, done: make(chan struct{}),
	}
	w.blocks = append(w.blocks, b)
	w.raw += uint64(len(b.raw))
	go func() {
		defer close(b.done)
		b.packed = w.s.zip.enc.EncodeAll(b.raw, nil)
	}()
	w.cur, w.spare, w.count = encoder{buf: w.spare[:0]}, nil, 0
}

// collect takes the next block that is compressed.
func (w *objectWriter) collect() {
	b := w.blocks[0]
	w.blocks = w.blocks[1:]
	<-b.done
	b.ref.off, b.ref.size = w.written+uint64(len(w.out)), uint64(len(b.packed))
	b.ref.sum = crc32.Checksum(b.packed, castagnoli)
	w.index = append(w.index, b.ref)
	w.out = append(w.out, b.packed...)
	w.spare = b.raw
	if len(w.out) >= maxUnwritten {
		w.write()
	}
}

// finish stores the layer, inline if it is small enough, and makes it durable.
// No entries give no layer.
func (w *objectWriter) finish() (*Layer, error) {
	defer w.abort() // does nothing after its Put
	if w.entries == 0 {
		return nil, nil
	}
	if w.keeps() {
		if l, ok := w.s.newLayer(w.small); ok {
			l.Pins, l.plain = w.held.used(), w.plain
			return l, nil
		}
	}
	w.small = nil
	w.flush()
	for len(w.blocks) > 0 {
		w.collect()
	}
	index := w.encodeIndex()
	off := len(w.out)
	w.out = w.s.zip.enc.EncodeAll(index, w.out)
	sum := crc32.Checksum(w.out[off:], castagnoli)
	w.out = binary.LittleEndian.AppendUint64(w.out, w.written+uint64(off))
	w.out = binary.LittleEndian.AppendUint32(w.out, sum)
	w.out = append(w.out, footerMagic...)
	w.write()
	err := w.failed
	if err == nil {
		err = w.held.Pin(w.ctx, w.key) // before anybody can see the object
	}
	if err == nil {
		err = w.object.Put()
	}
	if err == nil {
		err = w.s.bucket.Sync(w.ctx, w.key)
	}
	if err != nil {
		return nil, fmt.Errorf("store layer: %w", err)
	}
	l := &Layer{
		Ref:     &recordpb.LayerRef{Id: w.id, EncodedBytes: w.written, RawBytes: w.raw, Entries: w.entries},
		Record:  &recordpb.LayerRecord{Body: &recordpb.LayerRecord_Object{Object: &recordpb.LayerObject{Key: w.key, Size: w.written}}},
		Content: w.content,
		Pins:    w.held.used(),
		plain:   w.plain,
	}
	w.s.open.Put(string(w.id), &layer{id: hex.EncodeToString(w.id), key: w.key, trees: w.trees, index: w.index}, indexCost(w.index, w.trees))
	return l, nil
}

func (w *objectWriter) encodeIndex() []byte {
	b := binary.AppendUvarint(nil, uint64(len(w.index)))
	str := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	for _, r := range w.index {
		str(r.path)
		str(r.datum)
		b = binary.AppendUvarint(b, r.off)
		b = binary.AppendUvarint(b, r.size)
		b = binary.AppendUvarint(b, r.entries)
		b = binary.LittleEndian.AppendUint32(b, r.sum)
	}
	b = binary.AppendUvarint(b, uint64(len(w.trees)))
	for _, t := range w.trees {
		str(t)
	}
	return b
}

func indexCost(index []blockRef, trees []string) int64 {
	n := int64(256)
	for _, r := range index {
		n += 80 + int64(len(r.path)+len(r.datum))
	}
	for _, t := range trees {
		n += 16 + int64(len(t))
	}
	return n
}

// openObject reads the footer and index of a layer in the bucket. The second
// result is its weight for a cache.
func (s *Storage) openObject(ctx context.Context, ref *recordpb.LayerRef, o *recordpb.LayerObject) (*layer, int64, error) {
	l := &layer{id: hex.EncodeToString(ref.GetId()), key: o.GetKey()}
	corrupt := func(err error) (*layer, int64, error) {
		return nil, 0, &CorruptError{Layer: l.key, Err: err}
	}
	size := int64(o.GetSize())
	if size < footerSize {
		return corrupt(errShort)
	}
	tail := min(size, 64<<10)
	b, err := s.bucket.Get(ctx, l.key, size-tail, tail)
	if errors.Is(err, chunk.ErrNotFound) {
		return corrupt(errors.New("its object is missing"))
	}
	if err != nil {
		return nil, 0, err
	}
	if int64(len(b)) != tail {
		return corrupt(errShort)
	}
	footer := b[len(b)-footerSize:]
	if string(footer[12:]) != footerMagic {
		return corrupt(errors.New("it does not end like a layer"))
	}
	off := binary.LittleEndian.Uint64(footer)
	if off > uint64(size-footerSize) {
		return corrupt(errors.New("its index is out of range"))
	}
	var packed []byte
	if begin := int64(off) - (size - tail); begin >= 0 {
		packed = b[begin : len(b)-footerSize]
	} else if packed, err = s.bucket.Get(ctx, l.key, int64(off), size-footerSize-int64(off)); err != nil {
		return nil, 0, err
	}
	if crc32.Checksum(packed, castagnoli) != binary.LittleEndian.Uint32(footer[8:]) {
		return corrupt(errors.New("the checksum of its index does not match"))
	}
	raw, err := s.zip.dec.DecodeAll(packed, nil)
	if err != nil {
		return corrupt(err)
	}
	if err := l.decodeIndex(raw, off); err != nil {
		return corrupt(err)
	}
	return l, indexCost(l.index, l.trees), nil
}

// decodeIndex fills in index and trees; end is where the blocks end.
func (l *layer) decodeIndex(raw []byte, end uint64) error {
	d := decoder{buf: raw}
	n, err := d.uvarint()
	if err != nil {
		return err
	}
	for range n {
		var r blockRef
		for _, p := range []*string{&r.path, &r.datum} {
			b, err := d.prefixed()
			if err != nil {
				return err
			}
			*p = string(b)
		}
		for _, p := range []*uint64{&r.off, &r.size, &r.entries} {
			if *p, err = d.uvarint(); err != nil {
				return err
			}
		}
		sum, err := d.bytes(4)
		if err != nil {
			return err
		}
		r.sum = binary.LittleEndian.Uint32(sum)
		if r.off > end || r.size > end-r.off {
			return errors.New("a block is out of range")
		}
		l.index = append(l.index, r)
	}
	if n, err = d.uvarint(); err != nil {
		return err
	}
	for range n {
		b, err := d.prefixed()
		if err != nil {
			return err
		}
		l.trees = append(l.trees, string(b))
	}
	if !slices.IsSorted(l.trees) {
		return errors.New("its deleted trees are out of order")
	}
	return nil
}

// block returns the decoded entries of the n-th block.
func (s *Storage) block(ctx context.Context, l *layer, n int) ([]*entry, error) {
	id := blockID{l.id, n}
	if es, ok := s.blocks.Get(id); ok {
		return es, nil
	}
	es, size, err := s.readBlock(ctx, l, n)
	if err != nil {
		return nil, err
	}
	s.blocks.Put(id, es, size)
	return es, nil
}

// readBlock fetches and decodes a block. The second result is its weight for a cache.
func (s *Storage) readBlock(ctx context.Context, l *layer, n int) ([]*entry, int64, error) {
	r := l.index[n]
	packed, err := s.bucket.Get(ctx, l.key, int64(r.off), int64(r.size))
	if errors.Is(err, chunk.ErrNotFound) {
		return nil, 0, &CorruptError{Layer: l.key, Err: errors.New("its object is missing")}
	}
	if err != nil {
		return nil, 0, err
	}
	if uint64(len(packed)) != r.size || crc32.Checksum(packed, castagnoli) != r.sum {
		return nil, 0, &CorruptError{Layer: l.key, Err: fmt.Errorf("the checksum of block %d does not match", n)}
	}
	raw, err := s.zip.dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, 0, &CorruptError{Layer: l.key, Err: err}
	}
	d := decoder{buf: raw}
	es, err := d.all(r.entries)
	if err != nil {
		return nil, 0, &CorruptError{Layer: l.key, Err: err}
	}
	return es, int64(len(raw)) + int64(len(es))*160, nil
}

// cursor walks the entries of one layer in order.
type cursor struct {
	s     *Storage
	l     *layer
	es    []*entry // of the current block, or all
	i     int
	block int // the next block to load
	cur   *entry
	tree  string // deleted tree of this layer that holds the current position
}

// seek moves to the first entry at or after path.
func (c *cursor) seek(ctx context.Context, path string) error {
	c.tree, _ = c.l.covers(path)
	at := func(es []*entry) int {
		return sort.Search(len(es), func(i int) bool { return es[i].path >= path })
	}
	if c.l.index == nil {
		c.es = c.l.entries
		c.i = at(c.es)
		return c.load(ctx)
	}
	// The last block that begins before path may hold it.
	n := sort.Search(len(c.l.index), func(i int) bool { return c.l.index[i].path >= path })
	n = max(0, n-1)
	es, err := c.s.block(ctx, c.l, n)
	if err != nil {
		return err
	}
	c.es, c.i, c.block = es, at(es), n+1
	return c.load(ctx)
}

// load sets cur to the entry at the position, from the next block if need be.
func (c *cursor) load(ctx context.Context) error {
	for c.i >= len(c.es) {
		if c.block >= len(c.l.index) {
			c.cur = nil
			return nil
		}
		es, err := c.s.block(ctx, c.l, c.block)
		if err != nil {
			return err
		}
		c.es, c.i = es, 0
		c.block++
	}
	c.cur = c.es[c.i]
	return nil
}

func (c *cursor) next(ctx context.Context) error {
	c.i++
	return c.load(ctx)
}
