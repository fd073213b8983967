package audit

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/minipachd/minipachd/pfs/frame"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	metadatapb "github.com/minipachd/minipachd/proto/metadata"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
)

// lines reads a file of the record.
func lines(t *testing.T, file string) []map[string]any {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]any
	for line := range strings.Lines(string(b)) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%s: %v in %q", file, err, line)
		}
		out = append(out, m)
	}
	return out
}

func TestLog_RecordsWhatChangesAndWhatIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "audit")
	l, err := Open(dir, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	control, data, refused := filepath.Join(dir, ControlFile), filepath.Join(dir, DataFile), filepath.Join(dir, RefusedFile)
	l.Record(Entry{Method: "/pfs_v2.API/CreateRepo", Class: Control, Subject: "user:a", From: "1.2.3.4:5", Agent: "x", Objects: []string{"repo default/r"}, Duration: 1500 * time.Microsecond})
	// It is there before the call is answered: nothing that ends the process takes it away.
	got := lines(t, control)
	if len(got) != 1 {
		t.Fatalf("control: %v; want the change", got)
	}
	want := map[string]any{
		"ts": got[0]["ts"], "method": "/pfs_v2.API/CreateRepo", "subject": "user:a", "from": "1.2.3.4:5", "agent": "x",
		"objects": []any{"repo default/r"}, "code": "OK", "ms": 1.5,
	}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Error(diff)
	}
	long := strings.Repeat("x", maxText-1) + "\u00e9" + "yyy" // the cut goes through a character
	for _, e := range []Entry{
		{Method: "/pfs_v2.API/ModifyFile", Class: Data, Subject: "pipeline:default/p"},
		{Method: "/pfs_v2.API/GetFile", Class: Read, Subject: "user:a"},
		{Method: "/pfs_v2.API/GetFile", Class: Read, Subject: "user:b", Refused: true, Code: codes.PermissionDenied, Error: long, Agent: long, Details: []string{long}},
		{Method: "/pfs_v2.API/CreateRepo", Class: Control, Refused: true, Code: codes.Unauthenticated},
		{Method: "/pfs_v2.API/GetFile", Class: Read, Code: codes.NotFound},
	} {
		l.Record(e)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{control, data, refused} {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", f, info.Mode(), err)
		}
	}
	if got := lines(t, data); len(got) != 1 || got[0]["subject"] != "pipeline:default/p" {
		t.Errorf("data: %v; want the one write", got)
	}
	got = lines(t, refused)
	if len(got) != 2 || len(lines(t, control)) != 1 {
		t.Fatalf("refused: %v; want two", got)
	}
	short := strings.Repeat("x", maxText-1) + "..."
	if got[0]["error"] != short || got[0]["agent"] != short || got[0]["details"].([]any)[0] != short {
		t.Errorf("long texts become %v", got[0])
	}
	// It is continued, not begun anew; a torn line spoils no other.
	if err := os.WriteFile(control, []byte(`{"ts":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err = Open(dir, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	l.Record(Entry{Method: "/x", Class: Control})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(control)
	if err != nil || !strings.HasPrefix(string(text), "{\"ts\":\n{") {
		t.Errorf("after a torn line: %q, %v", text, err)
	}
}

func TestOpen_SaysWhereItCannotWrite(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(file, "audit"), zap.NewNop()); err == nil {
		t.Error("a directory below a file is no error")
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, DataFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, zap.NewNop()); err == nil {
		t.Error("a directory in place of a file is no error")
	}
	var none *Log
	none.Record(Entry{Class: Control})
	if err := none.Close(); err != nil {
		t.Error(err)
	}
}

func TestLog_IsRotated(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(dir, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", maxText)
	var objects []string
	for range 100 {
		objects = append(objects, big)
	}
	const n = 800 // of 50 KB
	for range n {
		l.Record(Entry{Class: Control, Objects: objects})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "control*"))
	if err != nil || len(files) != 2 {
		t.Fatalf("files %v, %v; want the current one and one before", files, err)
	}
	entries := 0
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 || info.Size() > maxMegabytes<<20 {
			t.Errorf("%s: %v, %v", f, info, err)
		}
		entries += len(lines(t, f))
	}
	if entries != n {
		t.Errorf("%d entries, want %d", entries, n)
	}
}

// faulty is a disk that can be full, or hang.
type faulty struct {
	mu   sync.Mutex
	full bool
	hang chan struct{}
	text strings.Builder
}

func (d *faulty) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hang != nil {
		<-d.hang
	}
	if d.full {
		d.text.Write(p[:len(p)/2])
		return len(p) / 2, errors.New("no space left on device")
	}
	return d.text.Write(p)
}

func (d *faulty) Close() error { return nil }

func (d *faulty) set(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full = full
}

// TestLog_FullDisk goes on without a record, says so, and leaves a mark where entries
// are missing.
func TestLog_FullDisk(t *testing.T) {
	core, said := observer.New(zap.InfoLevel)
	d := &faulty{full: true}
	l, err := Open(t.TempDir(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	_ = l.control.close()
	l.control = newFile("control", zap.New(core), d)
	for range 5 {
		l.Record(Entry{Method: "/lost", Class: Control})
	}
	d.set(false)
	for range 2 {
		l.Record(Entry{Method: "/kept", Class: Control})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	var whole []string
	for line := range strings.Lines(d.text.String()) {
		if json.Valid([]byte(line)) {
			whole = append(whole, line)
		}
	}
	// Marks of which the disk took half with the rest of the writing stay.
	for len(whole) > 3 {
		whole = whole[1:]
	}
	if len(whole) != 3 || !strings.Contains(whole[0], `"lost":5`) || !strings.Contains(whole[1], "/kept") || !strings.Contains(whole[2], "/kept") {
		t.Errorf("the record ends in %q", whole)
	}
	if n, back := said.FilterMessageSnippet("CANNOT BE WRITTEN").Len(), said.FilterMessageSnippet("is written again").Len(); n != 1 || back != 1 {
		t.Errorf("said %d times that it fails, %d times that it works; want once each", n, back)
	}
}

// TestLog_DiskThatHangs holds up one call for as long as its patience lasts, and no
// other.
func TestLog_DiskThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, said := observer.New(zap.InfoLevel)
		d := &faulty{hang: make(chan struct{})}
		l := &Log{enc: newEncoder(), control: newFile("control", zap.New(core), d)}
		start := time.Now()
		for range queued + 10 {
			l.Record(Entry{Class: Control})
		}
		if took := time.Since(start); took != patience {
			t.Errorf("took %v, want %v", took, patience)
		}
		if n := said.FilterMessageSnippet("CANNOT BE WRITTEN").Len(); n != 1 {
			t.Errorf("said so %d times", n)
		}
		if err := l.Close(); err == nil {
			t.Error("Close says nothing of it")
		}
		close(d.hang)
		synctest.Wait()
	})
}

// TestLog_ConcurrentCalls loses none and mixes none up.
func TestLog_ConcurrentCalls(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(dir, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	const callers, each = 8, 2 * queued / 8
	var g sync.WaitGroup
	for i := range callers {
		g.Go(func() {
			for range each {
				l.Record(Entry{Class: Data, Subject: fmt.Sprint(i)})
			}
		})
	}
	g.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l.Record(Entry{Class: Data}) // too late, and no harm done
	if n := len(lines(t, filepath.Join(dir, DataFile))); n != callers*each {
		t.Errorf("%d entries, want %d", n, callers*each)
	}
}

// BenchmarkRecord is what an entry costs the call that it is about: a one-shot commit.
func BenchmarkRecord(b *testing.B) {
	req := &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: &pfspb.Commit{
		Branch: &pfspb.Branch{Name: "master", Repo: &pfspb.Repo{Name: "events", Type: "user"}},
	}}}
	file := &frame.Operation{IsAppend: true, Path: "/2026/11/25.jsonl"}
	for name, class := range map[string]Class{"data": Data, "control": Control} {
		b.Run(name, func(b *testing.B) {
			l, err := Open(b.TempDir(), zap.NewNop())
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			for b.Loop() {
				var o Objects
				o.Add(req)
				o.Add(file)
				l.Record(Entry{
					Method: "/pfs_v2.API/ModifyFile", Class: class, Subject: "pipeline:default/events", From: "127.0.0.1:45678",
					Agent: "grpc-go/1.80.0", Objects: o.List(), Duration: time.Millisecond,
				})
			}
		})
	}
}

func TestObjects_NamesWhatARequestIsAbout(t *testing.T) {
	const repo = `{"name":"r","type":"user"}`
	for _, tc := range []struct {
		req  proto.Message
		json string
		want []string
	}{
		{&pfspb.CreateRepoRequest{}, `{"repo":` + repo + `}`, []string{"repo default/r"}},
		{&pfspb.CreateRepoRequest{}, `{"repo":{"name":"r","type":"spec","project":{"name":"p"}}}`, []string{"repo p/r.spec"}},
		{&pfspb.DeleteReposRequest{}, `{"projects":[{"name":"a"},{"name":"b"}]}`, []string{"project a", "project b"}},
		{&pfspb.CreateBranchRequest{}, `{"branch":{"name":"m","repo":` + repo + `}}`, []string{"branch default/r@m"}},
		{&pfspb.StartCommitRequest{}, `{"branch":{"name":"m","repo":` + repo + `}}`, []string{"branch default/r@m"}},
		{&pfspb.FinishCommitRequest{}, `{"commit":{"id":"1","branch":{"name":"m","repo":` + repo + `}}}`, []string{"commit default/r@m=1"}},
		{&pfspb.FinishCommitRequest{}, `{"commit":{"id":"1","repo":` + repo + `}}`, []string{"commit default/r@1"}},
		{&pfspb.SquashCommitSetRequest{}, `{"commitSet":{"id":"1"}}`, []string{"commit set 1"}},
		{&pfspb.ModifyFileRequest{}, `{"setCommit":{"branch":{"name":"m","repo":` + repo + `}}}`, []string{"commit default/r@m"}},
		{&pfspb.ModifyFileRequest{}, `{"addFile":{"path":"/a","raw":"c2VjcmV0"}}`, []string{"file /a"}},
		{&pfspb.ModifyFileRequest{}, `{"deleteFile":{"path":"/a"}}`, []string{"file /a"}},
		{&pfspb.ModifyFileRequest{}, `{"copyFile":{"dst":"/b","src":{"path":"/a","commit":{"id":"1","repo":` + repo + `}}}}`, []string{"file /b", "commit default/r@1", "file /a"}},
		{&pfspb.GetFileRequest{}, `{"file":{"path":"/a","commit":{"id":"1","repo":` + repo + `}}}`, []string{"commit default/r@1", "file /a"}},
		{&ppspb.CreatePipelineV2Request{}, `{"createPipelineRequestJson":"{\"pipeline\":{\"name\":\"s\"},\"transform\":{\"env\":{\"PW\":\"secret\"}}}"}`, []string{"pipeline default/s"}},
		{&ppspb.CreatePipelineV2Request{}, `{"createPipelineRequestJson":"{"}`, nil},
		{&ppspb.StopPipelineRequest{}, `{"pipeline":{"name":"s","project":{"name":"p"}}}`, []string{"pipeline p/s"}},
		{&ppspb.CreateSecretRequest{}, `{"file":"c2VjcmV0"}`, nil},
		{&ppspb.CreateSecretRequest{}, `{"file":"` + base64.StdEncoding.EncodeToString([]byte(`{"metadata":{"name":"db"},"stringData":{"pw":"secret"}}`)) + `"}`, []string{"secret db"}},
		{&metadatapb.EditMetadataRequest{}, `{"edits":[{"project":{"name":"p"}},{"cluster":{}},{"repo":{"name":{"name":"r","project":{"name":"p"}}}},` +
			`{"branch":{"name":{"name":"b","repo":{"name":{"name":"r"}}}}},{"pipeline":{"name":{"name":"s"}}},` +
			`{"commit":{"ancestor":{"offset":1,"start":{"id":{"id":"1","repo":{"name":{"name":"r"}}}}}}},` +
			`{"commit":{"branchHead":{"name":{"name":"b","repo":{"name":{"name":"r"}}}}}}]}`, []string{
			"project p", "metadata of CLUSTER", "repo p/r", "branch default/r@b", "pipeline default/s", "commit default/r@1", "commit default/r@b",
		}},
		{&ppspb.DeleteSecretRequest{}, `{"secret":{"name":"db"}}`, []string{"secret db"}},
		{&transactionpb.FinishTransactionRequest{}, `{"transaction":{"id":"1"}}`, []string{"transaction 1"}},
		{&transactionpb.BatchTransactionRequest{}, `{"requests":[{"createRepo":{"repo":` + repo + `}},{"deleteBranch":{"branch":{"name":"m","repo":` + repo + `}}}]}`, []string{"repo default/r", "branch default/r@m"}},
		{&authpb.ModifyRoleBindingRequest{}, `{"resource":{"type":"REPO","name":"default/r"},"principal":"user:x","roles":["repoOwner"]}`, []string{"bindings of REPO default/r"}},
		{&authpb.ModifyRoleBindingRequest{}, `{"resource":{"type":"CLUSTER"}}`, []string{"bindings of CLUSTER"}},
		{&authpb.RevokeAuthTokenRequest{}, `{"token":"secret"}`, nil},
		{&authpb.ActivateRequest{}, `{"rootToken":"secret"}`, nil},
	} {
		if err := protojson.Unmarshal([]byte(tc.json), tc.req); err != nil {
			t.Fatal(err)
		}
		var o Objects
		o.Add(tc.req)
		if got := o.List(); !slices.Equal(got, tc.want) {
			t.Errorf("%s %s: %q, want %q", tc.req.ProtoReflect().Descriptor().Name(), tc.json, got, tc.want)
		}
		if text := strings.Join(append(o.List(), Details(tc.req)...), " "); strings.Contains(text, "secret") && !strings.HasPrefix(text, "secret db") {
			t.Errorf("%s: %q gives away what is secret", tc.json, text)
		}
	}
}

func TestObjects_AreBounded(t *testing.T) {
	var o Objects
	for i := range 100 {
		o.Add(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_DeleteFile{DeleteFile: &pfspb.DeleteFile{Path: strings.Repeat("x", i+1)}}})
	}
	if got := o.List(); len(got) != maxObjects+1 || got[maxObjects] != "and 84 more" {
		t.Errorf("100 files: %q", got)
	}
	o = Objects{}
	for range 100 {
		o.Add(&authpb.ModifyRoleBindingRequest{Resource: &authpb.Resource{Name: strings.Repeat("x", 1<<20)}})
	}
	if got := o.List(); len(got) != 1 || len(got[0]) > 2*maxText {
		t.Errorf("a long name has %d bytes", len(got[0]))
	}
	if got := Details(&authpb.ModifyMembersRequest{Add: make([]string, 1000)}); !strings.HasSuffix(got[1], "and 984 more]") {
		t.Errorf("1000 members: %q", got)
	}
}

func TestDetails_SayWhoseRolesAndTokens(t *testing.T) {
	for want, req := range map[string]any{
		"principal user:x|roles [repoOwner]": &authpb.ModifyRoleBindingRequest{Principal: "user:x", Roles: []string{"repoOwner"}},
		"robot r|ttl 5s":                     &authpb.GetRobotTokenRequest{Robot: "r", Ttl: 5},
		"user x":                             &authpb.RevokeAuthTokensForUserRequest{Username: "x"},
		"group g|add [a]|remove []":          &authpb.ModifyMembersRequest{Group: "g", Add: []string{"a"}},
		"":                                   &authpb.RevokeAuthTokenRequest{Token: "t"},
	} {
		if got := strings.Join(Details(req), "|"); got != want {
			t.Errorf("%T: %q, want %q", req, got, want)
		}
	}
}
