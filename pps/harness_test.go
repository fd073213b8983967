package pps_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/minipachd/minipachd/pfs"
	"github.com/minipachd/minipachd/pfs/chunk"
	"github.com/minipachd/minipachd/pps"
	"github.com/minipachd/minipachd/pps/jq"
	"github.com/minipachd/minipachd/pps/logs"
	"github.com/minipachd/minipachd/pps/secrets"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	"github.com/minipachd/minipachd/store"
)

func TestMain(m *testing.M) {
	jq.MaybeRun()
	goleak.VerifyTestMain(m)
}

// env is a pipeline service over real etcd and files, reached over gRPC.
type env struct {
	t       *testing.T
	store   *store.Store
	logs    *logs.Store
	service *pps.Service
	pps     ppspb.APIClient
	pfs     pfspb.APIClient
}

func newEnv(t *testing.T) *env {
	t.Helper()
	e := &env{t: t}
	var err error
	e.store, err = store.Open(t.Context(), store.Config{Dir: t.TempDir()})
	e.ok(err)
	bucket, err := chunk.OpenDir(t.TempDir())
	e.ok(err)
	pfsService, err := pfs.New(pfs.Config{Store: e.store, Bucket: bucket})
	e.ok(err)
	e.ok(pfsService.Init(t.Context()))
	e.logs, err = logs.Open(t.TempDir(), logs.Options{})
	e.ok(err)
	key, err := secrets.LoadOrCreateKey(filepath.Join(t.TempDir(), "secret.key"))
	e.ok(err)
	e.service = pps.New(pps.Config{Store: e.store, PFS: pfsService, Logs: e.logs, Secrets: secrets.New(key), Port: 30650})

	server := grpc.NewServer()
	pfsService.Register(server)
	e.service.Register(server)
	listener := bufconn.Listen(1 << 20)
	background, stop := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- server.Serve(listener) }()
	go func() { done <- pfsService.Run(background) }()
	conn, err := grpc.NewClient("passthrough:pps", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	e.ok(err)
	e.pps, e.pfs = ppspb.NewAPIClient(conn), pfspb.NewAPIClient(conn)
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		stop()
		<-done
		<-done
		e.logs.Close()
		e.store.Close()
		bucket.Close()
	})
	return e
}

func (e *env) ok(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

// fails checks code and text of an error; a text ending in "..." is a prefix.
func (e *env) fails(err error, code codes.Code, text string) {
	e.t.Helper()
	st := status.Convert(err)
	prefix, isPrefix := strings.CutSuffix(text, "...")
	if st.Code() != code || (st.Message() != text && (!isPrefix || !strings.HasPrefix(st.Message(), prefix))) {
		e.t.Errorf("error %v %q, want %v %q", st.Code(), st.Message(), code, text)
	}
}

func (e *env) create(spec string, opts ...func(*ppspb.CreatePipelineV2Request)) (string, error) {
	req := &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: spec}
	for _, o := range opts {
		o(req)
	}
	res, err := e.pps.CreatePipelineV2(e.t.Context(), req)
	return res.GetEffectiveCreatePipelineRequestJson(), err
}

func update(r *ppspb.CreatePipelineV2Request)    { r.Update = true }
func reprocess(r *ppspb.CreatePipelineV2Request) { r.Reprocess = true }
func dryRun(r *ppspb.CreatePipelineV2Request)    { r.DryRun = true }

func spout(name string, more ...string) string {
	return fmt.Sprintf(`{"pipeline":{"name":%q},"spout":{},"transform":{"cmd":["sh"]}%s}`, name, strings.Join(append([]string{""}, more...), ","))
}

func pipeline(name string) *ppspb.Pipeline { return &ppspb.Pipeline{Name: name} }

func branch(repo, name string) *pfspb.Branch {
	return &pfspb.Branch{Repo: &pfspb.Repo{Name: repo, Type: "user", Project: &pfspb.Project{Name: "default"}}, Name: name}
}

func (e *env) inspect(name string) *ppspb.PipelineInfo {
	e.t.Helper()
	info, err := e.pps.InspectPipeline(e.t.Context(), &ppspb.InspectPipelineRequest{Pipeline: pipeline(name), Details: true})
	e.ok(err)
	return info
}

// head returns the output branch's head, its commit and the branch.
func (e *env) head(name string) (*pfspb.CommitInfo, *pfspb.BranchInfo) {
	e.t.Helper()
	b, err := e.pfs.InspectBranch(e.t.Context(), &pfspb.InspectBranchRequest{Branch: branch(name, "master")})
	e.ok(err)
	c, err := e.pfs.InspectCommit(e.t.Context(), &pfspb.InspectCommitRequest{Commit: b.Head})
	e.ok(err)
	return c, b
}

func (e *env) list(req *ppspb.ListPipelineRequest) ([]string, error) {
	stream, err := e.pps.ListPipeline(e.t.Context(), req)
	e.ok(err)
	infos, err := drain(stream)
	var names []string
	for _, i := range infos {
		names = append(names, fmt.Sprintf("%s/%s v%d", i.Pipeline.Project.Name, i.Pipeline.Name, i.Version))
	}
	return names, err
}

func drain[T any](stream grpc.ServerStreamingClient[T]) ([]*T, error) {
	var all []*T
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, m)
	}
}

// snapshot returns everything that etcd holds, once what deleted repos leave is swept.
func (e *env) snapshot() map[string]string {
	e.t.Helper()
	for {
		all := e.dump()
		swept := true
		for k := range all {
			swept = swept && !strings.HasPrefix(k, "pfs/garbage/")
			if strings.HasPrefix(k, "pfs/gc/") {
				delete(all, k) // the daemon's own, whatever pipelines there are
			}
		}
		if swept || e.t.Context().Err() != nil {
			return all
		}
		runtime.Gosched()
	}
}

func (e *env) dump() map[string]string {
	e.t.Helper()
	all := map[string]string{}
	e.ok(e.store.View(e.t.Context(), func(tx *store.Txn) error {
		for kv, err := range tx.Scan("", store.ScanOptions{}) {
			if err != nil {
				return err
			}
			all[kv.Key] = string(kv.Value)
		}
		return nil
	}))
	return all
}

func (e *env) put(prefix, key string, m proto.Message) {
	e.t.Helper()
	_, err := e.store.Update(e.t.Context(), func(tx *store.Txn) error {
		return store.NewCollection[proto.Message](prefix).Put(tx, key, m)
	})
	e.ok(err)
}
