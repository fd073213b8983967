package pfs

import (
	"context"
	"errors"
	"iter"
	"strings"

	"google.golang.org/grpc"

	"github.com/minipachd/minipachd/pfs/fileset"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// maxFiles is the most that one listing with a limit may ask for.
const maxFiles = 100_000

// InspectFile implements pfs_v2.API.
func (s *Service) InspectFile(ctx context.Context, req *pfspb.InspectFileRequest) (*pfspb.FileInfo, error) {
	sn, err := s.openFile(ctx, req.GetFile(), authpb.Permission_REPO_INSPECT_FILE)
	if err != nil {
		return nil, err
	}
	n, err := sn.stat(ctx, req.GetFile())
	if err != nil {
		return nil, err
	}
	return sn.info(n), nil
}

// page selects part of a listing.
type page struct {
	after   string // exclusive; empty means from the start
	number  int64  // 0 means all
	reverse bool
}

func newPage(marker *pfspb.File, number int64, reverse bool) (page, error) {
	p := page{number: number, reverse: reverse}
	if at := marker.GetPath(); at != "" {
		p.after = cleanFile(at)
		if strings.HasSuffix(at, "/") {
			p.after = cleanDir(at)
		}
	}
	switch {
	case number < 0:
		return p, invalidRequest("number must not be negative")
	case number > maxFiles:
		return p, errors.New("cannot return more than 100000 files at a time")
	case reverse && number == 0:
		return p, errors.New("number must be > 0 when reverse is true")
	}
	return p, nil
}

// send passes on the nodes of a page. In reverse it keeps the last ones in
// memory, number of them at most.
func (p page) send(nodes iter.Seq2[*fileset.Node, error], emit func(*fileset.Node) error) error {
	if p.reverse {
		return p.sendReverse(nodes, emit)
	}
	var n int64
	for node, err := range nodes {
		if err != nil {
			return err
		}
		if p.after != "" && node.Path <= p.after {
			continue
		}
		if err := emit(node); err != nil {
			return err
		}
		if n++; n == p.number {
			return nil
		}
	}
	return nil
}

func (p page) sendReverse(nodes iter.Seq2[*fileset.Node, error], emit func(*fileset.Node) error) error {
	last := make([]*fileset.Node, 0, min(p.number, 1024))
	at := 0 // the oldest, once last is full
	for node, err := range nodes {
		if err != nil {
			return err
		}
		if p.after != "" && node.Path >= p.after {
			break
		}
		if int64(len(last)) < p.number {
			last = append(last, node)
			continue
		}
		last[at] = node
		at = (at + 1) % len(last)
	}
	for i := range last {
		node := last[(at+len(last)-1-i)%len(last)]
		if err := emit(node); err != nil {
			return err
		}
	}
	return nil
}

// ListFile implements pfs_v2.API.
func (s *Service) ListFile(req *pfspb.ListFileRequest, stream grpc.ServerStreamingServer[pfspb.FileInfo]) error {
	ctx := stream.Context()
	p, err := newPage(req.GetPaginationMarker(), req.GetNumber(), req.GetReverse())
	if err != nil {
		return err
	}
	sn, err := s.openFile(ctx, req.GetFile(), authpb.Permission_REPO_LIST_FILE)
	if err != nil {
		return err
	}
	asked := cleanFile(req.GetFile().GetPath())
	files, err := sn.view.Lookup(ctx, asked)
	if err != nil {
		return err
	}
	if len(files) > 0 {
		n, err := sn.view.Find(ctx, asked, "")
		if err != nil {
			return err
		}
		return stream.Send(sn.info(n))
	}
	after := p.after
	if p.reverse {
		after = ""
	}
	emit, err := sn.listing(stream)
	if err != nil {
		return err
	}
	return p.send(sn.view.Children(ctx, cleanDir(asked), after), emit)
}

// WalkFile implements pfs_v2.API.
func (s *Service) WalkFile(req *pfspb.WalkFileRequest, stream grpc.ServerStreamingServer[pfspb.FileInfo]) error {
	ctx := stream.Context()
	p, err := newPage(req.GetPaginationMarker(), req.GetNumber(), req.GetReverse())
	if err != nil {
		return err
	}
	sn, err := s.openFile(ctx, req.GetFile(), authpb.Permission_REPO_READ)
	if err != nil {
		return err
	}
	asked := req.GetFile().GetPath()
	root := cleanFile(asked)
	emit, err := sn.listing(stream)
	if err != nil {
		return err
	}
	if root == "/" {
		return p.send(sn.view.Walk(ctx, root, nil), emit)
	}
	n, err := sn.view.Find(ctx, root, "")
	if err != nil {
		return sn.fault(asked, err)
	}
	if !n.Dir {
		return emit(n)
	}
	return p.send(sn.view.Walk(ctx, n.Path, nil), emit)
}

// GlobFile implements pfs_v2.API.
func (s *Service) GlobFile(req *pfspb.GlobFileRequest, stream grpc.ServerStreamingServer[pfspb.FileInfo]) error {
	ctx := stream.Context()
	if req.GetCommit() == nil {
		return invalidRequest("a commit must be given")
	}
	sn, err := s.snapshot(ctx, req.GetCommit(), authpb.Permission_REPO_READ)
	if err != nil {
		return err
	}
	emit, err := sn.listing(stream)
	if err != nil {
		return err
	}
	return sn.match(ctx, req.GetPattern(), false, true, func(n *fileset.Node) (bool, error) {
		if !inRange(n.Path, req.GetPathRange()) {
			return true, nil
		}
		return true, emit(n)
	})
}

// DiffFile implements pfs_v2.API.
func (s *Service) DiffFile(req *pfspb.DiffFileRequest, stream grpc.ServerStreamingServer[pfspb.DiffFileResponse]) error {
	ctx := stream.Context()
	after, err := s.openFile(ctx, req.GetNewFile(), authpb.Permission_REPO_READ)
	if err != nil {
		return err
	}
	var before *snapshot
	oldPath := req.GetNewFile().GetPath()
	switch {
	case req.GetOldFile() != nil:
		oldPath = req.GetOldFile().GetPath()
		before, err = s.openFile(ctx, req.GetOldFile(), authpb.Permission_REPO_READ)
	case after.rec.Info.ParentCommit != nil:
		before, err = s.snapshot(ctx, after.rec.Info.ParentCommit, authpb.Permission_REPO_READ)
	}
	if err != nil {
		return err
	}
	newer, stopNewer := iter.Pull2(after.below(ctx, req.GetNewFile().GetPath()))
	defer stopNewer()
	older, stopOlder := iter.Pull2(before.below(ctx, oldPath))
	defer stopOlder()
	a, err := pull(newer)
	if err != nil {
		return err
	}
	b, err := pull(older)
	for err == nil && (a != nil || b != nil) {
		answer := &pfspb.DiffFileResponse{}
		hasNew := a != nil && (b == nil || a.rel <= b.rel)
		hasOld := b != nil && (a == nil || b.rel <= a.rel)
		same := hasNew && hasOld && string(a.node.Hash) == string(b.node.Hash) && a.node.Dir == b.node.Dir
		if hasNew {
			answer.NewFile = after.info(a.node)
			if a, err = pull(newer); err != nil {
				return err
			}
		}
		if hasOld {
			answer.OldFile = before.info(b.node)
			if b, err = pull(older); err != nil {
				return err
			}
		}
		if !same {
			err = stream.Send(answer)
		}
	}
	return err
}

// relative is a node and its path below the compared root.
type relative struct {
	rel  string
	node *fileset.Node
}

func pull(next func() (*relative, error, bool)) (*relative, error) {
	r, err, ok := next()
	if !ok || err != nil {
		return nil, err
	}
	return r, nil
}

// below yields a path and everything under it; a missing one yields nothing.
func (sn *snapshot) below(ctx context.Context, asked string) iter.Seq2[*relative, error] {
	return func(yield func(*relative, error) bool) {
		if sn == nil {
			return
		}
		root := cleanFile(asked)
		n, err := sn.view.Find(ctx, root, "")
		var nf *fileset.NotFoundError
		if errors.As(err, &nf) {
			return
		}
		if err != nil || !n.Dir {
			yield(&relative{node: n}, err)
			return
		}
		for node, err := range sn.view.Walk(ctx, n.Path, nil) {
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(&relative{rel: "/" + node.Path[len(n.Path):], node: node}, nil) {
				return
			}
		}
	}
}
