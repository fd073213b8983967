package pfs

import (
	"context"
	"errors"
	"io"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/minipachd/minipachd/pfs/fileset"
	"github.com/minipachd/minipachd/pfs/remote"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// egressParallel is how many files are written to an object store at a time.
const egressParallel = 16

// Egress implements pfs_v2.API: it writes all files of a commit, once it is
// FINISHED, below a URL of an object store. What was written before an error stays.
func (s *Service) Egress(ctx context.Context, req *pfspb.EgressRequest) (*pfspb.EgressResponse, error) {
	if req.GetCommit() == nil {
		return nil, invalidRequest("a commit must be given")
	}
	if req.GetSqlDatabase() != nil {
		return nil, unsupported("egress to a SQL database is")
	}
	if req.GetObjectStorage().GetUrl() == "" {
		return nil, invalidRequest("object_storage.url must be given")
	}
	sn, err := s.snapshot(ctx, req.GetCommit(), authpb.Permission_REPO_READ)
	if err != nil {
		return nil, err
	}
	out, err := s.newExport(ctx, req.GetObjectStorage().GetUrl())
	if err != nil {
		return nil, err
	}
	for f, err := range sn.view.Files(out.ctx, "") {
		if err != nil {
			out.fail(err)
			break
		}
		out.put(f.Path, f)
	}
	n, err := out.finish()
	if err != nil {
		return nil, sn.deleted(ctx, s, err)
	}
	return &pfspb.EgressResponse{Result: &pfspb.EgressResponse_ObjectStorage{
		ObjectStorage: &pfspb.EgressResponse_ObjectStorageResult{BytesWritten: n},
	}}, nil
}

// export writes files to a URL, several at a time. It belongs to one goroutine.
type export struct {
	target *remote.Target
	group  *errgroup.Group
	ctx    context.Context
	bytes  atomic.Int64
}

// newExport opens a URL for writing; finish must follow.
func (s *Service) newExport(ctx context.Context, url string) (*export, error) {
	target, err := s.remote.Target(ctx, url)
	if err != nil {
		return nil, err
	}
	e := &export{target: target}
	e.group, e.ctx = errgroup.WithContext(target.Context())
	e.group.SetLimit(egressParallel)
	return e, nil
}

// put writes a file, as the object that the URL names if rel is empty, else below
// it. It may return before that is done.
func (e *export) put(rel string, f *fileset.File) {
	e.group.Go(func() error {
		if e.ctx.Err() != nil {
			return e.ctx.Err()
		}
		return e.target.Put(rel, func(w io.Writer) error {
			return f.Stream(e.ctx, 0, func(b []byte) error {
				n, err := w.Write(b)
				e.bytes.Add(int64(n))
				return err
			})
		})
	})
}

func (e *export) fail(err error) { e.group.Go(func() error { return err }) }

// finish waits for all files and tells how many bytes were written.
func (e *export) finish() (int64, error) {
	err := e.group.Wait()
	return e.bytes.Load(), errors.Join(err, e.target.Close())
}
