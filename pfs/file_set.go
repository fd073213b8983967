package pfs

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/minipachd/minipachd/pfs/fileset"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// A file set is a stack of layers under an id of its own, for a time. Who has the
// id may read it. Its layers may be those of commits too, so it copies no data.

const (
	defaultTTL = 10 * time.Minute
	maxTTL     = 30 * time.Minute
	// maxComposed is the number of layers from which on a composed file set is folded
	// into one, asked for or not.
	maxComposed = 64
)

// FileSetNotFoundError reports a file set that does not exist, or no longer.
type FileSetNotFoundError struct{ ID string }

func (e *FileSetNotFoundError) Error() string {
	return "file set " + e.ID + " not found: it never existed or its time is up"
}

// GRPCStatus makes it NotFound.
func (e *FileSetNotFoundError) GRPCStatus() *status.Status { return withCode(codes.NotFound, e) }

// checkTTL turns the seconds of a request into a duration within the limits.
func checkTTL(seconds int64) (time.Duration, error) {
	// What overflows is shown as the largest number there is.
	ns := int64(math.MaxInt64)
	if seconds < math.MaxInt64/int64(time.Second) {
		ns = max(seconds, math.MinInt64/int64(time.Second)) * int64(time.Second)
	}
	switch {
	case ns < int64(time.Second):
		return 0, fmt.Errorf("ttl (%d) must be at least one second", ns)
	case ns > int64(maxTTL):
		return 0, fmt.Errorf("ttl (%d) exceeds max ttl (%d)", ns, int64(maxTTL))
	}
	return time.Duration(ns), nil
}

// fileSet returns a file set that is still there: its time is not up, or a cache
// entry holds it. Else *FileSetNotFoundError.
func (tx *Txn) fileSet(id string) (*recordpb.FileSetRecord, error) {
	if !IsCommitID(id) {
		return nil, &FileSetNotFoundError{ID: id}
	}
	rec, ok, err := tx.s.fileSets.Get(tx.Txn, id)
	if err != nil {
		return nil, err
	}
	if ok && tx.Now().Before(rec.GetExpires().AsTime()) {
		return rec, nil
	}
	return tx.cachedFileSet(id)
}

// putFileSet stores a file set under an id for a time from now on.
func (tx *Txn) putFileSet(id string, layers []*recordpb.LayerRef, size int64, ttl time.Duration) error {
	return tx.s.fileSets.Put(tx.Txn, id, &recordpb.FileSetRecord{
		Layers: layers, Expires: stamp(tx.Now().Add(ttl)), SizeBytesUpperBound: size,
	})
}

// newFileSet stores a new file set; fresh are layers that are not stored yet.
func (tx *Txn) newFileSet(layers []*recordpb.LayerRef, fresh []*fileset.Layer, size int64, ttl time.Duration) (string, error) {
	if err := tx.putLayers(fresh); err != nil {
		return "", err
	}
	id := tx.NewID()
	return id, tx.putFileSet(id, layers, size, ttl)
}

// CreateFileSet implements pfs_v2.API. Nothing is stored unless the client
// half-closes the stream.
func (s *Service) CreateFileSet(stream grpc.ClientStreamingServer[pfspb.ModifyFileRequest, pfspb.CreateFileSetResponse]) error {
	ctx := stream.Context()
	if err := s.room(); err != nil {
		return err
	}
	w := s.files.NewWriter(ctx)
	defer w.Abort()
	if err := s.collect(ctx, &received{stream: stream}, w); err != nil {
		return err
	}
	layers, err := w.Finish()
	if err != nil {
		return fmt.Errorf("create file set: %w", err)
	}
	var id string
	err = s.Update(ctx, func(tx *Txn) error {
		var err error
		refs, size := refsOf(layers)
		id, err = tx.newFileSet(refs, layers, size, defaultTTL)
		return err
	})
	if err != nil {
		return err
	}
	return stream.SendAndClose(&pfspb.CreateFileSetResponse{FileSetId: id})
}

// refsOf gives the references to layers and the sum of their content in bytes.
func refsOf(layers []*fileset.Layer) (refs []*recordpb.LayerRef, size int64) {
	for _, l := range layers {
		refs = append(refs, l.Ref)
		size += l.Content
	}
	return refs, size
}

// source is a commit whose content is to become a file set.
type source struct {
	layers []*recordpb.LayerRef // all of it
	base   []*recordpb.LayerRef // of the commit that it builds on
	own    []*recordpb.LayerRef // what it adds to base, where that can still be told
	folded bool                 // that cannot be told
	// baseless says that the content of the commit that it builds on was forgotten.
	baseless bool
	size     int64         // of all of it, an upper bound
	wait     *pfspb.Commit // not FINISHED yet: nothing else is set
}

// source finds the content of a commit, or of another file set.
func (tx *Txn) source(c *pfspb.Commit) (*source, error) {
	if NormalizeRepo(commitRepo(c)).GetName() == fileSetsRepo {
		rec, err := tx.fileSet(commitText(c))
		if err != nil {
			return nil, err
		}
		return &source{layers: rec.Layers, own: rec.Layers, size: rec.SizeBytesUpperBound}, nil
	}
	rec, err := tx.resolve(c)
	if err != nil {
		return nil, err
	}
	if state(rec.Info) == pfspb.CommitState_FINISHING {
		return &source{wait: rec.Info.Commit}, nil
	}
	src := &source{size: rec.Info.SizeBytesUpperBound}
	if src.layers, err = tx.layersOf(rec); err != nil {
		return nil, err
	}
	var parent *recordpb.CommitRecord
	if p := rec.Info.ParentCommit; p != nil {
		if parent, err = tx.commit(p.GetRepo(), p.GetId()); err != nil {
			return nil, err
		}
	}
	base, err := tx.goodAncestor(parent)
	if err != nil {
		return nil, err
	}
	src.baseless = base.GetForgotten()
	src.base = base.GetLayers()
	if n := len(src.base); n <= len(src.layers) && slices.EqualFunc(src.layers[:n], src.base, sameLayer) {
		src.own = src.layers[n:]
	} else {
		src.folded = true
	}
	return src, nil
}

// GetFileSet implements pfs_v2.API. TOTAL is all of a commit; DIFF what it changed.
// Once the layers of a commit have been folded, DIFF holds every changed file as a
// whole, unless bytes were only added to it.
func (s *Service) GetFileSet(ctx context.Context, req *pfspb.GetFileSetRequest) (*pfspb.CreateFileSetResponse, error) {
	if req.GetCommit() == nil {
		return nil, invalidRequest("a commit must be given")
	}
	diff := req.GetType() == pfspb.GetFileSetRequest_DIFF
	if !diff && req.GetType() != pfspb.GetFileSetRequest_TOTAL {
		return nil, invalidRequest("the type must be TOTAL or DIFF")
	}
	c := req.GetCommit()
	for {
		var src *source
		var id string
		err := s.Update(ctx, func(tx *Txn) error {
			err := s.permit(ctx, tx.Txn, c, authpb.Permission_REPO_READ)
			if err != nil {
				return err
			}
			if src, err = tx.source(c); err != nil || src.wait != nil || diff && src.folded && !src.baseless {
				return err
			}
			refs, size := src.layers, src.size
			if diff {
				if refs = src.own; src.baseless {
					return errForgotten
				}
			}
			id, err = tx.newFileSet(refs, nil, size, defaultTTL)
			return err
		})
		switch {
		case err != nil:
			return nil, err
		case src.wait != nil:
			if _, err := s.waitCommit(ctx, src.wait.Repo, src.wait.Id, pfspb.CommitState_FINISHED); err != nil {
				return nil, err
			}
			c = src.wait // what was meant at first, also if the branch has moved on
			continue
		case id == "":
			id, err = s.diffFileSet(ctx, src)
			if err != nil {
				return nil, err
			}
		}
		return &pfspb.CreateFileSetResponse{FileSetId: id}, nil
	}
}

// diffFileSet makes a file set of what differs between a commit and its base.
func (s *Service) diffFileSet(ctx context.Context, src *source) (string, error) {
	w := s.files.NewWriter(ctx)
	defer w.Abort()
	if err := w.Diff(s.files.Open(src.base), s.files.Open(src.layers)); err != nil {
		return "", fmt.Errorf("compare with the parent commit: %w", err)
	}
	layers, err := w.Finish()
	if err != nil {
		return "", err
	}
	var id string
	err = s.Update(ctx, func(tx *Txn) error {
		var err error
		refs, size := refsOf(layers)
		id, err = tx.newFileSet(refs, layers, size, defaultTTL)
		return err
	})
	return id, err
}

// AddFileSet implements pfs_v2.API.
func (s *Service) AddFileSet(ctx context.Context, req *pfspb.AddFileSetRequest) (*emptypb.Empty, error) {
	if req.GetCommit() == nil {
		return nil, invalidRequest("a commit must be given")
	}
	var open *pfspb.Commit
	own := 0
	err := s.Update(ctx, func(tx *Txn) error {
		if err := s.permit(ctx, tx.Txn, req.GetCommit(), authpb.Permission_REPO_WRITE); err != nil {
			return err
		}
		rec, err := tx.resolve(req.GetCommit())
		if err != nil {
			return err
		}
		fs, err := tx.fileSet(req.GetFileSetId())
		if err != nil {
			return err
		}
		if open = rec.Info.Commit; rec.Policy != nil {
			_, err := tx.putExplicit(rec, stored(fs.Layers), nil)
			return err
		}
		err = tx.appendLayers(rec, fs.Layers, fs.SizeBytesUpperBound)
		own = int(rec.OwnLayers)
		return err
	})
	if err == nil && own > maxOwnLayers {
		err = s.foldOpen(ctx, open)
	}
	return done(err)
}

// RenewFileSet implements pfs_v2.API.
func (s *Service) RenewFileSet(ctx context.Context, req *pfspb.RenewFileSetRequest) (*emptypb.Empty, error) {
	ttl, err := checkTTL(req.GetTtlSeconds())
	if err != nil {
		return nil, err
	}
	return done(s.Update(ctx, func(tx *Txn) error {
		rec, err := tx.fileSet(req.GetFileSetId())
		if err != nil {
			return err
		}
		return tx.putFileSet(req.GetFileSetId(), rec.Layers, rec.SizeBytesUpperBound, ttl)
	}))
}

// ComposeFileSet implements pfs_v2.API. Later file sets lie on top of earlier ones.
// Without a time to live it is the usual one.
func (s *Service) ComposeFileSet(ctx context.Context, req *pfspb.ComposeFileSetRequest) (*pfspb.CreateFileSetResponse, error) {
	ttl := defaultTTL
	if req.GetTtlSeconds() != 0 {
		var err error
		if ttl, err = checkTTL(req.GetTtlSeconds()); err != nil {
			return nil, err
		}
	}
	compose := func(tx *Txn) (refs []*recordpb.LayerRef, size int64, err error) {
		for _, id := range req.GetFileSetIds() {
			fs, err := tx.fileSet(id)
			if err != nil {
				return nil, 0, err
			}
			refs = append(refs, fs.Layers...)
			size += fs.SizeBytesUpperBound
		}
		return refs, size, nil
	}
	var id string
	var stack []*recordpb.LayerRef
	err := s.Update(ctx, func(tx *Txn) error {
		refs, size, err := compose(tx)
		if err != nil {
			return err
		}
		if stack = refs; len(refs) > maxComposed || req.GetCompact() && len(refs) > 1 {
			return nil
		}
		id, err = tx.newFileSet(refs, nil, size, ttl)
		return err
	})
	if err != nil {
		return nil, err
	}
	if id == "" {
		if id, err = s.composeFolded(ctx, stack, compose, ttl); err != nil {
			return nil, err
		}
	}
	return &pfspb.CreateFileSetResponse{FileSetId: id}, nil
}

// composeFolded stores the layers of a stack, folded into one, as a file set. What
// they come from must still be there in the end: compose says so.
func (s *Service) composeFolded(ctx context.Context, stack []*recordpb.LayerRef, compose func(*Txn) ([]*recordpb.LayerRef, int64, error), ttl time.Duration) (string, error) {
	folded, err := s.files.Compact(ctx, stack, 0, len(stack), fileset.KeepDeletions())
	if err != nil {
		return "", fmt.Errorf("compose file sets: %w", err)
	}
	defer folded.Release()
	var layers []*fileset.Layer
	if folded != nil {
		layers = append(layers, folded)
	}
	var id string
	err = s.Update(ctx, func(tx *Txn) error {
		_, size, err := compose(tx)
		if err != nil {
			return err
		}
		refs, _ := refsOf(layers)
		id, err = tx.newFileSet(refs, layers, size, ttl)
		return err
	})
	return id, err
}

// Sizes of a shard that are not given.
const (
	shardFiles = 1_000_000
	shardBytes = 1_000_000_000
)

// ShardFileSet implements pfs_v2.API. Every shard but the last has at least
// num_files files or size_bytes bytes; together they cover all paths.
func (s *Service) ShardFileSet(ctx context.Context, req *pfspb.ShardFileSetRequest) (*pfspb.ShardFileSetResponse, error) {
	wantFiles, wantBytes := req.GetNumFiles(), req.GetSizeBytes()
	if wantFiles < 0 || wantBytes < 0 {
		return nil, invalidRequest("num_files and size_bytes must not be negative")
	}
	if wantFiles == 0 {
		wantFiles = shardFiles
	}
	if wantBytes == 0 {
		wantBytes = shardBytes
	}
	var rec *recordpb.FileSetRecord
	if err := s.View(ctx, func(tx *Txn) (err error) {
		rec, err = tx.fileSet(req.GetFileSetId())
		return err
	}); err != nil {
		return nil, err
	}
	shard := &pfspb.PathRange{}
	answer := &pfspb.ShardFileSetResponse{Shards: []*pfspb.PathRange{shard}}
	var files, bytes int64
	last := ""
	for f, err := range s.files.Open(rec.Layers).Files(ctx, "") {
		if err != nil {
			return nil, err
		}
		// One path is never divided.
		if f.Path != last && (files >= wantFiles || bytes >= wantBytes) {
			shard.Upper = f.Path
			shard = &pfspb.PathRange{Lower: f.Path}
			answer.Shards = append(answer.Shards, shard)
			files, bytes = 0, 0
		}
		last = f.Path
		files++
		bytes += f.Size
	}
	return answer, nil
}
