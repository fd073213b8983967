package server_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
)

// Shapes in which existing clients write the same things.
const (
	fullRepo   = `{"name":"r","type":"user","project":{"name":"default"}}`
	fullBranch = `{"name":"master","repo":` + fullRepo + `}`
	// What the Go client sends: the repo twice.
	goCommit = `{"repo":` + fullRepo + `,"branch":` + fullBranch + `}`
	// What the Python SDK sends: the repo only in the branch.
	sdkCommit = `{"branch":` + fullBranch + `}`
	// What clients before projects send.
	oldCommit = `{"branch":{"name":"master","repo":{"name":"r","type":"user"}}}`
	// The least that can be sent.
	bareCommit = `{"branch":{"name":"master","repo":{"name":"r"}}}`
)

// putAs writes one file the way a client does: delete, then add.
func (w *wire) putAs(commit, path string, chunks ...string) answer {
	w.t.Helper()
	requests := []string{`{"setCommit":` + commit + `}`, `{"deleteFile":{"path":"` + path + `"}}`}
	for _, c := range chunks {
		raw, err := json.Marshal([]byte(c))
		if err != nil {
			w.t.Fatal(err)
		}
		requests = append(requests, `{"addFile":{"path":"`+path+`","raw":`+string(raw)+`}}`)
	}
	return w.call(within(w.t), "pfs_v2.API/ModifyFile", requests...)
}

// read gives a file's content.
func (w *wire) read(commit, path string) string {
	w.t.Helper()
	return w.content(w.ok("pfs_v2.API/GetFile", `{"file":{"commit":`+commit+`,"path":"`+path+`"}}`))
}

// content puts the answer of GetFile together.
func (w *wire) content(a answer) string {
	w.t.Helper()
	var b strings.Builder
	for _, m := range a.messages {
		var chunk []byte
		if err := json.Unmarshal([]byte(m), &chunk); err != nil {
			w.t.Fatal(err)
		}
		b.Write(chunk)
	}
	return b.String()
}

// TestWireRequests_CommitShapes writes and reads with each way to name a commit.
func TestWireRequests_CommitShapes(t *testing.T) {
	w := newWire(t)
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`)
	for i, commit := range []string{
		goCommit, sdkCommit, oldCommit, bareCommit,
		`{"repo":{"name":"r"},"id":"master"}`,
		`{"repo":` + fullRepo + `,"id":"master","branch":{"repo":` + fullRepo + `}}`,
	} {
		path := fmt.Sprintf("/shape-%d", i)
		// The Python SDK begins every file with an empty message.
		if a := w.putAs(commit, path, "", "one ", "two"); a.err != nil {
			t.Errorf("put with %s: %v", commit, a)
			continue
		}
		if got := w.read(commit, path); got != "one two" {
			t.Errorf("read with %s: %q", commit, got)
		}
		for _, method := range []string{"InspectFile", "ListFile", "WalkFile"} {
			if a := w.ok("pfs_v2.API/"+method, `{"file":{"commit":`+commit+`,"path":"`+path+`","datum":""}}`); !strings.Contains(a.String(), `"sizeBytes":"7"`) {
				t.Errorf("%s with %s: %v", method, commit, a)
			}
		}
		if a := w.ok("pfs_v2.API/GlobFile", `{"commit":`+commit+`,"pattern":"/shape*"}`); len(a.messages) != i+1 {
			t.Errorf("glob with %s: %v", commit, a)
		}
		for _, wait := range []string{"COMMIT_STATE_UNKNOWN", "STARTED", "FINISHED"} {
			info := w.one("pfs_v2.API/InspectCommit", `{"commit":`+commit+`,"wait":"`+wait+`"}`)
			if at(info, "commit", "repo", "project", "name") != "default" || at(info, "commit", "repo", "type") != "user" || len(at(info, "commit", "id").(string)) != 32 {
				t.Errorf("inspect %s: %v", commit, info)
			}
		}
	}
	commits := w.ok("pfs_v2.API/ListCommit", `{"repo":{"name":"r"}}`)
	if len(commits.messages) != 6 {
		t.Errorf("%d commits of 6 puts:\n%v", len(commits.messages), commits)
	}
}

// TestWireRequests_CommitSession does what the Python SDK's commit does: open,
// put into it by id, close, with and without a branch beside the id.
func TestWireRequests_CommitSession(t *testing.T) {
	w := newWire(t)
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`)
	for _, shape := range []string{
		`{"repo":{"name":"r"},"id":%q}`,
		`{"id":%q,"branch":{"name":"master","repo":{"name":"r","type":"user","project":{"name":"default"}}}}`,
		`{"repo":{"name":"r","type":"user"},"id":%q,"branch":{"repo":{"name":"r"}}}`,
	} {
		opened := w.one("pfs_v2.API/StartCommit", `{"branch":{"name":"master","repo":{"name":"r"}}}`)
		id, _ := at(opened, "id").(string)
		if len(id) != 32 || id[12] != '4' {
			t.Fatalf("start commit answers %v", opened)
		}
		commit := fmt.Sprintf(shape, id)
		for _, path := range []string{"/a", "/b"} {
			if a := w.putAs(commit, path, shape); a.err != nil {
				t.Fatalf("put into %s: %v", commit, a)
			}
		}
		w.ok("pfs_v2.API/FinishCommit", `{"commit":`+commit+`}`)
		info := w.one("pfs_v2.API/InspectCommit", `{"commit":`+commit+`,"wait":"FINISHED"}`)
		if at(info, "finished") == nil || at(info, "commit", "id") != id || at(info, "origin", "kind") != "USER" {
			t.Errorf("finished %v", info)
		}
		w.exchange([]exchange{
			{"pfs_v2.API/FinishCommit", `{"commit":` + commit + `}`, codes.Unknown, "commit default/r@" + id + " has already finished"},
			{"pfs_v2.API/ModifyFile", `{"setCommit":{"repo":{"name":"r"},"id":"` + id + `"}}{"addFile":{"path":"/c","raw":"YQ=="}}`, codes.Unknown, "commit default/r@" + id + " has already finished"},
		})
		if got := w.read(commit, "/b"); got != shape {
			t.Errorf("read %q", got)
		}
	}
}

// TestWireRequests_Pachctl replays what a real pachctl sends, empty messages
// and names in unlikely fields included.
func TestWireRequests_Pachctl(t *testing.T) {
	w := newWire(t)
	const b = `{"name":"b","repo":` + fullRepo + `}`
	w.exchange([]exchange{
		{"pfs_v2.API/CreateRepo", `{"repo":` + fullRepo + `,"description":"x"}`, codes.OK, ""},
		{"pfs_v2.API/CreateRepo", `{"repo":` + fullRepo + `}`, codes.AlreadyExists, "repo default/r already exists"},
		{"pfs_v2.API/CreateRepo", `{"repo":` + fullRepo + `,"description":"y","update":true}`, codes.OK, ""},
		{"pfs_v2.API/InspectRepo", `{"repo":` + fullRepo + `}`, codes.OK, `"description":"y"`},
		{"pfs_v2.API/ListRepo", `{"type":"user","projects":[{"name":"default"}]}`, codes.OK, `"name":"r"`},
		{"pfs_v2.API/ListRepo", `{"projects":[{"name":"default"}],"page":{}}`, codes.OK, `"name":"r"`},
		{"pfs_v2.API/ListRepo", `{}`, codes.OK, `"name":"r"`},
	})
	for _, text := range []string{"one", "two", "three"} {
		if a := w.putAs(goCommit, "/f", text); a.err != nil {
			t.Fatal(a)
		}
	}
	w.exchange([]exchange{
		// create branch r@b --head master
		{"pfs_v2.API/CreateBranch", `{"branch":` + b + `,"head":{"repo":` + fullRepo + `,"id":"master","branch":{"repo":` + fullRepo + `}}}`, codes.OK, ""},
		{"pfs_v2.API/CreateBranch", `{"branch":` + b + `,"head":{"repo":` + fullRepo + `,"id":"master^","branch":{"repo":` + fullRepo + `}}}`, codes.OK, ""},
		{"pfs_v2.API/CreateBranch", `{"branch":` + b + `,"head":` + goCommit + `,"branchPropagationSpecs":[]}`, codes.OK, ""},
		{"pfs_v2.API/CreateBranch", `{"branch":` + b + `,"head":{"repo":` + fullRepo + `,"id":"nope"}}`, codes.NotFound, "...not found..."},
		{"pfs_v2.API/InspectBranch", `{"branch":` + b + `}`, codes.OK, `"head":{`},
		{"pfs_v2.API/InspectBranch", `{"branch":{"name":"nope","repo":` + fullRepo + `}}`, codes.NotFound, `branch "nope" not found in repo default/r`},
		{"pfs_v2.API/ListBranch", `{"repo":` + fullRepo + `,"reverse":false}`, codes.OK, `"name":"b"`},
		// get file r@master^:/f sends the text after @ as an id.
		{"pfs_v2.API/GetFile", `{"file":{"commit":{"repo":` + fullRepo + `,"id":"master^","branch":{"repo":` + fullRepo + `}},"path":"/f"}}`, codes.OK, `"dHdv"`},
		{"pfs_v2.API/GetFile", `{"file":{"commit":{"repo":` + fullRepo + `,"id":"master~2","branch":{"repo":` + fullRepo + `}},"path":"/f"}}`, codes.OK, `"b25l"`},
		{"pfs_v2.API/GetFile", `{"file":{"commit":{"repo":` + fullRepo + `,"id":"master.2","branch":{"repo":` + fullRepo + `}},"path":"/f"}}`, codes.OK, `"dHdv"`},
		{"pfs_v2.API/GetFile", `{"file":{"commit":{"repo":` + fullRepo + `,"id":"master^9","branch":{"repo":` + fullRepo + `}},"path":"/f"}}`, codes.Unknown, "...invalid offset for ancestor of commit..."},
		{"pfs_v2.API/GetFile", `{"file":{"commit":` + goCommit + `,"path":"/f"},"offset":"2"}`, codes.OK, `"cmVl"`},
		{"pfs_v2.API/GetFile", `{"file":{"commit":` + goCommit + `,"path":"/*"}}`, codes.OK, `"dGhyZWU="`},
		{"pfs_v2.API/GetFile", `{"file":{"commit":` + goCommit + `,"path":"/"}}`, codes.Unknown, "...Use GetFileTAR instead..."},
		{"pfs_v2.API/GetFile", `{"file":{"commit":` + goCommit + `,"path":"/nope"}}`, codes.NotFound, "file /nope not found in repo default/r at commit..."},
		{"pfs_v2.API/ListFile", `{"file":{"commit":` + goCommit + `,"path":""},"paginationMarker":null,"number":"0"}`, codes.OK, `"/f"`},
		{"pfs_v2.API/ListFile", `{"file":{"commit":` + goCommit + `,"path":"/nope"}}`, codes.OK, ""},
		{"pfs_v2.API/DiffFile", `{"newFile":{"commit":` + goCommit + `,"path":"/"},"shallow":true}`, codes.OK, `"oldFile":{`},
		{"pfs_v2.API/ListCommit", `{"repo":` + fullRepo + `,"to":` + goCommit + `,"number":"2"}`, codes.OK, `"parentCommit"`},
		{"pfs_v2.API/ListCommit", `{"repo":` + fullRepo + `,"originKind":"ORIGIN_KIND_UNKNOWN","all":false,"startedTime":null}`, codes.OK, `"finished"`},
		{"pfs_v2.API/ListCommitSet", `{"project":{"name":"default"}}`, codes.OK, `"commitSet":{"id"`},
		{"pfs_v2.API/InspectCommitSet", `{"commitSet":{"id":"0123456789ab4def0123456789abcdef"},"wait":false}`, codes.NotFound, "no commits found for commitset 0123456789ab4def0123456789abcdef"},
		{"pfs_v2.API/Fsck", `{}`, codes.OK, ""},
		{"pfs_v2.API/DeleteBranch", `{"branch":` + b + `,"force":false}`, codes.OK, ""},
		{"pfs_v2.API/DeleteRepo", `{"repo":{"name":"nope","type":"user","project":{"name":"default"}}}`, codes.OK, `{}`},
		{"pfs_v2.API/DeleteRepo", `{"repo":` + fullRepo + `}`, codes.OK, `"deleted":true`},
		{"pfs_v2.API/CreateProject", `{"project":{"name":"p"},"description":"d"}`, codes.OK, ""},
		{"pfs_v2.API/InspectProjectV2", `{"project":{"name":"p"}}`, codes.OK, `"defaultsJson":"{}"`},
		{"pfs_v2.API/ListProject", `{}`, codes.OK, `"name":"p"`},
		{"pps_v2.API/ListPipeline", `{"details":true,"commitSet":{},"projects":[{"name":"default"}],"history":"0"}`, codes.OK, ""},
		{"pps_v2.API/ListPipeline", `{"commitSet":{},"page":{},"pipeline":{}}`, codes.OK, ""},
		{"pps_v2.API/ListJobSet", `{"projects":[{"name":"default"}],"details":true}`, codes.OK, ""},
		{"pps_v2.API/ListJob", `{"projects":[{"name":"default"}],"pipeline":{},"details":true,"inputCommit":[]}`, codes.OK, ""},
		{"pps_v2.API/InspectJobSet", `{"jobSet":{"id":"0123456789ab4def0123456789abcdef"},"details":true}`, codes.OK, ""},
		{"pfs_v2.API/DeleteProject", `{"project":{"name":"p"}}`, codes.OK, ""},
		{"pps_v2.API/DeleteAll", `{}`, codes.OK, ""},
		{"pfs_v2.API/DeleteAll", `{}`, codes.OK, ""},
		{"transaction_v2.API/DeleteAll", `{}`, codes.OK, ""},
		{"identity_v2.API/DeleteAll", `{}`, codes.OK, `{}`},
	})
}
