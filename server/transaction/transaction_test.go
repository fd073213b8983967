package transaction_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
	"github.com/minipachd/minipachd/server/transaction"
	"github.com/minipachd/minipachd/store"
)

const spout = `{"pipeline":{"name":"sp"},"spout":{},"transform":{"cmd":["true"]}}`

// TestFinish_AllUnderTheTransactionsID queues one call of each kind and finds all
// of them in one commit set.
func TestFinish_AllUnderTheTransactionsID(t *testing.T) {
	d := newDaemon(t)
	d.must(nil, d.createRepo(d.ctx, "old"))
	d.must(nil, d.createRepo(d.ctx, "doomed"))
	var squashed *pfspb.Commit
	for range 2 { // newest last
		c, err := d.start(d.ctx, "old")
		d.must(c, err)
		d.must(d.FinishCommit(d.ctx, &pfspb.FinishCommitRequest{Commit: c}))
		if squashed == nil {
			squashed = c
		}
	}
	ctx, txn := d.begin()
	var header metadata.MD
	d.must(d.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("a"), Description: "first"}, grpc.Header(&header)))
	if got := header.Get(transaction.MetadataKey); len(got) != 1 || got[0] != txn.Id {
		t.Errorf("header of a queued call: %v", header)
	}
	c, err := d.start(ctx, "a")
	d.must(c, err)
	if c.Id != txn.Id || c.Repo.Name != "a" {
		t.Errorf("queued commit %v, want one with the id %s", c, txn.Id)
	}
	d.must(d.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: c, Description: "done"}))
	d.must(d.CreateBranch(ctx, &pfspb.CreateBranchRequest{Branch: &pfspb.Branch{Repo: repo("a"), Name: "dev"}, Head: c}))
	d.must(d.CreateBranch(ctx, &pfspb.CreateBranchRequest{Branch: &pfspb.Branch{Repo: repo("a"), Name: "gone"}, Head: c}))
	d.must(d.DeleteBranch(ctx, &pfspb.DeleteBranchRequest{Branch: &pfspb.Branch{Repo: repo("a"), Name: "gone"}}))
	d.must(d.SquashCommitSet(ctx, &pfspb.SquashCommitSetRequest{CommitSet: &pfspb.CommitSet{Id: squashed.Id}}))
	old, err := d.start(ctx, "old")
	d.must(old, err)
	d.must(d.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: squashed}))
	for _, want := range []bool{true, false} {
		res, err := d.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repo("doomed")})
		if err != nil || res.Deleted != want {
			t.Errorf("queued DeleteRepo: %v, %v, want %v", res, err, want)
		}
	}
	made, err := d.pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: spout})
	if err != nil || !strings.Contains(made.EffectiveCreatePipelineRequestJson, `"datumTries":3`) {
		t.Errorf("queued CreatePipelineV2: %v, %v", made, err)
	}
	d.must(d.pps.CreatePipeline(ctx, &ppspb.CreatePipelineRequest{
		Pipeline: &ppspb.Pipeline{Name: "sp2"}, Spout: &ppspb.Spout{}, Transform: &ppspb.Transform{Cmd: []string{"true"}},
	}))

	if got := d.repos(); !slices.Equal(got, []string{"doomed", "old"}) {
		t.Errorf("before the end the repos are %v", got)
	}
	info, err := d.finish(txn)
	d.must(info, err)
	if got := d.repos(); !slices.Equal(got, []string{"a", "old", "sp", "sp2"}) {
		t.Errorf("after the end the repos are %v", got)
	}
	if len(info.Requests) != 12 || len(info.Responses) != 12 || info.Version != 12 || info.Started == nil || info.Transaction.Id != txn.Id {
		t.Errorf("finished: %v", info)
	}
	if got := info.Responses[1].Commit; !cmp.Equal(got, c, protocmp.Transform()) {
		t.Errorf("response of start_commit: %v", got)
	}
	if _, err := d.InspectCommit(d.ctx, &pfspb.InspectCommitRequest{Commit: squashed}); status.Code(err) != codes.NotFound {
		t.Errorf("squashed commit: %v", err)
	}
	commits := collect(d, func() (grpc.ServerStreamingClient[pfspb.CommitInfo], error) {
		return d.InspectCommitSet(d.ctx, &pfspb.InspectCommitSetRequest{CommitSet: &pfspb.CommitSet{Id: txn.Id}})
	})
	var set []string
	for _, c := range commits {
		if c.Commit.Id == txn.Id {
			set = append(set, c.Commit.Repo.Name+"."+c.Commit.Repo.Type)
		}
	}
	slices.Sort(set)
	if diff := cmp.Diff([]string{"a.user", "old.user", "sp.spec", "sp.user", "sp2.spec", "sp2.user"}, set); diff != "" {
		t.Errorf("commit set (-want +got):\n%s", diff)
	}
	a, err := d.InspectCommit(d.ctx, &pfspb.InspectCommitRequest{Commit: c, Wait: pfspb.CommitState_FINISHED})
	if err != nil || a.Description != "done" {
		t.Errorf("finished commit: %v, %v", a, err)
	}
	if _, err := d.pps.InspectPipeline(d.ctx, &ppspb.InspectPipelineRequest{Pipeline: &ppspb.Pipeline{Name: "sp2"}}); err != nil {
		t.Error(err)
	}
}

// TestFinish_PropagatesOnce starts commits in two sources of one branch: it gets
// one commit of the set with both in its provenance.
func TestFinish_PropagatesOnce(t *testing.T) {
	d := newDaemon(t)
	for _, r := range []string{"x", "y", "down"} {
		d.must(nil, d.createRepo(d.ctx, r))
	}
	d.must(d.CreateBranch(d.ctx, &pfspb.CreateBranchRequest{Branch: branch("down"), Provenance: []*pfspb.Branch{branch("x"), branch("y")}}))
	ctx, txn := d.begin()
	for _, r := range []string{"x", "y"} {
		c, err := d.start(ctx, r)
		d.must(c, err)
	}
	d.must(d.finish(txn))
	info, err := d.InspectCommit(d.ctx, &pfspb.InspectCommitRequest{Commit: &pfspb.Commit{Repo: repo("down"), Id: txn.Id}})
	d.must(info, err)
	var ids []string
	for _, p := range info.DirectProvenance {
		ids = append(ids, p.Id)
	}
	if !slices.Equal(ids, []string{txn.Id, txn.Id}) {
		t.Errorf("provenance %v, want twice %s", ids, txn.Id)
	}
}

// TestFinish_FailsAsAWhole: what a queued call relied on is gone at the end.
func TestFinish_FailsAsAWhole(t *testing.T) {
	d := newDaemon(t)
	d.must(nil, d.createRepo(d.ctx, "r"))
	ctx, txn := d.begin()
	d.must(nil, d.createRepo(ctx, "new"))
	c, err := d.start(ctx, "r")
	d.must(c, err)
	open, err := d.start(d.ctx, "r")
	d.must(open, err)
	want := "request 2 of the transaction (start_commit): parent commit default/r@" + open.Id + " has not been finished"
	if _, err := d.finish(txn); status.Convert(err).Message() != want {
		t.Errorf("finish: %v, want %s", err, want)
	}
	if err := d.createRepo(ctx, "more"); status.Convert(err).Message() != want {
		t.Errorf("add to what cannot be finished: %v", err)
	}
	if got := d.repos(); !slices.Equal(got, []string{"r"}) {
		t.Errorf("repos after a failure: %v", got)
	}
	info, err := d.inspect(txn)
	if err != nil || len(info.Requests) != 2 {
		t.Errorf("the transaction is still there as it was: %v, %v", info, err)
	}
	d.must(d.FinishCommit(d.ctx, &pfspb.FinishCommitRequest{Commit: open}))
	d.must(d.finish(txn))
	if got := d.repos(); !slices.Equal(got, []string{"new", "r"}) {
		t.Errorf("repos after the second try: %v", got)
	}
}

// TestAdd_FailedCallIsNotKept: each call sees those queued before it.
func TestAdd_FailedCallIsNotKept(t *testing.T) {
	d := newDaemon(t)
	d.must(nil, d.createRepo(d.ctx, "r"))
	d.must(nil, d.createRepo(d.ctx, "r2"))
	ctx, txn := d.begin()
	d.must(nil, d.createRepo(ctx, "a"))
	_, err := d.start(ctx, "a")
	d.must(nil, err)
	d.must(d.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repo("r2")}))
	for _, tc := range []struct {
		name string
		call func() error
		code codes.Code
		text string
	}{
		{"repo of the transaction", func() error { return d.createRepo(ctx, "a") }, codes.AlreadyExists, "repo default/a already exists"},
		{"repo from outside", func() error { return d.createRepo(ctx, "r") }, codes.AlreadyExists, "repo default/r already exists"},
		{"repo deleted before", func() error { return d.createRepo(ctx, "r2") }, codes.FailedPrecondition, "repo default/r2 is deleted in this transaction and cannot be created in the same one: finish the transaction first"},
		{"commit in a deleted repo", func() error { _, err := d.start(ctx, "r2"); return err }, codes.NotFound, "repo default/r2 not found"},
		{"second commit", func() error {
			_, err := d.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: &pfspb.Branch{Repo: repo("a"), Name: "b"}})
			return err
		}, codes.Unknown, "inconsistent dependencies: cannot create commit from default/a@b; repo (a) already has a commit in this transaction"},
		{"branch", func() error {
			_, err := d.DeleteBranch(ctx, &pfspb.DeleteBranchRequest{Branch: branch("r")})
			return err
		}, codes.NotFound, `branch "master" not found in repo default/r`},
		{"job", func() error {
			_, err := d.pps.StopJob(ctx, &ppspb.StopJobRequest{Job: &ppspb.Job{Pipeline: &ppspb.Pipeline{Name: "p"}, Id: txn.Id}})
			return err
		}, codes.NotFound, "job default/p@" + txn.Id + " not found"},
		{"job state", func() error {
			_, err := d.pps.UpdateJobState(ctx, &ppspb.UpdateJobStateRequest{})
			return err
		}, codes.InvalidArgument, "validate request: a job must be given"},
		{"spec", func() error {
			_, err := d.pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: "{"})
			return err
		}, codes.InvalidArgument, "could not make effective spec: unexpected EOF"},
		{"pipeline with the name of a repo", func() error {
			_, err := d.pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: strings.Replace(spout, "sp", "a", 1)})
			return err
		}, codes.Unknown, `pipeline "a" cannot be created because a repo with the same name already exists`},
		{"squash", func() error {
			_, err := d.SquashCommitSet(ctx, &pfspb.SquashCommitSetRequest{CommitSet: &pfspb.CommitSet{Id: txn.Id}})
			return err
		}, codes.Unknown, "cannot squash a commit that has no children as that would cause data loss, use the drop operation instead: default/a@" + txn.Id},
		{"squash of none", func() error {
			_, err := d.SquashCommitSet(ctx, &pfspb.SquashCommitSetRequest{CommitSet: &pfspb.CommitSet{Id: "0123456789ab4def0123456789abcdef"}})
			return err
		}, codes.NotFound, "no commits found for commitset 0123456789ab4def0123456789abcdef"},
	} {
		if err := tc.call(); status.Code(err) != tc.code || status.Convert(err).Message() != tc.text {
			t.Errorf("%s: %v, want %v %s", tc.name, err, tc.code, tc.text)
		}
	}
	info, err := d.inspect(txn)
	if err != nil || len(info.Requests) != 3 || info.Version != 3 {
		t.Errorf("kept: %v, %v", info, err)
	}
	d.must(d.finish(txn))
}

// TestOtherCalls_RunAtOnce: a client sends the key with every call.
func TestOtherCalls_RunAtOnce(t *testing.T) {
	d := newDaemon(t)
	d.must(nil, d.createRepo(d.ctx, "r"))
	ctx, txn := d.begin()
	d.must(nil, d.createRepo(ctx, "a"))
	if _, err := d.InspectRepo(ctx, &pfspb.InspectRepoRequest{Repo: repo("r")}); err != nil {
		t.Error(err)
	}
	if _, err := d.InspectRepo(ctx, &pfspb.InspectRepoRequest{Repo: repo("a")}); status.Code(err) != codes.NotFound {
		t.Errorf("a read inside the transaction sees what is not finished: %v", err)
	}
	if got := d.repos(); !slices.Equal(got, []string{"r"}) {
		t.Errorf("repos: %v", got)
	}
	stream, err := d.ModifyFile(ctx)
	d.must(stream, err)
	d.must(nil, stream.Send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: &pfspb.Commit{Branch: branch("r")}}}))
	d.must(stream.CloseAndRecv())
	dry, err := d.pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: spout, DryRun: true})
	if err != nil || dry.EffectiveCreatePipelineRequestJson == "" {
		t.Errorf("dry run: %v, %v", dry, err)
	}
	list, err := d.txn.ListTransaction(ctx, &transactionpb.ListTransactionRequest{})
	if err != nil || len(list.TransactionInfo) != 1 || len(list.TransactionInfo[0].Requests) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	d.must(d.txn.FinishTransaction(ctx, &transactionpb.FinishTransactionRequest{Transaction: txn}))
}

// TestErrors holds the texts and codes of what is wrong with a transaction itself.
func TestErrors(t *testing.T) {
	d := newDaemon(t)
	const none = "0123456789ab4def0123456789abcdef"
	notFound := func(id string) string {
		return fmt.Sprintf("transaction %q not found: there is none, or it has been finished or deleted", id)
	}
	with := func(ids ...string) error {
		ctx := d.ctx
		for _, id := range ids {
			ctx = metadata.AppendToOutgoingContext(ctx, transaction.MetadataKey, id)
		}
		return d.createRepo(ctx, "r"+strings.Join(ids, ""))
	}
	_, finished := d.begin()
	d.must(d.finish(finished))
	_, deleted := d.begin()
	del := &transactionpb.DeleteTransactionRequest{Transaction: deleted}
	d.must(d.txn.DeleteTransaction(d.ctx, del))
	inspect := func(txn *transactionpb.Transaction) error { _, err := d.inspect(txn); return err }
	finish := func(txn *transactionpb.Transaction) error { _, err := d.finish(txn); return err }
	remove := func(txn *transactionpb.Transaction) error {
		_, err := d.txn.DeleteTransaction(d.ctx, &transactionpb.DeleteTransactionRequest{Transaction: txn})
		return err
	}
	batch := func(requests ...*transactionpb.TransactionRequest) error {
		_, err := d.txn.BatchTransaction(d.ctx, &transactionpb.BatchTransactionRequest{Requests: requests})
		return err
	}
	create := &transactionpb.TransactionRequest{CreateRepo: &pfspb.CreateRepoRequest{Repo: repo("batch")}}
	two := &transactionpb.TransactionRequest{CreateRepo: create.CreateRepo, DeleteRepo: &pfspb.DeleteRepoRequest{}}
	const full = "is full: one takes at most 1000 calls and 1048576 bytes of them; finish it and use another"
	for _, tc := range []struct {
		name string
		err  error
		code codes.Code
		text string
	}{
		{"add to none", with(none), codes.NotFound, notFound(none)},
		{"add to nonsense", with("../x"), codes.NotFound, notFound("../x")},
		{"add to finished", with(finished.Id), codes.NotFound, notFound(finished.Id)},
		{"add to deleted", with(deleted.Id), codes.NotFound, notFound(deleted.Id)},
		{"add to two", with(none, deleted.Id), codes.InvalidArgument, "the metadata pach-transaction names more than one transaction: a call can be part of one only"},
		{"an empty key is none", with(""), codes.OK, ""},
		{"inspect none", inspect(&transactionpb.Transaction{Id: none}), codes.NotFound, notFound(none)},
		{"inspect nil", inspect(nil), codes.InvalidArgument, "validate request: a transaction must be given"},
		{"finish twice", finish(finished), codes.NotFound, notFound(finished.Id)},
		{"finish deleted", finish(deleted), codes.NotFound, notFound(deleted.Id)},
		{"finish nil", finish(nil), codes.InvalidArgument, "validate request: a transaction must be given"},
		{"delete twice", remove(deleted), codes.NotFound, notFound(deleted.Id)},
		{"delete nil", remove(nil), codes.InvalidArgument, "validate request: a transaction must be given"},
		{"batch without a call", batch(create, &transactionpb.TransactionRequest{}), codes.InvalidArgument, "validate request: request 2 holds 0 calls; each must hold exactly one"},
		{"batch with two calls in one", batch(two), codes.InvalidArgument, "validate request: request 1 holds 2 calls; each must hold exactly one"},
		{"batch with an error", batch(create, create), codes.AlreadyExists, "request 2 of the transaction (create_repo): repo default/batch already exists"},
		{"batch too long", batch(slices.Repeat([]*transactionpb.TransactionRequest{create}, 1001)...), codes.ResourceExhausted, "transaction " + full},
		{"nothing", batch(), codes.OK, ""},
	} {
		if status.Code(tc.err) != tc.code || status.Convert(tc.err).Message() != tc.text {
			t.Errorf("%s: %v, want %v %s", tc.name, tc.err, tc.code, tc.text)
		}
	}
	if got := d.repos(); !slices.Equal(got, []string{"r"}) {
		t.Errorf("repos: %v", got)
	}

	ctx, txn := d.begin()
	large := func(name string) error {
		_, err := d.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo(name), Description: strings.Repeat("x", 600<<10)})
		return err
	}
	d.must(nil, large("l1"))
	if err := large("l2"); status.Code(err) != codes.ResourceExhausted || status.Convert(err).Message() != "transaction "+txn.Id+" "+full {
		t.Errorf("too many bytes: %v", err)
	}
	d.must(nil, d.createRepo(ctx, "l3"))
	d.must(d.finish(txn))
}

// TestConcurrent_AddAndFinish lets many clients add to one transaction while it is
// finished: exactly the calls that were acknowledged have taken effect.
func TestConcurrent_AddAndFinish(t *testing.T) {
	d := newDaemon(t)
	ctx, txn := d.begin()
	const clients, each = 8, 12
	var mu sync.Mutex
	var want []string
	var wg sync.WaitGroup
	half := make(chan struct{})
	for i := range clients {
		wg.Go(func() {
			for j := range each {
				name := fmt.Sprintf("r-%d-%02d", i, j)
				err := d.createRepo(ctx, name)
				if status.Code(err) == codes.NotFound {
					return // finished
				}
				if err != nil {
					t.Errorf("add %s: %v", name, err)
					return
				}
				mu.Lock()
				want = append(want, name)
				if len(want) == clients*each/2 {
					close(half)
				}
				mu.Unlock()
			}
		})
	}
	<-half
	var ends [3]error
	for i := range ends {
		wg.Go(func() { _, ends[i] = d.finish(txn) })
	}
	wg.Wait()
	done := 0
	for _, err := range ends {
		switch {
		case err == nil:
			done++
		case status.Code(err) != codes.NotFound:
			t.Errorf("finish: %v", err)
		}
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, d.repos()); diff != "" || done != 1 {
		t.Errorf("finished %d times; repos (-acknowledged +there):\n%s", done, diff)
	}
}

// TestConcurrent_TwoServices adds to one transaction from two services over one etcd,
// which share nothing else: no call is lost.
func TestConcurrent_TwoServices(t *testing.T) {
	d := newDaemon(t)
	other := pfspb.NewAPIClient(d.serve())
	ctx, txn := d.begin()
	var wg sync.WaitGroup
	const each = 10
	for i, via := range []pfspb.APIClient{d, other} {
		wg.Go(func() {
			for j := range each {
				if _, err := via.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo(fmt.Sprintf("r-%d-%d", i, j))}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	d.must(d.finish(txn))
	if n := len(d.repos()); n != 2*each {
		t.Errorf("%d repos, want %d", n, 2*each)
	}
}

// TestStart_LimitOfOpenTransactions fills the store with transactions.
func TestStart_LimitOfOpenTransactions(t *testing.T) {
	d := newDaemon(t)
	_, err := d.store.Update(d.ctx, func(tx *store.Txn) error {
		for range transaction.MaxOpen {
			id := tx.NewID()
			info, err := proto.Marshal(&transactionpb.TransactionInfo{
				Transaction: &transactionpb.Transaction{Id: id}, Started: timestamppb.New(tx.Now()),
			})
			if err != nil {
				return err
			}
			tx.Put("transaction/"+id, info)
		}
		return nil
	})
	d.must(nil, err)
	_, err = d.txn.StartTransaction(d.ctx, &transactionpb.StartTransactionRequest{})
	if status.Code(err) != codes.ResourceExhausted || status.Convert(err).Message() != "1000 transactions are open, and at most 1000 can be: finish or delete some" {
		t.Errorf("start: %v", err)
	}
	list, err := d.txn.ListTransaction(d.ctx, &transactionpb.ListTransactionRequest{})
	d.must(list, err)
	d.must(d.txn.DeleteTransaction(d.ctx, &transactionpb.DeleteTransactionRequest{Transaction: list.TransactionInfo[0].Transaction}))
	d.begin()
}

// TestList_FitsIntoOneMessage: large transactions beyond what a message holds come
// without their calls.
func TestList_FitsIntoOneMessage(t *testing.T) {
	d := newDaemon(t)
	large := strings.Repeat("x", 900<<10)
	for range 20 {
		ctx, _ := d.begin()
		d.must(d.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("r"), Description: large}))
	}
	list, err := d.txn.ListTransaction(d.ctx, &transactionpb.ListTransactionRequest{}, grpc.MaxCallRecvMsgSize(20<<20))
	d.must(list, err)
	whole := 0
	for _, info := range list.TransactionInfo {
		if info.Version != 1 || info.Transaction.GetId() == "" || info.Started == nil {
			t.Errorf("listed: %v", info)
		}
		whole += len(info.Requests)
	}
	if len(list.TransactionInfo) != 20 || whole != 18 {
		t.Errorf("%d transactions, %d with their calls; want 20 and 18", len(list.TransactionInfo), whole)
	}
}

// TestDeleteAll forgets every open transaction.
func TestDeleteAll(t *testing.T) {
	d := newDaemon(t)
	ctx, _ := d.begin()
	d.begin()
	d.must(nil, d.createRepo(ctx, "r"))
	d.must(d.txn.DeleteAll(d.ctx, &transactionpb.DeleteAllRequest{}))
	list, err := d.txn.ListTransaction(d.ctx, &transactionpb.ListTransactionRequest{})
	if err != nil || len(list.TransactionInfo) != 0 || len(d.repos()) != 0 {
		t.Errorf("left: %v, %v, %v", list, err, d.repos())
	}
}
