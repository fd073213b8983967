package pfs

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/minipachd/minipachd/pfs/fileset"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// searchShare is the part of a caller's time, in hundredths, that a search takes:
// the rest is for the answer that says how far it came.
const searchShare = 85

// FindCommits implements pfs_v2.API: it walks from a commit to the root and sends
// those in which the content at a path differs from that of the commit they
// build on, and at last how far it came.
func (s *Service) FindCommits(req *pfspb.FindCommitsRequest, stream grpc.ServerStreamingServer[pfspb.FindCommitsResponse]) error {
	ctx, cancel := stream.Context(), func() {}
	if deadline, ok := ctx.Deadline(); ok {
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)*searchShare/100)
	}
	defer cancel()
	return s.findCommits(stream.Context(), ctx, req, stream.Send)
}

// findCommits searches until search ends, which is no error, and answers as long
// as ctx lasts.
func (s *Service) findCommits(ctx, search context.Context, req *pfspb.FindCommitsRequest, send func(*pfspb.FindCommitsResponse) error) error {
	if req.GetFilePath() == "" {
		return invalidRequest("the path of a file or directory must be given")
	}
	f := &finder{s: s, path: cleanFile(req.GetFilePath()), limit: req.GetLimit(), send: send}
	err := s.View(ctx, func(tx *Txn) error {
		err := tx.permitted(commitRepo(req.GetStart()), authpb.Permission_REPO_LIST_COMMIT, authpb.Permission_REPO_LIST_FILE)
		if err != nil {
			return err
		}
		rec, err := tx.resolve(req.GetStart())
		if err != nil {
			return err
		}
		f.line = lineWalk{repo: rec.Info.Commit.Repo, at: rec.Info.Commit.Id}
		return nil
	})
	if err != nil {
		return err
	}
	if err := f.run(search); err != nil && (search.Err() == nil || ctx.Err() != nil) {
		return err
	}
	return send(&pfspb.FindCommitsResponse{
		Result:          &pfspb.FindCommitsResponse_LastSearchedCommit{LastSearchedCommit: f.last},
		CommitsSearched: f.searched,
	})
}

// finder is a FindCommits under way.
type finder struct {
	s     *Service
	path  string
	limit uint32 // of found commits; 0 means none
	send  func(*pfspb.FindCommitsResponse) error
	line  lineWalk

	waiting  []*recordpb.CommitRecord // newest first, until what they build on is known
	last     *pfspb.Commit
	searched uint32
	found    uint32
	knownOf  string // id of the commit that known is the content of
	known    string
}

func (f *finder) full() bool { return f.limit > 0 && f.found >= f.limit }

func (f *finder) run(ctx context.Context) error {
	for !f.full() {
		var page []*recordpb.CommitRecord
		more := false
		err := f.s.View(ctx, func(tx *Txn) (err error) {
			page, more, err = f.line.page(tx, cursorPage)
			return err
		})
		if err != nil {
			return err
		}
		for _, rec := range page {
			if state(rec.Info) != pfspb.CommitState_FINISHED {
				return &CommitNotFinishedError{Commit: rec.Info.Commit}
			}
			if rec.Info.Error == "" {
				if err := f.flush(ctx, rec); err != nil {
					return err
				}
			}
			f.waiting = append(f.waiting, rec)
		}
		if !more {
			return f.flush(ctx, nil)
		}
	}
	return nil
}

// flush compares the waiting commits with the one that they all build on.
func (f *finder) flush(ctx context.Context, base *recordpb.CommitRecord) error {
	for _, rec := range f.waiting {
		if f.full() {
			break
		}
		differs, err := f.differs(ctx, rec, base)
		if err != nil {
			return err
		}
		f.searched++
		f.last = stripCommit(rec.Info.Commit)
		if !differs {
			continue
		}
		f.found++
		err = f.send(&pfspb.FindCommitsResponse{
			Result:          &pfspb.FindCommitsResponse_FoundCommit{FoundCommit: f.last},
			CommitsSearched: f.searched,
		})
		if err != nil {
			return err
		}
	}
	f.waiting = nil
	return nil
}

func (f *finder) differs(ctx context.Context, rec, base *recordpb.CommitRecord) (bool, error) {
	if rec.Forgotten || base.GetForgotten() {
		return false, errForgotten
	}
	same := func(a, b *recordpb.LayerRef) bool { return string(a.GetId()) == string(b.GetId()) }
	if slices.EqualFunc(rec.Layers, base.GetLayers(), same) {
		return false, nil
	}
	now, err := f.content(ctx, rec)
	if err != nil || base == nil {
		return now != "", err
	}
	before, err := f.content(ctx, base)
	return now != before, err
}

// content stands for what a commit has at the path; "" for nothing.
func (f *finder) content(ctx context.Context, rec *recordpb.CommitRecord) (string, error) {
	id := rec.Info.Commit.Id
	if f.knownOf == id {
		return f.known, nil
	}
	n, err := f.s.files.Open(rec.Layers).Stat(ctx, f.path, "")
	var missing *fileset.NotFoundError
	var double *fileset.DuplicatePathError
	sum := ""
	switch {
	case errors.As(err, &missing):
	case errors.As(err, &double):
		sum = double.Error() // in a commit with that error
	case err != nil:
		return "", err
	case n.Dir:
		sum = "d" + string(n.Hash)
	default:
		sum = "f" + string(n.Hash)
	}
	f.knownOf, f.known = id, sum
	return sum, nil
}
