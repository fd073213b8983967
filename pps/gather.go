package pps

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minipachd/minipachd/pfs"
	"github.com/minipachd/minipachd/pps/logs"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// Lines of a log lie with the daemon whose worker has printed them. gather asks all
// that have run a pipeline and gives what they have as one log.

// piece is one thing that a source of lines says.
type piece struct {
	line     *ppspb.LogMessage
	worker   string // with lines: that a worker will have so many
	lines    int64
	caughtUp bool   // all lines that there were have been given
	note     string // what is missing
}

// source is a daemon's share of a log.
type source struct {
	pieces   chan piece
	err      error // once pieces is closed
	head     *ppspb.LogMessage
	caughtUp bool
}

// gathering is one request for the logs of all daemons.
type gathering struct {
	s        *Service
	pipeline *ppspb.Pipeline
	q        logs.Query
	ctx      context.Context
	wait     sync.WaitGroup
	skip     map[string]int64 // by worker: lines that tail leaves out
	send     func(*ppspb.LogMessage) error
}

// errDeleted ends a gathering whose pipeline is gone.
var errDeleted = errors.New("the pipeline was deleted")

// clockSlack is how far the clocks of two daemons may be apart, and how long the
// workers of one that was frozen may have gone on printing.
const clockSlack = time.Hour

// gather calls send, from the calling goroutine, with the lines that q asks for: in the
// order of logs.Read as far as they are there already, then as they come. What cannot be
// had is said in a line of its own. It returns nil when the pipeline is deleted.
func (s *Service) gather(ctx context.Context, p *ppspb.Pipeline, q logs.Query, send func(*ppspb.LogMessage) error) error {
	if s.peers == nil || s.store.Embedded() {
		return s.logs.Read(ctx, q, send)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	g := &gathering{s: s, pipeline: p, q: q, ctx: ctx, skip: map[string]int64{}, send: send}
	defer g.wait.Wait()
	defer cancel(nil)
	var others []string
	err := s.pfs.View(ctx, func(tx *pfs.Txn) error {
		ran, _, err := s.runners.Get(tx.Txn, key(p))
		others = g.others(ran)
		return err
	})
	if err != nil {
		return err
	}
	sources := []*source{g.open(g.local)}
	for _, id := range others {
		sources = append(sources, g.open(g.remote(id)))
	}
	if err := g.merge(sources); err != nil {
		return err
	}
	if !q.Follow {
		return nil
	}
	err = g.follow(sources, others, cancel)
	if errors.Is(context.Cause(ctx), errDeleted) {
		return nil
	}
	return err
}

// others are the daemons beside this one that may have lines.
func (g *gathering) others(ran *recordpb.Runners) (ids []string) {
	all := ran.GetRunners()
	for i, r := range all {
		if id := r.GetDaemon().GetId(); id != g.s.peers.Self() {
			// Its last line is from before the next one began.
			if i+1 < len(all) && all[i+1].GetBegan().AsTime().Add(clockSlack).Before(g.q.Since) {
				continue
			}
			ids = append(ids, id)
		}
	}
	return ids
}

// open lets a source begin.
func (g *gathering) open(say func(ctx context.Context, emit func(piece) error) error) *source {
	src := &source{pieces: make(chan piece, 8)}
	g.wait.Go(func() {
		defer close(src.pieces)
		src.err = say(g.ctx, func(p piece) error {
			select {
			case src.pieces <- p:
				return nil
			case <-g.ctx.Done():
				return context.Cause(g.ctx)
			}
		})
	})
	return src
}

// merge sends the lines that there are, in order, and returns when each source has
// caught up or ended.
func (g *gathering) merge(sources []*source) error {
	for _, src := range sources {
		if err := g.fill(src); err != nil {
			return err
		}
	}
	for worker := range g.skip {
		g.skip[worker] -= g.q.Tail
	}
	for {
		var first *source
		for _, src := range sources {
			if src.head != nil && (first == nil || g.compare(src.head, first.head) < 0) {
				first = src
			}
		}
		if first == nil {
			return nil
		}
		line := first.head
		first.head = nil
		if worker := line.GetWorkerId(); g.skip[worker] > 0 {
			g.skip[worker]--
		} else if err := g.send(line); err != nil {
			return err
		}
		if err := g.fill(first); err != nil {
			return err
		}
	}
}

func (g *gathering) compare(a, b *ppspb.LogMessage) int {
	c := 0
	if !g.q.Follow {
		c = logs.CompareWorkers(a.GetWorkerId(), b.GetWorkerId())
	}
	return cmp.Or(c, a.GetTs().AsTime().Compare(b.GetTs().AsTime()))
}

// fill waits for the next line of a source, unless it has caught up or ended.
func (g *gathering) fill(src *source) error {
	for src.head == nil && !src.caughtUp {
		select {
		case p, ok := <-src.pieces:
			switch {
			case !ok:
				src.caughtUp = true
				return src.err
			case p.line != nil:
				src.head = p.line
			case p.caughtUp:
				src.caughtUp = true
			case p.note != "":
				if err := g.note(p.note); err != nil {
					return err
				}
			case g.q.Tail > 0:
				g.skip[p.worker] += p.lines
			}
		case <-g.ctx.Done():
			return context.Cause(g.ctx)
		}
	}
	return nil
}

// follow sends what comes, also from daemons that take the pipeline later.
func (g *gathering) follow(sources []*source, asked []string, cancel context.CancelCauseFunc) error {
	live, joined := make(chan piece), make(chan string)
	ended := make(chan error)
	pump := func(src *source) {
		g.wait.Go(func() {
			for p := range src.pieces {
				select {
				case live <- p:
				case <-g.ctx.Done():
					return
				}
			}
			select {
			case ended <- src.err:
			case <-g.ctx.Done():
			}
		})
	}
	for _, src := range sources {
		pump(src)
	}
	g.wait.Go(func() {
		_ = g.s.runners.Watch(g.ctx, g.s.store, key(g.pipeline), func(e store.Event[*recordpb.Runners]) error {
			if e.Key != key(g.pipeline) || e.Synced {
				return nil
			}
			if e.Deleted {
				cancel(errDeleted)
				return errDeleted
			}
			for _, id := range g.others(e.Value) {
				select {
				case joined <- id:
				case <-g.ctx.Done():
					return g.ctx.Err()
				}
			}
			return nil
		})
	})
	for {
		select {
		case p := <-live:
			var err error
			switch {
			case p.line != nil:
				err = g.send(p.line)
			case p.note != "":
				err = g.note(p.note)
			}
			if err != nil {
				return err
			}
		case id := <-joined:
			if !slices.Contains(asked, id) {
				asked = append(asked, id)
				pump(g.open(g.remote(id)))
			}
		case err := <-ended:
			if err != nil {
				return err
			}
		case <-g.ctx.Done():
			return context.Cause(g.ctx)
		}
	}
}

// note sends a line of our own that everybody sees who looks at the workers' lines.
func (g *gathering) note(text string) error {
	return g.send(&ppspb.LogMessage{
		ProjectName: g.q.Project, PipelineName: g.q.Pipeline, User: true, Stream: "pachd",
		Ts: timestamppb.Now(), Message: text,
	})
}

// local is the source of the lines that lie here.
func (g *gathering) local(ctx context.Context, emit func(piece) error) error {
	return g.s.say(ctx, g.q, emit)
}

// say emits what this daemon has.
func (s *Service) say(ctx context.Context, q logs.Query, emit func(piece) error) error {
	if q.Tail > 0 {
		lines, err := s.logs.Count(ctx, q)
		if err != nil {
			return err
		}
		for worker, n := range lines {
			if err := emit(piece{worker: worker, lines: min(n, q.Tail)}); err != nil {
				return err
			}
		}
	}
	q.CaughtUp = func() error { return emit(piece{caughtUp: true}) }
	return s.logs.Read(ctx, q, func(msg *ppspb.LogMessage) error { return emit(piece{line: msg}) })
}

// remote is the source of what another daemon has. With follow it never ends by itself
// before the other's log is deleted: what was interrupted is taken up again.
func (g *gathering) remote(id string) func(context.Context, func(piece) error) error {
	return func(ctx context.Context, emit func(piece) error) error {
		q := g.q
		told := false
		for pause := peerRetryMin; ; pause = min(2*pause, peerRetryMax) {
			var behind error
			address, err := g.s.ask(ctx, id, g.pipeline, q, func(p piece) error {
				told, pause = false, peerRetryMin
				if p.line != nil {
					q.Since, q.Tail = p.line.GetTs().AsTime().Add(1), 0 // no two have the same time
				}
				behind = emit(p)
				return behind
			})
			switch {
			case err == nil:
				return nil
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case behind != nil:
				return behind
			}
			if !told {
				told = true
				text := fmt.Sprintf("lines may be missing: pachd at %s, which has run this pipeline, cannot be asked: %v", address, err)
				if err := emit(piece{note: text}); err != nil {
					return err
				}
			}
			if !q.Follow {
				return nil
			}
			if err := emit(piece{caughtUp: true}); err != nil {
				return err
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
}
