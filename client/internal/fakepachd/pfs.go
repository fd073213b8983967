package fakepachd

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

type repo struct {
	info     *pfspb.RepoInfo
	commits  []*commit // oldest first
	branches map[string]*commit
}

type commit struct {
	info   *pfspb.CommitInfo
	parent *commit
	files  map[string][]byte
}

type pfsServer struct {
	pfspb.UnimplementedAPIServer
	s *Server
}

func repoName(r *pfspb.Repo) string { return r.GetProject().GetName() + "/" + r.GetName() }

// AddFiles commits files to a branch, which it makes, and gives the commit's id.
func (s *Server) AddFiles(project, name, branch string, files map[string]string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &pfspb.Repo{Name: name, Type: "user", Project: &pfspb.Project{Name: project}}
	if s.repos[repoName(r)] == nil {
		s.repos[repoName(r)] = &repo{info: &pfspb.RepoInfo{Repo: r, Created: timestamppb.Now()}, branches: map[string]*commit{}}
	}
	c := s.newCommit(s.repos[repoName(r)], branch)
	for p, text := range files {
		c.files[p] = []byte(text)
	}
	c.finish()
	return c.info.Commit.Id
}

func (s *Server) newCommit(r *repo, branch string) *commit {
	s.nextID++
	c := &commit{parent: r.branches[branch], files: map[string][]byte{}, info: &pfspb.CommitInfo{
		Commit:  &pfspb.Commit{Repo: r.info.Repo, Id: fmt.Sprintf("%012x4%019x", s.nextID, s.nextID)},
		Origin:  &pfspb.CommitOrigin{Kind: pfspb.OriginKind_USER},
		Started: timestamppb.Now(),
	}}
	if c.parent != nil {
		c.files = maps.Clone(c.parent.files)
		c.info.ParentCommit = c.parent.info.Commit
	}
	r.commits = append(r.commits, c)
	r.branches[branch] = c
	return c
}

func (c *commit) finish() {
	total := int64(0)
	for _, data := range c.files {
		total += int64(len(data))
	}
	c.info.Finishing, c.info.Finished = timestamppb.Now(), timestamppb.Now()
	c.info.Details = &pfspb.CommitInfo_Details{SizeBytes: total}
}

func (s *Server) repoOf(c *pfspb.Commit) (*repo, error) {
	r := s.repos[repoName(c.GetRepo())]
	if r == nil {
		return nil, status.Errorf(codes.NotFound, "repo %s not found", repoName(c.GetRepo()))
	}
	return r, nil
}

func (s *Server) resolve(c *pfspb.Commit) (*commit, error) {
	r, err := s.repoOf(c)
	if err != nil {
		return nil, err
	}
	if b := r.branches[c.GetBranch().GetName()]; c.GetId() == "" && b != nil {
		return b, nil
	}
	for _, known := range r.commits {
		if known.info.Commit.Id == c.GetId() {
			return known, nil
		}
	}
	if c.GetId() == "" {
		return nil, status.Errorf(codes.NotFound, "branch %q not found in repo %s", c.GetBranch().GetName(), repoName(c.GetRepo()))
	}
	return nil, status.Errorf(codes.NotFound, "commit %s@%s not found", repoName(c.GetRepo()), c.GetId())
}

func (p pfsServer) CreateRepo(_ context.Context, req *pfspb.CreateRepoRequest) (*emptypb.Empty, error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	name := repoName(req.GetRepo())
	if strings.ContainsAny(req.GetRepo().GetName(), " .$") {
		return nil, status.Errorf(codes.Unknown, "name (%s) invalid: only alphanumeric characters, underscores, and dashes are allowed", req.GetRepo().GetName())
	}
	if p.s.repos[name] != nil && !req.GetUpdate() {
		return nil, status.Errorf(codes.AlreadyExists, "repo %s already exists", name)
	}
	p.s.repos[name] = &repo{info: &pfspb.RepoInfo{Repo: req.GetRepo(), Description: req.GetDescription(), Created: timestamppb.Now()}, branches: map[string]*commit{}}
	return &emptypb.Empty{}, nil
}

func (p pfsServer) InspectRepo(_ context.Context, req *pfspb.InspectRepoRequest) (*pfspb.RepoInfo, error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	r, err := p.s.repoOf(&pfspb.Commit{Repo: req.GetRepo()})
	if err != nil {
		return nil, err
	}
	return r.info, nil
}

func (p pfsServer) ListRepo(_ *pfspb.ListRepoRequest, out grpc.ServerStreamingServer[pfspb.RepoInfo]) error {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(p.s.repos)) {
		if err := out.Send(p.s.repos[name].info); err != nil {
			return err
		}
	}
	return nil
}

func (p pfsServer) DeleteRepo(_ context.Context, req *pfspb.DeleteRepoRequest) (*pfspb.DeleteRepoResponse, error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	name := repoName(req.GetRepo())
	_, ok := p.s.repos[name]
	delete(p.s.repos, name)
	return &pfspb.DeleteRepoResponse{Deleted: ok}, nil
}

func (pfsServer) CreateBranch(context.Context, *pfspb.CreateBranchRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (p pfsServer) InspectBranch(_ context.Context, req *pfspb.InspectBranchRequest) (*pfspb.BranchInfo, error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	c, err := p.s.resolve(&pfspb.Commit{Repo: req.GetBranch().GetRepo(), Branch: req.GetBranch()})
	if err != nil {
		return nil, err
	}
	return &pfspb.BranchInfo{Branch: req.GetBranch(), Head: c.info.Commit}, nil
}

func (p pfsServer) StartCommit(_ context.Context, req *pfspb.StartCommitRequest) (*pfspb.Commit, error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	r, err := p.s.repoOf(&pfspb.Commit{Repo: req.GetBranch().GetRepo()})
	if err != nil {
		return nil, err
	}
	if h := r.branches[req.GetBranch().GetName()]; h != nil && h.info.Finishing == nil {
		return nil, status.Errorf(codes.Unknown, "parent commit %s@%s has not been finished", repoName(r.info.Repo), h.info.Commit.Id)
	}
	return p.s.newCommit(r, req.GetBranch().GetName()).info.Commit, nil
}

func (p pfsServer) FinishCommit(_ context.Context, req *pfspb.FinishCommitRequest) (*emptypb.Empty, error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	c, err := p.s.resolve(req.GetCommit())
	if err != nil {
		return nil, err
	}
	if c.info.Finishing != nil {
		return nil, status.Errorf(codes.Unknown, "commit %s@%s has already finished", repoName(c.info.Commit.Repo), c.info.Commit.Id)
	}
	c.finish()
	return &emptypb.Empty{}, nil
}

func (p pfsServer) InspectCommit(_ context.Context, req *pfspb.InspectCommitRequest) (*pfspb.CommitInfo, error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	c, err := p.s.resolve(req.GetCommit())
	if err != nil {
		return nil, err
	}
	return c.info, nil
}

func (p pfsServer) ListCommit(req *pfspb.ListCommitRequest, out grpc.ServerStreamingServer[pfspb.CommitInfo]) error {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	r, err := p.s.repoOf(&pfspb.Commit{Repo: req.GetRepo()})
	if err != nil {
		return err
	}
	for _, c := range slices.Backward(r.commits) {
		if err := out.Send(c.info); err != nil {
			return err
		}
	}
	return nil
}

// SubscribeCommit gives the commits there are and then waits for the client to go.
func (p pfsServer) SubscribeCommit(req *pfspb.SubscribeCommitRequest, out grpc.ServerStreamingServer[pfspb.CommitInfo]) error {
	p.s.mu.Lock()
	r, err := p.s.repoOf(&pfspb.Commit{Repo: req.GetRepo()})
	if err != nil {
		p.s.mu.Unlock()
		return err
	}
	commits := slices.Clone(r.commits)
	p.s.mu.Unlock()
	for _, c := range commits {
		if err := out.Send(c.info); err != nil {
			return err
		}
	}
	<-out.Context().Done()
	return out.Context().Err()
}

// ModifyFile changes the branch when the stream has ended well, not before.
func (p pfsServer) ModifyFile(in grpc.ClientStreamingServer[pfspb.ModifyFileRequest, emptypb.Empty]) error {
	var target *pfspb.Commit
	var ops []func(files map[string][]byte)
	for {
		req, err := in.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		switch {
		case req.GetSetCommit() != nil:
			target = req.GetSetCommit()
		case req.GetDeleteFile() != nil:
			name := path.Join("/", req.GetDeleteFile().GetPath())
			tree := strings.HasSuffix(req.GetDeleteFile().GetPath(), "/")
			ops = append(ops, func(files map[string][]byte) {
				maps.DeleteFunc(files, func(f string, _ []byte) bool { return f == name && !tree || tree && strings.HasPrefix(f, name+"/") })
			})
		case req.GetAddFile() != nil:
			name, data := path.Join("/", req.GetAddFile().GetPath()), req.GetAddFile().GetRaw().GetValue()
			if strings.Contains(name, "*") {
				return status.Errorf(codes.Unknown, "path (%s) invalid: globbing character not allowed", name)
			}
			ops = append(ops, func(files map[string][]byte) { files[name] = append(slices.Clone(files[name]), data...) })
		}
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	r, err := p.s.repoOf(target)
	if err != nil {
		return err
	}
	c, err := p.s.resolve(target)
	oneOff := err != nil || c.info.Finishing != nil
	if oneOff {
		c = p.s.newCommit(r, target.GetBranch().GetName())
	}
	for _, op := range ops {
		op(c.files)
	}
	if oneOff {
		c.finish()
	}
	return in.SendAndClose(&emptypb.Empty{})
}

// snapshot gives a commit's files, and its paths and directories in order.
func (p pfsServer) snapshot(c *pfspb.Commit) (*commit, []string, error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	found, err := p.s.resolve(c)
	if err != nil {
		return nil, nil, err
	}
	names := map[string]bool{"/": true}
	for f := range found.files {
		names[f] = true
		for d := path.Dir(f); d != "/"; d = path.Dir(d) {
			names[d+"/"] = true
		}
	}
	return found, slices.Sorted(maps.Keys(names)), nil
}

func (c *commit) fileInfo(name string) *pfspb.FileInfo {
	info := &pfspb.FileInfo{File: &pfspb.File{Commit: c.info.Commit, Path: name, Datum: "default"}, FileType: pfspb.FileType_FILE, Committed: c.info.Finishing, SizeBytes: int64(len(c.files[name]))}
	sum := sha256.Sum256(c.files[name])
	info.Hash = sum[:]
	if strings.HasSuffix(name, "/") {
		info.FileType = pfspb.FileType_DIR
		info.File.Datum = ""
		for f, data := range c.files {
			if strings.HasPrefix(f, name) {
				info.SizeBytes += int64(len(data))
			}
		}
	}
	return info
}

func notFound(f *pfspb.File, c *commit) error {
	return status.Errorf(codes.NotFound, "file %s not found in repo %s at commit %s", f.GetPath(), repoName(c.info.Commit.Repo), c.info.Commit.Id)
}

func (p pfsServer) GetFile(req *pfspb.GetFileRequest, out grpc.ServerStreamingServer[wrapperspb.BytesValue]) error {
	c, _, err := p.snapshot(req.GetFile().GetCommit())
	if err != nil {
		return err
	}
	data, ok := c.files[path.Join("/", req.GetFile().GetPath())]
	if !ok {
		return notFound(req.GetFile(), c)
	}
	for data = data[req.GetOffset():]; len(data) > 0; data = data[min(len(data), 1<<20):] {
		if err := out.Send(wrapperspb.Bytes(data[:min(len(data), 1<<20)])); err != nil {
			return err
		}
	}
	return nil
}

func matches(pattern, name string) bool {
	pattern = path.Join("/", pattern)
	ok, _ := path.Match(pattern, strings.TrimSuffix(name, "/"))
	return ok || pattern == "/" && name == "/"
}

func (p pfsServer) GetFileTAR(req *pfspb.GetFileRequest, out grpc.ServerStreamingServer[wrapperspb.BytesValue]) error {
	c, names, err := p.snapshot(req.GetFile().GetCommit())
	if err != nil {
		return err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, root := range names {
		if !matches(req.GetFile().GetPath(), root) {
			continue
		}
		for _, n := range names {
			if n != root && (!strings.HasSuffix(root, "/") || !strings.HasPrefix(n, root)) {
				continue
			}
			h := &tar.Header{Name: n, Typeflag: tar.TypeReg, Size: int64(len(c.files[n]))}
			if strings.HasSuffix(n, "/") {
				h.Typeflag = tar.TypeDir
			}
			if err := w.WriteHeader(h); err != nil {
				return err
			}
			if _, err := w.Write(c.files[n]); err != nil {
				return err
			}
		}
	}
	if b.Len() == 0 {
		return notFound(req.GetFile(), c)
	}
	if err := w.Close(); err != nil {
		return err
	}
	return out.Send(wrapperspb.Bytes(b.Bytes()))
}

func (p pfsServer) InspectFile(_ context.Context, req *pfspb.InspectFileRequest) (*pfspb.FileInfo, error) {
	c, names, err := p.snapshot(req.GetFile().GetCommit())
	if err != nil {
		return nil, err
	}
	want := path.Join("/", req.GetFile().GetPath())
	for _, n := range names {
		if n == "/" && want == "/" || strings.TrimSuffix(n, "/") == want {
			return c.fileInfo(n), nil
		}
	}
	return nil, notFound(req.GetFile(), c)
}

func (p pfsServer) ListFile(req *pfspb.ListFileRequest, out grpc.ServerStreamingServer[pfspb.FileInfo]) error {
	dir := path.Join("/", req.GetFile().GetPath())
	return p.sendFiles(req.GetFile().GetCommit(), out, func(name string) bool {
		return name != "/" && path.Dir(strings.TrimSuffix(name, "/")) == dir
	})
}

func (p pfsServer) GlobFile(req *pfspb.GlobFileRequest, out grpc.ServerStreamingServer[pfspb.FileInfo]) error {
	return p.sendFiles(req.GetCommit(), out, func(name string) bool { return matches(req.GetPattern(), name) })
}

func (p pfsServer) sendFiles(commit *pfspb.Commit, out grpc.ServerStreamingServer[pfspb.FileInfo], want func(string) bool) error {
	c, names, err := p.snapshot(commit)
	if err != nil {
		return err
	}
	for _, n := range names {
		if want(n) {
			if err := out.Send(c.fileInfo(n)); err != nil {
				return err
			}
		}
	}
	return nil
}

// DiffFile compares files with those of the parent commit; it ignores the path.
func (p pfsServer) DiffFile(req *pfspb.DiffFileRequest, out grpc.ServerStreamingServer[pfspb.DiffFileResponse]) error {
	c, _, err := p.snapshot(req.GetNewFile().GetCommit())
	if err != nil {
		return err
	}
	old := c.parent
	if old == nil {
		old = &commit{}
	}
	names := maps.Clone(c.files)
	maps.Copy(names, old.files)
	for _, n := range slices.Sorted(maps.Keys(names)) {
		a, inOld := old.files[n]
		b, inNew := c.files[n]
		if inOld && inNew && bytes.Equal(a, b) {
			continue
		}
		d := &pfspb.DiffFileResponse{}
		if inOld {
			d.OldFile = old.fileInfo(n)
		}
		if inNew {
			d.NewFile = c.fileInfo(n)
		}
		if err := out.Send(d); err != nil {
			return err
		}
	}
	return nil
}

func (p pfsServer) Fsck(_ *pfspb.FsckRequest, out grpc.ServerStreamingServer[pfspb.FsckResponse]) error {
	for _, r := range p.s.Fsck {
		if err := out.Send(r); err != nil {
			return err
		}
	}
	return nil
}

func (p pfsServer) DeleteAll(context.Context, *emptypb.Empty) (*emptypb.Empty, error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	clear(p.s.repos)
	return &emptypb.Empty{}, nil
}
