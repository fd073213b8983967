package pfs

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// commits checks every commit: first what it says of others, then its content.
func (c *check) commits(ctx context.Context) error {
	var recs []*recordpb.CommitRecord
	return c.pages(ctx, commitPrefix, false, func(tx *Txn, kv store.KV) error {
		rec := &recordpb.CommitRecord{}
		if err := proto.Unmarshal(kv.Value, rec); err != nil {
			return c.fault("key %s: its value is no commit: %w", kv.Key, err)
		}
		me := rec.GetInfo().GetCommit()
		if me.GetRepo() == nil || commitPrefix+commitKey(me.Repo, rec.Order) != kv.Key {
			return c.fault("key %s has the commit %s", kv.Key, CommitName(me))
		}
		if ok, err := c.owned(tx, me.Repo, kv.Key); err != nil || !ok {
			return err
		}
		recs = append(recs, rec)
		return errors.Join(c.links(tx, rec), c.progress(tx, rec))
	}, func() error {
		for _, rec := range recs {
			name := "commit " + CommitName(rec.Info.Commit)
			if err := c.layers(ctx, name, rec.Layers, c.commitHas(rec)); err != nil {
				return err
			}
			if c.deep {
				if err := c.size(ctx, rec); err != nil {
					return err
				}
			}
		}
		recs = recs[:0]
		return nil
	})
}

// links checks what a commit says of others and the indexes of it.
func (c *check) links(tx *Txn, rec *recordpb.CommitRecord) error {
	me := rec.Info.Commit
	value, _, err := tx.Get(idKey(me.Id, me.Repo))
	if err != nil {
		return err
	}
	if order, _ := parseIDValue(value); order != rec.Order {
		if err := c.fault("commit %s is not found by its id", CommitName(me)); err != nil {
			return err
		}
	}
	if p := rec.Info.ParentCommit; p != nil {
		if _, ok, err := tx.lookup(me.Repo, p.Id); err != nil {
			return err
		} else if !ok {
			if err := c.fault("commit %s has the parent %s, which does not exist", CommitName(me), p.Id); err != nil {
				return err
			}
		}
		known, err := tx.hasChild(me.Repo, p.Id, me.Id)
		if err != nil {
			return err
		}
		if !known {
			if err := c.fault("commit %s is not among the children of its parent %s", CommitName(me), p.Id); err != nil {
				return err
			}
		}
	}
	for _, p := range rec.Info.DirectProvenance {
		if err := c.source(tx, rec, p); err != nil {
			return err
		}
	}
	return nil
}

// source checks one commit that rec comes from. Its whole repo may have been
// deleted, and made anew since.
func (c *check) source(tx *Txn, rec *recordpb.CommitRecord, p *pfspb.Commit) error {
	me := rec.Info.Commit
	repo, ok, err := c.s.repos.Get(tx.Txn, repoKey(p.GetRepo()))
	if err != nil || !ok || repo.GetCreated().AsTime().After(rec.Info.GetStarted().AsTime()) {
		return err
	}
	if _, ok, err := tx.lookup(p.GetRepo(), p.GetId()); err != nil {
		return err
	} else if !ok {
		return c.fault("commit %s comes from %s, which does not exist", CommitName(me), CommitName(p))
	}
	if p.GetRepo().GetType() == SpecType {
		return nil // not in the index, see makeCommit
	}
	if _, ok, err := tx.Get(subvKey(p, me)); err != nil {
		return err
	} else if !ok {
		return c.fault("commit %s comes from %s, which does not know of it", CommitName(me), CommitName(p))
	}
	return nil
}

// progress checks that a commit's record fits how far it is.
func (c *check) progress(tx *Txn, rec *recordpb.CommitRecord) error {
	name := CommitName(rec.Info.Commit)
	if int(rec.OwnLayers) > len(rec.Layers) {
		return c.fault("commit %s has %d layers, %d of them its own", name, len(rec.Layers), rec.OwnLayers)
	}
	if due := rec.Policy.GetDue(); due != nil {
		if _, ok, err := c.s.dues.Get(tx.Txn, dueKey(rec)); err != nil {
			return err
		} else if !ok {
			return c.fault("commit %s is to be finished at %v, but nothing marks it", name, due.AsTime())
		}
	}
	if rec.Policy != nil && (rec.OwnLayers != 0 || state(rec.Info) != pfspb.CommitState_STARTED) {
		return c.fault("commit %s collects puts, but its record is not that of one which does", name)
	}
	switch state(rec.Info) {
	case pfspb.CommitState_FINISHING:
		if _, ok, err := tx.Get(finishingKey(rec)); err != nil {
			return err
		} else if !ok {
			return c.fault("commit %s is finishing, but nothing marks it: it would never be finished", name)
		}
	case pfspb.CommitState_FINISHED:
		if rec.OwnLayers != 0 || rec.Info.GetDetails() == nil || rec.Info.GetDetails().GetSizeBytes() != rec.Info.GetSizeBytesUpperBound() {
			return c.fault("commit %s is finished, but its record is that of an unfinished one", name)
		}
	}
	return nil
}

// size compares the recorded size of a finished commit with that of its files.
func (c *check) size(ctx context.Context, rec *recordpb.CommitRecord) error {
	if !complete(rec) || rec.Info.Error != "" || rec.Forgotten {
		return nil
	}
	total, err := c.s.files.Open(rec.Layers).Total(ctx)
	want := rec.Info.GetDetails().GetSizeBytes()
	if rec.Policy != nil {
		want = rec.Policy.SizeBytes
	}
	if err == nil && total == want {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	same := false
	if err := c.s.View(ctx, func(tx *Txn) error {
		now, _, err := c.s.commits.Get(tx.Txn, commitKey(rec.Info.Commit.Repo, rec.Order))
		same = slices.EqualFunc(now.GetLayers(), rec.Layers, func(a, b *recordpb.LayerRef) bool { return string(a.GetId()) == string(b.GetId()) })
		return err
	}); err != nil || !same {
		return err // it was deleted or folded meanwhile
	}
	if err != nil {
		return c.fault("commit %s: its files cannot be listed: %w", CommitName(rec.Info.Commit), err)
	}
	return c.fault("commit %s: its files have %d bytes, %d are recorded", CommitName(rec.Info.Commit), total, want)
}

// commitHas tells whether a commit still has a layer.
func (c *check) commitHas(rec *recordpb.CommitRecord) func(tx *Txn, id []byte) (bool, error) {
	return func(tx *Txn, id []byte) (bool, error) {
		now, ok, err := c.s.commits.Get(tx.Txn, commitKey(rec.Info.Commit.Repo, rec.Order))
		return ok && hasLayer(now.Layers, id), err
	}
}

func hasLayer(refs []*recordpb.LayerRef, id []byte) bool {
	return slices.ContainsFunc(refs, func(r *recordpb.LayerRef) bool { return string(r.GetId()) == string(id) })
}

// layers checks the layers that something named refers to and, where one was not
// met before, what is in it. A fault counts only if still tells that it has the
// layer by then: it may have been deleted or folded meanwhile.
func (c *check) layers(ctx context.Context, name string, refs []*recordpb.LayerRef, still func(tx *Txn, id []byte) (bool, error)) error {
	for _, ref := range refs {
		id := string(ref.GetId())
		if _, ok := c.seen.Get(id); ok {
			continue
		}
		sound := true
		fault := func(path string, err error) error {
			sound = false
			has := false
			if err := c.s.View(ctx, func(tx *Txn) error {
				var err error
				has, err = still(tx, ref.GetId())
				return err
			}); err != nil || !has {
				return err
			}
			if path != "" {
				path += ": "
			}
			return c.fault("%s: %s%w", name, path, err)
		}
		rec, err := c.s.Layer(ctx, ref)
		var missing *LayerNotFoundError
		switch {
		case errors.As(err, &missing):
			err = fault("", fmt.Errorf("layer %s does not exist", hex.EncodeToString(ref.GetId())))
		case err == nil:
			err = c.s.files.VerifyLayer(ctx, ref, rec, c.deep, fault)
		}
		if err != nil {
			return err
		}
		if sound { // of a bad one every owner is named
			c.seen.Put(id, struct{}{}, 1)
		}
	}
	return nil
}

// fileSets checks the layers of file sets.
func (c *check) fileSets(ctx context.Context) error {
	sets := map[string]*recordpb.FileSetRecord{}
	return c.pages(ctx, fileSetPrefix, false, func(_ *Txn, kv store.KV) error {
		rec := &recordpb.FileSetRecord{}
		if err := proto.Unmarshal(kv.Value, rec); err != nil {
			return c.fault("key %s: its value is no file set: %w", kv.Key, err)
		}
		sets[kv.Key] = rec
		return nil
	}, func() error {
		for key, set := range sets {
			if err := c.layers(ctx, "file set "+key[len(fileSetPrefix):], set.GetLayers(), func(tx *Txn, id []byte) (bool, error) {
				now, _, err := c.s.fileSets.Get(tx.Txn, key[len(fileSetPrefix):])
				return hasLayer(now.GetLayers(), id), err
			}); err != nil {
				return err
			}
		}
		clear(sets)
		return nil
	})
}

// cacheEntries checks the layers of file sets that cache entries keep.
func (c *check) cacheEntries(ctx context.Context) error {
	entries := map[string][]*recordpb.FileSetRecord{}
	return c.pages(ctx, cachePrefix, false, func(_ *Txn, kv store.KV) error {
		rec := &recordpb.CacheRecord{}
		if err := proto.Unmarshal(kv.Value, rec); err != nil {
			return c.fault("key %s: its value is no cache entry: %w", kv.Key, err)
		}
		entries[kv.Key] = rec.GetFileSets()
		return nil
	}, func() error {
		for key, sets := range entries {
			for _, set := range sets {
				if err := c.layers(ctx, "cache entry "+key[len(cachePrefix):], set.GetLayers(), func(tx *Txn, id []byte) (bool, error) {
					now, _, err := c.s.cached.Get(tx.Txn, key[len(cachePrefix):])
					return slices.ContainsFunc(now.GetFileSets(), func(s *recordpb.FileSetRecord) bool { return hasLayer(s.GetLayers(), id) }), err
				}); err != nil {
					return err
				}
			}
		}
		clear(entries)
		return nil
	})
}
