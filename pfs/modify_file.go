package pfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/minipachd/minipachd/pfs/fileset"
	"github.com/minipachd/minipachd/pfs/frame"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

type modifyStream = grpc.ClientStreamingServer[pfspb.ModifyFileRequest, emptypb.Empty]

// ModifyFile implements pfs_v2.API. Nothing of a stream is visible before its
// client has half-closed it and everything is on disk; then all of it is.
func (s *Service) ModifyFile(stream modifyStream) error {
	ctx := stream.Context()
	first, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return errors.New("first message must be a commit")
	}
	if err != nil {
		return err
	}
	commit, ok := first.GetBody().(*pfspb.ModifyFileRequest_SetCommit)
	if !ok {
		return errors.New("first message must be a commit")
	}
	if commit.SetCommit == nil {
		return &InvalidRequestError{Stream: true, Why: "set_commit must not be empty"}
	}
	if err := s.permit(ctx, nil, commit.SetCommit, authpb.Permission_REPO_WRITE); err != nil {
		return err
	}
	key, err := idempotencyKey(ctx)
	if err != nil {
		return err
	}
	if key != "" {
		return s.modifyOnce(stream, commit.SetCommit, key)
	}
	// Most streams have one message, which is here by now. Of others, fail before all
	// of the data is sent if it is clear that it cannot be kept.
	t := aim(commit.SetCommit)
	check := func() (err error) {
		t, err = s.target(ctx, commit.SetCommit)
		return err
	}
	err = s.modify(ctx, &received{stream: stream, second: check}, commit.SetCommit, func(layers []*fileset.Layer) error {
		if t == nil || len(layers) == 0 {
			if err := check(); err != nil {
				return err
			}
		}
		return s.attachTo(ctx, t, commit.SetCommit, layers)
	})
	if err != nil {
		return err
	}
	return stream.SendAndClose(&emptypb.Empty{})
}

// modify writes what a stream brings for c and gives attach its layers, which
// nothing refers to before.
func (s *Service) modify(ctx context.Context, ops operations, c *pfspb.Commit, attach func([]*fileset.Layer) error) error {
	if err := s.room(); err != nil {
		return fmt.Errorf("modify files of %s: %w", CommitName(c), err)
	}
	w := s.files.NewWriter(ctx)
	defer w.Abort()
	if err := s.collect(ctx, ops, w); err != nil {
		return err
	}
	layers, err := w.Finish()
	if err != nil {
		return fmt.Errorf("modify files of %s: %w", CommitName(c), err)
	}
	// Once more: the permission may have been taken away meanwhile.
	if err := s.permit(ctx, nil, c, authpb.Permission_REPO_WRITE); err != nil {
		return err
	}
	return attach(layers)
}

// operations is a stream of changes to files.
type operations interface {
	// receive gives the next one; io.EOF once the client has half-closed.
	receive(*frame.Operation) error
}

// received are the operations that a gRPC stream brings.
type received struct {
	stream interface{ RecvMsg(m any) error }
	n      int
	second func() error // called when the second one has come; may be nil
}

func (r *received) receive(o *frame.Operation) error {
	if err := o.Receive(r.stream); err != nil {
		return err
	}
	if r.n++; r.n == 2 && r.second != nil {
		return r.second()
	}
	return nil
}

// collect applies the messages of a stream to w until the client half-closes.
func (s *Service) collect(ctx context.Context, ops operations, w *fileset.Writer) error {
	o := &frame.Operation{}
	defer o.Free()
	for {
		err := ops.receive(o)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if o.IsAppend {
			p, err := writePath(o.Path)
			if err == nil {
				err = w.Append(p, datumOf(o.Datum), o.Data...)
			}
			if err != nil {
				return err
			}
			continue
		}
		switch body := o.GetBody().(type) {
		case *pfspb.ModifyFileRequest_AddFile:
			err = s.addFile(ctx, w, body.AddFile)
		case *pfspb.ModifyFileRequest_DeleteFile:
			err = deleteFile(w, body.DeleteFile)
		case *pfspb.ModifyFileRequest_CopyFile:
			err = s.copyFile(ctx, w, body.CopyFile)
		case *pfspb.ModifyFileRequest_SetCommit:
			err = errors.New("cannot set commit")
		default:
			err = errors.New("unrecognized message type")
		}
		if err != nil {
			return err
		}
	}
}

// addFile adds what does not come with the message itself.
func (s *Service) addFile(ctx context.Context, w *fileset.Writer, add *pfspb.AddFile) error {
	if add == nil {
		return &InvalidRequestError{Stream: true, Why: "add_file must not be empty"}
	}
	return s.addURL(ctx, w, add.GetPath(), datumOf(add.GetDatum()), add.GetUrl())
}

func deleteFile(w *fileset.Writer, del *pfspb.DeleteFile) error {
	if del == nil {
		return &InvalidRequestError{Stream: true, Why: "delete_file must not be empty"}
	}
	if err := checkPath(del.GetPath()); err != nil {
		return err
	}
	if strings.HasSuffix(del.GetPath(), "/") {
		return w.DeleteTree(cleanDir(del.GetPath()))
	}
	return w.Delete(cleanFile(del.GetPath()), datumOf(del.GetDatum()))
}

// copyFile copies a file or a tree; a source without either copies nothing.
func (s *Service) copyFile(ctx context.Context, w *fileset.Writer, cp *pfspb.CopyFile) error {
	if cp == nil || cp.GetSrc() == nil {
		return &InvalidRequestError{Stream: true, Why: "copy_file must have a source"}
	}
	if err := checkPath(cp.GetDst()); err != nil {
		return err
	}
	src, err := s.snapshot(ctx, cp.GetSrc().GetCommit(), authpb.Permission_REPO_READ)
	if err != nil {
		return err
	}
	return src.deleted(ctx, s, copyFrom(ctx, src, w, cp))
}

func copyFrom(ctx context.Context, src *snapshot, w *fileset.Writer, cp *pfspb.CopyFile) error {
	from := cleanFile(cp.GetSrc().GetPath())
	files, err := src.view.Lookup(ctx, from)
	if err != nil {
		return err
	}
	for _, f := range files {
		if d := cp.GetSrc().GetDatum(); d != "" && d != f.Datum {
			continue
		}
		dst, err := writePath(cp.GetDst())
		if err != nil {
			return err
		}
		if err := w.Copy(dst, datumOf(cp.GetDatum()), f, cp.GetAppend()); err != nil {
			return err
		}
	}
	if len(files) > 0 {
		return nil
	}
	tree := cleanDir(from)
	for f, err := range src.view.Files(ctx, tree) {
		if err != nil {
			return err
		}
		rest, inside := strings.CutPrefix(f.Path, tree)
		if !inside {
			break
		}
		if err := w.Copy(cleanDir(cp.GetDst())+rest, datumOf(cp.GetDatum()), f, cp.GetAppend()); err != nil {
			return err
		}
	}
	return nil
}

// target is where the data of a stream goes: an open commit, or a new one on a
// branch.
type target struct {
	open   *recordpb.CommitRecord
	branch *pfspb.Branch
}

// aim is what target most likely finds, without a look at the store; nil if that
// cannot be said. What a transaction for it says tells whether it was right.
func aim(c *pfspb.Commit) *target {
	repo, name, id := NormalizeRepo(commitRepo(c)), c.GetBranch().GetName(), c.GetId()
	if repo == nil || repo.Name == fileSetsRepo {
		return nil
	}
	if IsCommitID(id) {
		return &target{open: &recordpb.CommitRecord{Info: &pfspb.CommitInfo{Commit: &pfspb.Commit{Repo: repo, Id: id}}}}
	}
	if name != "" && id != "" || IsCommitID(name) {
		return nil
	}
	if name += id; checkBranchName(name) != nil {
		return nil
	}
	return &target{branch: &pfspb.Branch{Repo: repo, Name: name}}
}

// target finds out where a stream's data would go now and whether it may.
func (s *Service) target(ctx context.Context, c *pfspb.Commit) (*target, error) {
	var t *target
	err := s.View(ctx, func(tx *Txn) error {
		var err error
		t, err = tx.target(c)
		return err
	})
	return t, err
}

func (tx *Txn) target(c *pfspb.Commit) (*target, error) {
	repo := NormalizeRepo(commitRepo(c))
	if repo == nil {
		return nil, errors.New("commit must have a repo")
	}
	if repo.Name == fileSetsRepo {
		return nil, errors.New("a file set cannot be written to: make another one with CreateFileSet and put it on top with ComposeFileSet")
	}
	name := c.GetBranch().GetName()
	if id := c.GetId(); name == "" && !IsCommitID(id) && !strings.ContainsAny(id, ancestryRunes) {
		name = id
		c = &pfspb.Commit{Repo: repo, Branch: &pfspb.Branch{Repo: repo, Name: name}}
	}
	rec, err := tx.resolve(c)
	var noBranch *BranchNotFoundError
	var noCommit *CommitNotFoundError
	switch {
	case name != "" && (errors.As(err, &noBranch) || errors.As(err, &noCommit)):
	case err != nil:
		return nil, err
	case rec.Policy != nil && c.GetId() == "":
	case state(rec.Info) < pfspb.CommitState_FINISHING:
		return &target{open: rec}, nil
	case IsCommitID(c.GetId()) || name == "" || c.GetId() != "":
		return nil, &CommitFinishedError{Commit: rec.Info.Commit}
	}
	branch := &pfspb.Branch{Repo: repo, Name: name}
	if err := checkBranchName(name); err != nil {
		return nil, err
	}
	brec, err := tx.openBranch(branch)
	if err != nil {
		return nil, err
	}
	if _, err := tx.writerProvenance(brec); err != nil {
		return nil, err
	}
	return &target{branch: branch}, nil
}

// attach gives the finished layers of a stream to the commit they are for.
func (s *Service) attach(ctx context.Context, c *pfspb.Commit, layers []*fileset.Layer) error {
	t, err := s.target(ctx, c)
	if err != nil {
		return err
	}
	return s.attachTo(ctx, t, c, layers)
}

// attachTo is attach with the target that c had when the stream began, or that aim
// takes for it. If it is another one, the transaction for the first says so and changes
// nothing.
func (s *Service) attachTo(ctx context.Context, t *target, c *pfspb.Commit, layers []*fileset.Layer) error {
	for {
		var err error
		if t.open != nil {
			err = s.appendOpen(ctx, t.open.Info.Commit, layers)
		} else {
			err = s.commitOneShot(ctx, t.branch, layers)
		}
		var open *ParentOpenError
		var finished *CommitFinishedError
		var gone *CommitNotFoundError
		moved := errors.As(err, &open)
		if t.open != nil {
			moved = errors.As(err, &finished) || errors.As(err, &gone)
		}
		if !moved {
			return err
		}
		if t, err = s.target(ctx, c); err != nil {
			return err
		}
	}
}

// maxOwnLayers is how many streams an open commit takes before they are folded.
const maxOwnLayers = 32

// appendOpen adds layers on top of an open commit. Streams that come while another's
// transaction is under way share the next one.
func (s *Service) appendOpen(ctx context.Context, c *pfspb.Commit, layers []*fileset.Layer) error {
	if len(layers) == 0 {
		return nil
	}
	return s.queues.join(idKey(c.Id, c.Repo), &oneShot{ctx: ctx, layers: layers}, func(g *group) { s.appendGroup(g, c) })
}

// appendGroup is appendOpen for a group.
func (s *Service) appendGroup(g *group, c *pfspb.Commit) {
	ctx, cancel := g.context()
	defer cancel()
	own := 0
	g.run(ctx, s, func(tx *Txn) error {
		rec, err := tx.commit(c.Repo, c.Id)
		if err != nil {
			return err
		}
		var known []*fileset.Layer
		err = g.each(tx, func(o *oneShot) error {
			made, err := tx.appendOne(rec, o.layers, known)
			if err != nil {
				return err
			}
			guard(tx.Txn, writerOf(o.ctx))
			known = append(known, made...)
			return nil
		})
		own = int(rec.OwnLayers)
		return err
	})
	g.answer()
	if g.err == nil && own > maxOwnLayers {
		// It may take longer than a transaction; when the leader goes, the next one does it.
		ctx := g.members[0].ctx
		if err := s.foldOpen(ctx, c); err != nil && ctx.Err() == nil {
			s.log.Warn("fold layers of an open commit", zap.String("commit", CommitName(c)), zap.Error(err))
		}
	}
}

// appendOne puts the layers of one stream on top of an open commit, and returns those
// that it added to etcd. Unless an error is a *halfDoneError, nothing has changed.
func (tx *Txn) appendOne(rec *recordpb.CommitRecord, layers, known []*fileset.Layer) ([]*fileset.Layer, error) {
	if rec.Policy != nil && state(rec.Info) < pfspb.CommitState_FINISHING {
		return tx.putExplicit(rec, layers, known)
	}
	if err := tx.rely(layers); err != nil {
		return nil, err
	}
	refs, size := refsOf(layers)
	if err := tx.appendLayers(rec, refs, size); err != nil {
		return nil, err
	}
	if err := tx.putLayers(layers); err != nil {
		return nil, &halfDoneError{err}
	}
	return layers, nil
}

// appendLayers puts layers with so many bytes of content on top of a commit, which
// must be open. Unless an error is a *halfDoneError, nothing has changed.
func (tx *Txn) appendLayers(rec *recordpb.CommitRecord, refs []*recordpb.LayerRef, size int64) error {
	if state(rec.Info) >= pfspb.CommitState_FINISHING {
		return &CommitFinishedError{Commit: rec.Info.Commit}
	}
	rec.Layers = append(rec.Layers, refs...)
	rec.OwnLayers += uint32(len(refs))
	rec.Info.SizeBytesUpperBound += size
	if err := tx.putCommit(rec); err != nil {
		return &halfDoneError{err}
	}
	return nil
}

// foldOpen folds the layers that streams gave to an open commit into one.
func (s *Service) foldOpen(ctx context.Context, c *pfspb.Commit) error {
	var rec *recordpb.CommitRecord
	if err := s.View(ctx, func(tx *Txn) (err error) {
		rec, err = tx.commit(c.Repo, c.Id)
		return err
	}); err != nil {
		return err
	}
	hi := len(rec.Layers)
	lo := hi - int(rec.OwnLayers)
	if lo < 0 || hi-lo < 2 {
		return nil
	}
	// Even at the bottom deletions are kept: the base may turn out to be another.
	folded, err := s.files.Compact(ctx, rec.Layers[lo:hi], 0, hi-lo, fileset.KeepDeletions())
	if err != nil {
		return err
	}
	defer folded.Release()
	return s.Update(ctx, func(tx *Txn) error {
		now, err := tx.commit(c.Repo, c.Id)
		if err != nil {
			return err
		}
		// The run is looked for where the own layers begin: a file set may have put
		// layers of the base among them.
		first := len(now.Layers) - int(now.OwnLayers)
		if state(now.Info) != pfspb.CommitState_STARTED || !replaceRun(now, first, rec.Layers[lo:hi], folded) {
			return nil // finished, cleared or folded meanwhile
		}
		now.OwnLayers -= uint32(hi - lo)
		if folded != nil {
			now.OwnLayers++
			if err := tx.putLayers([]*fileset.Layer{folded}); err != nil {
				return err
			}
		}
		return tx.putCommit(now)
	})
}

// putLayers stores new layers, if all is still there that their pins hold.
func (tx *Txn) putLayers(layers []*fileset.Layer) error {
	if err := tx.rely(layers); err != nil {
		return err
	}
	for _, l := range layers {
		if err := tx.s.layers.Put(tx.Txn, layerKey(l.Ref.Id), l.Record); err != nil {
			return err
		}
	}
	return nil
}
