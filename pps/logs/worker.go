package logs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
)

// span is what a survey finds of one worker.
type span struct {
	name  string
	lines int64
	first position // of its first line
	last  position // behind its last line
}

// position is a place in the series of segments.
type position struct {
	seq uint64
	off int64
}

var (
	workerField = []byte(`,"worker":"`)
	errPassed   = errors.New("behind the last line")
)

// workerOf reads the worker out of an encoded line. Names need no escapes.
func workerOf(line []byte) []byte {
	_, rest, ok := bytes.Cut(line, workerField)
	if !ok {
		return nil
	}
	name, _, _ := bytes.Cut(rest, []byte{'"'})
	return name
}

// CompareWorkers says whose lines come first when they come worker by worker: numbers
// in names count as such.
func CompareWorkers(a, b string) int {
	for a != "" && b != "" {
		n, m := digits(a), digits(b)
		if n > 0 && m > 0 {
			x, y := strings.TrimLeft(a[:n], "0"), strings.TrimLeft(b[:m], "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
				return c
			}
			a, b = a[n:], b[m:]
			continue
		}
		if c := cmp.Compare(a[0], b[0]); c != 0 {
			return c
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

// digits is how many digits s begins with.
func digits(s string) int {
	return len(s) - len(strings.TrimLeft(s, "0123456789"))
}

// survey finds the workers with lines of q, in their order.
func (p *pipelineLog) survey(ctx context.Context, q Query, segments []segment) ([]*span, error) {
	c := cursor{log: p, since: q.Since}
	defer c.close()
	var order []*span
	byName := map[string]*span{}
	err := c.advance(ctx, segments, func(line []byte) error {
		name := workerOf(line)
		w := byName[string(name)]
		if w == nil {
			w = &span{name: string(name), first: position{c.seq, c.off - int64(len(line))}}
			byName[w.name] = w
			order = append(order, w)
		}
		w.lines++
		w.last = position{c.seq, c.off}
		return nil
	})
	slices.SortFunc(order, func(a, b *span) int { return CompareWorkers(a.name, b.name) })
	return order, err
}

// byWorker calls send with the lines of q that there are, worker by worker.
func (p *pipelineLog) byWorker(ctx context.Context, q Query, send func([]byte) error) error {
	segments, err := p.snapshot()
	if err != nil {
		return err
	}
	workers, err := p.survey(ctx, q, segments)
	if err != nil {
		return err
	}
	for _, w := range workers {
		skip := int64(0)
		if q.Tail > 0 {
			skip = w.lines - q.Tail
		}
		if err := p.linesOf(ctx, q, w, segments, skip, send); err != nil {
			return err
		}
	}
	return nil
}

// linesOf calls send with the lines of one worker but for the first skip.
func (p *pipelineLog) linesOf(ctx context.Context, q Query, w *span, segments []segment, skip int64, send func([]byte) error) error {
	c := cursor{log: p, since: q.Since, seq: w.first.seq, off: w.first.off}
	defer c.close()
	err := c.advance(ctx, segments, func(line []byte) error {
		if string(workerOf(line)) != w.name {
			return nil
		}
		if skip--; skip < 0 {
			if err := send(line); err != nil {
				return err
			}
		}
		if (position{c.seq, c.off}) == w.last {
			return errPassed
		}
		return nil
	})
	if errors.Is(err, errPassed) {
		return nil
	}
	return err
}
