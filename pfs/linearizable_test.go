package pfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// A branch with one file, as a register: what clients do to it and see of it.
type (
	branchCall struct {
		op   string // "append", "put" or "read"
		data string
	}
	branchModel = string // the content of the file
)

var branchSpec = porcupine.Model{
	Init: func() any { return branchModel("") },
	Step: func(state, input, output any) (bool, any) {
		content, call := state.(branchModel), input.(branchCall)
		switch call.op {
		case "append":
			return true, content + call.data
		case "put":
			return true, call.data
		default:
			return output.(string) == content, content
		}
	},
	DescribeOperation: func(input, output any) string {
		call := input.(branchCall)
		return fmt.Sprintf("%s %q -> %v", call.op, call.data, output)
	},
}

// TestBranch_HistoriesAreLinearizable has clients commit to one branch and read
// its head at the same time: what they saw must be what one client after the
// other could have seen.
func TestBranch_HistoriesAreLinearizable(t *testing.T) {
	const clients, calls = 4, 24 // beyond, the search for an order takes too long
	m := newMeta(t)
	m.repo("r")
	for round := range 8 {
		branch := fmt.Sprintf("r@b%d", round)
		start := time.Now()
		var mu sync.Mutex
		var history []porcupine.Operation
		var wg sync.WaitGroup
		for client := range clients {
			wg.Go(func() {
				for i := range calls {
					call := branchCall{op: "read"} // every other call: reads are what pins the order down
					if i%2 == 0 {
						call = branchCall{[]string{"append", "append", "put"}[rand.IntN(3)], fmt.Sprintf("%d.%d;", client, i)}
					}
					begin := time.Since(start)
					got, err := m.branchCall(branch, call)
					if err != nil {
						t.Errorf("%v: %v", call, err)
						return
					}
					mu.Lock()
					history = append(history, porcupine.Operation{
						ClientId: client, Input: call, Output: got, Call: begin.Nanoseconds(), Return: time.Since(start).Nanoseconds(),
					})
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		if result := porcupine.CheckOperationsTimeout(branchSpec, history, 30*time.Second); result != porcupine.Ok {
			t.Errorf("round %d: %d calls of %d clients: %s", round, len(history), clients, result)
		}
	}
}

// TestLinearizability_OracleFindsAStaleRead shows that the check can fail.
func TestLinearizability_OracleFindsAStaleRead(t *testing.T) {
	history := []porcupine.Operation{
		{ClientId: 0, Input: branchCall{"append", "a"}, Call: 0, Return: 1},
		{ClientId: 1, Input: branchCall{"read", ""}, Output: "", Call: 2, Return: 3},
	}
	if porcupine.CheckOperations(branchSpec, history) {
		t.Error("a read that misses an acknowledged commit passed")
	}
}

// branchCall makes one call on the file /f of a branch.
func (m *metaServer) branchCall(branch string, call branchCall) (string, error) {
	ctx := m.t.Context()
	file := &pfspb.File{Commit: commitOf(branch), Path: "/f"}
	if call.op == "read" {
		pieces, err := all(m.GetFile(ctx, &pfspb.GetFileRequest{File: file}))
		if status.Code(err) == codes.NotFound {
			return "", nil // nothing has been committed yet
		}
		var b bytes.Buffer
		for _, p := range pieces {
			b.Write(p.Value)
		}
		return b.String(), err
	}
	s, err := m.ModifyFile(ctx)
	if err != nil {
		return "", err
	}
	messages := []*pfspb.ModifyFileRequest{{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: file.Commit}}}
	if call.op == "put" {
		messages = append(messages, &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_DeleteFile{DeleteFile: &pfspb.DeleteFile{Path: file.Path}}})
	}
	messages = append(messages, &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{
		Path: file.Path, Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes([]byte(call.data))},
	}}})
	for _, msg := range messages {
		if err := s.Send(msg); err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
	}
	_, err = s.CloseAndRecv()
	return "", err
}
