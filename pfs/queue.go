package pfs

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/pfs/fileset"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	"github.com/minipachd/minipachd/store"
)

// Limits of one transaction of a group.
const (
	maxGroup      = 64
	maxGroupBytes = 512 << 10
	// groupTimeout bounds a group's transaction, which does not end with the stream
	// of any one of its members.
	groupTimeout = 30 * time.Second
)

// oneShot is a stream whose layers wait to become a commit of their own, or a part of
// an open one.
type oneShot struct {
	ctx    context.Context
	layers []*fileset.Layer
	once   *once         // nil without an idempotency key
	lead   chan struct{} // its stream is to lead the next group
	done   chan error
}

// bytes is what it puts into a transaction.
func (o *oneShot) bytes() (n int) {
	for _, l := range o.layers {
		n += len(l.Record.GetInline())
	}
	return n
}

// queues hold the streams that wait for the same key, such as a branch, each
// first come first served. A key is there while one of its streams leads.
type queues struct {
	mu      sync.Mutex
	waiting map[string][]*oneShot
}

func newQueues() *queues { return &queues{waiting: map[string][]*oneShot{}} }

// join takes part in a group of streams for a key. Those that come while the group
// before is at work form the next one; the first of them leads it by running commit,
// which must answer every member.
func (q *queues) join(key string, me *oneShot, commit func(*group)) error {
	me.lead, me.done = make(chan struct{}, 1), make(chan error, 1)
	q.mu.Lock()
	waiting, led := q.waiting[key]
	q.waiting[key] = append(waiting, me)
	q.mu.Unlock()
	if led {
		select {
		case err := <-me.done:
			return err
		case <-me.lead:
		}
	}
	q.lead(key, commit)
	return <-me.done
}

// lead runs commit for the next group, and hands the lead on. Nobody waits for ever if
// commit panics.
func (q *queues) lead(key string, commit func(*group)) {
	g := q.take(key)
	returned := false
	defer func() {
		if !returned {
			g.err = errPanicked
			g.answer()
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		if next := q.waiting[key]; len(next) > 0 {
			next[0].lead <- struct{}{}
		} else {
			delete(q.waiting, key)
		}
	}()
	commit(g)
	returned = true
}

// errPanicked is what the others are told; the leader's call has the panic itself.
var errPanicked = status.Error(codes.Internal, "a transaction that was shared with other streams ended with an internal error, which the daemon's log has: whether the data was kept is not known")

// take removes the next group from a queue.
func (q *queues) take(key string) *group {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting := q.waiting[key]
	n, size := 0, 0
	for n < len(waiting) && n < maxGroup {
		size += waiting[n].bytes()
		if n > 0 && size > maxGroupBytes {
			break
		}
		n++
	}
	g := newGroup(slices.Clone(waiting[:n]))
	q.waiting[key] = slices.Delete(waiting, 0, n)
	return g
}

// group are the streams that share a transaction. What is wrong with one does not
// touch the others.
type group struct {
	members []*oneShot
	errs    []error // of each member
	ended   []bool  // the member is no longer allowed to write
	err     error   // of the transaction
	told    bool    // the members have their answers
}

func newGroup(members []*oneShot) *group {
	return &group{members: members, errs: make([]error, len(members)), ended: make([]bool, len(members))}
}

// context is that of the group's transaction. Each member answers for its own right
// to write, the leader not for all.
func (g *group) context() (context.Context, context.CancelFunc) {
	ctx := WithWriter(context.WithoutCancel(g.members[0].ctx), nil)
	return context.WithTimeout(ctx, groupTimeout)
}

// headFinishingError asks to wait until a branch's head is FINISHED.
type headFinishingError struct{ head *pfspb.Commit }

func (e *headFinishingError) Error() string { return CommitName(e.head) + " is finishing" }

// halfDoneError is the error of a commit that is partly in the transaction already:
// nothing of the transaction may be kept.
type halfDoneError struct{ err error }

func (e *halfDoneError) Error() string { return e.err.Error() }
func (e *halfDoneError) Unwrap() error { return e.err }

// run runs fn in one transaction for all members that it does not skip; fn leaves
// what is wrong with a member in errs.
func (g *group) run(ctx context.Context, s *Service, fn func(*Txn) error) {
	for {
		g.err = s.Update(ctx, fn)
		var wait *headFinishingError
		if errors.As(g.err, &wait) {
			_, g.err = s.waitCommit(ctx, wait.head.Repo, wait.head.Id, pfspb.CommitState_FINISHED)
			if g.err == nil || removed(g.err) {
				continue
			}
		}
		refused := false
		for i, o := range g.members {
			if why := o.refused(g.err); why != nil {
				g.errs[i], g.ended[i], refused = why, true, true
			}
		}
		if !refused {
			return
		}
		// Once more, with the others.
	}
}

// each calls fn with every member that is not skipped, in order, and leaves its error
// with the member, or returns it if nothing may be kept of the transaction.
func (g *group) each(tx *Txn, fn func(*oneShot) error) error {
	for i, o := range g.members {
		if g.skips(i) {
			continue
		}
		if err := fn(o); err != nil {
			if err := g.fails(tx, err, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// skips tells whether a member is to be left out, and makes it one without an error
// if not.
func (g *group) skips(i int) bool {
	if g.ended[i] {
		return true
	}
	g.errs[i] = g.members[i].ctx.Err()
	return g.errs[i] != nil // its client is gone: nobody waits
}

// fails leaves an error with some members, or returns one if nothing may be kept of
// the transaction.
func (g *group) fails(tx *Txn, err error, members ...int) error {
	var wait *headFinishingError
	var half *halfDoneError
	if errors.As(err, &wait) || errors.As(err, &half) {
		return err
	}
	if tx.cut(err) {
		return store.ErrLeaseLost
	}
	for _, i := range members {
		g.errs[i] = err
	}
	return nil
}

// answer tells each member, once, what became of it.
func (g *group) answer() {
	if g.told {
		return
	}
	g.told = true
	for i, o := range g.members {
		if g.errs[i] == nil {
			g.errs[i] = g.err
		}
		o.done <- g.errs[i]
	}
}
