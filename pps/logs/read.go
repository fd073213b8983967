package logs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// Query says which lines to read.
type Query struct {
	Project, Pipeline string
	Since             time.Time // lines from then on; zero means all
	Tail              int64     // of those there are now, only the last Tail of each worker; <= 0 means all
	Follow            bool      // then wait for more, until the context ends or the logs are deleted
	// CaughtUp, if not nil, is called once, with Follow, when all lines that there were
	// have been given; its error ends Read.
	CaughtUp func() error
}

// record is one line of a segment file.
type record struct {
	Time    time.Time `json:"ts"`
	Version uint64    `json:"version"`
	Worker  string    `json:"worker"`
	Start   string    `json:"incarnation"`
	Stream  string    `json:"stream"`
	User    bool      `json:"user"`
	Message string    `json:"message"`
}

// Read calls fn with the lines that q asks for, from the calling goroutine: worker
// by worker, the lines of each in the order in which they were written; with
// Follow all of them in that order. It returns nil at the end or when the
// logs are deleted, fn's error, the context's error, or ErrClosed. A pipeline
// without logs has no lines. Lines rotated away before a slow reader got to them
// are missed.
func (s *Store) Read(ctx context.Context, q Query, fn func(*ppspb.LogMessage) error) error {
	p, err := s.get(name{q.Project, q.Pipeline})
	if err != nil {
		return err
	}
	send := func(line []byte) error {
		msg := decode(q, line)
		if msg == nil {
			return nil
		}
		return fn(msg)
	}
	if !q.Follow {
		return endOf(p.byWorker(ctx, q, send))
	}
	skip := map[string]int64{}
	if q.Tail > 0 {
		segments, err := p.snapshot()
		if err != nil {
			return endOf(err)
		}
		workers, err := p.survey(ctx, q, segments)
		if err != nil {
			return err
		}
		for _, w := range workers {
			skip[w.name] = w.lines - q.Tail
		}
	}
	return s.follow(ctx, p, q, func(line []byte) error {
		if len(skip) > 0 {
			if name := workerOf(line); skip[string(name)] > 0 {
				skip[string(name)]--
				return nil
			}
		}
		return send(line)
	})
}

// Count tells how many lines of q each worker has now, Tail and Follow aside.
func (s *Store) Count(ctx context.Context, q Query) (map[string]int64, error) {
	p, err := s.get(name{q.Project, q.Pipeline})
	if err != nil {
		return nil, err
	}
	segments, err := p.snapshot()
	if err != nil {
		return nil, endOf(err)
	}
	workers, err := p.survey(ctx, q, segments)
	if err != nil {
		return nil, err
	}
	lines := map[string]int64{}
	for _, w := range workers {
		lines[w.name] = w.lines
	}
	return lines, nil
}

// follow calls each with all lines there are and will be.
func (s *Store) follow(ctx context.Context, p *pipelineLog, q Query, each func([]byte) error) error {
	c := cursor{log: p, since: q.Since}
	defer c.close()
	for {
		segments, err := p.snapshot()
		if err != nil {
			return endOf(err)
		}
		if err := c.advance(ctx, segments, each); err != nil {
			return err
		}
		if q.CaughtUp != nil {
			if err := q.CaughtUp(); err != nil {
				return err
			}
			q.CaughtUp = nil
		}
		if more := p.changed(c.seq, c.off); more != nil {
			select {
			case <-more:
			case <-s.unfollow:
				return ErrClosed
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

func endOf(err error) error {
	if errors.Is(err, errDeleted) {
		return nil
	}
	return err
}

func decode(q Query, line []byte) *ppspb.LogMessage {
	var r record
	if json.Unmarshal(line, &r) != nil {
		return nil // damaged by a crash of the machine
	}
	return &ppspb.LogMessage{
		ProjectName:  q.Project,
		PipelineName: q.Pipeline,
		WorkerId:     r.Worker,
		User:         r.User,
		Version:      r.Version,
		Incarnation:  r.Start,
		Stream:       r.Stream,
		Ts:           timestamppb.New(r.Time),
		Message:      r.Message,
	}
}

// cursor is a position in a series of segments. It keeps the file it is in open,
// so rotation does not cut it off.
type cursor struct {
	log   *pipelineLog
	since time.Time
	seq   uint64
	off   int64
	file  *os.File
}

func (c *cursor) close() {
	if c.file != nil {
		_ = c.file.Close() // only read from
		c.file = nil
	}
}

// advance calls fn with every line between the cursor and the end of segments
// that is not older than c.since. Lines are valid only during the call.
func (c *cursor) advance(ctx context.Context, segments []segment, fn func([]byte) error) error {
	if c.file != nil && (len(segments) == 0 || segments[0].seq > c.seq) {
		// The segment was removed after it was complete: read what is left of it.
		info, err := c.file.Stat()
		if err != nil {
			return err
		}
		if err := c.lines(ctx, info.Size(), fn); err != nil {
			return err
		}
	}
	for _, seg := range segments {
		if seg.seq < c.seq || (seg.seq == c.seq && seg.size <= c.off) {
			continue
		}
		if seg.seq > c.seq {
			c.close()
			c.seq, c.off = seg.seq, 0
		}
		if c.file == nil {
			f, err := os.Open(c.log.path(seg.seq))
			if errors.Is(err, os.ErrNotExist) {
				c.off = seg.size
				continue // rotated away meanwhile
			}
			if err != nil {
				return err
			}
			c.file = f
			if c.tooOld() {
				c.off = seg.size
				continue
			}
		}
		if err := c.lines(ctx, seg.size, fn); err != nil {
			return err
		}
	}
	return nil
}

// tooOld tells that nothing was written to the file since c.since. The kernel's
// clock for file times may lag behind, hence the slack.
func (c *cursor) tooOld() bool {
	info, err := c.file.Stat()
	return err == nil && !c.since.IsZero() && info.ModTime().Add(time.Second).Before(c.since)
}

// lines reads from c.off to end, which is at the end of a line.
func (c *cursor) lines(ctx context.Context, end int64, fn func([]byte) error) error {
	r := bufio.NewReaderSize(io.NewSectionReader(c.file, c.off, end-c.off), 64<<10)
	var long []byte
	for n := 0; ; n++ {
		if n%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		line, err := r.ReadSlice('\n')
		c.off += int64(len(line))
		if errors.Is(err, bufio.ErrBufferFull) {
			if len(long) <= 16*c.log.opt.MaxLine { // more is no line of ours
				long = append(long, line...)
			}
			continue
		}
		if len(long) > 0 {
			line = append(long, line...)
			long = long[:0]
		}
		if len(line) > 0 && !c.old(line) {
			if err := fn(line); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			c.off = end
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// old tells that a line is from before c.since, or damaged.
func (c *cursor) old(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte(`{"ts":"`))
	if !ok {
		return true
	}
	if c.since.IsZero() {
		return false
	}
	ts, _, _ := bytes.Cut(rest, []byte{'"'})
	t, err := time.Parse(time.RFC3339Nano, string(ts))
	return err != nil || t.Before(c.since)
}
