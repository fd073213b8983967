package pfs

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/minipachd/minipachd/pfs/fileset"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// finishers is how many commits are validated at a time.
const finishers = 2

// runFinisher brings commits from FINISHING to FINISHED until ctx ends. The marks
// that tx.finish left tell which ones, also those of before a crash.
func (s *Service) runFinisher(ctx context.Context) error {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	slots := make(chan struct{}, finishers)
	marks := store.NewCollection[*emptypb.Empty](finishingPrefix)
	return marks.Watch(ctx, s.store, "", func(e store.Event[*emptypb.Empty]) error {
		if e.Deleted || e.Synced {
			return nil
		}
		repo, order, ok := parseFinishingKey(finishingPrefix + e.Key)
		if !ok {
			s.log.Error("a mark of a finishing commit has an unknown form", zap.String("key", e.Key))
			return nil
		}
		tasks.Go(func() { s.finishUntilDone(ctx, slots, repo, order) })
		return nil
	})
}

// finishUntilDone tries again, with a pause, while something is in the way.
func (s *Service) finishUntilDone(ctx context.Context, slots chan struct{}, repo *pfspb.Repo, order string) {
	wait := 100 * time.Millisecond
	for {
		err := s.finishCommit(ctx, slots, repo, order)
		if err == nil || ctx.Err() != nil {
			return
		}
		s.log.Warn("finish commit, will be tried again", zap.String("repo", RepoName(repo)), zap.String("order", order), zap.Error(err))
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait/2 + rand.N(wait)):
		}
		wait = min(2*wait, 30*time.Second)
	}
}

// finishCommit validates and measures one FINISHING commit once its base is
// FINISHED, and makes it FINISHED.
func (s *Service) finishCommit(ctx context.Context, slots chan struct{}, repo *pfspb.Repo, order string) error {
	var base *recordpb.CommitRecord
	var branch *pfspb.Branch
	find := func(tx *Txn) (*recordpb.CommitRecord, error) {
		rec, ok, err := s.commits.Get(tx.Txn, commitKey(repo, order))
		if err != nil || !ok {
			return nil, err
		}
		branch = &pfspb.Branch{Repo: repo, Name: rec.Branch}
		base, err = tx.base(rec, nil)
		return rec, err
	}
	if err := s.View(ctx, func(tx *Txn) error {
		_, err := find(tx)
		return err
	}); err != nil {
		return err
	}
	if base != nil && state(base.Info) < pfspb.CommitState_FINISHED {
		if _, err := s.waitCommit(ctx, repo, base.Info.Commit.Id, pfspb.CommitState_FINISHED); err != nil {
			return err
		}
	}
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	var stack []*recordpb.LayerRef
	err := s.Update(ctx, func(tx *Txn) error {
		rec, err := find(tx)
		if err != nil {
			return err
		}
		if rec == nil || state(rec.Info) == pfspb.CommitState_FINISHED {
			tx.Delete(finishingPrefix + commitKey(repo, order))
			return nil
		}
		if base != nil && state(base.Info) < pfspb.CommitState_FINISHED {
			return errors.New("its base is another one now, and unfinished")
		}
		add := stored(rec.Layers[len(rec.Layers)-int(rec.OwnLayers):])
		applied, err := s.files.Apply(ctx, base.GetLayers(), base.GetInfo().GetDetails().GetSizeBytes(), add)
		if err != nil {
			return err
		}
		applied.New = withRecords(applied.New)
		stack = applied.Stack
		tx.Delete(finishingKey(rec))
		return tx.setApplied(rec, applied)
	})
	if err == nil {
		s.pokeCompactor(branch, stack)
	}
	return err
}

// finishSmall does the work of the finisher within the transaction that ends the
// writing of a commit, if its layers lie in etcd and are small: that is cheaper than
// the second transaction and the wait for it. It tells whether the commit is FINISHED;
// whatever is in the way is left to the finisher, which tries again.
func (tx *Txn) finishSmall(rec *recordpb.CommitRecord) (done bool, err error) {
	own := rec.Layers[len(rec.Layers)-int(rec.OwnLayers):]
	var size uint64
	for _, ref := range own {
		if size += ref.EncodedBytes; !ref.Inline || size > tx.s.finishAtOnce {
			return false, nil
		}
	}
	base, err := tx.base(rec, nil)
	if err != nil {
		return false, err
	}
	if base != nil && state(base.Info) < pfspb.CommitState_FINISHED {
		return false, nil
	}
	applied, err := tx.s.files.Apply(tx.Context(), base.GetLayers(), base.GetInfo().GetDetails().GetSizeBytes(), stored(own))
	if err != nil {
		// Such as that of layers which this transaction itself puts: only it sees them yet.
		return false, tx.Context().Err()
	}
	applied.New = withRecords(applied.New)
	branch := &pfspb.Branch{Repo: rec.Info.Commit.Repo, Name: rec.Branch}
	tx.Defer(func() { tx.s.pokeCompactor(branch, applied.Stack) })
	return true, tx.setApplied(rec, applied)
}

// stored are layers that etcd has.
func stored(refs []*recordpb.LayerRef) []*fileset.Layer {
	layers := make([]*fileset.Layer, len(refs))
	for i, ref := range refs {
		layers[i] = &fileset.Layer{Ref: ref}
	}
	return layers
}

// withRecords leaves out layers that are stored already.
func withRecords(layers []*fileset.Layer) []*fileset.Layer {
	var fresh []*fileset.Layer
	for _, l := range layers {
		if l.Record != nil {
			fresh = append(fresh, l)
		}
	}
	return fresh
}

// layersOf gives the layers that a commit's content consists of: of an open one
// those of its base as it is now, and its own. The base must be FINISHED.
func (tx *Txn) layersOf(rec *recordpb.CommitRecord) ([]*recordpb.LayerRef, error) {
	if rec.Forgotten {
		return nil, errForgotten
	}
	if complete(rec) {
		return rec.Layers, nil
	}
	base, err := tx.base(rec, nil)
	if err != nil {
		return nil, err
	}
	if base != nil && state(base.Info) < pfspb.CommitState_FINISHED {
		return nil, &BaseUnfinishedError{Base: base.Info.Commit, Commit: rec.Info.Commit}
	}
	own := rec.Layers[len(rec.Layers)-int(rec.OwnLayers):]
	return append(append([]*recordpb.LayerRef(nil), base.GetLayers()...), own...), nil
}
