package pfs

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// sample is a repo with one commit to read from.
func sample(t *testing.T) (*metaServer, *pfspb.Commit) {
	m := newMeta(t)
	m.repo("r")
	m.apply("r@master", add("/a-b", "1"), add("/a/x1", "22"), add("/a/x2", "333"), add("/a/sub/y.csv", "4444"), add("/b.txt", "55555"), add("/empty", ""))
	return m, commitOf("r@master")
}

func TestGetFile_OffsetsAndGlobs(t *testing.T) {
	m, c := sample(t)
	ctx := limit(t)
	big := strings.Repeat("0123456789", 600_000)
	m.apply("r@master", add("/big", big[:3_000_000]), add("/big", big[3_000_000:]))
	get := func(path string, offset int64) (string, int, error) {
		msgs, err := all(m.GetFile(ctx, &pfspb.GetFileRequest{File: fileOf(c, path), Offset: offset}))
		var b strings.Builder
		for _, msg := range msgs {
			b.Write(msg.Value)
		}
		return b.String(), len(msgs), err
	}
	for _, tc := range []struct {
		path   string
		offset int64
		want   string
	}{
		{"/b.txt", 0, "55555"},
		{"b.txt", 3, "55"},
		{"/b.txt/", 4, "5"},
		{"/b.txt", 5, ""},
		{"/b.txt", 99, ""},
		{"/empty", 0, ""},
		{"/*.txt", 0, "55555"},
		{"/a/*/@(*.csv|z)", 1, "444"},
		{"/a/x[!1]", 0, "333"},
		{"/big", 0, big},
		{"/big", 5_999_998, "89"},
		{"/b?g", 2_500_001, big[2_500_001:]},
	} {
		got, n, err := get(tc.path, tc.offset)
		if err != nil || got != tc.want || tc.want == "" && n > 0 {
			t.Errorf("%s from %d: %d bytes in %d messages, %v; want %d", tc.path, tc.offset, len(got), n, err, len(tc.want))
		}
	}
	for _, tc := range []struct {
		path string
		code codes.Code
		text string
	}{
		{"/a", codes.Unknown, "cannot get directory or non-regular file. Use GetFileTAR instead"},
		{"/", codes.Unknown, "cannot get directory or non-regular file. Use GetFileTAR instead"},
		{"/s?b", codes.NotFound, "file /s?b not found in repo default/r at commit "},
		{"/a/s?b", codes.Unknown, "cannot get directory or non-regular file. Use GetFileTAR instead"},
		{"/a/x*", codes.Unknown, "matched multiple files. Use GetFileTAR instead"},
		{"missing", codes.NotFound, "file missing not found in repo default/r at commit "},
		{"/[", codes.InvalidArgument, "is malformed"},
	} {
		_, _, err := get(tc.path, 0)
		wantError(t, err, tc.code, tc.text)
	}
	_, _, err := get("/b.txt", -1)
	wantError(t, err, codes.InvalidArgument, "the offset must not be negative")
}

// Memory that a large file was read into is used again for other chunks, of the same
// file and of others: nobody may see that, however slow or short the reading is.
func TestGetFile_ReadersDoNotDisturbEachOther(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	random := make([]byte, 10<<20)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(random) // never fails
	packs := bytes.Repeat([]byte("0123456789abcdef"), 10<<16)
	files := map[string]string{"/random": string(random), "/packs": string(packs), "/both": string(random[5<<20:]) + string(packs[5<<20:])}
	for path, content := range files {
		var ops []op
		for piece := range slices.Chunk([]byte(content), 1<<20) {
			ops = append(ops, add(path, string(piece)))
		}
		m.apply("r@master", ops...)
	}
	var readers errgroup.Group
	for path, content := range files {
		for i := range 4 {
			readers.Go(func() error {
				ctx, cancel := context.WithCancel(limit(t))
				defer cancel()
				stream, err := m.GetFile(ctx, &pfspb.GetFileRequest{File: fileOf(commitOf("r@master"), path)})
				if err != nil {
					return err
				}
				for at := 0; ; {
					msg, err := stream.Recv()
					if errors.Is(err, io.EOF) && at == len(content) {
						return nil
					}
					if err != nil {
						return err
					}
					if got := string(msg.Value); content[at:at+len(got)] != got {
						return fmt.Errorf("%s differs after byte %d", path, at)
					}
					at += len(msg.Value)
					if i == 0 && at > len(content)/2 {
						return nil // without the rest
					}
				}
			})
		}
	}
	for range 4 {
		readers.Go(func() error {
			msgs, err := all(m.GetFileTAR(limit(t), &pfspb.GetFileRequest{File: fileOf(commitOf("r@master"), "/*")}))
			if err != nil {
				return err
			}
			var sent bytes.Buffer
			for _, msg := range msgs {
				sent.Write(msg.Value)
			}
			archive := tar.NewReader(&sent)
			for range files {
				h, err := archive.Next()
				if err != nil {
					return err
				}
				got, err := io.ReadAll(archive)
				if err != nil {
					return err
				}
				if string(got) != files[h.Name] {
					return fmt.Errorf("%s differs in the archive", h.Name)
				}
			}
			return nil
		})
	}
	if err := readers.Wait(); err != nil {
		t.Error(err)
	}
}

func TestGetFileTAR_GlobsAndRanges(t *testing.T) {
	m, c := sample(t)
	ctx := limit(t)
	for path, want := range map[string]string{
		"/":         "/ /a-b=1 /a/ /a/sub/ /a/sub/y.csv=4444 /a/x1=22 /a/x2=333 /b.txt=55555 /empty=",
		"":          "/ /a-b=1 /a/ /a/sub/ /a/sub/y.csv=4444 /a/x1=22 /a/x2=333 /b.txt=55555 /empty=",
		"/a":        "/a/ /a/sub/ /a/sub/y.csv=4444 /a/x1=22 /a/x2=333",
		"a/":        "/a/ /a/sub/ /a/sub/y.csv=4444 /a/x1=22 /a/x2=333",
		"/b.txt":    "/b.txt=55555",
		"/a*":       "/a-b=1 /a/ /a/sub/ /a/sub/y.csv=4444 /a/x1=22 /a/x2=333",
		"/a/x*":     "/a/x1=22 /a/x2=333",
		"/**.csv":   "/a/sub/y.csv=4444",
		"/{b*,a-b}": "/a-b=1 /b.txt=55555",
		"/!(a*)":    "/b.txt=55555 /empty=",
	} {
		if got, err := m.tree(c, path); err != nil || got != want {
			t.Errorf("%q:\n got %s, %v\nwant %s", path, got, err, want)
		}
	}
	for _, tc := range []struct{ lower, upper, want string }{
		{"/a/x1", "/b.txt", "/a/x1 /a/x2"},
		{"/a/x2", "", "/a/x2 /b.txt /empty"},
		{"", "/a/", "/ /a-b"},
		{"/zzz", "", ""},
	} {
		r := &pfspb.PathRange{Lower: tc.lower, Upper: tc.upper}
		msgs, err := all(m.GetFileTAR(ctx, &pfspb.GetFileRequest{File: fileOf(c, "/**"), PathRange: r}))
		m.must(nil, err)
		var raw bytes.Buffer
		for _, msg := range msgs {
			raw.Write(msg.Value)
		}
		var names []string
		for tr := tar.NewReader(&raw); ; {
			h, err := tr.Next()
			if err != nil {
				break
			}
			names = append(names, h.Name)
			if h.Mode != 0 || h.ModTime.Unix() != 0 {
				t.Errorf("%s has mode %o, time %v", h.Name, h.Mode, h.ModTime)
			}
		}
		if got := strings.Join(names, " "); got != tc.want {
			t.Errorf("[%s,%s): %s; want %s", tc.lower, tc.upper, got, tc.want)
		}
		found, err := all(m.GlobFile(ctx, &pfspb.GlobFileRequest{Commit: c, Pattern: "/**", PathRange: r}))
		if got := paths(found); err != nil || got != tc.want {
			t.Errorf("GlobFile [%s,%s): %s, %v; want %s", tc.lower, tc.upper, got, err, tc.want)
		}
	}
	for _, path := range []string{"/missing", "/missing/", "/x*y", "/a/x1/below"} {
		_, err := m.tree(c, path)
		wantError(t, err, codes.NotFound, "file "+path+" not found in repo default/r at commit ")
	}
}

func TestInspectFile_PathsAndDatums(t *testing.T) {
	m, c := sample(t)
	ctx := limit(t)
	head := m.inspect(c)
	for path, want := range map[string]string{
		"/b.txt": "/b.txt FILE 5 default", "b.txt/": "/b.txt FILE 5 default", "a": "/a/ DIR 9 ", "/a/": "/a/ DIR 9 ", "//a//sub": "/a/sub/ DIR 4 ",
		"": "/ DIR 15 ", "/": "/ DIR 15 ", "/empty": "/empty FILE 0 default",
	} {
		i, err := m.InspectFile(ctx, &pfspb.InspectFileRequest{File: fileOf(c, path)})
		got := fmt.Sprintf("%s %v %d %s", i.GetFile().GetPath(), i.GetFileType(), i.GetSizeBytes(), i.GetFile().GetDatum())
		if err != nil || got != want || len(i.Hash) != 32 || !i.Committed.AsTime().Equal(head.Finishing.AsTime()) || i.File.Commit.Branch != nil {
			t.Errorf("%q: %s, %v, %v; want %s", path, got, i, err, want)
		}
	}
	for _, path := range []string{"/a*", "/x", "/a/x"} {
		_, err := m.InspectFile(ctx, &pfspb.InspectFileRequest{File: fileOf(c, path)})
		wantError(t, err, codes.NotFound, "file "+path+" not found in repo default/r at commit "+head.Commit.Id)
	}
	m.commit("r@none")
	_, err := m.InspectFile(ctx, &pfspb.InspectFileRequest{File: fileOf(commitOf("r@none"), "/")})
	wantError(t, err, codes.NotFound, "file / not found in repo default/r")
	_, err = m.InspectFile(ctx, &pfspb.InspectFileRequest{})
	wantError(t, err, codes.InvalidArgument, "validate request: ")
	_, err = m.InspectFile(ctx, &pfspb.InspectFileRequest{File: &pfspb.File{Path: "/"}})
	wantError(t, err, codes.InvalidArgument, "validate request: ")
	// Two datums' files stand apart as long as the commit is open.
	open := m.start("r@open")
	m.must(nil, m.modify(open, addBy("/p", "d1", "1"), addBy("/p", "d2", "22")))
	i, err := m.InspectFile(ctx, &pfspb.InspectFileRequest{File: &pfspb.File{Commit: open, Path: "/p", Datum: "d2"}})
	if err != nil || i.SizeBytes != 2 || i.Committed != nil {
		t.Errorf("of one datum: %v, %v", i, err)
	}
	_, err = m.InspectFile(ctx, &pfspb.InspectFileRequest{File: &pfspb.File{Commit: open, Path: "/p"}})
	wantError(t, err, codes.Unknown, "duplicate path output by different datums (/p from d1 and /p from d2)")
	_, err = m.InspectFile(ctx, &pfspb.InspectFileRequest{File: &pfspb.File{Commit: open, Path: "/p", Datum: "d3"}})
	wantError(t, err, codes.NotFound, "file /p not found")
}

func TestListFile_AndWalkFile(t *testing.T) {
	m, c := sample(t)
	ctx := limit(t)
	list := func(req *pfspb.ListFileRequest) (string, error) {
		infos, err := all(m.ListFile(ctx, req))
		return paths(infos), err
	}
	walk := func(req *pfspb.ListFileRequest) (string, error) {
		infos, err := all(m.WalkFile(ctx, &pfspb.WalkFileRequest{File: req.File, PaginationMarker: req.PaginationMarker, Number: req.Number, Reverse: req.Reverse}))
		return paths(infos), err
	}
	for _, tc := range []struct {
		path, after string
		number      int64
		reverse     bool
		list, walk  string
	}{
		{"/", "", 0, false, "/a-b /a/ /b.txt /empty", "/ /a-b /a/ /a/sub/ /a/sub/y.csv /a/x1 /a/x2 /b.txt /empty"},
		{"", "", 2, false, "/a-b /a/", "/ /a-b"},
		{"/", "/a-b", 2, false, "/a/ /b.txt", "/a/ /a/sub/"},
		{"/", "a-b", 2, false, "/a/ /b.txt", "/a/ /a/sub/"},
		{"/", "/a/", 0, false, "/b.txt /empty", "/a/sub/ /a/sub/y.csv /a/x1 /a/x2 /b.txt /empty"},
		{"/", "/empty", 5, false, "", ""},
		{"/", "", 2, true, "/empty /b.txt", "/empty /b.txt"},
		{"/", "/b.txt", 2, true, "/a/ /a-b", "/a/x2 /a/x1"},
		{"/", "", 100, true, "/empty /b.txt /a/ /a-b", "/empty /b.txt /a/x2 /a/x1 /a/sub/y.csv /a/sub/ /a/ /a-b /"},
		{"/a", "", 0, false, "/a/sub/ /a/x1 /a/x2", "/a/ /a/sub/ /a/sub/y.csv /a/x1 /a/x2"},
		{"a//", "", 0, false, "/a/sub/ /a/x1 /a/x2", "/a/ /a/sub/ /a/sub/y.csv /a/x1 /a/x2"},
		{"/b.txt", "", 0, false, "/b.txt", "/b.txt"},
	} {
		req := &pfspb.ListFileRequest{File: fileOf(c, tc.path), Number: tc.number, Reverse: tc.reverse}
		if tc.after != "" {
			req.PaginationMarker = fileOf(c, tc.after)
		}
		if got, err := list(req); err != nil || got != tc.list {
			t.Errorf("ListFile %v: %s, %v; want %s", req, got, err, tc.list)
		}
		if got, err := walk(req); err != nil || got != tc.walk {
			t.Errorf("WalkFile %v: %s, %v; want %s", req, got, err, tc.walk)
		}
	}
	for _, path := range []string{"/missing", "/a*", "/a/x"} {
		if got, err := list(&pfspb.ListFileRequest{File: fileOf(c, path)}); err != nil || got != "" {
			t.Errorf("ListFile %s: %s, %v", path, got, err)
		}
		_, err := walk(&pfspb.ListFileRequest{File: fileOf(c, path)})
		wantError(t, err, codes.NotFound, "file "+path+" not found in repo default/r")
	}
	m.commit("r@none")
	if got, err := walk(&pfspb.ListFileRequest{File: fileOf(commitOf("r@none"), "/")}); err != nil || got != "" {
		t.Errorf("an empty root: %s, %v", got, err)
	}
	for _, tc := range []struct {
		number  int64
		reverse bool
		code    codes.Code
		text    string
	}{
		{100_001, false, codes.Unknown, "cannot return more than 100000 files at a time"},
		{0, true, codes.Unknown, "number must be > 0 when reverse is true"},
		{-1, false, codes.InvalidArgument, "number must not be negative"},
	} {
		req := &pfspb.ListFileRequest{File: fileOf(c, "/"), Number: tc.number, Reverse: tc.reverse}
		_, err := list(req)
		wantError(t, err, tc.code, tc.text)
		_, err = walk(req)
		wantError(t, err, tc.code, tc.text)
	}
}

func TestGlobFile_Patterns(t *testing.T) {
	m, c := sample(t)
	for pattern, want := range map[string]string{
		"/": "/", "": "/", "/*": "/a-b /a/ /b.txt /empty", "*": "/a-b /a/ /b.txt /empty", "/a": "/a/", "/a/": "/a/", "/b.txt": "/b.txt",
		"/**": "/ /a-b /a/ /a/sub/ /a/sub/y.csv /a/x1 /a/x2 /b.txt /empty", "**x1": "/a/x1", "/a/x?": "/a/x1 /a/x2", "/a/*/*": "/a/sub/y.csv",
		"/none*": "", "/none": "", "/[a-b]?*": "/a-b /b.txt", "/a/@(x1|sub)": "/a/sub/ /a/x1", "/+([a-z]).txt": "/b.txt", "/?(a-b|zz)": "/ /a-b", "/!(*.txt|a*)": "/empty",
		"/{a,e*}": "/a/ /empty", `/b\.txt`: "/b.txt", "/a/(x)1": "/a/x1",
	} {
		infos, err := all(m.GlobFile(limit(t), &pfspb.GlobFileRequest{Commit: c, Pattern: pattern}))
		if got := paths(infos); err != nil || got != want {
			t.Errorf("%q: %s, %v; want %s", pattern, got, err, want)
		}
	}
	_, err := all(m.GlobFile(limit(t), &pfspb.GlobFileRequest{Commit: c, Pattern: "/[z-a]"}))
	wantError(t, err, codes.InvalidArgument, "the range z-a is the wrong way round")
	_, err = all(m.GlobFile(limit(t), &pfspb.GlobFileRequest{Pattern: "/"}))
	wantError(t, err, codes.InvalidArgument, "a commit must be given")
}

func TestDiffFile(t *testing.T) {
	m, c := sample(t)
	first := m.inspect(c).Commit
	m.apply("r@master", del("/b.txt"), add("/a/x1", "!"), add("/a/new", "n"), del("/empty"), add("/empty", ""))
	second := m.inspect(c).Commit
	diff := func(after, before *pfspb.File) string {
		t.Helper()
		pairs, err := all(m.DiffFile(limit(t), &pfspb.DiffFileRequest{NewFile: after, OldFile: before}))
		m.must(nil, err)
		var got []string
		for _, p := range pairs {
			s := "~" + p.GetNewFile().GetFile().GetPath()
			switch {
			case p.OldFile == nil:
				s = "+" + p.NewFile.File.Path
			case p.NewFile == nil:
				s = "-" + p.OldFile.File.Path
			}
			got = append(got, s)
		}
		return strings.Join(got, " ")
	}
	for _, tc := range []struct {
		after, before *pfspb.File
		want          string
	}{
		{fileOf(second, "/"), nil, "~/ ~/a/ +/a/new ~/a/x1 -/b.txt"},
		{fileOf(second, "/a"), nil, "~/a/ +/a/new ~/a/x1"},
		{fileOf(second, "/a/x1"), nil, "~/a/x1"},
		{fileOf(second, "/a/x2"), nil, ""},
		{fileOf(second, "/b.txt"), nil, "-/b.txt"},
		{fileOf(second, "/missing"), nil, ""},
		{fileOf(first, "/"), nil, "+/ +/a-b +/a/ +/a/sub/ +/a/sub/y.csv +/a/x1 +/a/x2 +/b.txt +/empty"},
		{fileOf(second, "/"), fileOf(second, "/"), ""},
		{fileOf(first, "/a"), fileOf(second, "/a"), "~/a/ -/a/new ~/a/x1"},
		{fileOf(first, "/a/sub"), fileOf(first, "/a"), "~/a/sub/ -/a/sub/ -/a/sub/y.csv -/a/x1 -/a/x2 +/a/sub/y.csv"},
	} {
		if got := diff(tc.after, tc.before); got != tc.want {
			t.Errorf("%v to %v: %s; want %s", tc.before.GetPath(), tc.after.Path, got, tc.want)
		}
	}
	_, err := all(m.DiffFile(limit(t), &pfspb.DiffFileRequest{}))
	wantError(t, err, codes.InvalidArgument, "validate request: ")
}

// TestRead_OfUnfinishedCommits waits for FINISHING, and reads what is open.
func TestRead_OfUnfinishedCommits(t *testing.T) {
	m := newMeta(t)
	m.svc.finishAtOnce = 0
	m.repo("r")
	m.apply("r@master", add("/a", "1"))
	open := m.start("r@master")
	m.must(nil, m.modify(open, add("/b", "2")))
	m.wantTree(open, "/ /a=1 /b=2")
	m.must(m.FinishCommit(limit(t), &pfspb.FinishCommitRequest{Commit: open}))
	m.wantTree(commitOf("r@master"), "/ /a=1 /b=2")
	if info := m.inspect(open); info.Finished == nil {
		t.Error("the read did not wait")
	}
	m.apply("r@master", add("/a", "-"))
	m.wantTree(open, "/ /a=1 /b=2")
	m.wantTree(commitOf("r@master^2"), "/ /a=1")
}

// TestFileInfo_HashFollowsContentAlone writes one content in three ways.
func TestFileInfo_HashFollowsContentAlone(t *testing.T) {
	m := newMeta(t)
	m.repo("a", "b", "c")
	big := strings.Repeat("0123456789", 100_000)
	m.apply("a@master", add("/d/f", big+"tail"), add("/d/g", "g"))
	m.apply("b@master", add("/d/f", big[:777]), add("/d/g", "x"))
	m.apply("b@master", add("/d/f", big[777:]), del("/d/g"))
	m.apply("b@master", add("/d/f", "tail"), add("/d/g", "g"), add("/other", ""))
	m.apply("c@master", copyOf("/d", commitOf("b@master"), "/d", false))
	var hashes []string
	for _, path := range []string{"/d/f", "/d"} {
		for _, repo := range []string{"a", "b", "c"} {
			i, err := m.InspectFile(limit(t), &pfspb.InspectFileRequest{File: fileOf(commitOf(repo+"@master"), path)})
			m.must(i, err)
			hashes = append(hashes, fmt.Sprintf("%x", i.Hash))
		}
	}
	for i, h := range hashes {
		if h != hashes[i/3*3] {
			t.Errorf("hashes differ: %v", hashes)
		}
	}
	if hashes[0] == hashes[3] {
		t.Error("a directory has the hash of its file")
	}
}
