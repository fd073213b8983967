package pfs

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/minipachd/minipachd/pfs/chunk"
	"github.com/minipachd/minipachd/pfs/frame"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	"github.com/minipachd/minipachd/store"
)

// metaServer is a Service over a real etcd and a real bucket, served by gRPC.
type metaServer struct {
	t   *testing.T
	svc *Service
	pfspb.APIClient
}

// openService opens a Service on a data directory, which the returned function closes.
func openService(t testing.TB, dir string, options ...func(*Config)) (*Service, func()) {
	t.Helper()
	st, err := store.Open(t.Context(), store.Config{Dir: filepath.Join(dir, "etcd")})
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := chunk.OpenDir(filepath.Join(dir, "bucket"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Store: st, Bucket: bucket}
	for _, set := range options {
		set(&cfg)
	}
	svc, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := svc.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	return svc, func() {
		if err := errors.Join(st.Close(), bucket.Close()); err != nil {
			t.Error(err)
		}
	}
}

// startMeta serves a data directory until the returned function is called or the
// test ends. Background work runs.
func startMeta(t *testing.T, dir string, options ...func(*Config)) (*metaServer, func()) {
	t.Helper()
	svc, closeStorage := openService(t, dir, options...)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- svc.Run(ctx) }()
	l := bufconn.Listen(1 << 20)
	srv := grpc.NewServer(grpc.ForceServerCodecV2(frame.Codec()))
	svc.Register(srv)
	go srv.Serve(l)
	conn, err := grpc.NewClient("passthrough:pfs", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		conn.Close()
		srv.Stop()
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
		closeStorage()
	}
	t.Cleanup(stop)
	return &metaServer{t: t, svc: svc, APIClient: pfspb.NewAPIClient(conn)}, stop
}

func newMeta(t *testing.T) *metaServer {
	t.Helper()
	m, _ := startMeta(t, t.TempDir())
	return m
}

// limit bounds a test's waiting.
func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func (m *metaServer) must(_ any, err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *metaServer) repo(names ...string) {
	m.t.Helper()
	for _, name := range names {
		m.must(m.CreateRepo(limit(m.t), &pfspb.CreateRepoRequest{Repo: repoOf(name)}))
	}
}

// start opens a commit on "repo@branch".
func (m *metaServer) start(name string) *pfspb.Commit {
	m.t.Helper()
	c, err := m.StartCommit(limit(m.t), &pfspb.StartCommitRequest{Branch: branchOf(name)})
	m.must(c, err)
	return c
}

// commit makes an empty finished commit on "repo@branch".
func (m *metaServer) commit(name string) *pfspb.Commit {
	m.t.Helper()
	c := m.start(name)
	m.must(m.FinishCommit(limit(m.t), &pfspb.FinishCommitRequest{Commit: c}))
	return c
}

func (m *metaServer) inspect(c *pfspb.Commit) *pfspb.CommitInfo {
	m.t.Helper()
	info, err := m.InspectCommit(limit(m.t), &pfspb.InspectCommitRequest{Commit: c})
	m.must(info, err)
	return info
}

// branch creates or changes "repo@branch".
func (m *metaServer) branch(name string, provenance ...string) {
	m.t.Helper()
	req := &pfspb.CreateBranchRequest{Branch: branchOf(name)}
	for _, p := range provenance {
		req.Provenance = append(req.Provenance, branchOf(p))
	}
	m.must(m.CreateBranch(limit(m.t), req))
}

func (m *metaServer) inspectBranch(name string) *pfspb.BranchInfo {
	m.t.Helper()
	info, err := m.InspectBranch(limit(m.t), &pfspb.InspectBranchRequest{Branch: branchOf(name)})
	m.must(info, err)
	return info
}

// repoOf reads "name", "project/name" and either with ".type".
func repoOf(name string) *pfspb.Repo {
	r := &pfspb.Repo{Name: name}
	if p, rest, ok := strings.Cut(name, "/"); ok {
		r.Project, r.Name = &pfspb.Project{Name: p}, rest
	}
	if n, typ, ok := strings.Cut(r.Name, "."); ok {
		r.Name, r.Type = n, typ
	}
	return r
}

func branchOf(name string) *pfspb.Branch {
	repo, branch, _ := strings.Cut(name, "@")
	return &pfspb.Branch{Repo: repoOf(repo), Name: branch}
}

// commitOf reads "repo@text" as pachctl does.
func commitOf(name string) *pfspb.Commit {
	b := branchOf(name)
	if IsCommitID(b.Name) || strings.ContainsAny(b.Name, ancestryRunes) {
		return &pfspb.Commit{Repo: b.Repo, Id: b.Name, Branch: &pfspb.Branch{Repo: b.Repo}}
	}
	return &pfspb.Commit{Branch: b}
}

func all[T any](stream grpc.ServerStreamingClient[T], err error) ([]*T, error) {
	if err != nil {
		return nil, err
	}
	var got []*T
	for {
		v, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		got = append(got, v)
	}
}

func ids(infos []*pfspb.CommitInfo) []string {
	got := make([]string, len(infos))
	for i, info := range infos {
		got[i] = info.Commit.Id
	}
	return got
}

func wantError(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("got %v; want %v with %q", err, code, text)
	}
}

// TestErrors_CodesAndTexts holds what clients tell errors by.
func TestErrors_CodesAndTexts(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r", "down", "other")
	open := m.start("r@open")
	finished := m.commit("r@master")
	m.branch("down@master", "r@master")
	const missing = "0123456789ab4def0123456789abcdef"
	exactly := func(text string) string { return "=" + text }
	create := func(req *pfspb.CreateBranchRequest) error { _, err := m.CreateBranch(ctx, req); return err }
	start := func(branch string, parent *pfspb.Commit) error {
		_, err := m.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branchOf(branch), Parent: parent})
		return err
	}
	inspect := func(c *pfspb.Commit) error {
		_, err := m.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: c})
		return err
	}
	finish := func(c *pfspb.Commit) error {
		_, err := m.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: c})
		return err
	}
	createRepo := func(r *pfspb.Repo) error {
		_, err := m.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: r})
		return err
	}
	list := func(req *pfspb.ListCommitRequest) error { _, err := all(m.ListCommit(ctx, req)); return err }
	for _, tc := range []struct {
		name string
		err  error
		code codes.Code
		text string // exact after "="
	}{
		{"repo missing", func() error {
			_, err := m.InspectRepo(ctx, &pfspb.InspectRepoRequest{Repo: repoOf("x")})
			return err
		}(), codes.NotFound, exactly("repo default/x not found")},
		{"system repo missing", func() error {
			_, err := m.InspectRepo(ctx, &pfspb.InspectRepoRequest{Repo: repoOf("x.spec")})
			return err
		}(), codes.NotFound, exactly("repo default/x.spec not found")},
		{"repo exists", createRepo(repoOf("r")), codes.AlreadyExists, exactly("repo default/r already exists")},
		{"repo without request", createRepo(nil), codes.InvalidArgument, "validate request: "},
		{"repo name", createRepo(repoOf("a b")), codes.Unknown, exactly("name (a b) invalid: only alphanumeric characters, underscores, and dashes are allowed")},
		{"repo without name", createRepo(&pfspb.Repo{}), codes.Unknown, "name () invalid: only alphanumeric"},
		{"repo name with slash", createRepo(&pfspb.Repo{Name: "a/b"}), codes.Unknown, "name (a/b) invalid: only alphanumeric"},
		{"reserved repo", createRepo(repoOf("__filesets__")), codes.Unknown, exactly("__filesets__ is a reserved name")},
		{"system repo alone", createRepo(repoOf("x.spec")), codes.Unknown, exactly("cannot create a system repo without a corresponding 'user' repo")},
		{"repo in no project", createRepo(repoOf("nope/r")), codes.NotFound, `cannot find project "nope"`},
		{"repo in use", func() error {
			_, err := m.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repoOf("r")})
			return err
		}(), codes.Unknown, exactly(`branch "default/r@master" cannot be deleted because it's in the direct provenance of [default/down@master]`)},

		{"project missing", func() error {
			_, err := m.InspectProjectV2(ctx, &pfspb.InspectProjectV2Request{Project: &pfspb.Project{Name: "x"}})
			return err
		}(), codes.NotFound, exactly(`project "x" not found`)},
		{"project to update missing", func() error {
			_, err := m.CreateProject(ctx, &pfspb.CreateProjectRequest{Project: &pfspb.Project{Name: "x"}, Update: true})
			return err
		}(), codes.NotFound, exactly(`project "x" not found`)},
		{"project exists", func() error {
			_, err := m.CreateProject(ctx, &pfspb.CreateProjectRequest{Project: &pfspb.Project{Name: "default"}})
			return err
		}(), codes.AlreadyExists, exactly("project default already exists")},
		{"project name", func() error {
			_, err := m.CreateProject(ctx, &pfspb.CreateProjectRequest{Project: &pfspb.Project{Name: "a.b"}})
			return err
		}(), codes.Unknown, "name (a.b) invalid: only alphanumeric characters, underscores, and dashes are allowed"},
		{"project name too long", func() error {
			_, err := m.CreateProject(ctx, &pfspb.CreateProjectRequest{Project: &pfspb.Project{Name: strings.Repeat("p", 52)}})
			return err
		}(), codes.Unknown, "longer than 51 bytes"},
		{"project not empty", func() error {
			_, err := m.DeleteProject(ctx, &pfspb.DeleteProjectRequest{Project: &pfspb.Project{Name: "default"}})
			return err
		}(), codes.FailedPrecondition, exactly("cannot delete project default: repo default/down still exists\ncannot delete project default: repo default/other still exists\ncannot delete project default: repo default/r still exists")},

		{"branch missing", func() error {
			_, err := m.InspectBranch(ctx, &pfspb.InspectBranchRequest{Branch: branchOf("r@x")})
			return err
		}(), codes.NotFound, exactly(`branch "x" not found in repo default/r`)},
		{"branch in missing repo", func() error {
			_, err := m.InspectBranch(ctx, &pfspb.InspectBranchRequest{Branch: branchOf("x@x")})
			return err
		}(), codes.NotFound, exactly("repo default/x not found")},
		{"branch in use", func() error {
			_, err := m.DeleteBranch(ctx, &pfspb.DeleteBranchRequest{Branch: branchOf("r@master")})
			return err
		}(), codes.Unknown, exactly(`branch "default/r@master" cannot be deleted because it's in the direct provenance of [default/down@master]`)},
		{"branch to delete missing", func() error {
			_, err := m.DeleteBranch(ctx, &pfspb.DeleteBranchRequest{Branch: branchOf("r@x")})
			return err
		}(), codes.NotFound, exactly(`branch "x" not found in repo default/r`)},
		{"branch name", create(&pfspb.CreateBranchRequest{Branch: branchOf("r@a.b")}), codes.Unknown, "name (a.b) invalid: only alphanumeric characters, underscores, and dashes are allowed"},
		{"branch without repo", create(&pfspb.CreateBranchRequest{}), codes.InvalidArgument, "validate request: "},
		{"head of another repo", create(&pfspb.CreateBranchRequest{Branch: branchOf("other@b"), Head: finished}), codes.Unknown, exactly("branch and head commit must belong to the same repo")},
		{"head missing", create(&pfspb.CreateBranchRequest{Branch: branchOf("r@b"), Head: commitOf("r@" + missing)}), codes.NotFound, "unable to inspect default/r@" + missing + ": commit default/r@" + missing + " not found"},
		{"own repo in provenance", create(&pfspb.CreateBranchRequest{Branch: branchOf("r@b"), Provenance: []*pfspb.Branch{branchOf("r@master")}}), codes.Unknown, exactly("repo default/r cannot be in the provenance of its own branch")},
		{"two branches of a repo", create(&pfspb.CreateBranchRequest{Branch: branchOf("other@b"), Provenance: []*pfspb.Branch{branchOf("r@master"), branchOf("r@open")}}), codes.Unknown, exactly(`multiple branches from the same repo, "default/r", cannot participate in a DAG`)},
		{"two branches of a repo, far", create(&pfspb.CreateBranchRequest{Branch: branchOf("other@b"), Provenance: []*pfspb.Branch{branchOf("down@master"), branchOf("r@open")}}), codes.Unknown, `multiple branches from the same repo, "default/r", cannot participate in a DAG`},
		{"cycle", create(&pfspb.CreateBranchRequest{Branch: branchOf("r@master"), Provenance: []*pfspb.Branch{branchOf("down@master")}}), codes.Internal, "cycle detected because "},
		{"propagation spec", create(&pfspb.CreateBranchRequest{Branch: branchOf("down@master"), Provenance: []*pfspb.Branch{branchOf("r@master")}, BranchPropagationSpecs: []*pfspb.BranchPropagationSpec{{Branch: branchOf("other@master")}}}), codes.Unknown, exactly("branch propagation spec must reference provenant branch (referenced branch: default/other@master)")},
		{"trigger and provenance", create(&pfspb.CreateBranchRequest{Branch: branchOf("down@x"), Provenance: []*pfspb.Branch{branchOf("r@master")}, Trigger: &pfspb.Trigger{Branch: "y"}}), codes.Unknown, exactly("a branch cannot have both provenance and a trigger")},
		{"trigger on nothing", create(&pfspb.CreateBranchRequest{Branch: branchOf("r@x"), Trigger: &pfspb.Trigger{}}), codes.Unknown, exactly("triggers must specify a branch to trigger on")},

		{"start on no branch", start("r", nil), codes.Unknown, exactly("branch must be specified")},
		{"start in missing repo", start("x@master", nil), codes.NotFound, exactly("repo default/x not found")},
		{"start on bad name", start("r@a b", nil), codes.Unknown, exactly("name (a b) invalid: only alphanumeric characters, underscores, and dashes are allowed")},
		{"start on open commit", start("r@open", nil), codes.Unknown, exactly("parent commit default/r@" + open.Id + " has not been finished")},
		{"start on open parent", start("r@new", open), codes.Unknown, exactly("parent commit default/r@" + open.Id + " has not been finished")},
		{"start on missing parent", start("r@new", commitOf("r@"+missing)), codes.NotFound, exactly("parent commit default/r@" + missing + " not found")},
		{"start on output branch", start("down@master", nil), codes.Unknown, exactly("cannot start a commit on an output branch: default/down@master")},
		{"finish twice", finish(finished), codes.Unknown, exactly("commit default/r@" + finished.Id + " has already finished")},
		{"finish missing", finish(commitOf("r@" + missing)), codes.NotFound, exactly("commit default/r@" + missing + " not found")},
		{"clear finished", func() error {
			_, err := m.ClearCommit(ctx, &pfspb.ClearCommitRequest{Commit: finished})
			return err
		}(), codes.Unknown, exactly("cannot clear finished commit")},
		{"wait for no state", func() error {
			_, err := m.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: finished, Wait: 77})
			return err
		}(), codes.InvalidArgument, "validate request: wait is 77, which is no state of a commit"},
		{"subscribe to no state", func() error {
			_, err := all(m.SubscribeCommit(ctx, &pfspb.SubscribeCommitRequest{Repo: repoOf("r"), State: 77}))
			return err
		}(), codes.InvalidArgument, "validate request: state is 77"},
		{"commit nil", inspect(nil), codes.Unknown, exactly("commit cannot be nil")},
		{"commit without repo", inspect(&pfspb.Commit{Id: missing}), codes.Unknown, exactly("commit must have a repo")},
		{"commit missing", inspect(commitOf("r@" + missing)), codes.NotFound, exactly("commit default/r@" + missing + " not found")},
		{"commit of missing branch", inspect(commitOf("r@x")), codes.NotFound, exactly(`branch "x" not found in repo default/r`)},
		{"commit of missing repo", inspect(commitOf("x@" + missing)), codes.NotFound, exactly("repo default/x not found")},
		{"too far back", inspect(commitOf("r@master^")), codes.Unknown, "invalid offset for ancestor of commit default/r@master^"},
		{"too far from root", inspect(commitOf("r@master.2")), codes.Unknown, "invalid offset for ancestor of commit"},
		{"before the root", inspect(commitOf("r@master.1^1")), codes.Unknown, "invalid offset for ancestor of commit"},
		{"mixed ancestry", inspect(commitOf("r@master^~")), codes.Unknown, "invalid commit"},
		{"commit set missing", func() error {
			_, err := all(m.InspectCommitSet(ctx, &pfspb.InspectCommitSetRequest{CommitSet: &pfspb.CommitSet{Id: missing}}))
			return err
		}(), codes.NotFound, exactly("no commits found for commitset " + missing)},
		{"list missing repo", list(&pfspb.ListCommitRequest{Repo: repoOf("x")}), codes.NotFound, exactly("repo default/x not found")},
		{"from without to", list(&pfspb.ListCommitRequest{Repo: repoOf("r"), From: finished}), codes.Unknown, exactly("cannot use `from` commit without `to` commit")},
		{"to of another repo", list(&pfspb.ListCommitRequest{Repo: repoOf("other"), To: finished}), codes.Unknown, exactly("`from` and `to` commits need to be from repo default/other")},
		{"reverse and to", list(&pfspb.ListCommitRequest{Repo: repoOf("r"), To: finished, Reverse: true}), codes.Unknown, "cannot use reverse"},
		{"subscribe to missing repo", func() error {
			_, err := all(m.SubscribeCommit(ctx, &pfspb.SubscribeCommitRequest{Repo: repoOf("x")}))
			return err
		}(), codes.NotFound, exactly("repo default/x not found")},
		{"list branches of missing repo", func() error {
			_, err := all(m.ListBranch(ctx, &pfspb.ListBranchRequest{Repo: repoOf("x")}))
			return err
		}(), codes.NotFound, exactly("repo default/x not found")},
		{"two commits of a repo", m.svc.Update(ctx, func(tx *Txn) error {
			if _, err := tx.StartCommit(branchOf("other@a"), nil, ""); err != nil {
				return err
			}
			_, err := tx.StartCommit(branchOf("other@b"), nil, "")
			return err
		}), codes.Unknown, "inconsistent dependencies: cannot create commit from default/other@b; repo (other) already has a commit in this transaction"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			text, exact := strings.CutPrefix(tc.text, "=")
			wantError(t, tc.err, tc.code, text)
			if got := status.Convert(tc.err).Message(); exact && got != text {
				t.Errorf("text %q, want exactly %q", got, text)
			}
		})
	}
	for _, tc := range []struct {
		err  error
		code codes.Code
		text string
	}{
		{&CommitErrorError{finished}, codes.Unknown, "commit default/r@" + finished.Id + " finished with an error"},
		{&CommitDeletedError{finished}, codes.Unknown, "commit default/r@" + finished.Id + " was deleted"},
		{&CommitNotFinishedError{finished}, codes.Unavailable, "commit default/r@" + finished.Id + " not finished"},
		{&BaseUnfinishedError{open, finished}, codes.Unknown, "base commit default/r@" + open.Id + " for commit default/r@" + finished.Id + " unfinished"},
		{&FileNotFoundError{"a", finished}, codes.NotFound, "file a not found in repo default/r at commit " + finished.Id},
		{&InvalidRequestError{Stream: true, Why: "x"}, codes.InvalidArgument, "validate recv: x"},
		{&PipelineRepoError{}, codes.Unknown, "cannot delete a repo associated with a pipeline - delete the pipeline instead"},
	} {
		wantError(t, tc.err, tc.code, tc.text)
	}
	if _, err := m.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repoOf("x")}); err != nil {
		t.Errorf("deleting a missing repo is no error, got %v", err)
	}
}

// TestDeleteAll leaves the project default and nothing else.
func TestDeleteAll(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.must(m.CreateProject(ctx, &pfspb.CreateProjectRequest{Project: &pfspb.Project{Name: "p"}}))
	m.repo("a", "p/b")
	m.branch("p/b@master", "a@master")
	m.must(m.DeleteAll(ctx, &emptypb.Empty{}))
	repos, err := all(m.ListRepo(ctx, &pfspb.ListRepoRequest{}))
	m.must(repos, err)
	projects, err := all(m.ListProject(ctx, &pfspb.ListProjectRequest{}))
	m.must(projects, err)
	if len(repos) != 0 || len(projects) != 1 || projects[0].Project.Name != "default" {
		t.Errorf("left: %v %v", repos, projects)
	}
	sets, err := all(m.ListCommitSet(ctx, &pfspb.ListCommitSetRequest{}))
	if err != nil || len(sets) != 0 {
		t.Errorf("commit sets left: %v, %v", sets, err)
	}
}
