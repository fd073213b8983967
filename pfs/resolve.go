package pfs

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// ancestry is a commit named relative to a branch or an id: "base", "base^2" or
// "base.3^1".
type ancestry struct {
	base string
	// root is the position counted from the root of the branch, 1 for the first
	// commit; 0 means counted from base.
	root uint64
	back uint64 // how many parents from there
}

// parseAncestry reads what stands after the @ of a commit's name. ^ and ~ mean
// the same and cannot be mixed.
func parseAncestry(text string) (ancestry, error) {
	bad := fmt.Errorf("invalid commit %q: an ancestor is written as x^, x^2, x~2 or, counted from a branch's root, b.2", text)
	i := strings.IndexAny(text, ancestryRunes)
	if i < 0 {
		return ancestry{base: text}, nil
	}
	a := ancestry{base: text[:i]}
	rest := text[i:]
	if rest[0] == '.' {
		digits, tail := leadingDigits(rest[1:])
		n, err := strconv.ParseUint(digits, 10, 63)
		if err != nil || n == 0 {
			return a, bad
		}
		a.root, rest = n, tail
	}
	if rest == "" {
		return a, nil
	}
	mark := rest[0]
	if mark == '.' {
		return a, bad
	}
	for rest != "" {
		if rest[0] != mark {
			return a, bad
		}
		var digits string
		digits, rest = leadingDigits(rest[1:])
		n := uint64(1)
		if digits != "" {
			var err error
			if n, err = strconv.ParseUint(digits, 10, 31); err != nil {
				return a, bad
			}
		}
		a.back += n
	}
	return a, nil
}

func leadingDigits(s string) (digits, rest string) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		i++
	}
	return s[:i], s[i:]
}

// resolve returns the commit that a request means: by id, by branch, as an
// ancestor of either, or as the commit through which its repo takes part in the
// commit set with that id.
func (tx *Txn) resolve(c *pfspb.Commit) (*recordpb.CommitRecord, error) {
	if c == nil {
		return nil, errors.New("commit cannot be nil")
	}
	repo := NormalizeRepo(commitRepo(c))
	if repo == nil {
		return nil, errors.New("commit must have a repo")
	}
	text := commitText(c)
	if text == "" {
		return nil, errors.New("commit must have an id or a branch")
	}
	a, err := parseAncestry(text)
	if err != nil {
		return nil, err
	}
	if a.base == "" {
		return nil, errors.New("commit must have an id or a branch")
	}
	start, err := tx.resolveBase(repo, a.base)
	if err != nil {
		return nil, err
	}
	tooFar := &AncestorError{Commit: &pfspb.Commit{Repo: repo, Id: text}, Offset: max(a.root, a.back)}
	if a.root > 0 {
		n, err := tx.lineLength(start)
		if err != nil {
			return nil, err
		}
		if a.root > n || a.back >= a.root {
			return nil, tooFar
		}
		a.back += n - a.root
	}
	if a.back == 0 {
		return start, nil
	}
	if a.back >= start.Ordinal {
		return nil, tooFar
	}
	rec, err := tx.ancestor(start, a.back)
	if err == nil && rec == nil {
		return nil, tooFar
	}
	return rec, err
}

// lineLength is the number of commits from the root to rec, both included.
func (tx *Txn) lineLength(rec *recordpb.CommitRecord) (n uint64, err error) {
	_, squashed, err := tx.Peek(squashedKey(rec.Info.Commit.Repo))
	if err != nil || !squashed {
		return rec.Ordinal, err
	}
	for _, err := range tx.line(rec) {
		if err != nil {
			return 0, err
		}
		n++
	}
	return n, nil
}

func (tx *Txn) resolveBase(repo *pfspb.Repo, base string) (*recordpb.CommitRecord, error) {
	if !IsCommitID(base) {
		branch, err := tx.mustBranch(&pfspb.Branch{Repo: repo, Name: base})
		if err != nil {
			return nil, err
		}
		return tx.commit(repo, branch.GetInfo().GetHead().GetId())
	}
	rec, ok, err := tx.lookup(repo, base)
	if err != nil || ok {
		return rec, err
	}
	return tx.alias(repo, base)
}

// maxClosure bounds how many commits the provenance of one commit set may reach.
const maxClosure = 10000

// alias finds the commit of repo among those that the commits of a set come from.
func (tx *Txn) alias(repo *pfspb.Repo, id string) (*recordpb.CommitRecord, error) {
	set, err := tx.commitSet(id)
	if err != nil {
		return nil, err
	}
	for _, rec := range set {
		if repoKey(rec.Info.Commit.Repo) == repoKey(repo) {
			return rec, nil
		}
	}
	return nil, &CommitNotFoundError{Commit: &pfspb.Commit{Repo: repo, Id: id}}
}

// commitSet returns the commits of a set and all those that they come from,
// each after its provenance; none if there is no such set.
func (tx *Txn) commitSet(id string) ([]*recordpb.CommitRecord, error) {
	var sorted []*recordpb.CommitRecord
	seen := map[string]bool{}
	var visit func(repo *pfspb.Repo, id string) error
	visit = func(repo *pfspb.Repo, id string) error {
		key := idKey(id, repo)
		if seen[key] {
			return nil
		}
		seen[key] = true
		if len(seen) > maxClosure {
			return fmt.Errorf("commit set %s: its provenance has more than %d commits", id, maxClosure)
		}
		rec, ok, err := tx.lookup(repo, id)
		var gone *RepoNotFoundError
		if errors.As(err, &gone) {
			return nil // deleted by force, with what was made from it left
		}
		if err != nil || !ok {
			return err
		}
		for _, p := range rec.Info.DirectProvenance {
			if err := visit(p.GetRepo(), p.GetId()); err != nil {
				return err
			}
		}
		sorted = append(sorted, rec)
		return nil
	}
	var repos []*pfspb.Repo
	prefix := idPrefix + id + "/"
	for kv, err := range tx.Scan(prefix, store.ScanOptions{KeysOnly: true}) {
		if err != nil {
			return nil, err
		}
		if repo := parseRepoKey(kv.Key[len(prefix):]); repo != nil {
			repos = append(repos, repo)
		}
	}
	for _, repo := range repos {
		if err := visit(repo, id); err != nil {
			return nil, err
		}
	}
	return sorted, nil
}

// nearAncestor is up to how many parents are looked up one by one before the
// repo's commits are read in bulk.
const nearAncestor = 8

// ancestor goes back a number of parents; nil if there are not that many.
func (tx *Txn) ancestor(rec *recordpb.CommitRecord, back uint64) (*recordpb.CommitRecord, error) {
	if back <= nearAncestor {
		for ; back > 0; back-- {
			var err error
			parent := rec.Info.ParentCommit
			if parent == nil {
				return nil, nil
			}
			if rec, err = tx.commit(parent.GetRepo(), parent.GetId()); err != nil {
				return nil, err
			}
		}
		return rec, nil
	}
	for rec, err := range tx.line(rec) {
		if err != nil {
			return nil, err
		}
		if back == 0 {
			// Read again: what a scan read is not compared at the commit.
			return tx.commit(rec.Info.Commit.Repo, rec.Info.Commit.Id)
		}
		back--
	}
	return nil, nil
}
