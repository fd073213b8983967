package pfs

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"google.golang.org/grpc"

	"github.com/minipachd/minipachd/pfs/cache"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	"github.com/minipachd/minipachd/store"
)

// Fsck implements pfs_v2.API. It finds out whether everything that is recorded
// is there and fits together; it changes nothing. As faults may be anywhere, the
// caller must be able to read everything.
func (s *Service) Fsck(req *pfspb.FsckRequest, stream grpc.ServerStreamingServer[pfspb.FsckResponse]) error {
	if req.GetZombieAll() || req.GetZombieTarget() != nil {
		return unsupported("checking output files against datums is")
	}
	ctx := stream.Context()
	if err := s.permitAll(ctx, nil); err != nil {
		return err
	}
	if err := s.Check(ctx, req.GetDeep(), func(fault error) error {
		return stream.Send(&pfspb.FsckResponse{Error: fault.Error()})
	}); err != nil || !req.GetVerbose() {
		return err
	}
	return s.storageInfo(ctx, func(info string) error {
		return stream.Send(&pfspb.FsckResponse{Info: info})
	})
}

// Check reports every fault it finds. It looks at
//
//   - every commit: its place in the indexes, its parent, what it comes from, how
//     far it is, its layers and their chunks;
//   - every entry of an index: whether what it leads to is there;
//   - every branch: its head, and that provenance is the same from both sides;
//   - the recorded size of the heads of branches;
//   - file sets and cache entries: their layers;
//   - with deep, every byte against its hashes, and the recorded size of every commit.
//
// It goes on in pages, each of one snapshot, while others change things, and
// ends with the first error of report. Its memory does not grow with what it checks.
func (s *Service) Check(ctx context.Context, deep bool, report func(fault error) error) error {
	c := &check{s: s, deep: deep, report: report, seen: cache.New[string, struct{}](seenLayers)}
	for _, part := range []func(context.Context) error{
		c.branches, c.commits, c.ids, c.children, c.subvenance, c.finishing, c.fileSets, c.cacheEntries,
	} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

const (
	// seenLayers is how many layers are remembered as checked; neighbouring commits
	// share most of theirs.
	seenLayers = 64 << 10
	// fsckPage is how many keys are checked against one snapshot.
	fsckPage = 200
)

// check is one run of Check.
type check struct {
	s      *Service
	deep   bool
	report func(error) error
	seen   *cache.Cache[string, struct{}] // ids of layers whose content was checked
}

func (c *check) fault(format string, args ...any) error { return c.report(fmt.Errorf(format, args...)) }

// pages calls fn with all keys below a prefix, a page in the snapshot of each view.
// After each page it calls then, if given, outside of it.
func (c *check) pages(ctx context.Context, prefix string, keysOnly bool, fn func(tx *Txn, kv store.KV) error, then func() error) error {
	from := ""
	for {
		var page []store.KV
		err := c.s.View(ctx, func(tx *Txn) error {
			page = page[:0]
			for kv, err := range tx.Scan(prefix, store.ScanOptions{From: from, Limit: fsckPage, KeysOnly: keysOnly}) {
				if err != nil {
					return err
				}
				page = append(page, kv)
			}
			for _, kv := range page {
				if err := fn(tx, kv); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil && then != nil {
			err = then()
		}
		if err != nil || len(page) < fsckPage {
			return err
		}
		from = page[len(page)-1].Key + "\x00"
	}
}

// alive tells whether a repo exists. One that does not, but whose commits are still
// being deleted, is no concern of a check, which is what fading says.
func (c *check) alive(tx *Txn, repo *pfspb.Repo) (alive, fading bool, err error) {
	found, err := tx.GetMulti([]string{repoPrefix + repoKey(repo), garbageKey(repo)}, true)
	if err != nil {
		return false, false, err
	}
	return found[0] != nil, found[1] != nil, nil
}

// owned tells whether a key of a repo is worth a look, and reports one whose repo is
// neither there nor being deleted.
func (c *check) owned(tx *Txn, repo *pfspb.Repo, key string) (bool, error) {
	alive, fading, err := c.alive(tx, repo)
	if err != nil || alive || fading {
		return alive && !fading, err
	}
	return false, c.fault("key %s belongs to repo %s, which does not exist", key, RepoName(repo))
}

// storageInfo tells what is worth knowing and no fault.
func (s *Service) storageInfo(ctx context.Context, info func(string) error) error {
	objects, bytes := 0, int64(0)
	for o, err := range s.bucket.List(ctx, layerObjects) {
		if err != nil {
			return err
		}
		_, id, _ := strings.Cut(strings.TrimPrefix(o.Key, layerObjects), "/")
		if raw, err := hex.DecodeString(id); err != nil || len(raw) != 16 {
			continue
		}
		stored := false
		if err := s.View(ctx, func(tx *Txn) error {
			var err error
			_, stored, err = tx.Peek(layerPrefix + id)
			return err
		}); err != nil {
			return err
		}
		if !stored {
			objects++
			bytes += o.Size
		}
	}
	if objects > 0 {
		if err := info(fmt.Sprintf("%d layers in the bucket (%d bytes) have no record: writers are at it, or garbage collection will remove them", objects, bytes)); err != nil {
			return err
		}
	}
	last, err := s.garbage.Last(ctx)
	if err != nil {
		return err
	}
	if last == nil {
		return info("garbage was never collected so far")
	}
	return info(fmt.Sprintf("garbage was last collected at %s: %d chunks and %d layers with %d objects were removed, %d bytes in the bucket",
		last.GetFinished().AsTime().UTC().Format("2006-01-02T15:04:05Z"), last.GetChunks(), last.GetLayers(), last.GetChunks()+last.GetLayerObjects(), last.GetBytes()))
}

// layerObjects begins the key of every layer in the bucket.
const layerObjects = "layer/"
