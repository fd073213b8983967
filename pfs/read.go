package pfs

import (
	"context"
	"errors"
	"iter"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/minipachd/minipachd/pfs/chunk"
	"github.com/minipachd/minipachd/pfs/fileset"
	"github.com/minipachd/minipachd/pfs/frame"
	"github.com/minipachd/minipachd/pfs/glob"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// maxPiece is the largest content of one message of an answer.
const maxPiece = 2 << 20

// snapshot is a commit opened for reading.
type snapshot struct {
	rec  *recordpb.CommitRecord
	view *fileset.View
}

// snapshot opens a commit. It waits for one that is FINISHING; an open one is
// read as it is now. The caller must have perm on its repo.
func (s *Service) snapshot(ctx context.Context, c *pfspb.Commit, perm authpb.Permission) (*snapshot, error) {
	if repo := NormalizeRepo(commitRepo(c)); repo.GetName() == fileSetsRepo {
		return s.fileSetSnapshot(ctx, &pfspb.Commit{Repo: repo, Id: commitText(c)})
	}
	for {
		var snap *snapshot
		var wait *pfspb.Commit
		err := s.View(ctx, func(tx *Txn) error {
			if err := s.permit(ctx, tx.Txn, c, perm); err != nil {
				return err
			}
			rec, err := tx.resolve(c)
			if err != nil {
				return err
			}
			if state(rec.Info) == pfspb.CommitState_FINISHING {
				wait = rec.Info.Commit
				return nil
			}
			layers, err := tx.layersOf(rec)
			if err != nil {
				return err
			}
			snap = &snapshot{rec: rec, view: s.files.Open(layers)}
			return nil
		})
		if err != nil {
			return nil, err
		}
		if snap != nil {
			return snap, nil
		}
		if _, err := s.waitCommit(ctx, wait.Repo, wait.Id, pfspb.CommitState_FINISHED); err != nil {
			return nil, err
		}
		c = wait // what was meant at first, also if the branch has moved on
	}
}

// fileSetSnapshot opens a file set, given as a commit of the repo of all file sets.
func (s *Service) fileSetSnapshot(ctx context.Context, c *pfspb.Commit) (*snapshot, error) {
	var fs *recordpb.FileSetRecord
	err := s.View(ctx, func(tx *Txn) (err error) {
		fs, err = tx.fileSet(c.Id)
		return err
	})
	if err != nil {
		return nil, err
	}
	rec := &recordpb.CommitRecord{Info: &pfspb.CommitInfo{Commit: c}, Layers: fs.Layers}
	return &snapshot{rec: rec, view: s.files.Open(fs.Layers)}, nil
}

// fault adds the commit to what fileset says of a path.
func (sn *snapshot) fault(asked string, err error) error {
	var nf *fileset.NotFoundError
	if errors.As(err, &nf) {
		return &FileNotFoundError{Path: asked, Commit: sn.rec.Info.Commit}
	}
	return err
}

// deleted turns an error from reading the content into *CommitDeletedError if the
// reason is that the commit went away meanwhile and its layers were swept.
func (sn *snapshot) deleted(ctx context.Context, s *Service, err error) error {
	var layer *LayerNotFoundError
	var object *fileset.CorruptError // its object is gone
	if !errors.As(err, &layer) && !errors.As(err, &object) && !errors.Is(err, chunk.ErrNotFound) {
		return err
	}
	c := sn.rec.Info.Commit
	if c.Repo.Name == fileSetsRepo {
		var expired *FileSetNotFoundError
		if _, verr := s.fileSetSnapshot(ctx, c); errors.As(verr, &expired) {
			return expired
		}
		return err
	}
	there := false
	if verr := s.View(ctx, func(tx *Txn) error {
		var err error
		_, there, err = tx.lookup(sn.rec.Info.Commit.Repo, sn.rec.Info.Commit.Id)
		return err
	}); (verr != nil && !gone(verr)) || there {
		return err
	}
	return &CommitDeletedError{Commit: sn.rec.Info.Commit}
}

// info is a node as clients see it.
func (sn *snapshot) info(n *fileset.Node) *pfspb.FileInfo {
	return &pfspb.FileInfo{
		File:      &pfspb.File{Commit: stripCommit(sn.rec.Info.Commit), Path: n.Path, Datum: n.Datum},
		FileType:  fileType(n),
		Committed: sn.rec.Info.Finishing,
		SizeBytes: n.Size,
		Hash:      n.Hash,
	}
}

func fileType(n *fileset.Node) pfspb.FileType {
	if n.Dir {
		return pfspb.FileType_DIR
	}
	return pfspb.FileType_FILE
}

// listing gives what sends nodes to a stream as clients see them, like info.
func (sn *snapshot) listing(stream grpc.ServerStreamingServer[pfspb.FileInfo]) (func(*fileset.Node) error, error) {
	l, err := frame.NewListing(stream, sn.info(&fileset.Node{}))
	if err != nil {
		return nil, err
	}
	return func(n *fileset.Node) error {
		return l.Send(n.Path, n.Datum, fileType(n), n.Size, n.Hash)
	}, nil
}

// open opens the commit of a file in a request.
func (s *Service) openFile(ctx context.Context, f *pfspb.File, perm authpb.Permission) (*snapshot, error) {
	if f == nil {
		return nil, invalidRequest("a file must be given")
	}
	if f.GetCommit() == nil {
		return nil, invalidRequest("the file must have a commit")
	}
	return s.snapshot(ctx, f.GetCommit(), perm)
}

// match yields the nodes that a glob matches, those in a directory that matches
// included when deep. Without details the hashes, and the sizes of directories, are
// left out.
func (sn *snapshot) match(ctx context.Context, pattern string, deep, details bool, fn func(*fileset.Node) (bool, error)) error {
	g, err := glob.Compile(pattern)
	if err != nil {
		return err
	}
	m := &matcher{glob: g, deep: deep, details: details}
	nodes, err := sn.candidates(ctx, m)
	if err != nil {
		return err
	}
	for n, err := range nodes {
		if err != nil {
			return err
		}
		if !m.matched {
			continue
		}
		if more, err := fn(n); err != nil || !more {
			return err
		}
	}
	return nil
}

// matcher tells which nodes of a walk a glob matches.
type matcher struct {
	glob          *glob.Glob
	deep, details bool
	inside        string // a directory that matched, when deep
	matched       bool   // the node asked about last
}

// want is asked about each node before it is yielded.
func (m *matcher) want(path string) bool {
	m.matched = m.inside != "" && strings.HasPrefix(path, m.inside)
	if !m.matched && m.glob.Match(path) {
		m.matched = true
		if m.deep && strings.HasSuffix(path, "/") {
			m.inside = path
		}
	}
	return m.matched && m.details
}

// candidates yields the nodes that a glob could match, each after m was asked about
// it. When the glob can match one path alone, the rest of the commit is not looked at.
func (sn *snapshot) candidates(ctx context.Context, m *matcher) (iter.Seq2[*fileset.Node, error], error) {
	prefix := m.glob.Prefix()
	if !m.glob.Exact() {
		// Nothing outside of the directory of the literal prefix can match.
		return sn.view.Walk(ctx, prefix[:strings.LastIndexByte(prefix, '/')+1], m.want), nil
	}
	find := sn.view.Find
	if m.details && !m.deep {
		find = sn.view.Stat
	}
	n, err := find(ctx, prefix, "")
	var nf *fileset.NotFoundError
	if errors.As(err, &nf) {
		return func(func(*fileset.Node, error) bool) {}, nil
	}
	if err != nil {
		return nil, err
	}
	if n.Dir && m.deep {
		return sn.view.Walk(ctx, n.Path, m.want), nil
	}
	return func(yield func(*fileset.Node, error) bool) {
		m.want(n.Path)
		yield(n, nil)
	}, nil
}

// GetFile implements pfs_v2.API.
func (s *Service) GetFile(req *pfspb.GetFileRequest, stream grpc.ServerStreamingServer[wrapperspb.BytesValue]) error {
	ctx := stream.Context()
	if req.GetOffset() < 0 {
		return invalidRequest("the offset must not be negative")
	}
	sn, err := s.openFile(ctx, req.GetFile(), authpb.Permission_REPO_READ)
	if err != nil {
		return err
	}
	node, err := sn.one(ctx, req.GetFile())
	if err != nil {
		return err
	}
	if node.Dir {
		return errors.New("cannot get directory or non-regular file. Use GetFileTAR instead")
	}
	if req.GetURL() != "" {
		if req.GetOffset() != 0 {
			return invalidRequest("a file is written to a URL as a whole, without an offset")
		}
		out, err := s.newExport(ctx, req.GetURL())
		if err != nil {
			return err
		}
		out.put("", node.File)
		_, err = out.finish()
		return sn.deleted(ctx, s, err)
	}
	return sn.deleted(ctx, s, node.File.Lend(ctx, req.GetOffset(), func(b []byte, back func()) error {
		return sendPieces(stream, b, back)
	}))
}

// sendPieces sends bytes in messages of a fair size, and calls back once the transport
// is done with all of them.
func sendPieces(stream grpc.ServerStreamingServer[wrapperspb.BytesValue], b []byte, back func()) error {
	from := newLender(back)
	defer from.done()
	for len(b) > 0 {
		n := min(len(b), maxPiece)
		if err := frame.NewBytes(b[:n], from.use()).Send(stream); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// lender counts who uses memory that was lent: the last one gives it back. Nil stands
// for memory that nobody wants back.
type lender struct {
	users atomic.Int64
	back  func()
}

// newLender counts one user, who ends with done.
func newLender(back func()) *lender {
	l := &lender{back: back}
	l.users.Store(1)
	return l
}

// use counts another user, who ends with the function that it returns.
func (l *lender) use() func() {
	if l == nil {
		return nil
	}
	l.users.Add(1)
	return l.done
}

func (l *lender) done() {
	if l.users.Add(-1) == 0 {
		l.back()
	}
}

// one finds the only node that a path or glob matches, without details.
func (sn *snapshot) one(ctx context.Context, f *pfspb.File) (*fileset.Node, error) {
	asked := f.GetPath()
	if !strings.ContainsAny(asked, globRunes) {
		n, err := sn.view.Find(ctx, cleanFile(asked), f.GetDatum())
		return n, sn.fault(asked, err)
	}
	var found *fileset.Node
	err := sn.match(ctx, asked, false, false, func(n *fileset.Node) (bool, error) {
		if found != nil {
			return false, errors.New("matched multiple files. Use GetFileTAR instead")
		}
		found = n
		return true, nil
	})
	if err == nil && found == nil {
		err = &FileNotFoundError{Path: asked, Commit: sn.rec.Info.Commit}
	}
	return found, err
}

// stat finds the file or directory at a path. Of several datums' files, which an
// open commit may have, it finds that of the datum asked for.
func (sn *snapshot) stat(ctx context.Context, f *pfspb.File) (*fileset.Node, error) {
	n, err := sn.view.Stat(ctx, cleanFile(f.GetPath()), f.GetDatum())
	return n, sn.fault(f.GetPath(), err)
}

// inRange tells whether a path lies in a range, nil being everything.
func inRange(p string, r *pfspb.PathRange) bool {
	return (r.GetLower() == "" || p >= r.GetLower()) && (r.GetUpper() == "" || p < r.GetUpper())
}

// GetFileTAR implements pfs_v2.API. With a URL the files are written below it, each
// an object of its own.
func (s *Service) GetFileTAR(req *pfspb.GetFileRequest, stream grpc.ServerStreamingServer[wrapperspb.BytesValue]) error {
	ctx := stream.Context()
	sn, err := s.openFile(ctx, req.GetFile(), authpb.Permission_REPO_READ)
	if err != nil {
		return err
	}
	if req.GetURL() != "" {
		out, err := s.newExport(ctx, req.GetURL())
		if err != nil {
			return err
		}
		err = sn.selected(ctx, req, func(n *fileset.Node) error {
			if !n.Dir {
				out.put(n.Path, n.File)
			}
			return out.ctx.Err()
		})
		if err != nil {
			out.fail(err)
		}
		_, err = out.finish()
		return sn.deleted(ctx, s, err)
	}
	out := &tarWriter{pieces: pieceWriter{stream: stream}}
	if err := sn.selected(ctx, req, func(n *fileset.Node) error { return out.add(ctx, n) }); err != nil {
		return sn.deleted(ctx, s, err)
	}
	return out.close()
}

// selected calls fn with what the glob and the range of a request select. Without
// a range, nothing is *FileNotFoundError.
func (sn *snapshot) selected(ctx context.Context, req *pfspb.GetFileRequest, fn func(*fileset.Node) error) error {
	asked := req.GetFile().GetPath()
	found := false
	err := sn.match(ctx, asked, true, false, func(n *fileset.Node) (bool, error) {
		if !inRange(n.Path, req.GetPathRange()) {
			return true, nil
		}
		found = true
		return true, fn(n)
	})
	if err == nil && !found && req.GetPathRange() == nil {
		err = &FileNotFoundError{Path: asked, Commit: sn.rec.Info.Commit}
	}
	return err
}
