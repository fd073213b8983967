package pfs

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// cursor reads the commits of one repo in the order of their start, a page at a
// time, newest or oldest first. It may go on in another transaction than it
// began in.
//
// etcd answers a descending range only by reading all of it. Going back, the
// cursor therefore asks for ascending ranges of a time span that it adapts to
// how dense the commits lie.
type cursor struct {
	repo    *pfspb.Repo
	forward bool
	at      string // forward: least order not read yet; back: least order read so far, "" for none
	span    int64  // back: nanoseconds to read next, 0 before the first page
	few     int    // a page should have that many
	buf     []*recordpb.CommitRecord
	end     bool // buf is the last
}

const (
	cursorPage  = 64 // records that a cursor reads at once, eight times as many at most
	firstSpan   = int64(time.Second)
	pagePerScan = 8
)

// newCursor starts at a bound: the first order to read going forward, or the one
// after the first to read going back; "" means from the end.
func newCursor(repo *pfspb.Repo, forward bool, at string, few int) *cursor {
	return &cursor{repo: repo, forward: forward, at: at, few: few}
}

// peek returns the next commit without passing it; nil at the end.
func (c *cursor) peek(tx *Txn) (*recordpb.CommitRecord, error) {
	for len(c.buf) == 0 {
		if c.end {
			return nil, nil
		}
		fill := c.fillBack
		if c.forward {
			fill = c.fillForward
		}
		if err := fill(tx); err != nil {
			return nil, err
		}
	}
	return c.buf[0], nil
}

// next returns the next commit; nil at the end.
func (c *cursor) next(tx *Txn) (*recordpb.CommitRecord, error) {
	rec, err := c.peek(tx)
	if rec != nil {
		c.buf = c.buf[1:]
	}
	return rec, err
}

func (c *cursor) scan(tx *Txn, from, to string, limit int) ([]*recordpb.CommitRecord, error) {
	opt := store.ScanOptions{Limit: limit}
	if from != "" {
		opt.From = commitKey(c.repo, from)
	}
	if to != "" {
		opt.To = commitKey(c.repo, to)
	}
	var recs []*recordpb.CommitRecord
	for item, err := range tx.s.commits.Scan(tx.Txn, repoKey(c.repo)+"/", opt) {
		if err != nil {
			return nil, err
		}
		recs = append(recs, item.Value)
	}
	return recs, nil
}

func (c *cursor) fillForward(tx *Txn) error {
	recs, err := c.scan(tx, c.at, "", c.few)
	if err != nil {
		return err
	}
	c.buf, c.end = recs, len(recs) < c.few
	if len(recs) > 0 {
		c.at = recs[len(recs)-1].Order + "\x00"
	}
	return nil
}

func (c *cursor) fillBack(tx *Txn) error {
	if c.span == 0 {
		// What is all of a small repo needs no search.
		recs, err := c.scan(tx, "", c.at, c.few+1)
		if err != nil {
			return err
		}
		if len(recs) <= c.few {
			slices.Reverse(recs)
			c.buf, c.end = recs, true
			return nil
		}
		c.span = firstSpan
	}
	most := c.few * pagePerScan
	top := time.Now().UnixNano()
	// A scan from bottom is too long if bottom <= dense, too short if bottom >= sparse.
	dense, sparse := int64(-1), int64(math.MaxInt64)
	if c.at != "" {
		top = min(top, orderTime(c.at))
		sparse = top + 1
	}
	for bottom := max(0, top-c.span); ; {
		recs, err := c.scan(tx, orderBound(bottom), c.at, most+1)
		if err != nil {
			return err
		}
		enough := len(recs) >= c.few || bottom == 0 || dense >= 0 && len(recs) > 0
		switch {
		case len(recs) > most && sparse-bottom > 1:
			dense = bottom
			bottom = max(dense+(sparse-dense)/2, min(orderTime(recs[most].Order), sparse-1))
			continue
		case len(recs) > most: // all started in the same nanosecond
			if recs, err = c.scan(tx, orderBound(bottom), c.at, 0); err != nil {
				return err
			}
		case !enough && dense < 0:
			sparse = bottom
			c.span = min(c.span, math.MaxInt64/pagePerScan) * pagePerScan
			bottom = max(0, bottom-c.span)
			continue
		case !enough:
			sparse = bottom
			bottom = dense + (sparse-dense)/2
			continue
		}
		c.span = max(1, top-bottom)
		if len(recs) > 2*c.few {
			c.span = max(1, c.span/2)
		}
		slices.Reverse(recs)
		c.buf, c.end, c.at = recs, bottom == 0, orderBound(bottom)
		return nil
	}
}

// merge reads the commits of several repos as if they were one.
type merge struct{ cursors []*cursor }

// mergeBudget is about how many records all cursors of a merge hold together.
const mergeBudget = 1024

func newMerge(repos []*pfspb.Repo, forward bool, at string) *merge {
	few := max(1, min(cursorPage, mergeBudget/max(1, len(repos))))
	m := &merge{}
	for _, repo := range repos {
		m.cursors = append(m.cursors, newCursor(repo, forward, at, few))
	}
	return m
}

// next returns the next commit of all; nil at the end. A repo deleted meanwhile
// ends early.
func (m *merge) next(tx *Txn) (*recordpb.CommitRecord, error) {
	var first *cursor
	var order string
	for _, c := range m.cursors {
		rec, err := c.peek(tx)
		if err != nil {
			return nil, err
		}
		if rec == nil {
			continue
		}
		if first == nil || (c.forward && rec.Order < order) || (!c.forward && rec.Order > order) {
			first, order = c, rec.Order
		}
	}
	if first == nil {
		return nil, nil
	}
	return first.next(tx)
}

// commitFilter selects by origin; all selects everything.
type commitFilter struct {
	all    bool
	origin pfspb.OriginKind
}

func (f commitFilter) matches(rec *recordpb.CommitRecord) bool {
	return f.all || f.origin == pfspb.OriginKind_ORIGIN_KIND_UNKNOWN || rec.Info.GetOrigin().GetKind() == f.origin
}

// listing is a ListCommit under way.
type listing struct {
	filter commitFilter
	merge  *merge // without from and to
	// With to: the line of parents.
	line  lineWalk
	stop  string // id of from
	until string // orders from this on are left out, if not empty
}

// ListCommit implements pfs_v2.API. Of all repos it lists those that the caller may
// list the commits of.
func (s *Service) ListCommit(req *pfspb.ListCommitRequest, stream grpc.ServerStreamingServer[pfspb.CommitInfo]) error {
	ctx := stream.Context()
	l, err := s.newListing(ctx, req)
	if err != nil {
		return err
	}
	for left := req.GetNumber(); ; {
		n := int64(cursorPage)
		if l.merge == nil {
			n *= pagePerScan // each page of a line begins with a scan of its own
		}
		if req.GetNumber() > 0 {
			n = min(n, left)
		}
		infos, more, err := s.page(ctx, l, int(n))
		if err != nil {
			return err
		}
		for _, info := range infos {
			if err := stream.Send(info); err != nil {
				return err
			}
		}
		left -= int64(len(infos))
		if !more || req.GetNumber() > 0 && left <= 0 {
			return nil
		}
	}
}

func (s *Service) newListing(ctx context.Context, req *pfspb.ListCommitRequest) (*listing, error) {
	repo := NormalizeRepo(req.GetRepo())
	l := &listing{filter: commitFilter{all: req.GetAll(), origin: req.GetOriginKind()}}
	switch {
	case req.GetNumber() < 0:
		return nil, invalidRequest("the number of commits must not be negative")
	case req.GetFrom() != nil && req.GetTo() == nil:
		return nil, fmt.Errorf("cannot use `from` commit without `to` commit")
	case req.GetTo() != nil && req.GetReverse():
		return nil, fmt.Errorf("cannot use reverse with a `to` commit")
	}
	if req.GetTo() != nil {
		return l, s.View(ctx, func(tx *Txn) error { return l.setLine(tx, repo, req) })
	}
	repos := []*pfspb.Repo{repo}
	if repo.GetName() == "" {
		var err error
		if repos, err = s.listedNames(ctx, repoQuery{}, authpb.Permission_REPO_LIST_COMMIT); err != nil {
			return nil, err
		}
	} else if err := s.View(ctx, func(tx *Txn) error {
		if err := tx.permitted(repo, authpb.Permission_REPO_LIST_COMMIT); err != nil {
			return err
		}
		return tx.repoExists(repo)
	}); err != nil {
		return nil, err
	}
	at := ""
	if t := req.GetStartedTime(); t != nil {
		ns := t.AsTime().UnixNano()
		if req.GetReverse() {
			ns++
		}
		at = orderBound(ns)
	}
	l.merge = newMerge(repos, req.GetReverse(), at)
	return l, nil
}

func (l *listing) setLine(tx *Txn, repo *pfspb.Repo, req *pfspb.ListCommitRequest) error {
	if repo.GetName() == "" {
		if repo = NormalizeRepo(commitRepo(req.GetTo())); repo == nil {
			return fmt.Errorf("commit must have a repo")
		}
	}
	if err := tx.permitted(repo, authpb.Permission_REPO_LIST_COMMIT); err != nil {
		return err
	}
	if err := tx.repoExists(repo); err != nil {
		return err
	}
	for _, c := range []*pfspb.Commit{req.GetFrom(), req.GetTo()} {
		if r := NormalizeRepo(commitRepo(c)); c != nil && r != nil && repoKey(r) != repoKey(repo) {
			return fmt.Errorf("`from` and `to` commits need to be from repo %s", RepoName(repo))
		}
	}
	to, err := tx.resolve(req.GetTo())
	if err != nil {
		return err
	}
	l.line = lineWalk{repo: repo, at: to.Info.Commit.Id}
	if t := req.GetStartedTime(); t != nil {
		l.until = orderBound(t.AsTime().UnixNano())
	}
	if req.GetFrom() == nil {
		return nil
	}
	from, err := tx.resolve(req.GetFrom())
	l.stop = from.GetInfo().GetCommit().GetId()
	return err
}

// page returns up to n further commits, perhaps none, and whether there may be more.
func (s *Service) page(ctx context.Context, l *listing, n int) (infos []*pfspb.CommitInfo, more bool, err error) {
	err = s.View(ctx, func(tx *Txn) error {
		read := l.pageOfMerge
		if l.merge == nil {
			read = l.pageOfLine
		}
		var recs []*recordpb.CommitRecord
		recs, more, err = read(tx, n)
		if err != nil {
			return err
		}
		infos, err = tx.commitInfos(recs)
		return err
	})
	return infos, more, err
}

func (l *listing) pageOfMerge(tx *Txn, n int) (page []*recordpb.CommitRecord, more bool, err error) {
	for seen := 0; seen < 8*n && len(page) < n; seen++ {
		rec, err := l.merge.next(tx)
		if err != nil || rec == nil {
			return page, false, err
		}
		if l.filter.matches(rec) {
			page = append(page, rec)
		}
	}
	return page, true, nil
}

func (l *listing) pageOfLine(tx *Txn, n int) (page []*recordpb.CommitRecord, more bool, err error) {
	recs, more, err := l.line.page(tx, n)
	for _, rec := range recs {
		if rec.Info.Commit.Id == l.stop {
			return page, false, err
		}
		if l.filter.matches(rec) && (l.until == "" || strings.Compare(rec.Order, l.until) < 0) {
			page = append(page, rec)
		}
	}
	return page, more, err
}
