package pfs

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// fileSet makes a file set.
func (m *metaServer) fileSet(ops ...op) string {
	m.t.Helper()
	s, err := m.CreateFileSet(limit(m.t))
	res, err := send(s, err, ops)
	m.must(res, err)
	return res.GetFileSetId()
}

// setOf is a file set as the commit that reads it.
func setOf(id string) *pfspb.Commit {
	return &pfspb.Commit{Repo: &pfspb.Repo{Name: fileSetsRepo, Type: UserType, Project: &pfspb.Project{Name: DefaultProject}}, Id: id}
}

func (m *metaServer) getFileSet(c *pfspb.Commit, kind pfspb.GetFileSetRequest_FileSetType) string {
	m.t.Helper()
	res, err := m.GetFileSet(limit(m.t), &pfspb.GetFileSetRequest{Commit: c, Type: kind})
	m.must(res, err)
	return res.GetFileSetId()
}

func (m *metaServer) addFileSet(c *pfspb.Commit, id string) {
	m.t.Helper()
	m.must(m.AddFileSet(limit(m.t), &pfspb.AddFileSetRequest{Commit: c, FileSetId: id}))
}

func (m *metaServer) finish(c *pfspb.Commit) {
	m.t.Helper()
	m.must(m.FinishCommit(limit(m.t), &pfspb.FinishCommitRequest{Commit: c}))
	m.must(m.InspectCommit(limit(m.t), &pfspb.InspectCommitRequest{Commit: c, Wait: pfspb.CommitState_FINISHED}))
}

// expire ends the time of a file set.
func (m *metaServer) expire(id string) {
	m.t.Helper()
	m.must(nil, m.svc.Update(limit(m.t), func(tx *Txn) error {
		rec, _, err := m.svc.fileSets.Get(tx.Txn, id)
		if err != nil {
			return err
		}
		rec.Expires = stamp(tx.Now().Add(-time.Second))
		return m.svc.fileSets.Put(tx.Txn, id, rec)
	}))
}

func TestFileSet_IsReadByEveryRPC(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	id := m.fileSet(add("/d/a", "one"), add("/d/b", "two"), add("/c", "three"), del("/d/b"))
	c := setOf(id)
	m.wantTree(c, "/ /c=three /d/ /d/a=one")
	if got := m.content(c, "/d/a"); got != "one" {
		t.Errorf("GetFile: %q", got)
	}
	info, err := m.InspectFile(ctx, &pfspb.InspectFileRequest{File: fileOf(c, "/d")})
	if err != nil || info.File.Path != "/d/" || info.SizeBytes != 3 || info.Committed != nil || info.File.Commit.Id != id {
		t.Errorf("InspectFile: %v, %v", info, err)
	}
	list, err := all(m.ListFile(ctx, &pfspb.ListFileRequest{File: fileOf(c, "/")}))
	if got := paths(list); err != nil || got != "/c /d/" {
		t.Errorf("ListFile: %s, %v", got, err)
	}
	walk, err := all(m.WalkFile(ctx, &pfspb.WalkFileRequest{File: fileOf(c, "/d")}))
	if got := paths(walk); err != nil || got != "/d/ /d/a" {
		t.Errorf("WalkFile: %s, %v", got, err)
	}
	found, err := all(m.GlobFile(ctx, &pfspb.GlobFileRequest{Commit: c, Pattern: "/**a"}))
	if got := paths(found); err != nil || got != "/d/a" {
		t.Errorf("GlobFile: %s, %v", got, err)
	}
	diff, err := all(m.DiffFile(ctx, &pfspb.DiffFileRequest{NewFile: fileOf(c, "/c")}))
	if err != nil || len(diff) != 1 || diff[0].OldFile != nil {
		t.Errorf("DiffFile: %v, %v", diff, err)
	}
	m.repo("r")
	m.apply("r@master", copyOf("/copied", c, "/d", false))
	m.wantTree(commitOf("r@master"), "/ /copied/ /copied/a=one")
	_, err = m.InspectFile(ctx, &pfspb.InspectFileRequest{File: fileOf(c, "/x")})
	wantError(t, err, codes.NotFound, "file /x not found in repo default/__filesets__ at commit "+id)
}

func TestAddFileSet_AppendsToAnOpenCommit(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r", "other")
	m.apply("r@master", add("/log", "1"), add("/gone", "x"))
	id := m.fileSet(add("/log", "2"), del("/gone"), add("/new", "n"))
	open := m.start("r@master")
	m.addFileSet(open, id)
	m.addFileSet(commitOf("r@master"), id)
	m.wantTree(open, "/ /log=122 /new=nn")
	m.finish(open)
	m.wantTree(open, "/ /log=122 /new=nn")
	if info := m.inspect(open); info.Details.GetSizeBytes() != 5 || info.Error != "" {
		t.Errorf("finished: %v", info)
	}
	_, err := m.AddFileSet(ctx, &pfspb.AddFileSetRequest{Commit: open, FileSetId: id})
	wantError(t, err, codes.Unknown, "commit default/r@"+open.Id+" has already finished")
	// The layers are shared: they stay when the repo goes.
	elsewhere := m.start("other@master")
	m.addFileSet(elsewhere, m.getFileSet(open, pfspb.GetFileSetRequest_TOTAL))
	m.must(m.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repoOf("r")}))
	m.must(nil, m.svc.sweep(ctx))
	m.must(m.svc.CollectGarbage(ctx))
	m.sound()
	m.finish(elsewhere)
	m.wantTree(elsewhere, "/ /log=122 /new=nn")
}

// TestAddFileSet_OfTheBase puts the layers of the parent once more on top of the
// open commit, often enough that they are folded.
func TestAddFileSet_OfTheBase(t *testing.T) {
	m := newMeta(t)
	m.repo("r")
	m.apply("r@master", add("/a", "x"))
	m.apply("r@master", del("/b"), add("/a", "y"))
	total := m.getFileSet(commitOf("r@master"), pfspb.GetFileSetRequest_TOTAL)
	open := m.start("r@master")
	want := "xy"
	for range maxOwnLayers {
		m.addFileSet(open, total)
		want += "xy"
	}
	m.wantTree(open, "/ /a="+want)
	m.must(nil, m.modify(open, add("/b", "b")))
	m.finish(open)
	m.wantTree(open, "/ /a="+want+" /b=b")
	for i := range 40 { // lets the compactor work on what it has
		m.apply("r@master", add("/a", "z"), del("/b"), add("/b", fmt.Sprint(i)))
	}
	m.wantTree(commitOf("r@master"), "/ /a="+want+strings.Repeat("z", 40)+" /b=39")
}

func TestGetFileSet_TotalAndDiff(t *testing.T) {
	m := newMeta(t)
	m.repo("r", "copy")
	total, diff := pfspb.GetFileSetRequest_TOTAL, pfspb.GetFileSetRequest_DIFF
	m.apply("r@master", add("/a", "1"), add("/b", "2"), add("/d/c", "3"))
	first := m.inspect(commitOf("r@master")).Commit
	m.apply("r@master", del("/b"), add("/a", "more"), add("/e", "5"))
	second := m.inspect(commitOf("r@master")).Commit
	m.wantTree(setOf(m.getFileSet(second, total)), "/ /a=1more /d/ /d/c=3 /e=5")
	m.wantTree(setOf(m.getFileSet(second, diff)), "/ /a=more /e=5")
	m.wantTree(setOf(m.getFileSet(first, diff)), "/ /a=1 /b=2 /d/ /d/c=3")

	// Once the layers are folded, the difference is computed anew.
	for i := range 12 {
		m.apply("r@master", add("/log", fmt.Sprint(i, ";")), del("/over"), add("/over", fmt.Sprint(i)))
		c := m.inspect(commitOf("r@master")).Commit
		m.wantTree(setOf(m.getFileSet(c, diff)), fmt.Sprintf("/ /log=%d; /over=%d", i, i))
	}
	m.apply("r@master", del("/d/"), add("/a", "!"))
	last := m.inspect(commitOf("r@master")).Commit
	id := m.getFileSet(last, diff)
	m.wantTree(setOf(id), "/ /a=!")
	// On top of a copy of the parent it makes a copy of the commit.
	open := m.start("copy@master")
	m.addFileSet(open, m.getFileSet(commitOf("r@"+last.Id+"^"), total))
	m.addFileSet(open, id)
	want, err := m.tree(last, "/")
	m.must(nil, err)
	m.wantTree(open, want)

	// An open commit gives what it has so far, a file set all of it.
	writing := m.start("r@master")
	m.must(nil, m.modify(writing, add("/w", "w")))
	m.wantTree(setOf(m.getFileSet(writing, diff)), "/ /w=w")
	m.wantTree(setOf(m.getFileSet(setOf(id), total)), "/ /a=!")
}

func TestComposeFileSet_LaterOnesLieOnTop(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	a := m.fileSet(add("/x", "a"), add("/y", "a"))
	b := m.fileSet(del("/y"), add("/x", "b"))
	for _, compact := range []bool{false, true} {
		res, err := m.ComposeFileSet(ctx, &pfspb.ComposeFileSetRequest{FileSetIds: []string{a, b}, TtlSeconds: 60, Compact: compact})
		if err != nil {
			t.Fatal(err)
		}
		m.wantTree(setOf(res.FileSetId), "/ /x=ab")
		// What it deletes counts for what it is put on.
		m.repo(fmt.Sprint("r", compact))
		m.apply(fmt.Sprintf("r%v@master", compact), add("/y", "old"), add("/z", "z"))
		open := m.start(fmt.Sprintf("r%v@master", compact))
		m.addFileSet(open, res.FileSetId)
		m.wantTree(open, "/ /x=ab /z=z")
	}
	many := make([]string, maxComposed+1)
	for i := range many {
		many[i] = b
	}
	res, err := m.ComposeFileSet(ctx, &pfspb.ComposeFileSetRequest{FileSetIds: many})
	if err != nil {
		t.Fatal(err)
	}
	m.wantTree(setOf(res.FileSetId), "/ /x="+strings.Repeat("b", len(many)))
	var rec *recordpb.FileSetRecord
	m.must(nil, m.svc.View(ctx, func(tx *Txn) (err error) {
		rec, err = tx.fileSet(res.FileSetId)
		return err
	}))
	if len(rec.Layers) != 1 {
		t.Errorf("%d layers are left of %d", len(rec.Layers), len(many))
	}
	res, err = m.ComposeFileSet(ctx, &pfspb.ComposeFileSetRequest{})
	if err != nil || res.FileSetId == "" {
		t.Errorf("of nothing: %v, %v", res, err)
	}
}

func TestShardFileSet_CoversAllPaths(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	id := m.fileSet(add("/a", "1"), add("/b", "22"), addBy("/b", "other", "22"), add("/c", "4444"), add("/d", "5"))
	for _, tc := range []struct {
		files, bytes int64
		want         string
	}{
		{0, 0, "[,)"},
		{1, 0, "[,/b) [/b,/c) [/c,/d) [/d,)"},
		{2, 0, "[,/c) [/c,)"},
		{0, 4, "[,/c) [/c,/d) [/d,)"},
		{100, 5, "[,/c) [/c,)"},
	} {
		res, err := m.ShardFileSet(ctx, &pfspb.ShardFileSetRequest{FileSetId: id, NumFiles: tc.files, SizeBytes: tc.bytes})
		var got []string
		for _, s := range res.GetShards() {
			got = append(got, fmt.Sprintf("[%s,%s)", s.Lower, s.Upper))
		}
		if err != nil || strings.Join(got, " ") != tc.want {
			t.Errorf("%d files, %d bytes: %v, %v; want %s", tc.files, tc.bytes, got, err, tc.want)
		}
	}
}

func TestFileSet_TimeToLive(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	id, kept := m.fileSet(add("/a", "1")), m.fileSet(add("/b", "2"))
	m.must(m.RenewFileSet(ctx, &pfspb.RenewFileSetRequest{FileSetId: id, TtlSeconds: 1800}))
	m.must(nil, m.svc.View(ctx, func(tx *Txn) error {
		rec, err := tx.fileSet(id)
		if left := rec.GetExpires().AsTime().Sub(tx.Now()); left < 29*time.Minute || left > 30*time.Minute {
			t.Errorf("after the renewal %v are left", left)
		}
		return err
	}))
	m.expire(id)
	m.repo("r")
	open := m.start("r@master")
	_, err := m.tree(setOf(id), "/")
	wantError(t, err, codes.NotFound, "file set "+id+" not found")
	_, err = m.RenewFileSet(ctx, &pfspb.RenewFileSetRequest{FileSetId: id, TtlSeconds: 60})
	wantError(t, err, codes.NotFound, "file set "+id+" not found")
	_, err = m.AddFileSet(ctx, &pfspb.AddFileSetRequest{FileSetId: id, Commit: open})
	wantError(t, err, codes.NotFound, "file set "+id+" not found")
	_, err = m.ComposeFileSet(ctx, &pfspb.ComposeFileSetRequest{FileSetIds: []string{kept, id}})
	wantError(t, err, codes.NotFound, "file set "+id+" not found")
	_, err = m.ShardFileSet(ctx, &pfspb.ShardFileSetRequest{FileSetId: id})
	wantError(t, err, codes.NotFound, "file set "+id+" not found")
	_, err = m.PutCache(ctx, &pfspb.PutCacheRequest{Key: "k", FileSetIds: []string{id}})
	wantError(t, err, codes.NotFound, "file set "+id+" not found")

	m.must(nil, references{m.svc}.Expire(ctx, time.Now()))
	m.must(nil, m.svc.View(ctx, func(tx *Txn) error {
		for id, want := range map[string]bool{id: false, kept: true} {
			if _, ok, err := m.svc.fileSets.Get(tx.Txn, id); err != nil || ok != want {
				t.Errorf("the record is there: %v, %v; want %v", ok, err, want)
			}
		}
		return nil
	}))
	m.wantTree(setOf(kept), "/ /b=2")
}

func TestFileSet_SurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	m, stop := startMeta(t, dir)
	id := m.fileSet(add("/big", strings.Repeat("0123456789", 100_000)), add("/small", "s"))
	stop()
	m, _ = startMeta(t, dir)
	if got := m.content(setOf(id), "/big"); len(got) != 1_000_000 {
		t.Errorf("%d bytes are left", len(got))
	}
}

func TestCache(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	value, err := anypb.New(wrapperspb.String("result"))
	m.must(nil, err)
	id := m.fileSet(add("/a", "1"))
	m.must(m.PutCache(ctx, &pfspb.PutCacheRequest{Key: "k/1", Value: value, FileSetIds: []string{id}, Tag: "job/1"}))
	m.must(m.PutCache(ctx, &pfspb.PutCacheRequest{Key: "k/2", Tag: "job/2"}))
	res, err := m.GetCache(ctx, &pfspb.GetCacheRequest{Key: "k/1"})
	if err != nil || string(res.Value.GetValue()) != string(value.Value) || res.Value.TypeUrl != value.TypeUrl {
		t.Errorf("got %v, %v", res, err)
	}
	// The entry holds its file set beyond its time.
	m.expire(id)
	m.must(nil, references{m.svc}.Expire(ctx, time.Now()))
	m.must(m.svc.CollectGarbage(ctx))
	m.sound()
	m.wantTree(setOf(id), "/ /a=1")
	m.must(m.RenewFileSet(ctx, &pfspb.RenewFileSetRequest{FileSetId: id, TtlSeconds: 60}))
	m.expire(id)

	m.must(m.ClearCache(ctx, &pfspb.ClearCacheRequest{TagPrefix: "job/1"}))
	_, err = m.GetCache(ctx, &pfspb.GetCacheRequest{Key: "k/1"})
	wantError(t, err, codes.NotFound, `cache entry "k/1" not found`)
	_, err = m.tree(setOf(id), "/")
	wantError(t, err, codes.NotFound, "file set "+id+" not found")
	m.must(m.GetCache(ctx, &pfspb.GetCacheRequest{Key: "k/2"}))
	for _, key := range []string{"k/3", "k/4", "k/2"} { // k/2 is the newest now
		m.must(m.PutCache(ctx, &pfspb.PutCacheRequest{Key: key}))
	}
	m.must(nil, m.svc.trimCache(ctx, 2))
	_, err = m.GetCache(ctx, &pfspb.GetCacheRequest{Key: "k/3"})
	wantError(t, err, codes.NotFound, `cache entry "k/3" not found`)
	m.must(m.GetCache(ctx, &pfspb.GetCacheRequest{Key: "k/2"}))
	m.must(m.ClearCache(ctx, &pfspb.ClearCacheRequest{}))
	_, err = m.GetCache(ctx, &pfspb.GetCacheRequest{Key: "k/2"})
	wantError(t, err, codes.NotFound, `cache entry "k/2" not found`)
}

func TestCheckStorage_CountsAndVerifies(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	m.apply("r@master", add("/a", strings.Repeat("abc", 50_000)))
	count := func(req *pfspb.CheckStorageRequest) int64 {
		res, err := m.CheckStorage(ctx, req)
		m.must(res, err)
		return res.GetChunkObjectCount()
	}
	if n := count(&pfspb.CheckStorageRequest{ReadChunkData: true}); n != 1 {
		t.Fatalf("%d chunks", n)
	}
	for info, err := range m.svc.chunks.List(ctx) {
		m.must(nil, err)
		if n := count(&pfspb.CheckStorageRequest{ChunkBegin: info.Hash[:]}); n != 1 {
			t.Errorf("from its own hash on: %d chunks", n)
		}
		if n := count(&pfspb.CheckStorageRequest{ChunkEnd: info.Hash[:]}); n != 0 {
			t.Errorf("before its hash: %d chunks", n)
		}
		m.must(nil, m.svc.bucket.Put(ctx, info.Hash.Key(), []byte("damage")))
	}
	if n := count(&pfspb.CheckStorageRequest{}); n != 1 {
		t.Errorf("%d chunks", n)
	}
	_, err := m.CheckStorage(ctx, &pfspb.CheckStorageRequest{ReadChunkData: true})
	wantError(t, err, codes.DataLoss, "chunk")
}

func TestFileSet_CodesAndTexts(t *testing.T) {
	m := newMeta(t)
	ctx := limit(t)
	m.repo("r")
	const missing = "0123456789ab4def0123456789abcdef"
	id := m.fileSet()
	renew := func(id string, ttl int64) error {
		_, err := m.RenewFileSet(ctx, &pfspb.RenewFileSetRequest{FileSetId: id, TtlSeconds: ttl})
		return err
	}
	create := func(ops ...op) error {
		s, err := m.CreateFileSet(ctx)
		_, err = send(s, err, ops)
		return err
	}
	for _, tc := range []struct {
		name string
		err  error
		code codes.Code
		text string
	}{
		{"ttl 0", renew(id, 0), codes.Unknown, "ttl (0) must be at least one second"},
		{"ttl negative", renew(id, -2), codes.Unknown, "ttl (-2000000000) must be at least one second"},
		{"ttl too long", renew(id, 1801), codes.Unknown, "ttl (1801000000000) exceeds max ttl (1800000000000)"},
		{"ttl beyond counting", renew(id, 1<<62), codes.Unknown, "exceeds max ttl (1800000000000)"},
		{"renew missing", renew(missing, 60), codes.NotFound, "file set " + missing + " not found"},
		{"renew nonsense", renew("a/b", 60), codes.NotFound, "file set a/b not found"},
		{"set_commit", create(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: commitOf("r@master")}}), codes.Unknown, "cannot set commit"},
		{"empty message", create(&pfspb.ModifyFileRequest{}), codes.Unknown, "unrecognized message type"},
		{"bad path", create(add("/a*", "")), codes.Unknown, "path (/a*) invalid: globbing character (*) not allowed in path"},
		{"write", m.modify(setOf(id), add("/a", "")), codes.Unknown, "a file set cannot be written to"},
		{"read missing", func() error { _, err := m.tree(setOf(missing), "/"); return err }(), codes.NotFound, "file set " + missing + " not found"},
		{"of no commit", func() error { _, err := m.GetFileSet(ctx, &pfspb.GetFileSetRequest{}); return err }(), codes.InvalidArgument, "validate request: a commit must be given"},
		{"of a missing commit", func() error {
			_, err := m.GetFileSet(ctx, &pfspb.GetFileSetRequest{Commit: commitOf("r@" + missing)})
			return err
		}(), codes.NotFound, "commit default/r@" + missing + " not found"},
		{"to no commit", func() error {
			_, err := m.AddFileSet(ctx, &pfspb.AddFileSetRequest{FileSetId: id})
			return err
		}(), codes.InvalidArgument, "validate request: a commit must be given"},
		{"compose missing", func() error {
			_, err := m.ComposeFileSet(ctx, &pfspb.ComposeFileSetRequest{FileSetIds: []string{id, missing}})
			return err
		}(), codes.NotFound, "file set " + missing + " not found"},
		{"compose ttl", func() error {
			_, err := m.ComposeFileSet(ctx, &pfspb.ComposeFileSetRequest{FileSetIds: []string{id}, TtlSeconds: 3600})
			return err
		}(), codes.Unknown, "ttl (3600000000000) exceeds max ttl (1800000000000)"},
		{"cache key", func() error { _, err := m.PutCache(ctx, &pfspb.PutCacheRequest{}); return err }(), codes.InvalidArgument, "validate request: the key must not be empty"},
		{"shard", func() error {
			_, err := m.ShardFileSet(ctx, &pfspb.ShardFileSetRequest{FileSetId: id, NumFiles: -1})
			return err
		}(), codes.InvalidArgument, "must not be negative"},
	} {
		t.Run(tc.name, func(t *testing.T) { wantError(t, tc.err, tc.code, tc.text) })
	}
}
