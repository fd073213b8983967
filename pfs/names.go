package pfs

import (
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// Repo types.
const (
	UserType = "user" // data
	MetaType = "meta" // bookkeeping of a transform pipeline
	SpecType = "spec" // one commit per version of a pipeline
)

// DefaultProject is the project of requests that name none.
const DefaultProject = "default"

const (
	fileSetsRepo      = "__filesets__"
	maxProjectName    = 51
	maxName           = 255
	commitIDLen       = 32
	commitIDVersion   = '4' // at index 12
	ancestryRunes     = "^~."
	defaultMasterName = "master"
)

// Key prefixes below the store's own prefix; docs/keys.md describes the values.
const (
	projectPrefix   = "pfs/project/"
	repoPrefix      = "pfs/repo/"
	branchPrefix    = "pfs/branch/"
	commitPrefix    = "pfs/commit/"
	idPrefix        = "pfs/id/"
	childPrefix     = "pfs/child/"
	subvPrefix      = "pfs/subvenance/"
	layerPrefix     = "pfs/layer/"
	finishingPrefix = "pfs/finishing/"
	garbagePrefix   = "pfs/garbage/"
	squashedPrefix  = "pfs/squashed/"
	clockPrefix     = "pfs/clock/"
	fileSetPrefix   = "pfs/fileset/"
	cachePrefix     = "pfs/cache/"
	cachedPrefix    = "pfs/cached/"

	pipelinePrefix        = "pps/pipeline/"         // of package pps; only looked at for existence
	projectDefaultsPrefix = "pps/defaults/project/" // of package pps
)

// NormalizeRepo returns a copy with the defaults filled in: project default,
// type user. Nil stays nil.
func NormalizeRepo(r *pfspb.Repo) *pfspb.Repo {
	if r == nil {
		return nil
	}
	n := &pfspb.Repo{Name: r.GetName(), Type: r.GetType(), Project: &pfspb.Project{Name: projectName(r.GetProject())}}
	if n.Type == "" {
		n.Type = UserType
	}
	return n
}

// NormalizeBranch is NormalizeRepo for the repo of a branch.
func NormalizeBranch(b *pfspb.Branch) *pfspb.Branch {
	if b == nil {
		return nil
	}
	return &pfspb.Branch{Repo: NormalizeRepo(b.GetRepo()), Name: b.GetName()}
}

func projectName(p *pfspb.Project) string {
	if name := p.GetName(); name != "" {
		return name
	}
	return DefaultProject
}

// RepoName is the text form of a repo: "project/name", with ".type" unless the type is user.
func RepoName(r *pfspb.Repo) string {
	name := projectName(r.GetProject()) + "/" + r.GetName()
	if t := r.GetType(); t != "" && t != UserType {
		name += "." + t
	}
	return name
}

// BranchName is the text form of a branch: "project/repo@branch".
func BranchName(b *pfspb.Branch) string { return RepoName(b.GetRepo()) + "@" + b.GetName() }

// CommitName is the text form of a commit: "project/repo@id", or with the
// branch when the id is empty or only says which ancestor of the branch is meant.
func CommitName(c *pfspb.Commit) string { return RepoName(commitRepo(c)) + "@" + commitText(c) }

// commitRepo is the repo that a request's commit speaks of, not normalized; nil if none.
func commitRepo(c *pfspb.Commit) *pfspb.Repo {
	if c.GetRepo() != nil {
		return c.GetRepo()
	}
	return c.GetBranch().GetRepo()
}

// commitText is what stands after the @.
func commitText(c *pfspb.Commit) string {
	if c.GetId() == "" || strings.ContainsRune(ancestryRunes, rune(c.GetId()[0])) {
		return c.GetBranch().GetName() + c.GetId()
	}
	return c.GetId()
}

// IsCommitID tells whether s has the form of a commit id: 32 lower-case hex
// digits, the 13th a 4.
func IsCommitID(s string) bool {
	if len(s) != commitIDLen || s[12] != commitIDVersion {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// checkName accepts names of repos and branches.
func checkName(name string) error {
	if name == "" || strings.ContainsFunc(name, badNameRune) {
		return &BadNameError{Name: name}
	}
	if len(name) > maxName {
		return fmt.Errorf("name (%s) invalid: longer than %d bytes", name, maxName)
	}
	return nil
}

func badNameRune(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '-'
}

func checkProjectName(name string) error {
	if name == "" || strings.ContainsFunc(name, badNameRune) {
		return &BadNameError{Name: name}
	}
	if name[0] == '_' || name[0] == '-' {
		return fmt.Errorf("project name %q must start with a letter or a digit", name)
	}
	if len(name) > maxProjectName {
		return fmt.Errorf("project name %q is longer than %d bytes", name, maxProjectName)
	}
	return nil
}

// repoKey is how keys spell a normalized repo.
func repoKey(r *pfspb.Repo) string {
	return r.GetProject().GetName() + "/" + r.GetName() + "/" + r.GetType()
}

// parseRepoKey is the inverse of repoKey; nil if key is none.
func parseRepoKey(key string) *pfspb.Repo {
	parts := strings.Split(key, "/")
	if len(parts) != 3 {
		return nil
	}
	return &pfspb.Repo{Project: &pfspb.Project{Name: parts[0]}, Name: parts[1], Type: parts[2]}
}

// branchKey is the key of a normalized branch in s.branches.
func branchKey(b *pfspb.Branch) string { return repoKey(b.GetRepo()) + "/" + b.GetName() }

// commitKey is the key of a commit in s.commits.
func commitKey(repo *pfspb.Repo, order string) string { return repoKey(repo) + "/" + order }

// idKey leads from a commit id to the commit's order and its first child, see idValue.
func idKey(id string, repo *pfspb.Repo) string { return idPrefix + id + "/" + repoKey(repo) }

// childKey says that child was made on parent, which had another child before.
func childKey(repo *pfspb.Repo, parent, child string) string {
	return childPrefix + repoKey(repo) + "/" + parent + "/" + child
}

// subvKey says that commit has prov in its direct provenance.
func subvKey(prov, commit *pfspb.Commit) string {
	return subvPrefix + repoKey(prov.GetRepo()) + "/" + prov.GetId() + "/" + commit.GetId() + "/" + repoKey(commit.GetRepo())
}

// layerKey is the key of a layer in s.layers.
func layerKey(refID []byte) string { return hex.EncodeToString(refID) }

// finishingKey marks a commit that has to be brought from FINISHING to FINISHED.
func finishingKey(rec *recordpb.CommitRecord) string {
	return finishingPrefix + commitKey(rec.GetInfo().GetCommit().GetRepo(), rec.GetOrder())
}

// parseFinishingKey gives the repo and order back.
func parseFinishingKey(key string) (repo *pfspb.Repo, order string, ok bool) {
	key, ok = strings.CutPrefix(key, finishingPrefix)
	if !ok {
		return nil, "", false
	}
	i := strings.LastIndexByte(key, '/')
	if i < 0 {
		return nil, "", false
	}
	repo = parseRepoKey(key[:i])
	return repo, key[i+1:], repo != nil
}

// cachedKey says that a cache entry holds a file set.
func cachedKey(fileSet, entry string) string { return cachedPrefix + fileSet + "/" + entry }

func garbageKey(repo *pfspb.Repo) string { return garbagePrefix + repoKey(repo) }

// squashedKey marks a repo in which ordinals may be larger than what they count. Its
// value is another after each squash.
func squashedKey(repo *pfspb.Repo) string { return squashedPrefix + repoKey(repo) }

// orderOf sorts commits by their start.
func orderOf(started time.Time, id string) string {
	return orderBound(started.UnixNano()) + "-" + id[:8]
}

// orderBound is the least order of commits started at or after some Unix nanoseconds.
func orderBound(ns int64) string {
	s := strconv.FormatInt(max(ns, 0), 16)
	return strings.Repeat("0", 16-len(s)) + s
}

// orderTime is the start within an order, in Unix nanoseconds.
func orderTime(order string) int64 {
	if len(order) < 16 {
		return 0
	}
	ns, err := strconv.ParseUint(order[:16], 16, 64)
	if err != nil || ns > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(ns)
}

func stamp(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }
