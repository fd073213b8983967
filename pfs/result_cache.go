package pfs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/minipachd/minipachd/auth"
	"github.com/minipachd/minipachd/pfs/chunk"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// The cache keeps results that are expensive to compute, by key. An entry holds the
// file sets that its value speaks of: they can be read for as long as it is there.
// While auth is on every subject has keys of its own: what others have put under the
// same one it neither finds nor replaces.

const (
	maxCacheKey   = 1 << 10 // bytes
	maxCacheValue = 1 << 20 // bytes
	maxCacheSets  = 1 << 10 // file sets of one entry
	// maxCacheEntries is the number above which the oldest entries are dropped.
	maxCacheEntries = 10_000
	expireEvery     = time.Minute
)

// CacheMissError reports a key that the cache does not have.
type CacheMissError struct{ Key string }

func (e *CacheMissError) Error() string { return fmt.Sprintf("cache entry %q not found", e.Key) }

// GRPCStatus makes it NotFound.
func (e *CacheMissError) GRPCStatus() *status.Status { return withCode(codes.NotFound, e) }

// ownMark is the first byte of the stored key of an entry that has an owner, and of
// no key that a client chooses.
const ownMark = "\x00"

// entryKey is the key under which the caller's entry for a key is stored.
func (tx *Txn) entryKey(key string) string { return tx.s.entryPrefix(tx.author) + key }

// entryPrefix is what the stored keys of the entries of an owner begin with, whom a
// hash stands for so that no two have one in common.
func (s *Service) entryPrefix(owner string) string {
	if owner == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(owner))
	return ownMark + hex.EncodeToString(sum[:]) + "/"
}

// PutCache implements pfs_v2.API. It replaces what was under the key.
func (s *Service) PutCache(ctx context.Context, req *pfspb.PutCacheRequest) (*emptypb.Empty, error) {
	switch {
	case req.GetKey() == "":
		return nil, invalidRequest("the key must not be empty")
	case strings.HasPrefix(req.GetKey(), ownMark):
		return nil, invalidRequest("the key must not begin with a zero byte")
	case len(req.GetKey()) > maxCacheKey || len(req.GetTag()) > maxCacheKey:
		return nil, invalidRequest("key and tag must have at most 1024 bytes each")
	case len(req.GetValue().GetValue()) > maxCacheValue:
		return nil, invalidRequest("the value must have at most 1 MiB")
	case len(req.GetFileSetIds()) > maxCacheSets:
		return nil, invalidRequest("an entry can have at most 1024 file sets")
	}
	return done(s.Update(ctx, func(tx *Txn) error {
		rec := &recordpb.CacheRecord{Value: req.GetValue(), FileSetIds: req.GetFileSetIds(), Tag: req.GetTag()}
		for _, id := range rec.FileSetIds {
			fs, err := tx.fileSet(id)
			if err != nil {
				return err
			}
			rec.FileSets = append(rec.FileSets, fs)
		}
		key := tx.entryKey(req.GetKey())
		if err := tx.dropEntry(key); err != nil {
			return err
		}
		for _, id := range rec.FileSetIds {
			tx.Put(cachedKey(id, key), nil)
		}
		return s.cached.Put(tx.Txn, key, rec)
	}))
}

// dropEntry removes a cache entry, by its stored key, if there is one.
func (tx *Txn) dropEntry(key string) error {
	rec, ok, err := tx.s.cached.Get(tx.Txn, key)
	if err != nil || !ok {
		return err
	}
	for _, id := range rec.FileSetIds {
		tx.Delete(cachedKey(id, key))
	}
	tx.s.cached.Delete(tx.Txn, key)
	return nil
}

// cachedFileSet finds a file set that a cache entry holds, else
// *FileSetNotFoundError.
func (tx *Txn) cachedFileSet(id string) (*recordpb.FileSetRecord, error) {
	prefix := cachedKey(id, "")
	key := ""
	for kv, err := range tx.Scan(prefix, store.ScanOptions{KeysOnly: true, Limit: 1}) {
		if err != nil {
			return nil, err
		}
		key = kv.Key[len(prefix):]
	}
	if key == "" {
		return nil, &FileSetNotFoundError{ID: id}
	}
	rec, _, err := tx.s.cached.Get(tx.Txn, key)
	if err != nil {
		return nil, err
	}
	for i, held := range rec.GetFileSetIds() {
		if held == id && i < len(rec.GetFileSets()) {
			return rec.FileSets[i], nil
		}
	}
	return nil, &FileSetNotFoundError{ID: id}
}

// GetCache implements pfs_v2.API.
func (s *Service) GetCache(ctx context.Context, req *pfspb.GetCacheRequest) (*pfspb.GetCacheResponse, error) {
	if req.GetKey() == "" || strings.HasPrefix(req.GetKey(), ownMark) {
		return nil, invalidRequest("the key must not be empty nor begin with a zero byte")
	}
	var rec *recordpb.CacheRecord
	err := s.View(ctx, func(tx *Txn) error {
		var ok bool
		var err error
		if rec, ok, err = s.cached.Get(tx.Txn, tx.entryKey(req.GetKey())); err == nil && !ok {
			err = &CacheMissError{Key: req.GetKey()}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &pfspb.GetCacheResponse{Value: rec.Value}, nil
}

// ClearCache implements pfs_v2.API. Whoever may delete all clears everybody's entries,
// others their own. An empty prefix clears all of them; where that is everything, at
// once, otherwise the entries go in several transactions, and after an error some are
// gone.
func (s *Service) ClearCache(ctx context.Context, req *pfspb.ClearCacheRequest) (*emptypb.Empty, error) {
	own := ""
	err := s.auth.Check(ctx, nil, auth.Cluster(), authpb.Permission_CLUSTER_DELETE_ALL)
	if auth.Refused(err) {
		caller, _ := auth.CallerOf(ctx)
		own, err = s.entryPrefix(caller.Subject), nil
	}
	if err != nil {
		return nil, err
	}
	if req.GetTagPrefix() == "" && own == "" {
		return done(s.Update(ctx, func(tx *Txn) error {
			s.cached.DeletePrefix(tx.Txn, "")
			tx.DeletePrefix(cachedPrefix)
			return nil
		}))
	}
	var keys []string
	err = s.View(ctx, func(tx *Txn) error {
		for item, err := range s.cached.Scan(tx.Txn, own, store.ScanOptions{}) {
			if err != nil {
				return err
			}
			if strings.HasPrefix(item.Value.GetTag(), req.GetTagPrefix()) {
				keys = append(keys, item.Key)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return done(s.eachBatch(ctx, keys, func(tx *Txn, key string) error {
		rec, ok, err := s.cached.Get(tx.Txn, key)
		if err != nil || !ok || !strings.HasPrefix(rec.GetTag(), req.GetTagPrefix()) {
			return err // put anew meanwhile, with another tag
		}
		return tx.dropEntry(key)
	}))
}

// eachBatch runs fn for every key, some keys in each transaction.
func (s *Service) eachBatch(ctx context.Context, keys []string, fn func(tx *Txn, key string) error) error {
	for len(keys) > 0 {
		n := min(len(keys), expireBatch)
		err := s.Update(ctx, func(tx *Txn) error {
			for _, key := range keys[:n] {
				if err := fn(tx, key); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

// runExpiry removes file sets whose time is up and cache entries above the limit
// until ctx ends.
func (s *Service) runExpiry(ctx context.Context) error {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		err := errors.Join(references{s}.Expire(ctx, time.Now()), s.trimCache(ctx, maxCacheEntries))
		if err != nil && ctx.Err() == nil {
			s.log.Warn("remove expired file sets", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// trimCache drops the entries that were put longest ago, down to a number.
func (s *Service) trimCache(ctx context.Context, limit int) error {
	type entry struct {
		key      string
		revision int64
	}
	var all []entry
	err := s.View(ctx, func(tx *Txn) error {
		for item, err := range s.cached.Scan(tx.Txn, "", store.ScanOptions{KeysOnly: true}) {
			if err != nil {
				return err
			}
			all = append(all, entry{item.Key, item.Revision})
		}
		return nil
	})
	if err != nil || len(all) <= limit {
		return err
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.revision, b.revision) })
	var keys []string
	for _, e := range all[:len(all)-limit] {
		keys = append(keys, e.key)
	}
	return s.eachBatch(ctx, keys, func(tx *Txn, key string) error { return tx.dropEntry(key) })
}

// CheckStorage implements pfs_v2.API. It counts the chunks in the bucket whose hash
// lies in a range, and reads and checks each if asked to; a damaged one is an error.
// The caller must be able to read everything: a count tells whether some content is
// there.
func (s *Service) CheckStorage(ctx context.Context, req *pfspb.CheckStorageRequest) (*pfspb.CheckStorageResponse, error) {
	if err := s.permitAll(ctx, nil); err != nil {
		return nil, err
	}
	begin, end := string(req.GetChunkBegin()), string(req.GetChunkEnd())
	answer := &pfspb.CheckStorageResponse{}
	for info, err := range s.chunks.List(ctx) {
		if err != nil {
			return nil, err
		}
		hash := string(info.Hash[:])
		if hash < begin {
			continue
		}
		if end != "" && hash >= end {
			break
		}
		if req.GetReadChunkData() {
			err := s.chunks.Verify(ctx, info.Hash)
			var gone *chunk.MissingError
			if errors.As(err, &gone) {
				continue // swept meanwhile
			}
			if err != nil {
				return nil, err
			}
		}
		answer.ChunkObjectCount++
	}
	return answer, nil
}
