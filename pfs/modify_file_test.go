package pfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

func delBy(path, datum string) op {
	return &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_DeleteFile{DeleteFile: &pfspb.DeleteFile{Path: path, Datum: datum}}}
}

// TestModifyFile_Operations applies streams, one after the other, to one branch.
func TestModifyFile_Operations(t *testing.T) {
	m := newMeta(t)
	for i, tc := range []struct {
		name    string
		streams [][]op
		want    string
	}{
		{"append within a stream", [][]op{{add("/a", "1"), add("/b", "x"), add("/a", "2")}}, "/ /a=12 /b=x"},
		{"append to what is inherited", [][]op{{add("/a", "1")}, {add("/a", "2")}, {add("/a", "3")}}, "/ /a=123"},
		{"overwrite", [][]op{{add("/a", "1")}, {del("/a"), add("/a", "2")}}, "/ /a=2"},
		{"overwrite within a stream", [][]op{{add("/a", "1"), del("/a"), add("/a", "2")}}, "/ /a=2"},
		{"delete", [][]op{{add("/a", "1"), add("/b", "2")}, {del("/a")}}, "/ /b=2"},
		{"delete what is missing", [][]op{{add("/a", "1")}, {del("/x"), del("/y/")}}, "/ /a=1"},
		{"delete after adding", [][]op{{add("/a", "1"), add("/b", "2"), del("/a")}}, "/ /b=2"},
		{"delete a directory without a slash", [][]op{{add("/d/a", "1")}, {del("/d")}}, "/ /d/ /d/a=1"},
		{"delete a directory", [][]op{{add("/d/a", "1"), add("/d/e/b", "2"), add("/d2", "3")}, {add("/d/new", "x"), del("/d/")}}, "/ /d2=3"},
		{"delete all, then add", [][]op{{add("/a", "1"), add("/d/b", "2")}, {add("/c", "3"), del("/"), add("/a", "new")}}, "/ /a=new"},
		{"add below a deleted directory", [][]op{{add("/d/a", "1")}, {del("/d/"), add("/d/a", "2"), add("/d/b", "3")}}, "/ /d/ /d/a=2 /d/b=3"},
		{"a file becomes a directory", [][]op{{add("/a", "1")}, {del("/a"), add("/a/b", "2")}}, "/ /a/ /a/b=2"},
		{"a directory becomes a file", [][]op{{add("/a/b", "1")}, {del("/a/"), add("/a", "2")}}, "/ /a=2"},
		{"empty files", [][]op{{add("/a", ""), {Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{Path: "/b"}}}}}, "/ /a= /b="},
		{"an empty add keeps the content", [][]op{{add("/a", "1")}, {add("/a", "")}}, "/ /a=1"},
		{"paths are cleaned", [][]op{{add("a", "1"), add("//b//c", "2"), add("/d/", "3")}, {add("/a", "4"), del("b//c")}}, "/ /a=14 /d=3"},
		{"bytes order paths", [][]op{{add("/a/b", "1"), add("/a-b", "2"), add("/a.b", "3"), add("/a0", "4")}}, "/ /a-b=2 /a.b=3 /a/ /a/b=1 /a0=4"},
		{"backslash is a name", [][]op{{add(`/a\b`, "1")}}, `/ /a\b=1`},
		{"datums apart", [][]op{{addBy("/a", "d1", "1"), addBy("/b", "d2", "2")}, {delBy("/a", "d1"), delBy("/b", "")}}, "/ /b=2"},
		{"a datum replaces another's file", [][]op{{addBy("/a", "d1", "1")}, {delBy("/a", "d1"), addBy("/a", "d2", "2")}}, "/ /a=2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			repo := fmt.Sprint("r", i)
			m.repo(repo)
			for _, ops := range tc.streams {
				m.apply(repo+"@master", ops...)
			}
			m.wantTree(commitOf(repo+"@master"), tc.want)
			// Within one open commit the same streams amount to the same.
			open := m.start(repo + "@other")
			for _, ops := range tc.streams {
				m.must(nil, m.modify(open, ops...))
			}
			m.wantTree(open, tc.want)
			m.finish(open)
			m.wantTree(open, tc.want)
			a, err := m.InspectFile(limit(t), &pfspb.InspectFileRequest{File: fileOf(commitOf(repo+"@master"), "/")})
			m.must(a, err)
			b, err := m.InspectFile(limit(t), &pfspb.InspectFileRequest{File: fileOf(open, "/")})
			m.must(b, err)
			if string(a.Hash) != string(b.Hash) || a.SizeBytes != b.SizeBytes || len(a.Hash) != 32 {
				t.Errorf("equal content, but %d bytes with hash %x, and %d bytes with hash %x", a.SizeBytes, a.Hash, b.SizeBytes, b.Hash)
			}
			if size := m.inspect(open).Details.GetSizeBytes(); size != b.SizeBytes {
				t.Errorf("the commit has %d bytes, its root %d", size, b.SizeBytes)
			}
		})
	}
}

func TestModifyFile_Copies(t *testing.T) {
	m := newMeta(t)
	m.repo("src", "r")
	big := strings.Repeat("0123456789", 300_000)
	m.apply("src@master", add("/f", "f"), add("/d/a", "a"), add("/d/e/b", "b"), add("/d2", "no"), add("/big", big))
	src := commitOf("src@master")
	m.apply("r@master", add("/f", "old"), add("/to/a", "old"), add("/to/kept", "k"))
	m.apply("r@master",
		copyOf("/f", src, "/f", true),
		copyOf("/g", src, "f", false),
		copyOf("/to", src, "/d", false),
		copyOf("/more/", src, "/d/", true),
		copyOf("/x", src, "/missing", false))
	m.wantTree(commitOf("r@master"), "/ /f=oldf /g=f /more/ /more/a=a /more/e/ /more/e/b=b /to/ /to/a=a /to/e/ /to/e/b=b /to/kept=k")
	m.apply("r@master", del("/"), copyOf("/all", src, "/", false), copyOf("/", src, "/d", false), add("/all/big", "!"))
	got, err := m.tree(commitOf("r@master"), "/all/big")
	if err != nil || got != "/all/big="+big+"!" {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	m.apply("r@master", del("/all/big"))
	m.wantTree(commitOf("r@master"), "/ /a=a /all/ /all/d/ /all/d/a=a /all/d/e/ /all/d/e/b=b /all/d2=no /all/f=f /e/ /e/b=b")
	// From the commit that is written to: what it had before the stream.
	m.apply("r@master", add("/a", "2"), copyOf("/b", commitOf("r@master"), "/a", false))
	if got := m.content(commitOf("r@master"), "/b"); got != "a" {
		t.Errorf("got %q", got)
	}
}

// TestModifyFile_Target checks where the data of a stream goes.
func TestModifyFile_Target(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	const unknown = "0123456789ab4def0123456789abcdef"
	m.must(nil, m.modify(&pfspb.Commit{Repo: repoOf("r"), Id: "made"}, add("/a", "1"))) // an id that is a branch
	first := m.inspect(commitOf("r@made"))
	if first.Finished == nil || first.ParentCommit != nil || first.Origin.Kind != pfspb.OriginKind_USER {
		t.Errorf("the first commit: %v", first)
	}
	m.must(nil, m.modify(commitOf("r@made"))) // an empty stream
	second := m.inspect(commitOf("r@made"))
	if second.Commit.Id == first.Commit.Id || second.ParentCommit.GetId() != first.Commit.Id || second.Details.SizeBytes != 1 {
		t.Errorf("the commit of an empty stream: %v", second)
	}
	m.must(nil, m.modify(&pfspb.Commit{Branch: branchOf("r@made"), Id: unknown}, add("/a", "2")))
	m.wantTree(commitOf("r@made"), "/ /a=12")
	open := m.start("r@made")
	m.must(nil, m.modify(open, add("/a", "3")))
	m.must(nil, m.modify(commitOf("r@made"), add("/a", "4")))
	if head := m.inspect(commitOf("r@made")); head.Commit.Id != open.Id || head.Finishing != nil || head.SizeBytesUpperBound != 4 {
		t.Errorf("the open commit: %v", head)
	}
	m.wantTree(open, "/ /a=1234")
	m.finish(open)
	for _, c := range []*pfspb.Commit{open, {Branch: branchOf("r@made"), Id: open.Id}} {
		wantError(t, m.modify(c, add("/a", "5")), codes.Unknown, "commit default/r@"+open.Id+" has already finished")
	}
}

func TestModifyFile_InvalidContentIsTheCommitsError(t *testing.T) {
	for _, tc := range []struct {
		name string
		ops  []op
		text string
	}{
		{"two datums", []op{addBy("/p", "d1", "1"), addBy("/p", "d2", "2")}, "duplicate path output by different datums (/p from d1 and /p from d2)"},
		{"file below a file", []op{add("/a", "1"), add("/a/b", "2")}, "file / directory path collision (/a/b)"},
		{"file below an inherited file", []op{add("/good/x", "2")}, "file / directory path collision (/good/x)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMeta(t)
			ctx := limit(t)
			m.repo("r")
			m.apply("r@master", add("/good", "g"))
			open := m.start("r@master")
			m.must(nil, m.modify(open, tc.ops...))
			_, err := all(m.WalkFile(ctx, &pfspb.WalkFileRequest{File: fileOf(open, "/")}))
			wantError(t, err, codes.Unknown, tc.text) // already while it is open
			m.finish(open)
			if info := m.inspect(open); info.Error != tc.text {
				t.Errorf("finished with error %q, want %q", info.Error, tc.text)
			}
			m.apply("r@master", add("/next", "n"))
			m.wantTree(commitOf("r@master"), "/ /good=g /next=n") // skips it
			m.apply("r@master", tc.ops...)                        // the same in one stream
			if info := m.inspect(commitOf("r@master")); info.Error != tc.text {
				t.Errorf("one stream: error %q, want %q", info.Error, tc.text)
			}
		})
	}
}

func TestModifyFile_BrokenStreamLeavesNothing(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	m.apply("r@master", add("/a", "1"))
	head := m.inspect(commitOf("r@master")).Commit
	open := m.start("r@open")
	m.must(nil, m.modify(open, add("/kept", "k")))
	for _, c := range []*pfspb.Commit{commitOf("r@master"), open} {
		ctx, cancel := context.WithCancel(limit(t))
		s, err := m.ModifyFile(ctx)
		m.must(nil, err)
		m.must(nil, s.Send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: c}}))
		m.must(nil, s.Send(add("/x", strings.Repeat("x", 100_000))))
		cancel()
		if err := s.RecvMsg(&pfspb.ModifyFileRequest{}); err == nil {
			t.Error("a cancelled stream succeeded")
		}
		wantError(t, m.modify(c, add("/x", "x"), add("/b*d", "")), codes.Unknown, "globbing character")
	}
	if now := m.inspect(commitOf("r@master")).Commit; now.Id != head.Id {
		t.Errorf("a broken stream made the commit %s", now.Id)
	}
	m.wantTree(open, "/ /kept=k")
}

func TestModifyFile_CodesAndTexts(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r", "up", "down")
	m.apply("r@master", add("/a", "1"))
	m.branch("down@master", "up@master")
	m.finish(commitOf("down@master"))
	const missing = "0123456789ab4def0123456789abcdef"
	raw := func(ops ...op) error {
		s, err := m.ModifyFile(ctx)
		_, err = send(s, err, ops)
		return err
	}
	set := &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: commitOf("r@master")}}
	put := func(o op) error { return m.modify(commitOf("r@master"), o) }
	early := func(c *pfspb.Commit) error { // two of many messages, and the stream stays open
		s, err := m.ModifyFile(ctx)
		m.must(nil, err)
		for _, o := range []op{{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: c}}, add("/a", "1"), add("/b", "2")} {
			if err := s.Send(o); err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		}
		return s.RecvMsg(&emptypb.Empty{})
	}
	type row struct {
		name string
		err  error
		code codes.Code
		text string
	}
	rows := []row{
		{"nothing", raw(), codes.Unknown, "first message must be a commit"},
		{"no commit first", raw(add("/a", "")), codes.Unknown, "first message must be a commit"},
		{"second commit", raw(set, set), codes.Unknown, "cannot set commit"},
		{"empty message", raw(set, &pfspb.ModifyFileRequest{}), codes.Unknown, "unrecognized message type"},
		{"copy without source", put(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_CopyFile{CopyFile: &pfspb.CopyFile{Dst: "/x"}}}), codes.InvalidArgument, "validate recv: "},
		{"copy from a missing repo", put(copyOf("/x", commitOf("x@master"), "/a", false)), codes.NotFound, "repo default/x not found"},
		{"copy from a missing commit", put(copyOf("/x", commitOf("r@"+missing), "/a", false)), codes.NotFound, "commit default/r@" + missing + " not found"},
		{"copy to a bad path", put(copyOf("/x*", commitOf("r@master"), "/a", false)), codes.Unknown, "globbing character (*) not allowed in path"},
		{"missing repo", m.modify(commitOf("x@master"), add("/a", "")), codes.NotFound, "repo default/x not found"},
		{"no repo", m.modify(&pfspb.Commit{Id: missing}, add("/a", "")), codes.Unknown, "commit must have a repo"},
		{"missing commit", m.modify(commitOf("r@"+missing), add("/a", "")), codes.NotFound, "commit default/r@" + missing + " not found"},
		{"nothing for a missing commit", m.modify(commitOf("r@" + missing)), codes.NotFound, "commit default/r@" + missing + " not found"},
		{"nothing for a missing repo", m.modify(commitOf("x@master")), codes.NotFound, "repo default/x not found"},
		{"before the end of the stream", early(commitOf("x@master")), codes.NotFound, "repo default/x not found"},
		{"output branch", m.modify(commitOf("down@master"), add("/a", "")), codes.Unknown, "cannot start a commit on an output branch: default/down@master"},
		{"bad branch name", m.modify(&pfspb.Commit{Branch: branchOf("r@a b")}, add("/a", "")), codes.Unknown, "name (a b) invalid: only alphanumeric characters, underscores, and dashes are allowed"},
		{"delete without path", put(del("")), codes.Unknown, "path () invalid: only printable ASCII characters allowed"},
	}
	for path, why := range map[string]string{
		"": "only printable ASCII characters allowed", "/\x1f": "only printable ASCII characters allowed", "/é": "only printable ASCII characters allowed",
		"/\x7f": "only printable ASCII characters allowed", "/a/../b": "relative file paths are not allowed", "./a": "relative file paths are not allowed", "/..": "relative file paths are not allowed",
		"/a*": "globbing character (*) not allowed in path", "/a?": "globbing character (?) not allowed in path", "/[": "globbing character ([) not allowed in path",
		"/]": "globbing character (]) not allowed in path", "/{": "globbing character ({) not allowed in path", "/}": "globbing character (}) not allowed in path",
		"/!": "globbing character (!) not allowed in path", "/(": "globbing character (() not allowed in path", "/)": "globbing character ()) not allowed in path",
		"/@": "globbing character (@) not allowed in path", "/a+": "globbing character (+) not allowed in path", "/^": "globbing character (^) not allowed in path",
	} {
		rows = append(rows, row{"path " + path, put(add(path, "")), codes.Unknown, "path (" + path + ") invalid: " + why})
	}
	for _, tc := range rows {
		t.Run(tc.name, func(t *testing.T) { wantError(t, tc.err, tc.code, tc.text) })
	}
	m.wantTree(commitOf("r@master"), "/ /a=1")
	m.apply("r@master", add("/..a/b..", "x"), add("/~ #%&'\",-;<=>_`|", "y"))
}
