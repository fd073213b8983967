package transaction

import (
	"context"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/minipachd/minipachd/pfs"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
)

// Pipelines are the calls about pipelines that can be part of a transaction. Each
// takes part in tx and has no other effect.
type Pipelines interface {
	// CreatePipelineIn returns the call with the effective spec filled in; running
	// that again means the same.
	CreatePipelineIn(ctx context.Context, tx *pfs.Txn, call *ppspb.CreatePipelineTransaction) (*ppspb.CreatePipelineTransaction, error)
	StopJobIn(ctx context.Context, tx *pfs.Txn, req *ppspb.StopJobRequest) error
	UpdateJobStateIn(ctx context.Context, tx *pfs.Txn, req *ppspb.UpdateJobStateRequest) error
}

// perform runs one request as part of tx and returns what its RPC answers. What a
// create_pipeline_v2 leaves open it fills in.
func (s *Service) perform(ctx context.Context, tx *pfs.Txn, r *transactionpb.TransactionRequest) (answer proto.Message, err error) {
	answer = &emptypb.Empty{}
	switch {
	case r.GetCreateRepo() != nil:
		err = s.pfs.CreateRepoIn(tx, r.GetCreateRepo())
	case r.GetDeleteRepo() != nil:
		var deleted bool
		deleted, err = s.pfs.DeleteRepoIn(tx, r.GetDeleteRepo())
		answer = &pfspb.DeleteRepoResponse{Deleted: deleted}
	case r.GetStartCommit() != nil:
		answer, err = s.pfs.StartCommitIn(tx, r.GetStartCommit())
	case r.GetFinishCommit() != nil:
		err = s.pfs.FinishCommitIn(tx, r.GetFinishCommit())
	case r.GetSquashCommitSet() != nil:
		err = tx.SquashCommitSet(r.GetSquashCommitSet().GetCommitSet())
	case r.GetCreateBranch() != nil:
		err = s.pfs.CreateBranchIn(tx, r.GetCreateBranch())
	case r.GetDeleteBranch() != nil:
		err = s.pfs.DeleteBranchIn(tx, r.GetDeleteBranch())
	case r.GetUpdateJobState() != nil:
		err = s.pipelines.UpdateJobStateIn(ctx, tx, r.GetUpdateJobState())
	case r.GetStopJob() != nil:
		err = s.pipelines.StopJobIn(ctx, tx, r.GetStopJob())
	case r.GetCreatePipelineV2() != nil:
		var done *ppspb.CreatePipelineTransaction
		if done, err = s.pipelines.CreatePipelineIn(ctx, tx, r.GetCreatePipelineV2()); err == nil {
			r.CreatePipelineV2 = done
			answer = &ppspb.CreatePipelineV2Response{EffectiveCreatePipelineRequestJson: done.GetEffectiveJson()}
		}
	default:
		err = &pfs.UnsupportedError{What: nameOf(r) + " in a transaction is"}
	}
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// requestOf is the request of an RPC as a transaction keeps it; nil if such calls
// are not part of transactions but run at once.
func requestOf(req any) (*transactionpb.TransactionRequest, error) {
	switch q := req.(type) {
	case *pfspb.CreateRepoRequest:
		return &transactionpb.TransactionRequest{CreateRepo: q}, nil
	case *pfspb.DeleteRepoRequest:
		return &transactionpb.TransactionRequest{DeleteRepo: q}, nil
	case *pfspb.StartCommitRequest:
		return &transactionpb.TransactionRequest{StartCommit: q}, nil
	case *pfspb.FinishCommitRequest:
		return &transactionpb.TransactionRequest{FinishCommit: q}, nil
	case *pfspb.SquashCommitSetRequest:
		return &transactionpb.TransactionRequest{SquashCommitSet: q}, nil
	case *pfspb.CreateBranchRequest:
		return &transactionpb.TransactionRequest{CreateBranch: q}, nil
	case *pfspb.DeleteBranchRequest:
		return &transactionpb.TransactionRequest{DeleteBranch: q}, nil
	case *ppspb.UpdateJobStateRequest:
		return &transactionpb.TransactionRequest{UpdateJobState: q}, nil
	case *ppspb.StopJobRequest:
		return &transactionpb.TransactionRequest{StopJob: q}, nil
	case *ppspb.CreatePipelineRequest:
		text, err := protojson.Marshal(q)
		return &transactionpb.TransactionRequest{CreatePipelineV2: &ppspb.CreatePipelineTransaction{
			CreatePipelineRequest: q, UserJson: string(text),
		}}, err
	case *ppspb.CreatePipelineV2Request:
		return &transactionpb.TransactionRequest{CreatePipelineV2: &ppspb.CreatePipelineTransaction{
			CreatePipelineRequest: &ppspb.CreatePipelineRequest{Update: q.GetUpdate(), Reprocess: q.GetReprocess(), DryRun: q.GetDryRun()},
			UserJson:              q.GetCreatePipelineRequestJson(),
		}}, nil
	}
	return nil, nil
}

// answerTo gives an answer the type that the RPC with request req has.
func answerTo(req any, answer proto.Message) proto.Message {
	if _, v1 := req.(*ppspb.CreatePipelineRequest); v1 {
		return &emptypb.Empty{}
	}
	return answer
}

// responseOf is an answer as a transaction keeps it.
func responseOf(answer proto.Message) *transactionpb.TransactionResponse {
	c, _ := answer.(*pfspb.Commit)
	return &transactionpb.TransactionResponse{Commit: c}
}

// callsIn counts the calls that a request holds; one is right.
func callsIn(r *transactionpb.TransactionRequest) (n int) {
	r.ProtoReflect().Range(func(protoreflect.FieldDescriptor, protoreflect.Value) bool {
		n++
		return true
	})
	return n
}

// nameOf is the name of the call that a request holds, such as start_commit.
func nameOf(r *transactionpb.TransactionRequest) (name string) {
	r.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		name = string(f.Name())
		return false
	})
	return name
}
