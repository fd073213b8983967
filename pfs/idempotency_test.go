package pfs

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/minipachd/minipachd/pfs/frame"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	"github.com/minipachd/minipachd/store"
)

func addOp(path, data string) *pfspb.ModifyFileRequest {
	return &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{
		Path: path, Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes([]byte(data))},
	}}}
}

func deleteOp(path string) *pfspb.ModifyFileRequest {
	return &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_DeleteFile{DeleteFile: &pfspb.DeleteFile{Path: path}}}
}

// onceStream opens a ModifyFile with keys on a target and sends the operations.
func (m *metaServer) onceStream(ctx context.Context, target *pfspb.Commit, keys []string, ops ...*pfspb.ModifyFileRequest) grpc.ClientStreamingClient[pfspb.ModifyFileRequest, emptypb.Empty] {
	m.t.Helper()
	for _, key := range keys {
		ctx = metadata.AppendToOutgoingContext(ctx, IdempotencyMetadata, key)
	}
	stream, err := m.ModifyFile(ctx)
	m.must(stream, err)
	ops = append([]*pfspb.ModifyFileRequest{{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: target}}}, ops...)
	for _, op := range ops {
		if stream.Send(op) != nil {
			break // the answer says why
		}
	}
	return stream
}

// modifyOnce is a whole ModifyFile with a key; it gives the id in the header.
func (m *metaServer) modifyOnce(target *pfspb.Commit, key string, ops ...*pfspb.ModifyFileRequest) (id string, err error) {
	m.t.Helper()
	stream := m.onceStream(limit(m.t), target, []string{key}, ops...)
	if _, err := stream.CloseAndRecv(); err != nil {
		return "", err
	}
	header, err := stream.Header()
	m.must(header, err)
	if got := header.Get(CommitIDMetadata); len(got) == 1 {
		id = got[0]
	}
	return id, nil
}

func (m *metaServer) commits(repo string) (ids []string) {
	m.t.Helper()
	infos, err := all(m.ListCommit(limit(m.t), &pfspb.ListCommitRequest{Repo: repoOf(repo)}))
	m.must(infos, err)
	for _, info := range infos {
		ids = append(ids, info.Commit.Id)
	}
	return ids
}

func (m *metaServer) count(prefix string) (n int64) {
	m.t.Helper()
	m.must(nil, m.svc.store.View(limit(m.t), func(tx *store.Txn) (err error) {
		n, err = tx.Count(prefix)
		return err
	}))
	return n
}

// TestOnce_RepeatedCallWritesNothing, whatever the order in which it happens.
func TestOnce_RepeatedCallWritesNothing(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	target := commitOf("r@master")
	first, err := m.modifyOnce(target, "k", addOp("/a", "hello"), addOp("/b", "x"))
	m.must(first, err)
	if !IsCommitID(first) {
		t.Fatalf("the header has no commit id but %q", first)
	}
	writes := func() int64 {
		resp, err := m.svc.store.Client().Get(t.Context(), "none")
		m.must(resp, err)
		return resp.Header.Revision
	}
	before := writes()
	for _, ops := range [][]*pfspb.ModifyFileRequest{
		{addOp("/a", "hello"), addOp("/b", "x")},
		{addOp("/a", ""), addOp("/a", "he"), addOp("/a", "llo"), addOp("/b", "x")}, // other messages, same bytes
	} {
		again, err := m.modifyOnce(target, "k", ops...)
		if err != nil || again != first {
			t.Errorf("again: %s, %v, want %s", again, err, first)
		}
	}
	if after := writes(); after != before {
		t.Errorf("repeated calls moved etcd from revision %d to %d", before, after)
	}
	second, err := m.modifyOnce(target, "k2", addOp("/a", "hello"), addOp("/b", "x"))
	if err != nil || second == first {
		t.Errorf("another key: %s, %v", second, err)
	}
	other, err := m.modifyOnce(commitOf("r@dev"), "k", addOp("/a", "hello"), addOp("/b", "x"))
	if err != nil || other == first {
		t.Errorf("the same key on another branch: %s, %v", other, err)
	}
	// Neither an open commit nor a head elsewhere makes a repeated call a new one.
	m.must(m.CreateBranch(limit(t), &pfspb.CreateBranchRequest{Branch: branchOf("r@master"), Head: &pfspb.Commit{Repo: repoOf("r"), Id: other}}))
	open := m.start("r@master")
	again, err := m.modifyOnce(target, "k", addOp("/a", "hello"), addOp("/b", "x"))
	if err != nil || again != first {
		t.Errorf("with an open commit: %s, %v, want %s", again, err, first)
	}
	m.must(m.FinishCommit(limit(t), &pfspb.FinishCommitRequest{Commit: open}))
	if got := m.commits("r"); !slices.Equal(got, []string{open.Id, other, second, first}) {
		t.Errorf("commits %v", got)
	}
}

// TestOnce_Errors holds the texts and codes of what is wrong with a key.
func TestOnce_Errors(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	first, err := m.modifyOnce(commitOf("r@master"), "used", addOp("/a", "1"))
	m.must(first, err)
	open := m.start("r@open")
	used := `idempotency key "used": commit default/r@` + first + ` was made with it from other content; a key can be repeated only with the same content`
	for _, tc := range []struct {
		name   string
		target string
		keys   []string
		ops    []*pfspb.ModifyFileRequest
		code   codes.Code
		text   string
	}{
		{"other bytes", "r@master", []string{"used"}, []*pfspb.ModifyFileRequest{addOp("/a", "2")}, codes.FailedPrecondition, used},
		{"fewer operations", "r@master", []string{"used"}, nil, codes.FailedPrecondition, used},
		{"more operations", "r@master", []string{"used"}, []*pfspb.ModifyFileRequest{addOp("/a", "1"), deleteOp("/b")}, codes.FailedPrecondition, used},
		{"another path", "r@master", []string{"used"}, []*pfspb.ModifyFileRequest{addOp("/b", "1")}, codes.FailedPrecondition, used},
		{"open commit", "r@open", []string{"k"}, nil, codes.FailedPrecondition, `idempotency key "k": commit default/r@` + open.Id + ` is open, and a key belongs to a commit of its own: finish that one first, or leave out the key`},
		{"open commit by id", "r@" + open.Id, []string{"k"}, nil, codes.InvalidArgument, `idempotency key "k": the target must be given by the name of a branch, not as default/r@` + open.Id},
		{"finished commit by id", "r@" + first, []string{"used"}, nil, codes.InvalidArgument, `idempotency key "used": the target must be given by the name of a branch, not as default/r@` + first},
		{"ancestor", "r@master^", []string{"k"}, nil, codes.InvalidArgument, `idempotency key "k": the target must be given by the name of a branch, not as default/r@master^`},
		{"repo missing", "x@master", []string{"k"}, nil, codes.NotFound, "repo default/x not found"},
		{"invalid operation", "r@master", []string{"k"}, []*pfspb.ModifyFileRequest{addOp("/*", "")}, codes.Unknown, "path (/*) invalid: globbing character (*) not allowed in path"},
		{"empty key", "r@master", []string{""}, nil, codes.InvalidArgument, "the idempotency key is invalid: it must have 1 to 255 characters"},
		{"long key", "r@master", []string{strings.Repeat("k", 256)}, nil, codes.InvalidArgument, "the idempotency key is invalid: it must have 1 to 255 characters"},
		{"two keys", "r@master", []string{"a", "b"}, nil, codes.InvalidArgument, "the idempotency key is invalid: one call can have only one"},
		{"longest key", "r@master", []string{strings.Repeat("~", 255)}, nil, codes.OK, ""},
		{"key with slashes and spaces", "r@master", []string{"a / b"}, nil, codes.OK, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := m.onceStream(limit(t), commitOf(tc.target), tc.keys, tc.ops...).CloseAndRecv()
			wantError(t, err, tc.code, tc.text)
		})
	}
	for _, key := range []string{"ümlaut", "tab\t", "nul\x00", "del\x7f"} {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs(IdempotencyMetadata, key))
		_, err := idempotencyKey(ctx)
		wantError(t, err, codes.InvalidArgument, "the idempotency key is invalid: it must consist of printable ASCII characters")
	}
}

// TestOnce_BrokenStreamLeavesTheKeyFree: nothing of a stream that ends early is
// remembered.
func TestOnce_BrokenStreamLeavesTheKeyFree(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	ctx, cancel := context.WithCancel(limit(t))
	stream := m.onceStream(ctx, commitOf("r@master"), []string{"k"}, addOp("/a", "half"))
	cancel()
	_, err := stream.CloseAndRecv()
	wantError(t, err, codes.Canceled, "")
	id, err := m.modifyOnce(commitOf("r@master"), "k", addOp("/a", "whole"))
	if got := m.commits("r"); err != nil || !slices.Equal(got, []string{id}) {
		t.Errorf("commits %v, want only %s (%v)", got, id, err)
	}
}

// TestOnce_ConcurrentTwins sends each key from many streams at once, all of which
// were open before the first of them ended: one commit a key.
func TestOnce_ConcurrentTwins(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	const keys, twins = 5, 8
	ids := make([][]string, keys)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for k := range keys {
		for range twins {
			stream := m.onceStream(limit(t), commitOf("r@master"), []string{fmt.Sprint("k", k)}, addOp("/a", fmt.Sprint(k, ";")))
			wg.Go(func() {
				_, err := stream.CloseAndRecv()
				header, _ := stream.Header()
				if err != nil {
					t.Errorf("key %d: %v", k, err)
				}
				mu.Lock()
				ids[k] = append(ids[k], header.Get(CommitIDMetadata)...)
				mu.Unlock()
			})
		}
	}
	wg.Wait()
	var want []string
	for k := range keys {
		if got := slices.Compact(slices.Clone(ids[k])); len(ids[k]) != twins || len(got) != 1 {
			t.Errorf("key %d: commits %v", k, ids[k])
			continue
		}
		want = append(want, ids[k][0])
	}
	got := m.commits("r")
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("commits %v, want %v", got, want)
	}
}

// TestOnce_SurvivesRestart: the record is as durable as the commit.
func TestOnce_SurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	m, stop := startMeta(t, dir)
	m.repo("r")
	first, err := m.modifyOnce(commitOf("r@master"), "k", addOp("/a", "1"))
	m.must(first, err)
	stop()
	m, _ = startMeta(t, dir)
	again, err := m.modifyOnce(commitOf("r@master"), "k", addOp("/a", "1"))
	if err != nil || again != first || len(m.commits("r")) != 1 {
		t.Errorf("after a restart: %s, %v, want %s", again, err, first)
	}
}

// TestOnce_DeletedWithBranchAndRepo: a new branch or repo of the name knows nothing
// of the keys of the old one.
func TestOnce_DeletedWithBranchAndRepo(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	var ids []string
	write := func() {
		t.Helper()
		id, err := m.modifyOnce(commitOf("r@master"), "k", addOp("/a", "1"))
		m.must(id, err)
		if slices.Contains(ids, id) {
			t.Errorf("the key still leads to commit %s", id)
		}
		ids = append(ids, id)
	}
	m.repo("r")
	write()
	m.must(m.DeleteBranch(ctx, &pfspb.DeleteBranchRequest{Branch: branchOf("r@master")}))
	write()
	m.must(m.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repoOf("r")}))
	if n := m.count(oncePrefix); n != 0 {
		t.Errorf("%d keys are left of a deleted repo", n)
	}
	m.repo("r")
	write()
	// The index has entries of the old ones; forgetting them leaves the new one alone.
	m.svc.idem.Keys = 1
	m.must(nil, m.svc.forgetKeys(ctx, time.Now()))
	if records, entries := m.count(oncePrefix), m.count(onceOrderPrefix); records != 1 || entries != 1 {
		t.Errorf("%d records and %d index entries, want one each", records, entries)
	}
}

// TestOnce_ForgottenByAgeAndNumber with a clock of the test's.
func TestOnce_ForgottenByAgeAndNumber(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	ctx := limit(t)
	const n = 2*forgetBatch + 10
	master := NormalizeBranch(branchOf("r@master"))
	key := func(i int) *once {
		return &once{branch: master, key: fmt.Sprint("k", i), digest: []byte("d")}
	}
	for i := 0; i < n; i += 50 { // many at a time, as a group does it
		m.must(nil, m.svc.Update(ctx, func(tx *Txn) error {
			for j := i; j < min(i+50, n); j++ {
				rec, _, err := tx.oneShot(master, nil, nil)
				if err != nil {
					return err
				}
				if err := tx.remember(key(j), rec); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	left := func(want int64, when string) {
		t.Helper()
		if records, entries := m.count(oncePrefix), m.count(onceOrderPrefix); records != want || entries != want {
			t.Errorf("%s: %d records and %d index entries, want %d", when, records, entries, want)
		}
	}
	now := time.Now()
	m.must(nil, m.svc.forgetKeys(ctx, now.Add(23*time.Hour)))
	left(n, "before a day has passed")
	m.svc.idem.Keys = n - forgetBatch - 5
	m.must(nil, m.svc.forgetKeys(ctx, now))
	left(n-forgetBatch-5, "with too many keys")
	m.must(nil, m.svc.View(ctx, func(tx *Txn) error {
		for i, want := range map[int]bool{0: false, forgetBatch + 4: false, forgetBatch + 5: true, n - 1: true} {
			if known, err := tx.repeats(key(i)); err != nil || known != want {
				t.Errorf("key %d is known: %v, %v, want %v", i, known, err, want)
			}
		}
		o := key(0)
		o.repeat = true
		_, err := tx.repeats(o)
		wantError(t, err, codes.Aborted, `idempotency key "k0": it was forgotten, or its branch deleted, during the call; nothing was written: call again`)
		return nil
	}))
	m.must(nil, m.svc.forgetKeys(ctx, now.Add(25*time.Hour)))
	left(0, "after a day")
	if len(m.commits("r")) != n {
		t.Error("forgetting keys deleted commits")
	}
}

// oneMessage is a stream that brings one message.
type oneMessage struct{ m *pfspb.ModifyFileRequest }

func (e oneMessage) RecvMsg(m any) error {
	b, err := proto.Marshal(e.m)
	if err != nil {
		return err
	}
	return frame.Codec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, m)
}

// TestDigest tells sequences of operations apart, and not how they were sent.
func TestDigest(t *testing.T) {
	sum := func(ops ...*pfspb.ModifyFileRequest) string {
		d := newDigest()
		var o frame.Operation
		defer o.Free()
		for _, op := range ops {
			if err := o.Receive(oneMessage{op}); err != nil {
				t.Fatal(err)
			}
			d.add(&o)
		}
		return string(d.sum())
	}
	cp := func(dst, src string, appending bool) *pfspb.ModifyFileRequest {
		return &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_CopyFile{CopyFile: &pfspb.CopyFile{
			Dst: dst, Append: appending, Src: &pfspb.File{Commit: commitOf("r@master"), Path: src},
		}}}
	}
	url := func(u string, recursive bool) *pfspb.ModifyFileRequest {
		return &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{
			Path: "/a", Source: &pfspb.AddFile_Url{Url: &pfspb.AddFile_URLSource{URL: u, Recursive: recursive}},
		}}}
	}
	seen := map[string]int{}
	for i, ops := range [][]*pfspb.ModifyFileRequest{
		nil,
		{addOp("/a", "")},
		{addOp("/a", "12")},
		{addOp("/a", "21")},
		{addOp("/a", "1"), addOp("/b", "2")},
		{addOp("/b", "2"), addOp("/a", "1")},
		{addOp("/a", "1"), addOp("/b", "2"), addOp("/a", "3")},
		{addOp("/a", "1"), deleteOp("/b"), addOp("/a", "2")},
		{deleteOp("/a"), addOp("/a", "12")},
		{deleteOp("/a")},
		{deleteOp("/a/")},
		{cp("/a", "/b", false)},
		{cp("/a", "/b", true)},
		{cp("/b", "/a", false)},
		{url("u", false)},
		{url("u", true)},
		{url("v", true)},
		{{}},
	} {
		s := sum(ops...)
		if j, ok := seen[s]; ok {
			t.Errorf("sequences %d and %d have the same digest", j, i)
		}
		seen[s] = i
	}
	if sum(addOp("/a", "12"), addOp("/b", "3")) != sum(addOp("/a", "1"), addOp("/a", "2"), addOp("/b", ""), addOp("/b", "3")) {
		t.Error("the digest depends on how the bytes are cut into messages")
	}
}
