package pfs

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// Retention says which finished commits of a branch are kept. Each rule keeps, and
// what none keeps is squashed. The newest one is kept in any case. Zero means no such
// rule.
type Retention struct {
	Commits int64         // the newest so many
	Age     time.Duration // those that finished so long ago or less
}

const (
	// retainEvery is the time between two looks at a branch.
	retainEvery = 10 * time.Second
	// retainBatch bounds a transaction: etcd does nothing else meanwhile.
	retainBatch = 128
	// Between two parts of the work there is a pause so many times as long as the
	// part took, which leaves processor and disk to those who write.
	retainRestRead, retainRestWrite = 9, 4
	// relookEvery is how often commits are looked at again that could not be squashed.
	relookEvery = time.Hour
)

// errLineMoved ends a pass: commits that it has counted are not there any more.
var errLineMoved = errors.New("the branch is another by now")

// Retainer squashes what a Retention does not keep of a branch, by and by. It goes
// down the line of parents from the head, past those that are kept, and squashes
// those below in batches. It never takes the head, an open commit, one that
// SquashCommitSet would refuse, nor one that a trigger still counts.
//
// It remembers what it has learned of the line, so a pass costs as much as there are
// new commits and expired ones, not as many as are kept. Only one goroutine may use it.
type Retainer struct {
	s      *Service
	branch *pfspb.Branch
	keep   Retention
	log    *zap.Logger

	page, batch int   // commits read at once; squashed in one transaction at most
	markEvery   int64 // finished commits between two marks at least

	squashes string    // value of the repo's squashedKey; what follows holds while it is that
	marks    lineMarks // in what is kept
	left     string    // the newest commit that a pass could not squash; so it was with all below
	looked   time.Time // when a pass last began that looked at all of those
	head     string    // that the newest complete pass began at
	finished bool      // that was, by then
	expires  time.Time // when the oldest commit that is kept will be too old; zero: not by time alone
	pass     *pass     // under way
	said     bool      // that some could not be squashed
}

// pass is one walk down a line.
type pass struct {
	began    time.Time
	head     string // where it began
	finished bool   // that was
	top      string // the newest commit known to lie on the line above head
	counted  string // order above which a trigger counts
	walk     lineWalk
	depth    int64     // finished commits passed so far
	fresh    lineMarks // in what is newer than the newest mark that was known
	known    bool      // that one was met, and fresh is done with
	below    bool      // what comes now is not kept
	expires  time.Time
	until    string // where to stop below; "" at the root
	left     string // newest that could not be squashed
	reason   error  // for it
	count    int    // of those
}

// Retainer returns one for a branch, which need not exist.
func (s *Service) Retainer(branch *pfspb.Branch, keep Retention) *Retainer {
	branch = NormalizeBranch(branch)
	keep.Commits = max(1, keep.Commits)
	return &Retainer{
		s: s, branch: branch, keep: keep, log: s.log.With(zap.String("branch", BranchName(branch))),
		page: cursorPage * pagePerScan, batch: retainBatch, markEvery: markEvery,
	}
}

// Step does the next part of the work and returns when to call it again. Its
// transactions are written only if guard agrees, which may make them depend on more.
func (r *Retainer) Step(ctx context.Context, guard func(tx *store.Txn) error) (next time.Time, err error) {
	began := r.s.clock.Now()
	if r.pass == nil {
		if err := r.begin(ctx, began); err != nil || r.pass == nil {
			return began.Add(retainEvery), err
		}
	}
	rest := time.Duration(retainRestRead)
	expired, err := r.advance(ctx)
	if err == nil && len(expired) > 0 {
		rest = retainRestWrite
		err = r.squash(ctx, expired, guard)
	}
	if err == nil && r.pass.walk.at == "" {
		r.end()
		return began.Add(retainEvery), nil
	}
	if err != nil {
		r.pass = nil
		var gone *CommitNotFoundError
		if !errors.Is(err, errLineMoved) && !errors.As(err, &gone) {
			return began.Add(retainEvery), err
		}
		r.forget()
	}
	now := r.s.clock.Now()
	return now.Add(rest * now.Sub(began)), nil
}

// forget drops what is known of the line.
func (r *Retainer) forget() {
	r.marks, r.left, r.looked, r.head, r.expires = nil, "", time.Time{}, "", time.Time{}
}

// begin starts a pass, unless there is nothing to be found that the last one has not.
func (r *Retainer) begin(ctx context.Context, now time.Time) error {
	var head, squashes, counted string
	finished := false
	err := r.s.View(ctx, func(tx *Txn) error {
		brec, _, err := tx.s.branches.Peek(tx.Txn, branchKey(r.branch))
		if err != nil {
			return err
		}
		value, _, err := tx.Peek(squashedKey(r.branch.Repo))
		if err != nil {
			return err
		}
		head, squashes = brec.GetInfo().GetHead().GetId(), string(value)
		rec, err := tx.peek(r.branch.Repo, head)
		if err != nil {
			return err
		}
		finished = state(rec.GetInfo()) == pfspb.CommitState_FINISHED
		counted, err = tx.countedFrom(brec)
		return err
	})
	if err != nil || head == "" {
		return err
	}
	if squashes != r.squashes {
		r.forget()
		r.squashes = squashes
	}
	again := r.left != "" && now.Sub(r.looked) >= relookEvery
	if head == r.head && finished == r.finished && !again && (r.expires.IsZero() || r.expires.After(now)) {
		return nil
	}
	r.pass = &pass{began: now, head: head, finished: finished, top: head, counted: counted, walk: lineWalk{repo: r.branch.Repo, at: head}}
	if !again {
		r.pass.until = r.left
	}
	return nil
}

// end takes over what a pass has found.
func (r *Retainer) end() {
	p := r.pass
	r.pass, r.head, r.finished, r.expires = nil, p.head, p.finished, p.expires
	if !p.known {
		r.marks = p.fresh
	}
	if p.until == "" {
		r.left, r.looked = "", p.began
	}
	if p.left != "" {
		r.left = p.left
	}
	if p.count > 0 && !r.said {
		r.said = true
		r.log.Info("commits that spout.retention does not keep stay, because they cannot be squashed",
			zap.Int("commits", p.count), zap.NamedError("the newest", p.reason))
	}
}

// kept tells whether a finished commit is kept.
func (r *Retainer) kept(c lineMark) bool {
	return c.depth < r.keep.Commits || r.young(c.finished) || r.pass.counted != "" && c.order > r.pass.counted
}

// young tells whether a commit is kept for its age.
func (r *Retainer) young(finished time.Time) bool {
	return r.keep.Age > 0 && finished.Add(r.keep.Age).After(r.pass.began)
}

// advance walks on over a page and returns what there is to be squashed in it.
func (r *Retainer) advance(ctx context.Context) (expired []*recordpb.CommitRecord, err error) {
	p := r.pass
	var recs []*recordpb.CommitRecord
	err = r.s.View(ctx, func(tx *Txn) error {
		recs, _, err = p.walk.page(tx, r.page)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, rec := range recs {
		if state(rec.Info) != pfspb.CommitState_FINISHED {
			continue
		}
		if !p.below && r.pastKept(rec) {
			return nil, nil
		}
		if !p.below {
			continue
		}
		if rec.Info.Commit.Id == p.until {
			p.walk.at = ""
			return expired, nil
		}
		if r.young(rec.Info.Finished.AsTime()) {
			continue
		}
		if expired = append(expired, rec); len(expired) == r.batch {
			p.walk.pass(rec)
			return expired, nil
		}
	}
	return expired, nil
}

// pastKept takes in a finished commit that is kept, or finds that it is the first that
// is not. It returns true if it has moved the walk on, over what is known.
func (r *Retainer) pastKept(rec *recordpb.CommitRecord) (jumped bool) {
	p := r.pass
	c := lineMark{id: rec.Info.Commit.Id, order: rec.Order, finished: rec.Info.Finished.AsTime(), depth: p.depth}
	if !p.known {
		if known := r.marks.from(c); known != nil {
			last := known.last(r.kept)
			r.marks = p.fresh.join(known[:last+1], r.markEvery)
			p.known, p.fresh = true, nil
			if last > 0 {
				p.depth, p.walk = known[last].depth, lineWalk{repo: r.branch.Repo, at: known[last].id}
				return true
			}
		}
	}
	if !r.kept(c) {
		p.below = true
		return false
	}
	p.expires = time.Time{}
	if c.depth >= r.keep.Commits && r.young(c.finished) {
		p.expires = c.finished.Add(r.keep.Age)
	}
	if p.known {
		r.marks.add(c, r.markEvery)
	} else {
		p.fresh.add(c, r.markEvery)
	}
	p.depth++
	return false
}

// squash removes those commits, which lie on the line newest first, that can be.
func (r *Retainer) squash(ctx context.Context, expired []*recordpb.CommitRecord, guard func(tx *store.Txn) error) error {
	var squashes, top, newest string
	var refused []error
	refuse := func(id string, reason error) {
		if len(refused) == 0 {
			newest = id
		}
		refused = append(refused, reason)
	}
	err := r.s.Update(ctx, func(tx *Txn) (err error) {
		refused = nil
		if err := guard(tx.Txn); err != nil {
			return err
		}
		if top, err = r.unmoved(tx); err != nil {
			return err
		}
		recs, reasons, err := tx.expired(r.branch, expired)
		if err != nil {
			return err
		}
		l, err := tx.lineage(r.branch.Repo, recs)
		if err != nil {
			return err
		}
		for i, rec := range recs {
			reason := reasons[i]
			if reason == nil {
				reason = l.squash(rec)
			}
			if reason != nil {
				refuse(rec.Info.Commit.Id, reason)
			}
		}
		if err := l.write(); err != nil {
			return err
		}
		value, _, err := tx.Get(squashedKey(r.branch.Repo))
		squashes = string(value)
		return err
	})
	var tooLarge *store.TooLargeError
	if errors.As(err, &tooLarge) {
		if half := len(expired) / 2; half > 0 {
			if err := r.squash(ctx, expired[:half], guard); err != nil {
				return err
			}
			return r.squash(ctx, expired[half:], guard)
		}
		refused = nil
		refuse(expired[0].Info.Commit.Id, err)
		squashes, top, err = r.squashes, r.pass.top, nil
	}
	if err != nil {
		return err
	}
	r.squashes, r.pass.top = squashes, top
	if len(refused) > 0 && r.pass.left == "" {
		r.pass.left, r.pass.reason = newest, refused[0]
	}
	r.pass.count += len(refused)
	return nil
}

// unmoved checks that the commits which the pass has counted are still there: nothing
// was squashed since, and the head that it began at is in the line of the present one,
// which it returns.
func (r *Retainer) unmoved(tx *Txn) (head string, err error) {
	value, _, err := tx.Get(squashedKey(r.branch.Repo))
	if err != nil {
		return "", err
	}
	if string(value) != r.squashes {
		return "", errLineMoved
	}
	// Compared, all this would conflict with those who commit meanwhile. It need not
	// be: what they do comes after what is done here.
	brec, _, err := tx.s.branches.Peek(tx.Txn, branchKey(r.branch))
	if err != nil {
		return "", err
	}
	head = brec.GetInfo().GetHead().GetId()
	for id := head; id != r.pass.top; {
		rec, err := tx.peek(r.branch.Repo, id)
		if err != nil {
			return "", err
		}
		if rec == nil {
			return "", errLineMoved
		}
		id = rec.Info.ParentCommit.GetId()
	}
	return head, nil
}
