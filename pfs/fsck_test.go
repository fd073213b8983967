package pfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/minipachd/minipachd/pfs/chunk"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// fsckWorld has one of everything that Check looks at.
type fsckWorld struct {
	*metaServer
	dir      string // of the bucket
	up, made *recordpb.CommitRecord
	parent   *recordpb.CommitRecord
}

func newFsckWorld(t *testing.T) *fsckWorld {
	t.Helper()
	dir := t.TempDir()
	m, stop := startMeta(t, dir)
	w := &fsckWorld{metaServer: m, dir: filepath.Join(dir, "bucket")}
	m.repo("up", "r", "big")
	m.commit("up@master")
	m.branch("r@master", "up@master")
	m.must(m.FinishCommit(limit(t), &pfspb.FinishCommitRequest{Commit: commitOf("r@master")}))
	m.commit("up@master") // and with it one of r
	m.must(m.FinishCommit(limit(t), &pfspb.FinishCommitRequest{Commit: commitOf("r@master")}))
	f := &farm{t: t, ctx: limit(t), store: m.svc.store}
	f.put(m.svc, "big", "/inline", []byte("a few bytes"))
	f.put(m.svc, "big", "/large", noise(1, large))
	many := m.svc.files.NewWriter(f.ctx) // a layer in the bucket
	for i := range 1000 {
		f.must(many.Append(fmt.Sprintf("/dir/%03d", i), "default", noise(byte(i), 30)))
	}
	layers, err := many.Finish()
	f.must(err)
	f.must(m.svc.attach(f.ctx, commitOf("big@master"), layers))
	many.Abort()
	// From here on nothing runs in the background that would mend or meet a fault.
	stop()
	svc, closeStorage := openService(t, dir)
	t.Cleanup(closeStorage)
	m.svc = svc
	w.up = w.record("up@master")
	w.made = w.record("r@master")
	w.parent = w.record("r@master^")
	return w
}

func (w *fsckWorld) record(name string) (rec *recordpb.CommitRecord) {
	w.t.Helper()
	w.must(nil, w.svc.View(limit(w.t), func(tx *Txn) error {
		var err error
		rec, err = tx.resolve(commitOf(name))
		return err
	}))
	return rec
}

// change edits what is stored behind the service's back.
func (w *fsckWorld) change(fn func(tx *store.Txn)) {
	w.t.Helper()
	_, err := w.svc.store.Update(limit(w.t), func(tx *store.Txn) error {
		fn(tx)
		return nil
	})
	w.must(nil, err)
}

// edit changes a stored commit.
func (w *fsckWorld) edit(rec *recordpb.CommitRecord, fn func(*recordpb.CommitRecord)) {
	w.t.Helper()
	rec = proto.CloneOf(rec)
	key := commitPrefix + commitKey(rec.Info.Commit.Repo, rec.Order)
	fn(rec)
	b, err := proto.Marshal(rec)
	w.must(b, err)
	w.change(func(tx *store.Txn) { tx.Put(key, b) })
}

// object finds the file of an object whose key begins with a prefix.
func (w *fsckWorld) object(prefix string) string {
	w.t.Helper()
	var found string
	w.must(nil, filepath.WalkDir(filepath.Join(w.dir, prefix), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = path
		}
		return err
	}))
	if found == "" {
		w.t.Fatalf("no object %s", prefix)
	}
	return found
}

// flip changes a byte in the middle of a file.
func (w *fsckWorld) flip(file string) {
	w.t.Helper()
	b, err := os.ReadFile(file)
	w.must(b, err)
	b[len(b)/2] ^= 1
	w.must(nil, os.WriteFile(file, b, 0o600))
}

// fsck gives the faults that the call finds.
func (w *fsckWorld) fsck(req *pfspb.FsckRequest) (errs, infos []string) {
	w.t.Helper()
	stream, err := w.Fsck(limit(w.t), req)
	w.must(stream, err)
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errs, infos
		}
		w.must(r, err)
		if r.Error != "" {
			errs = append(errs, r.Error)
		}
		if r.Info != "" {
			infos = append(infos, r.Info)
		}
	}
}

// TestFsck_FindsEachFault plants one fault at a time in a world that is sound.
func TestFsck_FindsEachFault(t *testing.T) {
	w := newFsckWorld(t)
	if found := faults(limit(t), t, w.svc, true); len(found) != 0 {
		t.Fatalf("a sound world has faults: %v", found)
	}
	repo := w.made.Info.Commit.Repo
	id, parent := w.made.Info.Commit.Id, w.parent.Info.Commit.Id
	source := w.made.Info.DirectProvenance[0]
	branch := func(name string, fn func(*recordpb.BranchRecord)) func() {
		return func() {
			w.must(nil, w.svc.Update(limit(t), func(tx *Txn) error {
				rec, err := tx.mustBranch(NormalizeBranch(branchOf(name)))
				if err != nil {
					return err
				}
				fn(rec)
				return w.svc.branches.Put(tx.Txn, branchKey(NormalizeBranch(branchOf(name))), rec)
			}))
		}
	}
	remove := func(key string) func() {
		return func() { w.change(func(tx *store.Txn) { tx.Delete(key) }) }
	}
	put := func(key, value string) func() {
		return func() { w.change(func(tx *store.Txn) { tx.Put(key, []byte(value)) }) }
	}
	edit := func(rec *recordpb.CommitRecord, fn func(*recordpb.CommitRecord)) func() {
		return func() { w.edit(rec, fn) }
	}
	big := w.record("big@master")
	inline := func() *recordpb.LayerRef {
		for _, ref := range w.record("big@master^2").Layers { // the first commit
			return ref
		}
		return nil
	}()
	chunkFile, layerFile := w.object("chunk"), w.object("layer")
	const ghost = "0123456789ab4def0123456789abcdef"

	for _, tc := range []struct {
		name  string
		plant func()
		deep  bool // found only with deep
		want  string
	}{
		{"head is missing", branch("up@master", func(b *recordpb.BranchRecord) { b.Info.Head.Id = ghost }), false, "branch default/up@master has the head " + ghost + ", which does not exist"},
		{"subvenance of a branch is missing", branch("up@master", func(b *recordpb.BranchRecord) { b.DirectSubvenance = nil }), false, "branch default/r@master is made from default/up@master, which does not know of it"},
		{"provenance of a branch is missing", branch("r@master", func(b *recordpb.BranchRecord) { b.Info.DirectProvenance = nil }), false, "branch default/up@master says that default/r@master is made from it, which is not so"},
		{"source branch does not exist", branch("r@master", func(b *recordpb.BranchRecord) {
			b.Info.DirectProvenance = append(b.Info.DirectProvenance, NormalizeBranch(branchOf("up@none")))
		}), false, "branch default/r@master is made from default/up@none, which does not exist"},
		{"branch is made from itself", branch("r@master", func(b *recordpb.BranchRecord) {
			b.Info.DirectProvenance = append(b.Info.DirectProvenance, NormalizeBranch(branchOf("r@master")))
			b.DirectSubvenance = append(b.DirectSubvenance, NormalizeBranch(branchOf("r@master")))
		}), false, "branch default/r@master is made from itself"},
		{"branch is under another key", func() {
			w.must(nil, w.svc.Update(limit(t), func(tx *Txn) error {
				rec, err := tx.mustBranch(NormalizeBranch(branchOf("up@master")))
				if err != nil {
					return err
				}
				return w.svc.branches.Put(tx.Txn, branchKey(NormalizeBranch(branchOf("up@other"))), rec)
			}))
		}, false, "key pfs/branch/default/up/user/other has the branch default/up@master"},
		{"id is not in the index", remove(idKey(id, repo)), false, "commit default/r@" + id + " is not found by its id"},
		{"id leads to nothing", put(idKey(ghost, repo), "0000000000000000-01234567"), false, "key " + idKey(ghost, repo) + " leads to 0000000000000000-01234567, where no such commit is"},
		{"child is not in the index", put(idKey(parent, repo), w.parent.Order), false, "commit default/r@" + id + " is not among the children of its parent " + parent},
		{"child does not exist", put(idKey(id, repo), string(idValue(w.made.Order, ghost))), false, "commit default/r@" + id + " has the child " + ghost + ", which does not exist"},
		{"child has another parent", put(idKey(id, repo), string(idValue(w.made.Order, parent))), false, "commit default/r@" + id + " has the child " + parent + `, whose parent is "`},
		{"second child does not exist", put(childKey(repo, parent, ghost), ""), false, "commit default/r@" + parent + " has the child " + ghost + ", which does not exist"},
		{"second child has another parent", put(childKey(repo, id, parent), ""), false, "commit default/r@" + id + " has the child " + parent + `, whose parent is "`},
		{"parent does not exist", edit(w.made, func(r *recordpb.CommitRecord) { r.Info.ParentCommit.Id = ghost }), false, "commit default/r@" + id + " has the parent " + ghost + ", which does not exist"},
		{"source does not exist", edit(w.made, func(r *recordpb.CommitRecord) { r.Info.DirectProvenance[0].Id = ghost }), false, "commit default/r@" + id + " comes from default/up@" + ghost + ", which does not exist"},
		{"subvenance is not in the index", remove(subvKey(source, w.made.Info.Commit)), false, "commit default/r@" + id + " comes from default/up@" + source.Id + ", which does not know of it"},
		{"subvenance leads to nothing", put(subvKey(source, &pfspb.Commit{Repo: repo, Id: ghost}), ""), false, "commit default/up@" + source.Id + " says that default/r@" + ghost + " comes from it, which is not so"},
		{"commit is under another key", put(commitPrefix+commitKey(repo, "0000000000000000-01234567"), string(encoded(t, w.made))), false, "key pfs/commit/default/r/user/0000000000000000-01234567 has the commit default/r@" + id},
		{"repo does not exist", put(idKey(ghost, normalRepoOf("gone")), ""), false, "belongs to repo default/gone, which does not exist"},
		{"value is no commit", put(commitPrefix+commitKey(repo, "x"), "\xff"), false, "key pfs/commit/default/r/user/x: its value is no commit"},
		{"mark without a commit", put(finishingPrefix+commitKey(repo, "0"), ""), false, "key pfs/finishing/default/r/user/0 marks a commit that does not exist"},
		{"finishing without a mark", edit(w.made, func(r *recordpb.CommitRecord) { r.Info.Finished = nil }), false, "commit default/r@" + id + " is finishing, but nothing marks it"},
		{"finished with layers of its own", edit(w.made, func(r *recordpb.CommitRecord) { r.OwnLayers = 1; r.Layers = big.Layers }), false, "commit default/r@" + id + " is finished, but its record is that of an unfinished one"},
		{"size of a head is wrong", edit(big, func(r *recordpb.CommitRecord) { r.Info.Details.SizeBytes++; r.Info.SizeBytesUpperBound++ }), false, "are recorded"},
		{"size of an ancestor is wrong", edit(w.parent, func(r *recordpb.CommitRecord) {
			r.Info.Details = &pfspb.CommitInfo_Details{SizeBytes: 7}
			r.Info.SizeBytesUpperBound = 7
		}), true, "commit default/r@" + parent + ": its files have 0 bytes, 7 are recorded"},
		{"layer is missing", remove(layerPrefix + layerKey(inline.Id)), false, "layer " + layerKey(inline.Id) + " does not exist"},
		{"layer is corrupt", func() {
			w.change(func(tx *store.Txn) {
				rec, _, err := w.svc.layers.Get(tx, layerKey(inline.Id))
				w.must(rec, err)
				rec.GetInline()[10] ^= 1
				w.must(nil, w.svc.layers.Put(tx, layerKey(inline.Id), rec))
			})
		}, false, "layer " + layerKey(inline.Id) + " is corrupt: its checksum does not match"},
		{"layer of a file set is missing", put(fileSetPrefix+"s", string(encoded(t, &recordpb.FileSetRecord{Layers: []*recordpb.LayerRef{{Id: []byte("0123456789abcdef")}}, Expires: stamp(time.Now().Add(time.Hour))}))), false, "file set s: layer 30313233343536373839616263646566 does not exist"},
		{"layer of a cache entry is missing", put(cachePrefix+"k", string(encoded(t, &recordpb.CacheRecord{FileSets: []*recordpb.FileSetRecord{{Layers: []*recordpb.LayerRef{{Id: []byte("0123456789abcdef")}}}}}))), false, "cache entry k: layer 30313233343536373839616263646566 does not exist"},
		{"chunk is missing", func() { w.must(nil, os.Remove(chunkFile)) }, false, "is missing: the bucket has no such object"},
		{"chunk has changed", func() { w.flip(chunkFile) }, true, "is damaged"},
		{"layer object is missing", func() { w.must(nil, os.Remove(layerFile)) }, false, "its object is missing"},
		{"layer object has changed", func() { w.flip(layerFile) }, false, "does not match"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			outer := w.t
			w.t = t
			defer func() { w.t = outer }()
			undo := w.backup(t)
			defer undo()
			tc.plant()
			shallow := faults(limit(t), t, w.svc, false)
			deep := faults(limit(t), t, w.svc, true)
			has := func(found []string) bool {
				return slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, tc.want) })
			}
			if !has(deep) || has(shallow) == tc.deep {
				t.Errorf("want %q, with deep alone: %t; found %q, with deep %q", tc.want, tc.deep, shallow, deep)
			}
		})
	}
	if found := faults(limit(t), t, w.svc, true); len(found) != 0 {
		t.Errorf("the faults were not taken back: %v", found)
	}
}

func normalRepoOf(name string) *pfspb.Repo { return NormalizeRepo(repoOf(name)) }

func normalBranchOf(name string) *pfspb.Branch {
	b := branchOf(name)
	b.Repo = NormalizeRepo(b.Repo)
	return b
}

func encoded(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// backup returns what puts everything that is stored back.
func (w *fsckWorld) backup(t *testing.T) (restore func()) {
	t.Helper()
	read := func() map[string]string {
		kept := map[string]string{}
		w.must(nil, w.svc.View(limit(t), func(tx *Txn) error {
			for kv, err := range tx.Scan("pfs/", store.ScanOptions{}) {
				if err != nil {
					return err
				}
				if !strings.HasPrefix(kv.Key, "pfs/gc/") {
					kept[kv.Key] = string(kv.Value)
				}
			}
			return nil
		}))
		return kept
	}
	kept := read()
	files := map[string][]byte{}
	for _, file := range []string{w.object("chunk"), w.object("layer")} {
		b, err := os.ReadFile(file)
		w.must(b, err)
		files[file] = b
	}
	return func() {
		now := read()
		w.change(func(tx *store.Txn) {
			for k, v := range kept {
				if have, ok := now[k]; !ok || have != v {
					tx.Put(k, []byte(v))
				}
			}
			for k := range now {
				if _, ok := kept[k]; !ok {
					tx.Delete(k)
				}
			}
		})
		for file, b := range files {
			w.must(nil, os.WriteFile(file, b, 0o600))
		}
	}
}

// TestFsck_TellsWhatIsNoFault only when it is asked to.
func TestFsck_TellsWhatIsNoFault(t *testing.T) {
	m := newMeta(t)
	w := &fsckWorld{metaServer: m}
	w.must(nil, m.svc.bucket.Put(limit(t), "layer/ff/000000000000000000000000000000ff", []byte("12345")))
	if errs, infos := w.fsck(&pfspb.FsckRequest{}); len(errs)+len(infos) != 0 {
		t.Errorf("told without being asked: %v, %v", errs, infos)
	}
	errs, infos := w.fsck(&pfspb.FsckRequest{Verbose: true})
	if len(errs) != 0 || len(infos) != 2 ||
		infos[0] != "1 layers in the bucket (5 bytes) have no record: writers are at it, or garbage collection will remove them" ||
		infos[1] != "garbage was never collected so far" {
		t.Errorf("errors %q, info %q", errs, infos)
	}
	w.must(m.svc.CollectGarbage(limit(t)))
	_, infos = w.fsck(&pfspb.FsckRequest{Verbose: true})
	if len(infos) != 1 || !strings.HasSuffix(infos[0], ": 0 chunks and 0 layers with 1 objects were removed, 5 bytes in the bucket") {
		t.Errorf("info %q", infos)
	}
}

// TestFsck_ReadsPastTheCache finds damage in a chunk that was read a moment ago.
func TestFsck_ReadsPastTheCache(t *testing.T) {
	f := newFarm(t)
	s, _ := f.daemon(GCConfig{})
	f.repo(s, "r")
	f.put(s, "r", "/a", noise(1, large))
	f.get(s, "r", "/a")
	f.must(f.bucket.Put(f.ctx, chunk.Sum(noise(1, large)).Key(), []byte("MPCK damaged")))
	if found := faults(f.ctx, t, s, true); len(found) == 0 {
		t.Error("nothing was found")
	}
}
