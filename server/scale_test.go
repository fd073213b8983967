package server_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

var (
	bigFile = flag.Int64("big.bytes", 512<<20, "size of the file of the memory test; 4294967296 for the full one")
	history = flag.Int("history.commits", 3000, "commits of the growth test; 10000 for the full one")
)

// maxResident bounds the daemon's memory whatever the size of a file.
const maxResident = 300 << 20

// TestBigFile_MemoryIsBounded puts one big incompressible file in and takes it
// out again: equal hashes, and the daemon stays small throughout.
func TestBigFile_MemoryIsBounded(t *testing.T) {
	p := startPachd(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	pfs, _, _ := dial(t, p.addr)
	if _, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("big")}); err != nil {
		t.Fatal(err)
	}
	in, out := sha256.New(), sha256.New()
	stream, err := pfs.ModifyFile(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: head("big")}}); err != nil {
		t.Fatal(err)
	}
	piece := make([]byte, 2<<20)
	source := rand.NewChaCha8([32]byte{42})
	_, _ = source.Read(piece) // never fails
	start := time.Now()
	for sent := int64(0); sent < *bigFile; sent += int64(len(piece)) {
		for page := 0; page < len(piece); page += 4096 {
			binary.LittleEndian.PutUint64(piece[page:], uint64(sent)+uint64(page))
		}
		in.Write(piece)
		if err := stream.Send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{
			Path: "/file", Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes(piece)},
		}}}); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
	t.Logf("in: %.0f MB/s", float64(*bigFile)/1e6/time.Since(start).Seconds())
	start = time.Now()
	reader, err := pfs.GetFile(ctx, &pfspb.GetFileRequest{File: &pfspb.File{Commit: head("big"), Path: "/file"}})
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := reader.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		out.Write(m.Value)
	}
	t.Logf("out: %.0f MB/s", float64(*bigFile)/1e6/time.Since(start).Seconds())
	if !bytes.Equal(in.Sum(nil), out.Sum(nil)) {
		t.Error("what came out is not what went in")
	}
	if peak := peakResident(t, p); peak > maxResident {
		t.Errorf("the daemon's resident memory reached %d MiB, want at most %d", peak>>20, maxResident>>20)
	} else {
		t.Logf("peak resident memory %d MiB", peak>>20)
	}
}

// peakResident is the high-water mark of the daemon's resident memory.
func peakResident(t *testing.T, p *proc) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Skip("no /proc to read the daemon's memory from")
	}
	for l := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(l, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("no VmHWM in the daemon's status")
	return 0
}

// TestHistory_HeadCostDoesNotGrow makes many one-shot commits to one branch and
// reports what reading the head and listing it cost after 100 and at the end.
// The figures are logged, not judged: no test fails because a machine is slow.
func TestHistory_HeadCostDoesNotGrow(t *testing.T) {
	p := startPachd(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	pfs, _, _ := dial(t, p.addr)
	if _, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("tiny")}); err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte{'x'}, 99)
	data = append(data, '\n')
	cost := func() (read, list time.Duration) {
		var reads, lists []time.Duration
		for range 31 {
			start := time.Now()
			if _, err := get(ctx, pfs, "tiny", "/f7"); err != nil {
				t.Fatal(err)
			}
			reads = append(reads, time.Since(start))
			start = time.Now()
			files, err := collect(pfs.ListFile(ctx, &pfspb.ListFileRequest{File: &pfspb.File{Commit: head("tiny"), Path: "/"}}))
			if err != nil || len(files) != 50 {
				t.Fatalf("listed %d files: %v", len(files), err)
			}
			lists = append(lists, time.Since(start))
		}
		slices.Sort(reads)
		slices.Sort(lists)
		return reads[len(reads)/2], lists[len(lists)/2]
	}
	overwrite := func(i int) {
		stream, err := pfs.ModifyFile(ctx)
		if err != nil {
			t.Fatal(err)
		}
		path := fmt.Sprintf("/f%d", i%50)
		for _, m := range []*pfspb.ModifyFileRequest{
			{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: head("tiny")}},
			{Body: &pfspb.ModifyFileRequest_DeleteFile{DeleteFile: &pfspb.DeleteFile{Path: path}}},
			{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{Path: path, Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes(data)}}}},
		} {
			if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		if _, err := stream.CloseAndRecv(); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	for i := range 100 {
		overwrite(i)
	}
	read1, list1 := cost()
	for i := 100; i < *history; i++ {
		overwrite(i)
	}
	t.Logf("%d commits in %v", *history, time.Since(start))
	read2, list2 := cost()
	t.Logf("after 100 commits: read %v, list %v; after %d: read %v (%.2fx), list %v (%.2fx)",
		read1, list1, *history, read2, float64(read2)/float64(read1), list2, float64(list2)/float64(list1))
	info, err := pfs.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: head("tiny"), Wait: pfspb.CommitState_FINISHED})
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(50 * 100); info.Details.GetSizeBytes() != want {
		t.Errorf("size of the head is %d, want %d", info.Details.GetSizeBytes(), want)
	}
}
