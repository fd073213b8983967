package transaction_test

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/minipachd/minipachd/pfs"
	"github.com/minipachd/minipachd/pfs/chunk"
	"github.com/minipachd/minipachd/pps"
	"github.com/minipachd/minipachd/pps/logs"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
	"github.com/minipachd/minipachd/server/transaction"
	"github.com/minipachd/minipachd/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// daemon is what a pachd is made of, over a real etcd, as far as transactions go.
type daemon struct {
	t         *testing.T
	ctx       context.Context
	store     *store.Store
	files     *pfs.Service
	pipelines *pps.Service
	pfspb.APIClient
	pps ppspb.APIClient
	txn transactionpb.APIClient
}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	st, err := store.Open(ctx, store.Config{Dir: filepath.Join(dir, "etcd")})
	must(err)
	bucket, err := chunk.OpenDir(filepath.Join(dir, "bucket"))
	must(err)
	lg, err := logs.Open(filepath.Join(dir, "logs"), logs.Options{})
	must(err)
	files, err := pfs.New(pfs.Config{Store: st, Bucket: bucket})
	must(err)
	must(files.Init(ctx))
	pipelines := pps.New(pps.Config{Store: st, PFS: files, Logs: lg})
	background, stop := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- files.Run(background) }()
	d := &daemon{t: t, ctx: ctx, store: st, files: files, pipelines: pipelines}
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-ran, lg.Close(), bucket.Close(), st.Close()); err != nil {
			t.Error(err)
		}
	})
	conn := d.serve()
	d.APIClient, d.pps, d.txn = pfspb.NewAPIClient(conn), ppspb.NewAPIClient(conn), transactionpb.NewAPIClient(conn)
	return d
}

// serve serves a transaction service of its own over the same etcd.
func (d *daemon) serve() *grpc.ClientConn {
	d.t.Helper()
	transactions := transaction.New(transaction.Config{Store: d.store, PFS: d.files, Pipelines: d.pipelines})
	srv := grpc.NewServer(grpc.UnaryInterceptor(transactions.Unary))
	d.files.Register(srv)
	d.pipelines.Register(srv)
	transactions.Register(srv)
	l := bufconn.Listen(1 << 20)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:pachd", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	d.must(conn, err)
	d.t.Cleanup(func() {
		conn.Close()
		srv.Stop()
		if err := <-served; err != nil {
			d.t.Error(err)
		}
	})
	return conn
}

func (d *daemon) must(_ any, err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// begin opens a transaction and returns a context whose calls are part of it.
func (d *daemon) begin() (context.Context, *transactionpb.Transaction) {
	d.t.Helper()
	txn, err := d.txn.StartTransaction(d.ctx, &transactionpb.StartTransactionRequest{})
	d.must(txn, err)
	return metadata.AppendToOutgoingContext(d.ctx, transaction.MetadataKey, txn.Id), txn
}

func (d *daemon) finish(txn *transactionpb.Transaction) (*transactionpb.TransactionInfo, error) {
	return d.txn.FinishTransaction(d.ctx, &transactionpb.FinishTransactionRequest{Transaction: txn})
}

func (d *daemon) inspect(txn *transactionpb.Transaction) (*transactionpb.TransactionInfo, error) {
	return d.txn.InspectTransaction(d.ctx, &transactionpb.InspectTransactionRequest{Transaction: txn})
}

func (d *daemon) createRepo(ctx context.Context, name string) error {
	_, err := d.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo(name)})
	return err
}

func (d *daemon) start(ctx context.Context, repo string) (*pfspb.Commit, error) {
	return d.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branch(repo)})
}

// repos are the names of all user repos.
func (d *daemon) repos() (names []string) {
	d.t.Helper()
	for _, info := range collect(d, func() (grpc.ServerStreamingClient[pfspb.RepoInfo], error) {
		return d.ListRepo(d.ctx, &pfspb.ListRepoRequest{Type: "user"})
	}) {
		names = append(names, info.Repo.Name)
	}
	return names
}

func collect[T any](d *daemon, open func() (grpc.ServerStreamingClient[T], error)) (all []*T) {
	d.t.Helper()
	stream, err := open()
	d.must(stream, err)
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		d.must(m, err)
		all = append(all, m)
	}
}

func repo(name string) *pfspb.Repo {
	return &pfspb.Repo{Name: name, Type: "user", Project: &pfspb.Project{Name: "default"}}
}

func branch(repoName string) *pfspb.Branch {
	return &pfspb.Branch{Repo: repo(repoName), Name: "master"}
}
