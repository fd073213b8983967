package server_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
)

// TestWireAuth_FileSetsAndStorage is about what is not in a repo: file sets, which who
// has the id may read, cached results, which only their owner finds, and the storage
// below, which tells of everybody's data.
func TestWireAuth_FileSetsAndStorage(t *testing.T) {
	w := newWire(t)
	w.ok("pfs_v2.API/PutCache", `{"key":"before","value":{"@type":"type.googleapis.com/google.protobuf.StringValue","value":"x"}}`)
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	w.mustAs("root", "pfs_v2.API/ActivateAuth", `{}`)
	one, two := w.robot("one", "", ""), w.robot("two", "", "")
	id := func(a answer) string { return strings.Split(a.messages[0], `"`)[3] }
	w.mustAs(one, "pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`)
	const master = `{"branch":{"name":"master","repo":{"name":"r","type":"user"}}}`
	w.mustAs(one, "pfs_v2.API/ModifyFile", `{"setCommit":`+master+`}{"addFile":{"path":"/secret","raw":"czNjcmV0"}}`)
	w.mustAs(one, "pfs_v2.API/StartCommit", `{"branch":{"name":"open","repo":{"name":"r"}}}`)

	// The id is what one must have: it is given to whoever may read, and opens no repo.
	w.denies(two, "pfs_v2.API/GetFileSet", `{"commit":`+master+`}`, "REPO_READ on REPO default/r")
	set := id(w.mustAs(one, "pfs_v2.API/GetFileSet", `{"commit":`+master+`}`))
	read := `{"file":{"commit":{"id":"` + set + `","repo":{"name":"__filesets__"}},"path":"/secret"}}`
	for _, token := range []string{one, two} {
		if a := w.mustAs(token, "pfs_v2.API/GetFile", read); !strings.Contains(a.String(), "czNjcmV0") {
			t.Errorf("a file set by its id: %v", a)
		}
		w.mustAs(token, "pfs_v2.API/ShardFileSet", `{"fileSetId":"`+set+`"}`)
		w.mustAs(token, "pfs_v2.API/ComposeFileSet", `{"fileSetIds":["`+set+`"]}`)
		w.mustAs(token, "pfs_v2.API/RenewFileSet", `{"fileSetId":"`+set+`","ttlSeconds":"60"}`)
	}
	const open = `{"branch":{"name":"open","repo":{"name":"r","type":"user"}}}`
	w.denies(two, "pfs_v2.API/AddFileSet", `{"commit":`+open+`,"fileSetId":"`+set+`"}`, "REPO_WRITE on REPO default/r")
	w.mustAs(one, "pfs_v2.API/AddFileSet", `{"commit":`+open+`,"fileSetId":"`+set+`"}`)
	w.refuse("", "pfs_v2.API/GetFile", read, codes.Unauthenticated, "")
	w.refuse("", "pfs_v2.API/RenewFileSet", `{"fileSetId":"`+set+`","ttlSeconds":"60"}`, codes.Unauthenticated, "")
	// A token that is none, as the tools of file sets have it, reads as its holder says.
	if a := w.call(within(t), "pfs_v2.API/GetFileTAR", read); a.err != nil || len(a.messages) == 0 {
		t.Errorf("a file set without a token: %v", a)
	}
	w.refuse("", "pfs_v2.API/GetFileTAR", `{"file":{"commit":`+master+`,"path":"/secret"}}`, codes.Unauthenticated, "")

	// Of two results under one key each belongs to who put it.
	put := func(token, value string) {
		t.Helper()
		w.mustAs(token, "pfs_v2.API/PutCache", `{"key":"k","tag":"t","value":{"@type":"type.googleapis.com/google.protobuf.StringValue","value":"`+value+`"}}`)
	}
	has := func(token, value string) {
		t.Helper()
		if a := w.as(token, "pfs_v2.API/GetCache", `{"key":"k"}`); value == "" && !strings.Contains(a.String(), `cache entry \"k\" not found`) || !strings.Contains(a.String(), value) {
			t.Errorf("cached: %v; want %q", a, value)
		}
	}
	put(one, "of one")
	has(two, "")
	put(two, "of two")
	has(one, "of one")
	w.mustAs(two, "pfs_v2.API/ClearCache", `{"tagPrefix":"t"}`)
	has(two, "")
	has(one, "of one")
	put(two, "of two")
	w.mustAs(two, "pfs_v2.API/ClearCache", `{}`)
	has(one, "of one")
	w.refuse(one, "pfs_v2.API/GetCache", `{"key":"before"}`, codes.NotFound, `cache entry "before" not found`)
	w.refuse(one, "pfs_v2.API/PutCache", `{"key":"\u0000k"}`, codes.InvalidArgument, "the key must not begin with a zero byte")
	w.mustAs("root", "pfs_v2.API/ClearCache", `{}`)
	has(one, "")

	// What looks at everything needs the right to read everything.
	reader := w.robot("reader", `{"type":"CLUSTER"}`, "repoReader")
	for _, c := range [][2]string{{"pfs_v2.API/Fsck", `{"deep":true,"verbose":true}`}, {"pfs_v2.API/CheckStorage", `{"readChunkData":true}`}} {
		w.denies(one, c[0], c[1], "REPO_READ on CLUSTER")
		w.mustAs(reader, c[0], c[1])
	}
}
