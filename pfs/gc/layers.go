package gc

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/minipachd/minipachd/pfs/chunk"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

const (
	// maxLayers is how many layers one collection removes; what is left is for the next.
	maxLayers = 1 << 20
	// layerBatch is how many of them go in one transaction.
	layerBatch = 512
)

// sweepLayers removes the records of layers that nothing refers to, after the
// grace. A stored layer without a reference never gets one again, so what the
// snapshot finds needs no second look.
func (o *owner) sweepLayers(ctx context.Context, report *recordpb.GarbageReport) error {
	garbage, err := o.unreferenced(ctx)
	if err != nil {
		return fmt.Errorf("find layers that nothing refers to: %w", err)
	}
	if len(garbage) == 0 {
		return nil
	}
	if err := o.waitGrace(ctx); err != nil {
		return err
	}
	for len(garbage) > 0 {
		n := min(len(garbage), layerBatch)
		_, err := o.store.Update(ctx, func(tx *store.Txn) error {
			o.fence(tx)
			for _, id := range garbage[:n] {
				o.layers.Delete(tx, hex.EncodeToString(id[:]))
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("delete layers: %w", err)
		}
		report.Layers += int64(n)
		garbage = garbage[n:]
		if err := o.deletes.WaitN(ctx, min(n, o.deletes.Burst())); err != nil {
			return err
		}
	}
	return nil
}

func (o *owner) waitGrace(ctx context.Context) error {
	if o.cfg.Grace <= 0 {
		return nil
	}
	fires, stop := o.clock.Timer(o.clock.Now().Add(o.cfg.Grace))
	defer stop()
	select {
	case <-fires:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// layerID is the id of a layer.
type layerID [16]byte

func (id layerID) hash() chunk.Hash { return chunk.Sum(id[:]) }

// unreferenced gives the layers in one snapshot that nothing in it refers to.
func (o *owner) unreferenced(ctx context.Context) (garbage []layerID, err error) {
	err = o.store.View(ctx, func(tx *store.Txn) error {
		n := 0
		for _, err := range o.layers.Scan(tx, "", store.ScanOptions{KeysOnly: true}) {
			if err != nil {
				return err
			}
			n++
		}
		if n == 0 {
			return nil
		}
		live := newFilter(n)
		if err := o.cfg.Source.Referenced(tx, func(id []byte) { live.add(chunk.Sum(id)) }); err != nil {
			return err
		}
		for item, err := range o.layers.Scan(tx, "", store.ScanOptions{KeysOnly: true}) {
			if err != nil {
				return err
			}
			var id layerID
			if n, err := hex.Decode(id[:], []byte(item.Key)); err != nil || n != len(id) || hex.EncodeToString(id[:]) != item.Key {
				continue // none of ours
			}
			if !live.has(id.hash()) {
				if garbage = append(garbage, id); len(garbage) == maxLayers {
					return nil
				}
			}
		}
		return nil
	})
	return garbage, err
}

// markChunks makes the set of objects that stored layers need. A layer stored while
// it goes on is missed or not; its writers keep what it needs.
func (o *owner) markChunks(ctx context.Context, objects int) (*filter, error) {
	live := newFilter(objects)
	from := ""
	for {
		var page []store.Item[*recordpb.LayerRecord]
		err := o.store.View(ctx, func(tx *store.Txn) error {
			page = page[:0]
			for item, err := range o.layers.Scan(tx, "", store.ScanOptions{From: from, Limit: layerPage}) {
				if err != nil {
					return err
				}
				page = append(page, item)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			return live, nil
		}
		for _, item := range page {
			if err := o.markLayer(ctx, item, live); err != nil {
				return nil, err
			}
		}
		from = page[len(page)-1].Key + "\x00"
	}
}

// layerPage is how many records of layers are read at a time, each up to 32 KiB.
const layerPage = 128

func (o *owner) markLayer(ctx context.Context, item store.Item[*recordpb.LayerRecord], live *filter) error {
	id, err := hex.DecodeString(item.Key)
	if err != nil {
		return fmt.Errorf("layer %q: %w", item.Key, err)
	}
	if object := item.Value.GetObject(); object != nil {
		h, _ := name(object.GetKey())
		live.add(h)
		if err := o.reads.WaitN(ctx, int(min(object.GetSize(), uint64(o.reads.Burst())))); err != nil {
			return err
		}
	}
	if err := o.cfg.Source.Chunks(ctx, id, item.Value, live.add); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// What it refers to is unknown: nothing can be deleted.
		return fmt.Errorf("nothing in the bucket is swept as long as layer %s cannot be read (pachctl fsck tells which commits have it): %w", item.Key, err)
	}
	return nil
}
