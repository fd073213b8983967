package server_test

import (
	"testing"

	"google.golang.org/grpc/codes"
)

// TestWireFiles_Errors holds codes and texts of what is refused about repos,
// branches, commits and files.
func TestWireFiles_Errors(t *testing.T) {
	w := newWire(t)
	const u, nf, ia = codes.Unknown, codes.NotFound, codes.InvalidArgument
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`)
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"e"}}`)
	for _, f := range []string{"/a", "/ab", "/d/x", "/d/y"} {
		if a := w.putAs(bareCommit, f, f); a.err != nil {
			t.Fatal(a)
		}
	}
	w.ok("pfs_v2.API/CreateBranch", `{"branch":{"name":"master","repo":{"name":"e"}}}`)
	const c = bareCommit
	w.exchange([]exchange{
		{"pfs_v2.API/CreateRepo", `{"repo":{"name":"x","project":{"name":"nope"}}}`, nf, `...cannot find project "nope"...`},
		{"pfs_v2.API/CreateRepo", `{"repo":{"name":"x","type":"spec"}}`, u, `...cannot create a system repo without a corresponding 'user' repo...`},
		{"pfs_v2.API/CreateRepo", `{"repo":{"name":"__filesets__"}}`, u, `...__filesets__ is a reserved name...`},
		{"pfs_v2.API/CreateRepo", `{"repo":{"name":"a b"}}`, u, `...name (a b) invalid: only alphanumeric characters, underscores, and dashes are allowed`},
		{"pfs_v2.API/CreateRepo", `{"repo":{}}`, u, `name () invalid: only alphanumeric characters, underscores, and dashes are allowed`},
		{"pfs_v2.API/CreateProject", `{"project":{"name":"default"}}`, codes.AlreadyExists, `project default already exists`},
		{"pfs_v2.API/CreateProject", `{"project":{"name":"q"},"update":true}`, nf, `...`},
		{"pfs_v2.API/DeleteProject", `{"project":{"name":"default"}}`, codes.FailedPrecondition, `cannot delete project default: repo default/...still exists`},
		{"pfs_v2.API/DeleteProject", `{"project":{"name":"nope"}}`, nf, `project "nope" not found`},
		{"pfs_v2.API/StartCommit", `{"branch":{"repo":{"name":"r"}}}`, u, `branch must be specified`},
		{"pfs_v2.API/StartCommit", `{"branch":{"name":"a b","repo":{"name":"r"}}}`, u, `name (a b) invalid: only alphanumeric characters, underscores, and dashes are allowed`},
		{"pfs_v2.API/StartCommit", `{"branch":{"name":"m","repo":{"name":"nope"}}}`, nf, `repo default/nope not found`},
		{"pfs_v2.API/StartCommit", `{"branch":{"name":"m","repo":{"name":"r"}},"parent":{"id":"nope","repo":{"name":"r"}}}`, nf, `...not found...`},
		{"pfs_v2.API/InspectCommit", `{}`, u, `commit cannot be nil`},
		{"pfs_v2.API/InspectCommit", `{"commit":{}}`, u, `commit must have a repo`},
		{"pfs_v2.API/InspectCommit", `{"commit":{"id":"0123456789ab4def0123456789abcdef","repo":{"name":"r"}}}`, nf, `commit default/r@0123456789ab4def0123456789abcdef not found`},
		{"pfs_v2.API/InspectCommit", `{"commit":{"id":"master.9","repo":{"name":"r"}}}`, u, `...`},
		{"pfs_v2.API/InspectCommit", `{"commit":{"id":"master^~","repo":{"name":"r"}}}`, u, `...`},
		{"pfs_v2.API/ListCommit", `{"repo":{"name":"r"},"from":` + c + `}`, u, "...cannot use `from` commit without `to` commit..."},
		{"pfs_v2.API/ListCommit", `{"repo":{"name":"e"},"from":` + c + `,"to":` + c + `}`, u, "...`from` and `to` commits need to be from repo..."},
		{"pfs_v2.API/ListCommit", `{"repo":{"name":"nope"}}`, nf, "repo default/nope not found"},
		{"pfs_v2.API/InspectFile", `{"file":{"commit":{"branch":{"name":"master","repo":{"name":"e"}}},"path":"/"}}`, nf, "..."},
		{"pfs_v2.API/WalkFile", `{"file":{"commit":{"branch":{"name":"master","repo":{"name":"e"}}},"path":"/"}}`, codes.OK, ""},
		{"pfs_v2.API/WalkFile", `{"file":{"commit":` + c + `,"path":"/nope"}}`, nf, "..."},
		{"pfs_v2.API/WalkFile", `{"file":{"commit":` + c + `,"path":"/d"}}`, codes.OK, `"/d/"`},
		{"pfs_v2.API/ListFile", `{"file":{"commit":` + c + `,"path":"/"},"number":100001}`, u, "cannot return more than 100000 files at a time"},
		{"pfs_v2.API/ListFile", `{"file":{"commit":` + c + `,"path":"/"},"reverse":true}`, u, "number must be > 0 when reverse is true"},
		{"pfs_v2.API/ListFile", `{"file":{"commit":` + c + `,"path":"/a"}}`, codes.OK, `"/a"`},
		{"pfs_v2.API/GetFile", `{"file":{"commit":` + c + `,"path":"/a*"}}`, u, "...matched multiple files. Use GetFileTAR instead..."},
		{"pfs_v2.API/GetFile", `{"file":{"commit":` + c + `,"path":"/d"}}`, u, "...cannot get directory or non-regular file. Use GetFileTAR instead..."},
		{"pfs_v2.API/GetFileTAR", `{"file":{"commit":` + c + `,"path":"/nope"}}`, nf, "..."},
		{"pfs_v2.API/GlobFile", `{"commit":` + c + `,"pattern":"/{a,d/x}"}`, codes.OK, `"/d/x"`},
		{"pfs_v2.API/GlobFile", `{"commit":` + c + `,"pattern":"["}`, ia, `glob pattern "[" is malformed: ...`},
		{"pfs_v2.API/CreateBranch", `{"branch":{"name":"b","repo":{"name":"r"}},"head":{"branch":{"name":"master","repo":{"name":"e"}}}}`, u, "branch and head commit must belong to the same repo"},
		{"pfs_v2.API/CreateBranch", `{"branch":{"name":"b","repo":{"name":"r"}},"provenance":[{"name":"master","repo":{"name":"r"}}]}`, u, "...cannot be in the provenance of its own branch..."},
		{"pfs_v2.API/CreateBranch", `{"branch":{"name":"0123456789ab4def0123456789abcdef","repo":{"name":"r"}}}`, u, "..."},
		{"pfs_v2.API/CreateBranch", `{"branch":{"name":"b","repo":{"name":"r"}},"trigger":{"branch":"master","size":"1MB"},"provenance":[{"name":"master","repo":{"name":"e"}}]}`, u, "a branch cannot have both provenance and a trigger"},
		{"pfs_v2.API/CreateBranch", `{"branch":{"name":"b","repo":{"name":"r"}},"branchPropagationSpecs":[{"branch":{"name":"k","repo":{"name":"e"}},"propagationSpec":{"never":true}}]}`, u, "...branch propagation spec must reference provenant branch..."},
		{"pfs_v2.API/DeleteBranch", `{"branch":{"name":"nope","repo":{"name":"r"}}}`, nf, `branch "nope" not found in repo default/r`},
		{"pfs_v2.API/ClearCommit", `{"commit":` + c + `}`, u, "...cannot clear finished commit..."},
		{"pfs_v2.API/ModifyFile", `{"addFile":{"path":"/a"}}`, u, "first message must be a commit"},
		{"pfs_v2.API/ModifyFile", `{"setCommit":` + c + `}{"setCommit":` + c + `}`, u, "cannot set commit"},
		{"pfs_v2.API/ModifyFile", `{"setCommit":` + c + `}{}`, u, "unrecognized message type"},
		{"pfs_v2.API/ModifyFile", `{"setCommit":{}}`, u, "commit must have a repo"},
		{"pfs_v2.API/ModifyFile", `{"setCommit":` + c + `}{"copyFile":{"dst":"/z"}}`, ia, "validate recv: ..."},
		{"pfs_v2.API/ModifyFile", `{"setCommit":` + c + `}{"addFile":{"path":"/\u00fc","raw":""}}`, u, "...only printable ASCII characters allowed..."},
		{"pfs_v2.API/ModifyFile", `{"setCommit":` + c + `}{"addFile":{"path":"","raw":""}}`, u, "...only printable ASCII characters allowed..."},
		{"pfs_v2.API/ModifyFile", `{"setCommit":` + c + `}{"addFile":{"path":"../x","raw":""}}`, u, "path (../x) invalid: relative file paths are not allowed"},
		{"pfs_v2.API/ModifyFile", `{"setCommit":` + c + `}{"deleteFile":{"path":"a*"}}`, u, "..."},
		{"pfs_v2.API/SubscribeCommit", `{"repo":{"name":"nope"}}`, nf, "repo default/nope not found"},
		{"pfs_v2.API/ListBranch", `{"repo":{"name":"nope"}}`, nf, "repo default/nope not found"},
		{"pfs_v2.API/InspectProject", `{"project":{"name":"nope"}}`, nf, `project "nope" not found`},
		{"pfs_v2.API/ReposSummary", `{"projects":[{"name":"default"}]}`, codes.OK, `"userRepoCount":"2"`},
	})
}
