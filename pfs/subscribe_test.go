package pfs

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

type commitStream = grpc.ServerStreamingClient[pfspb.CommitInfo]

func (m *metaServer) subscribe(ctx context.Context, req *pfspb.SubscribeCommitRequest) commitStream {
	m.t.Helper()
	stream, err := m.SubscribeCommit(ctx, req)
	m.must(stream, err)
	return stream
}

// take receives n commits.
func (m *metaServer) take(stream commitStream, n int) []string {
	m.t.Helper()
	var got []string
	for range n {
		info, err := stream.Recv()
		m.must(info, err)
		got = append(got, info.Commit.Id)
	}
	return got
}

func (m *metaServer) wantTaken(stream commitStream, want ...string) {
	m.t.Helper()
	if diff := cmp.Diff(want, m.take(stream, len(want))); diff != "" {
		m.t.Errorf("received (-want +got):\n%s", diff)
	}
}

func TestSubscribeCommit_ExistingThenNew(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r", "other")
	a, b := m.commit("r@master").Id, m.commit("r@side").Id
	every := m.subscribe(ctx, &pfspb.SubscribeCommitRequest{Repo: repoOf("r"), State: pfspb.CommitState_STARTED})
	master := m.subscribe(ctx, &pfspb.SubscribeCommitRequest{Repo: repoOf("r"), Branch: "master", State: pfspb.CommitState_FINISHED})
	after := m.subscribe(ctx, &pfspb.SubscribeCommitRequest{Repo: repoOf("r"), From: commitOf("r@master")})
	auto := m.subscribe(ctx, &pfspb.SubscribeCommitRequest{Repo: repoOf("r"), OriginKind: pfspb.OriginKind_AUTO})
	m.wantTaken(every, a, b)
	m.wantTaken(master, a)
	m.wantTaken(after, b)
	m.commit("other@master")
	c := m.start("r@master")
	d := m.commit("r@side").Id
	m.wantTaken(every, c.Id, d)
	m.wantTaken(after, c.Id, d)
	m.must(m.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: c, Error: "broken"}))
	e := m.commit("r@master").Id
	m.wantTaken(master, c.Id, e)
	m.wantTaken(every, e)
	m.branch("r@made")
	made := m.inspectBranch("r@made").Head.Id
	m.wantTaken(auto, made)
	m.wantTaken(every, made)
}

// TestSubscribeCommit_OpenCommitHoldsBackLaterOnes also when they are finished
// long before.
func TestSubscribeCommit_OpenCommitHoldsBackLaterOnes(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	open := m.start("r@open")
	b := m.commit("r@b").Id
	stream := m.subscribe(ctx, &pfspb.SubscribeCommitRequest{Repo: repoOf("r"), State: pfspb.CommitState_FINISHED})
	c := m.commit("r@b").Id
	m.must(m.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: open}))
	d := m.commit("r@b").Id
	m.wantTaken(stream, open.Id, b, c, d)
}

// TestSubscribeCommit_EachOnceUnderLoad subscribes while others commit.
func TestSubscribeCommit_EachOnceUnderLoad(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	const writers, each, readers = 4, 30, 3
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for range each {
				c, err := m.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branchOf(fmt.Sprintf("r@b%d", i))})
				if err == nil {
					_, err = m.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: c})
				}
				if err != nil {
					t.Errorf("commit: %v", err)
				}
			}
		})
	}
	got := make([]map[string]int, readers)
	for i := range readers {
		wg.Go(func() {
			got[i] = map[string]int{}
			stream, err := m.SubscribeCommit(ctx, &pfspb.SubscribeCommitRequest{Repo: repoOf("r"), State: pfspb.CommitState_FINISHED})
			if err != nil {
				t.Errorf("subscribe: %v", err)
				return
			}
			for range writers * each {
				info, err := stream.Recv()
				if err != nil || info.Finished == nil {
					t.Errorf("receive: %v, %v", info, err)
					return
				}
				got[i][info.Commit.Id]++
			}
		})
	}
	wg.Wait()
	for i := range readers {
		if len(got[i]) != writers*each {
			t.Errorf("reader %d got %d different commits, want %d", i, len(got[i]), writers*each)
		}
	}
}

// TestSubscribeCommit_SlowTransaction delivers a commit whose transaction began
// before, but ended after, that of one already delivered.
func TestSubscribeCommit_SlowTransaction(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	stream := m.subscribe(ctx, &pfspb.SubscribeCommitRequest{Repo: repoOf("r")})
	var fast, slow string
	m.must(nil, m.svc.Update(ctx, func(tx *Txn) error {
		c, err := tx.StartCommit(branchOf("r@slow"), nil, "")
		slow = c.GetId()
		if fast == "" && err == nil {
			fast = m.commit("r@fast").Id
		}
		return err
	}))
	m.wantTaken(stream, fast, slow)
}

func TestSubscribeCommit_EndsWithItsRepo(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	first := m.commit("r@master").Id
	stream := m.subscribe(ctx, &pfspb.SubscribeCommitRequest{Repo: repoOf("r")})
	m.wantTaken(stream, first)
	m.must(m.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repoOf("r")}))
	_, err := stream.Recv()
	wantError(t, err, codes.NotFound, "repo default/r not found")
}

// TestSubscribeCommit_DroppedBeforeItsTurn passes the commit over.
func TestSubscribeCommit_DroppedBeforeItsTurn(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	first, second := m.start("r@a"), m.start("r@b")
	stream := m.subscribe(ctx, &pfspb.SubscribeCommitRequest{Repo: repoOf("r"), State: pfspb.CommitState_FINISHED})
	m.must(nil, m.drop(second, false))
	m.finishWith(first, "")
	third := m.commit("r@a").Id
	m.wantTaken(stream, first.Id, m.inspectBranch("r@b").Head.Id, third)
}

// TestAwait_DroppedCommit ends the wait, also if it was dropped just before.
func TestAwait_DroppedCommit(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	c := m.start("r@a")
	var rec *recordpb.CommitRecord
	m.must(nil, m.svc.View(ctx, func(tx *Txn) (err error) {
		rec, err = tx.resolve(c)
		return err
	}))
	waited := make(chan error, 2)
	wait := func() {
		_, err := m.svc.await(ctx, rec, pfspb.CommitState_FINISHED)
		waited <- err
	}
	go wait()
	m.must(nil, m.drop(c, false))
	wait()
	for range 2 {
		wantError(t, <-waited, codes.Unknown, "commit default/r@"+c.Id+" was deleted")
	}
}

// TestInspectCommit_DeletedWhileWaitedOn says so.
func TestInspectCommit_DeletedWhileWaitedOn(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	c := m.start("r@master")
	stream := m.subscribe(ctx, &pfspb.SubscribeCommitRequest{Repo: repoOf("r"), State: pfspb.CommitState_FINISHED})
	waited := make(chan error, 1)
	go func() {
		_, err := m.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: c, Wait: pfspb.CommitState_FINISHED})
		waited <- err
	}()
	go func() {
		_, err := m.svc.waitCommit(ctx, NormalizeRepo(repoOf("r")), c.Id, pfspb.CommitState_FINISHED)
		waited <- err
	}()
	m.must(m.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repoOf("r")}))
	for range 2 {
		// A wait that had not begun finds the repo gone instead.
		if err := <-waited; err == nil {
			t.Error("the wait for a deleted commit succeeded")
		}
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("the subscription delivered a deleted commit")
	}
}
