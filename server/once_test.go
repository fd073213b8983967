package server_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// putOnce is put with an idempotency key; it gives the id of the commit.
func putOnce(ctx context.Context, c pfspb.APIClient, name, path, key string, data []byte) (string, error) {
	var header metadata.MD
	stream, err := c.ModifyFile(metadata.AppendToOutgoingContext(ctx, "pach-idempotency-key", key), grpc.Header(&header))
	if err != nil {
		return "", err
	}
	for _, m := range []*pfspb.ModifyFileRequest{
		{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: head(name)}},
		{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{Path: path, Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes(data)}}}},
	} {
		if stream.Send(m) != nil {
			break // the answer says why
		}
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		return "", err
	}
	if ids := header.Get("pach-commit-id"); len(ids) == 1 {
		return ids[0], nil
	}
	return "", fmt.Errorf("no commit id in the header: %v", header)
}

// TestKill_KeyedCommitsAreMadeExactlyOnce kills the daemon at random moments of a
// stream of commits with idempotency keys. The writer repeats the one it does not
// know about: in the end every line is there once, in its place.
func TestKill_KeyedCommitsAreMadeExactlyOnce(t *testing.T) {
	dir := t.TempDir()
	rounds := max(2, *killRounds/2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rounds)*time.Minute)
	defer cancel()
	next := 0 // the line that is not acknowledged yet
	var ids []string
	for round := range rounds {
		p := startPachd(t, dir)
		pfs, _, _ := dial(t, p.addr)
		if round == 0 {
			if _, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("events")}); err != nil {
				t.Fatal(err)
			}
		}
		var acked atomic.Int64
		acked.Store(int64(next))
		writing, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := next; writing.Err() == nil; i++ {
				id, err := putOnce(writing, pfs, "events", "/lines", fmt.Sprint("line ", i), line(i))
				if err != nil {
					return
				}
				ids = append(ids, id)
				acked.Store(int64(i + 1))
			}
		}()
		target := acked.Load() + 20 + rand.Int64N(100)
		for acked.Load() < target && ctx.Err() == nil {
			time.Sleep(time.Millisecond) // paces the kill only; nothing depends on it
		}
		p.kill()
		stop()
		<-done
		next = int(acked.Load())
	}
	p := startPachd(t, dir)
	pfs, _, _ := dial(t, p.addr)
	for _, i := range []int{next, next - 1, 0} { // the unknown one, and two long acknowledged
		id, err := putOnce(ctx, pfs, "events", "/lines", fmt.Sprint("line ", i), line(i))
		if err != nil || i < next && id != ids[i] {
			t.Errorf("line %d again: commit %s, %v", i, id, err)
		}
	}
	checkEvents(ctx, t, pfs, next+1, next+1)
	checkFsck(ctx, t, pfs)
}

// TestREST_IdempotencyKeyAndTransaction: headers of a REST call are metadata, and
// what pachd says about a call comes back as headers.
func TestREST_IdempotencyKeyAndTransaction(t *testing.T) {
	p := startPachd(t, t.TempDir())
	ctx := within(t)
	pfs, _, _ := dial(t, p.addr)
	if _, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("r")}); err != nil {
		t.Fatal(err)
	}
	post := func(method, body, header, value string) http.Header {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.addr+"/api/"+method, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(header, value)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", method, resp.Status)
		}
		return resp.Header
	}
	const body = `{"setCommit":{"repo":{"name":"r"},"branch":{"name":"master","repo":{"name":"r"}}}}{"addFile":{"path":"/f","raw":"eA=="}}`
	first := post("pfs_v2.API/ModifyFile", body, "pach-idempotency-key", "k").Get("Grpc-Metadata-Pach-Commit-Id")
	again := post("pfs_v2.API/ModifyFile", body, "pach-idempotency-key", "k").Get("Grpc-Metadata-Pach-Commit-Id")
	if len(first) != 32 || again != first {
		t.Errorf("commit %q, again %q", first, again)
	}
	txn := startTransaction(ctx, t, p)
	h := post("pfs_v2.API/CreateRepo", `{"repo":{"name":"queued"}}`, "pach-transaction", txn)
	if got := h.Get("Grpc-Metadata-Pach-Transaction"); got != txn {
		t.Errorf("a queued call answers with transaction %q, want %q", got, txn)
	}
	if _, err := pfs.InspectRepo(ctx, &pfspb.InspectRepoRequest{Repo: repo("queued")}); err == nil {
		t.Error("a queued call took effect")
	}
	post("transaction_v2.API/FinishTransaction", `{"transaction":{"id":"`+txn+`"}}`, "pach-transaction", txn)
	if _, err := pfs.InspectRepo(ctx, &pfspb.InspectRepoRequest{Repo: repo("queued")}); err != nil {
		t.Error(err)
	}
}
