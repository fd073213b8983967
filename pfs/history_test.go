package pfs

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// history plays random writes, forks, errors, squashes and drops on one repo and
// checks after each what must hold whatever was played before.
type history struct {
	t    *testing.T
	svc  *Service
	ctx  context.Context
	rng  *rand.Rand
	repo *pfspb.Repo
	log  []string
	n    int
}

// picture is all there is to see of the repo.
type picture struct {
	commits map[string]*recordpb.CommitRecord
	content map[string]string // by commit id: its paths
	heads   map[string]string // by branch: id
	next    map[string]string // by branch: what a new commit would begin with
}

func (h *history) fatalf(format string, args ...any) {
	h.t.Helper()
	h.t.Fatalf("%s\nafter:\n%s", fmt.Sprintf(format, args...), strings.Join(h.log, "\n"))
}

func (h *history) look() picture {
	p := picture{map[string]*recordpb.CommitRecord{}, map[string]string{}, map[string]string{}, map[string]string{}}
	err := h.svc.View(h.ctx, func(tx *Txn) error {
		for item, err := range h.svc.commits.Scan(tx.Txn, repoKey(h.repo)+"/", store.ScanOptions{}) {
			if err != nil {
				return err
			}
			id := item.Value.Info.Commit.Id
			p.commits[id] = item.Value
			layers, err := tx.layersOf(item.Value)
			if err != nil {
				return err
			}
			p.content[id] = h.paths(layers)
		}
		for item, err := range h.svc.branches.Scan(tx.Txn, repoKey(h.repo)+"/", store.ScanOptions{}) {
			if err != nil {
				return err
			}
			name, head := item.Value.Info.Branch.Name, p.commits[item.Value.Info.Head.Id]
			if head == nil {
				return fmt.Errorf("branch %s has the head %v, which is gone", name, item.Value.Info.Head)
			}
			p.heads[name] = head.Info.Commit.Id
			good, err := tx.goodAncestor(head)
			if err != nil {
				return err
			}
			p.next[name] = p.content[good.GetInfo().GetCommit().GetId()]
		}
		return nil
	})
	if err != nil {
		h.fatalf("%v", err)
	}
	return p
}

func (h *history) paths(layers []*recordpb.LayerRef) string {
	var paths []string
	for f, err := range h.svc.files.Open(layers).Files(h.ctx, "") {
		if err != nil {
			h.fatalf("%v", err)
		}
		paths = append(paths, f.Path)
	}
	return strings.Join(paths, " ")
}

func (h *history) pick(p picture) *recordpb.CommitRecord {
	return p.commits[slices.Sorted(maps.Keys(p.commits))[h.rng.IntN(len(p.commits))]]
}

func (h *history) branch() *pfspb.Branch {
	return &pfspb.Branch{Repo: h.repo, Name: string(rune('a' + h.rng.IntN(3)))}
}

// step plays one thing.
func (h *history) step() {
	before := h.look()
	var err error
	what, squashed := "", false
	switch k := h.rng.IntN(10); {
	case len(before.commits) == 0 || k < 4:
		what, err = h.write(before)
	case k < 5:
		c, b := h.pick(before), h.branch()
		what = fmt.Sprintf("branch %s at %s", b.Name, c.Info.Commit.Id)
		_, err = h.svc.CreateBranch(h.ctx, &pfspb.CreateBranchRequest{Branch: b, Head: c.Info.Commit})
	case k < 8:
		c := h.pick(before)
		what, squashed = "squash "+c.Info.Commit.Id, true
		_, err = h.svc.SquashCommit(h.ctx, &pfspb.SquashCommitRequest{Commit: c.Info.Commit})
		if h.mustSquash(before, c) && err != nil {
			h.fatalf("%s was refused: %v", what, err)
		}
	default:
		c := h.pick(before)
		what = "drop " + c.Info.Commit.Id
		_, err = h.svc.DropCommit(h.ctx, &pfspb.DropCommitRequest{Commit: c.Info.Commit})
		if leaf := !hasChildren(before, c); leaf != (err == nil) {
			h.fatalf("%s, without children: %v: %v", what, leaf, err)
		}
	}
	h.log = append(h.log, fmt.Sprintf("%s: %v", what, err))
	after := h.look()
	for id, content := range after.content {
		if was, ok := before.content[id]; ok && was != content && state(before.commits[id].Info) == pfspb.CommitState_FINISHED {
			h.fatalf("content of %s changed from %q to %q", id, was, content)
		}
	}
	if len(after.commits) > 0 {
		h.fits(after, h.pick(after))
	}
	if err != nil || squashed {
		if !maps.Equal(before.heads, after.heads) || !maps.Equal(before.next, after.next) {
			h.fatalf("branches changed from %v %v to %v %v", before.heads, before.next, after.heads, after.next)
		}
		if gone := len(before.commits) - len(after.commits); (err != nil && gone != 0) || (err == nil && gone != 1) {
			h.fatalf("%d commits are gone", gone)
		}
	}
}

// write makes a commit, with or without data, in one go or in two, with or
// without an error.
func (h *history) write(p picture) (string, error) {
	b := h.branch()
	h.n++
	w := h.svc.files.NewWriter(h.ctx)
	if err := w.Append(fmt.Sprintf("/%d", h.n), DefaultDatum, []byte("x")); err != nil {
		h.fatalf("%v", err)
	}
	layers, err := w.Finish()
	if err != nil {
		h.fatalf("%v", err)
	}
	if h.rng.IntN(2) == 0 {
		return "one shot on " + b.Name, h.svc.commitOneShot(h.ctx, b, layers)
	}
	var parent *pfspb.Commit
	if len(p.commits) > 0 && h.rng.IntN(3) == 0 {
		parent = h.pick(p).Info.Commit
	}
	what := fmt.Sprintf("commit on %s, parent %s", b.Name, parent.GetId())
	c, err := h.svc.StartCommit(h.ctx, &pfspb.StartCommitRequest{Branch: b, Parent: parent})
	if err != nil {
		return what, err
	}
	if h.rng.IntN(4) > 0 {
		err = h.svc.appendOpen(h.ctx, &pfspb.Commit{Repo: h.repo, Id: c.Id}, layers)
	}
	if err == nil && h.rng.IntN(8) == 0 {
		return what + ", left open", nil
	}
	text := ""
	if h.rng.IntN(3) == 0 {
		what, text = what+", with an error", "broken"
	}
	if err == nil {
		_, err = h.svc.FinishCommit(h.ctx, &pfspb.FinishCommitRequest{Commit: c, Error: text})
	}
	if err == nil {
		_, err = h.svc.waitCommit(h.ctx, h.repo, c.Id, pfspb.CommitState_FINISHED)
	}
	return what, err
}

// end checks every commit, and that there are just the keys that they need.
func (h *history) end() {
	ids, children := 0, 0
	p := h.look()
	for _, rec := range p.commits {
		h.fits(p, rec)
		ids++
		if rec.Info.ParentCommit != nil {
			children++
		}
	}
	err := h.svc.View(h.ctx, func(tx *Txn) error {
		for kv, err := range tx.Scan(idPrefix, store.ScanOptions{}) {
			if err != nil {
				return err
			}
			if strings.HasSuffix(kv.Key, repoKey(h.repo)) {
				ids--
				if _, child := parseIDValue(kv.Value); child != "" {
					children--
				}
			}
		}
		for _, err := range tx.Scan(childPrefix+repoKey(h.repo)+"/", store.ScanOptions{}) {
			if err != nil {
				return err
			}
			children--
		}
		return nil
	})
	if err != nil || ids != 0 || children != 0 {
		h.fatalf("ids missing: %d, children missing: %d, %v", ids, children, err)
	}
}

func hasChildren(p picture, rec *recordpb.CommitRecord) bool {
	for _, c := range p.commits {
		if c.Info.ParentCommit.GetId() == rec.Info.Commit.Id {
			return true
		}
	}
	return false
}

// mustSquash tells of plain cases in which squashing may not be refused: all
// children are finished and good, and no branch is there.
func (h *history) mustSquash(p picture, rec *recordpb.CommitRecord) bool {
	id := rec.Info.Commit.Id
	for _, head := range p.heads {
		if head == id {
			return false
		}
	}
	for _, c := range p.commits {
		if c.Info.ParentCommit.GetId() == id && (c.Info.Error != "" || c.Info.Finished == nil) {
			return false
		}
	}
	return hasChildren(p, rec)
}

// fits checks a commit's links and that its ancestors are found by number.
func (h *history) fits(p picture, rec *recordpb.CommitRecord) {
	var line []string // to the root
	for c := rec; c != nil; c = p.commits[c.Info.ParentCommit.GetId()] {
		line = append(line, c.Info.Commit.Id)
	}
	id, n := rec.Info.Commit.Id, len(line)
	if p.commits[line[n-1]].Info.ParentCommit != nil {
		h.fatalf("the line of %s ends at %s, whose parent is gone", id, line[n-1])
	}
	if uint64(n) > rec.Ordinal {
		h.fatalf("%s is the %dth of its line and has the ordinal %d", id, n, rec.Ordinal)
	}
	k := h.rng.IntN(n + 2)
	got, err := h.svc.InspectCommit(h.ctx, &pfspb.InspectCommitRequest{Commit: &pfspb.Commit{Repo: h.repo, Id: fmt.Sprintf("%s^%d", id, k)}})
	if k >= n && err == nil || k < n && (err != nil || got.Commit.Id != line[k]) {
		h.fatalf("%s^%d is %v, %v; its line is %v", id, k, got.GetCommit(), err, line)
	}
	for name, head := range p.heads {
		if head != id {
			continue
		}
		got, err := h.svc.InspectCommit(h.ctx, &pfspb.InspectCommitRequest{Commit: &pfspb.Commit{Repo: h.repo, Id: fmt.Sprintf("%s.%d", name, k)}})
		if k > 0 && k <= n && (err != nil || got.Commit.Id != line[n-k]) || k > n && err == nil {
			h.fatalf("%s.%d is %v, %v; its line is %v", name, k, got.GetCommit(), err, line)
		}
	}
}

func TestHistory(t *testing.T) {
	m := newMeta(t)
	for seed := range uint64(12) {
		h := &history{t: t, svc: m.svc, ctx: t.Context(), rng: rand.New(rand.NewPCG(seed, 7)), repo: NormalizeRepo(repoOf(fmt.Sprintf("r%d", seed)))}
		m.must(m.CreateRepo(h.ctx, &pfspb.CreateRepoRequest{Repo: h.repo}))
		for range 40 {
			h.step()
		}
		h.end()
	}
	m.sound()
}
