// Package spout is what a spout written in Go stands on: it finds the daemon, commits
// each batch together with the place in the source that comes after it, tries again
// while the daemon is away, and after a restart goes on where the last commit ended.
// Each batch is committed once, whatever is killed in between.
//
//	func main() { spout.Main(run) }
//
//	func run(ctx context.Context, s *spout.Spout) error {
//		src, err := open(ctx, s.Cursor()) // "" at the very first start
//		for err == nil {
//			var batch []byte
//			var next string
//			if batch, next, err = src.Read(ctx); err == nil {
//				err = s.Commit(ctx, next, func(m *client.Modifier) error {
//					return m.PutFile("/events", bytes.NewReader(batch), client.Append())
//				})
//			}
//		}
//		return err
//	}
//
// The source must be able to begin after a cursor again. What it cannot repeat, such as
// datagrams, is lost between being read and being committed.
package spout

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"math"
	mathrand "math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/client"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

const (
	retryFirst = 100 * time.Millisecond // the pause after an attempt that failed, doubled up to
	retryMax   = 5 * time.Second
	// defaultPatience is far below how long a server remembers idempotency keys.
	defaultPatience = time.Hour
)

// Options change what Open makes. The zero value is for a worker that pachd has started.
type Options struct {
	// Client talks to the daemon and is closed by its owner; default: client.NewFromEnv,
	// with the address, token and project of the worker, closed by Close.
	Client *client.Client
	// Pipeline is whose output repo is written to; default $PPS_PIPELINE_NAME.
	Pipeline string
	// Branch is what is written to; default: the pipeline's output branch.
	Branch string
	// CursorPath is the file that holds the cursor; default /.cursor/<n> for worker n
	// ($PPS_WORKER_ORDINAL). Two workers must not share one.
	CursorPath string
	// Patience is for how long a commit is tried; default 1 h. It has to be shorter than
	// the server remembers idempotency keys.
	Patience time.Duration
}

// Spout commits to the output repo of a pipeline. One goroutine may use it at a time.
type Spout struct {
	c        *client.Client
	own      bool // the client is closed with it
	head     *pfspb.Commit
	path     string
	cursor   string
	patience time.Duration
	name     string // of this process among all that ever commit here
	commits  uint64
	broken   error // of a commit of which nobody knows what became
}

// Open finds the daemon and reads the cursor of the last commit. It waits, as long as
// ctx lets it, for a daemon that is away.
func Open(ctx context.Context, o Options) (*Spout, error) {
	s := &Spout{c: o.Client, path: o.CursorPath, patience: o.Patience, name: rand.Text()}
	if o.Pipeline == "" {
		o.Pipeline = os.Getenv("PPS_PIPELINE_NAME")
	}
	if o.Pipeline == "" {
		return nil, errors.New("spout: PPS_PIPELINE_NAME is not set: run the program by pachd, or name the pipeline in Options")
	}
	if s.path == "" {
		ordinal := os.Getenv("PPS_WORKER_ORDINAL")
		if ordinal == "" {
			ordinal = "0"
		}
		s.path = "/.cursor/" + ordinal
	}
	if s.patience <= 0 {
		s.patience = defaultPatience
	}
	if s.c == nil {
		c, err := client.NewFromEnv()
		if err != nil {
			return nil, fmt.Errorf("spout: %w", err)
		}
		s.c, s.own = c, true
	}
	if err := s.read(ctx, o); err != nil {
		return nil, errors.Join(fmt.Errorf("spout: %w", err), s.Close())
	}
	return s, nil
}

// read finds out what the daemon knows.
func (s *Spout) read(ctx context.Context, o Options) error {
	return insist(ctx, math.MaxInt64, func() error {
		branch := o.Branch
		if branch == "" {
			p := &ppspb.Pipeline{Project: client.NewProject(s.c.Project()), Name: o.Pipeline}
			info, err := s.c.PPS.InspectPipeline(ctx, &ppspb.InspectPipelineRequest{Pipeline: p, Details: true})
			if err != nil {
				return err
			}
			branch = info.GetDetails().GetOutputBranch()
		}
		s.head = s.c.Commit(o.Pipeline, branch)
		var err error
		s.cursor, err = s.stored(ctx)
		return err
	})
}

// errMoved says that the branch went on while it was looked at.
var errMoved = errors.New("the branch has moved")

// stored reads the cursor from the branch; "" if there is none. A commit with an error
// does not count: the next one begins with what was before it.
func (s *Spout) stored(ctx context.Context) (string, error) {
	head, err := s.c.InspectCommit(ctx, s.head)
	if errors.Is(err, client.ErrNotFound) {
		return "", nil // there is no such branch yet
	}
	at := head
	for err == nil && at.GetError() != "" {
		if at.GetParentCommit() == nil {
			return "", nil
		}
		at, err = s.c.InspectCommit(ctx, at.GetParentCommit())
	}
	var cursor bytes.Buffer
	if err == nil {
		_, err = s.c.GetFile(ctx, at.GetCommit(), s.path, 0, &cursor)
	}
	switch {
	case err == nil:
		return cursor.String(), nil
	case !errors.Is(err, client.ErrNotFound):
		return "", fmt.Errorf("read the cursor: %w", err)
	}
	// Is it the file that is not there, or was the commit squashed meanwhile?
	_, err = s.c.InspectCommit(ctx, at.GetCommit())
	if errors.Is(err, client.ErrNotFound) {
		return "", errMoved
	}
	return "", err
}

// Close frees what Open made.
func (s *Spout) Close() error {
	if s.own {
		return s.c.Close()
	}
	return nil
}

// Client is what the spout talks to the daemon with.
func (s *Spout) Client() *client.Client { return s.c }

// Head is the head of the branch that is written to.
func (s *Spout) Head() *pfspb.Commit { return s.head }

// Cursor is that of the last commit, by this worker or by the one before it; "" if
// there is none.
func (s *Spout) Cursor() string { return s.cursor }

// Commit makes one commit of what fn writes and of the cursor behind it: where the
// source is to be read on. fn may be called several times, and must write the same
// each time. While the daemon is away, or has no room, Commit tries again, and the
// commit is made once. An error of fn is returned, and nothing has changed.
//
// After any other error the program should end: it is started again, and finds out
// from the cursor whether the commit was made. Until then Commit fails.
func (s *Spout) Commit(ctx context.Context, cursor string, fn func(*client.Modifier) error) error {
	if s.broken != nil {
		return fmt.Errorf("spout: the commit before this one is in doubt: %w", s.broken)
	}
	s.commits++
	key := s.name + "/" + strconv.FormatUint(s.commits, 10)
	var own error // of fn
	err := insist(ctx, s.patience, func() error {
		own = nil
		id, err := s.c.ModifyFileOnce(ctx, s.head, key, func(m *client.Modifier) error {
			err := fn(m)
			var call *client.Error
			if err != nil && !errors.As(err, &call) {
				own = err
			}
			if err != nil {
				return err
			}
			return m.PutFile(s.path, strings.NewReader(cursor))
		})
		if err != nil {
			return err
		}
		return s.sound(ctx, id)
	})
	switch {
	case err == nil:
		s.cursor = cursor
		return nil
	case own != nil && errors.Is(err, own):
		return own
	}
	s.broken = err
	return fmt.Errorf("spout: %w", err)
}

// sound returns an error if a commit has one: its files cannot stand beside others, and
// what comes after it goes without it.
func (s *Spout) sound(ctx context.Context, id string) error {
	info, err := s.c.InspectCommit(ctx, &pfspb.Commit{Repo: s.head.GetBranch().GetRepo(), Id: id})
	if errors.Is(err, client.ErrNotFound) {
		return nil // squashed by now: its children have what it had
	}
	if err == nil && info.GetError() != "" {
		err = fmt.Errorf("commit %s has an error: %s", id, info.GetError())
	}
	return err
}

// insist calls fn until it works, it fails for good, or time is up, and returns its
// last error.
func insist(ctx context.Context, patience time.Duration, fn func() error) error {
	began := time.Now()
	for pause := retryFirst; ; pause = min(2*pause, retryMax) {
		err := fn()
		if err == nil || !passing(err) || time.Since(began) > patience {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(pause/2 + mathrand.N(pause)):
		}
	}
}

// passing tells whether an error may be gone at the next attempt. A server that was
// killed in the middle of a call can leave several codes behind.
func passing(err error) bool {
	if errors.Is(err, errMoved) {
		return true
	}
	var call *client.Error
	if !errors.As(err, &call) {
		return false
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.Aborted, codes.ResourceExhausted, codes.Internal, codes.DeadlineExceeded:
		return true
	default:
		return errors.Is(err, client.ErrNotFinished) // somebody has a commit open on the branch
	}
}

// Main is the main function of a spout: it opens one as pachd has started it, and lets
// run work until it is told to stop (SIGTERM, SIGINT), by the end of ctx. An error of
// run, other than that end, is logged, and the exit status is 1.
func Main(run func(ctx context.Context, s *Spout) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := open(ctx, run)
	told := ctx.Err() != nil
	stop()
	if err != nil && !(told && errors.Is(err, context.Canceled)) {
		log.Fatal(err)
	}
}

func open(ctx context.Context, run func(ctx context.Context, s *Spout) error) error {
	s, err := Open(ctx, Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	return run(ctx, s)
}
