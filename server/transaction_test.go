package server_test

import (
	"context"
	"testing"

	"google.golang.org/grpc/metadata"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
)

func startTransaction(ctx context.Context, t *testing.T, p *proc) string {
	t.Helper()
	_, _, conn := dial(t, p.addr)
	txn, err := transactionpb.NewAPIClient(conn).StartTransaction(ctx, &transactionpb.StartTransactionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return txn.Id
}

// TestTransaction_SurvivesKill queues calls, kills the daemon, and finishes with
// the next one: a spout made in a transaction runs like any other.
func TestTransaction_SurvivesKill(t *testing.T) {
	dir := t.TempDir()
	p := startPachd(t, dir)
	ctx := within(t)
	pfs, pps, _ := dial(t, p.addr)
	id := startTransaction(ctx, t, p)
	in := metadata.AppendToOutgoingContext(ctx, "pach-transaction", id)
	if _, err := pps.CreatePipelineV2(in, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: tickSpout}); err != nil {
		t.Fatal(err)
	}
	if _, err := pfs.CreateRepo(in, &pfspb.CreateRepoRequest{Repo: repo("beside")}); err != nil {
		t.Fatal(err)
	}
	p.kill()

	p = startPachd(t, dir)
	pfs, _, conn := dial(t, p.addr)
	if repos, err := collect(pfs.ListRepo(ctx, &pfspb.ListRepoRequest{})); err != nil || len(repos) != 0 {
		t.Errorf("before the end: %v, %v", repos, err)
	}
	info, err := transactionpb.NewAPIClient(conn).FinishTransaction(in, &transactionpb.FinishTransactionRequest{Transaction: &transactionpb.Transaction{Id: id}})
	if err != nil || len(info.Requests) != 2 {
		t.Fatalf("finish: %v, %v", info, err)
	}
	if _, err := pfs.InspectRepo(ctx, &pfspb.InspectRepoRequest{Repo: repo("beside")}); err != nil {
		t.Error(err)
	}
	waitForTick(ctx, t, pfs)
	checkFsck(ctx, t, pfs)
}
