package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
)

// Downloads at a time of one fetch.
const (
	defaultConcurrency = 50
	maxConcurrency     = 1000
)

// pieceSize is what one request to an object store asks for.
const pieceSize = 4 << 20

// Source is what to fetch.
type Source struct {
	URL string
	// Recursive takes every object below the URL; it means nothing for http.
	Recursive bool
	// Concurrency is the number of requests at a time, 0 for 50, at most 1000.
	Concurrency uint32
}

// Sink takes what is fetched, one object after the other, each from its beginning
// to its end and with at least one call. rel is the object's name below the URL,
// empty for the object that the URL itself names. data is the sink's to keep.
type Sink func(rel string, data []byte) error

// Fetch gives sink what a URL names. An error of sink ends it and is returned as
// it is; other errors are *Error. What sink got before an error may be incomplete.
func (c *Client) Fetch(ctx context.Context, src Source, sink Sink) error {
	ctx, cancel := context.WithTimeoutCause(ctx, c.policy.Timeout,
		fmt.Errorf("it took longer than %v: %w", c.policy.Timeout, context.DeadlineExceeded))
	defer cancel()
	var own error // of sink
	err := c.fetch(ctx, src, func(rel string, data []byte) error {
		own = sink(rel, data)
		return own
	})
	if own != nil {
		return own
	}
	return wrap(src.URL, false, cause(ctx, err))
}

// cause puts why a context ended in place of that it did.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return context.Cause(ctx)
	}
	return err
}

func (c *Client) fetch(ctx context.Context, src Source, sink Sink) error {
	u, err := c.parse(src.URL)
	if err != nil {
		return err
	}
	if u.Scheme == "http" || u.Scheme == "https" {
		return c.fetchHTTP(ctx, u, sink)
	}
	b, key, err := c.open(ctx, u)
	if err != nil {
		return err
	}
	defer b.close()
	n := int(src.Concurrency)
	if n == 0 {
		n = defaultConcurrency
	}
	return c.pull(ctx, b, objects(ctx, b, key, src.Recursive), min(n, maxConcurrency), sink)
}

// tooLarge reports that a fetch goes beyond the limit of bytes.
func (c *Client) tooLarge() error {
	return refusal(codes.ResourceExhausted, "it has more than the %d bytes that this server fetches at a time", c.policy.MaxBytes)
}

func (c *Client) fetchHTTP(ctx context.Context, u *url.URL, sink Sink) error {
	tr := c.transport()
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return refusal(codes.InvalidArgument, "%w", withoutURL(err))
	}
	client := &http.Client{Transport: tr, CheckRedirect: c.follow}
	resp, err := client.Do(req)
	if err != nil {
		return withoutURL(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return errors.New(resp.Status)
	}
	if resp.ContentLength > c.policy.MaxBytes {
		return c.tooLarge()
	}
	buf := make([]byte, 256<<10)
	var total int64
	for first := true; ; first = false {
		n, err := fill(resp.Body, buf)
		end := errors.Is(err, io.EOF)
		if err != nil && !end {
			return err
		}
		if total += int64(n); total > c.policy.MaxBytes {
			return c.tooLarge()
		}
		if n > 0 || first {
			if err := sink("", bytes.Clone(buf[:n])); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

// fill reads until buf is full. Other than io.ReadFull it leaves errors as they
// are: a body that was cut off ends with io.ErrUnexpectedEOF, a whole one with io.EOF.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = r.Read(buf[n:])
		n += k
	}
	return n, err
}

// object is one object to fetch.
type object struct {
	key  string // in its bucket
	rel  string // as a Sink gets it
	size int64
	mod  time.Time
}

// objects yields the objects that a key stands for.
func objects(ctx context.Context, b bucket, key string, recursive bool) iter.Seq2[object, error] {
	return func(yield func(object, error) bool) {
		found := false
		if recursive {
			dir := key
			if dir != "" && !strings.HasSuffix(dir, "/") {
				dir += "/"
			}
			for o, err := range b.list(ctx, dir) {
				o.rel = strings.TrimPrefix(o.key, dir)
				if err == nil && strings.HasSuffix(o.key, "/") {
					continue // stands for a directory
				}
				found = true
				if !yield(o, err) || err != nil {
					return
				}
			}
			if found {
				return
			}
		}
		if key == "" || strings.HasSuffix(key, "/") {
			if recursive {
				yield(object{}, refusal(codes.NotFound, "there are no objects below it"))
			} else {
				yield(object{}, refusal(codes.InvalidArgument, "it names no object; recursive takes everything below it"))
			}
			return
		}
		o, err := b.stat(ctx, key)
		yield(o, err)
	}
}

// piece is a part of an object, on its way.
type piece struct {
	object
	off, n int64
	data   []byte
	err    error
	done   chan struct{}
}

// pull reads objects piece by piece, several at a time, and gives them to sink in
// order. What is read ahead is bounded by concurrency and by the client's memory;
// no connection waits for its turn with data on it.
func (c *Client) pull(ctx context.Context, b bucket, list iter.Seq2[object, error], concurrency int, sink Sink) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	queue := make(chan *piece, concurrency)
	var workers errgroup.Group
	workers.SetLimit(concurrency + 1) // one of them hands out the work
	held := &budget{c: c}
	defer held.release()
	workers.Go(func() error {
		defer close(queue)
		err := guarded(func() error {
			return c.plan(ctx, list, func(p *piece) error {
				if err := held.take(ctx, p.n); err != nil {
					return err
				}
				select {
				case queue <- p:
				case <-ctx.Done():
					return ctx.Err()
				}
				workers.Go(func() error {
					defer close(p.done)
					if p.n > 0 {
						p.err = guarded(func() (err error) {
							p.data, err = b.read(ctx, p.object, p.off, p.n)
							return err
						})
					}
					return nil
				})
				return nil
			})
		})
		if err != nil {
			stop(err)
		}
		return err
	})
	err := func() error {
		for p := range queue {
			select {
			case <-p.done:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			if p.err != nil {
				return p.err
			}
			if err := sink(p.rel, p.data); err != nil {
				return err
			}
			held.give(p.n)
		}
		return nil
	}()
	if err != nil {
		stop(err)
		for range queue { // lets the planner end
		}
	}
	planned := workers.Wait()
	if err == nil {
		err = planned
	}
	return err
}

// guarded turns a panic into an error: the clients of the object stores are known
// to dereference what an answer lacks, and here nobody else would catch it.
func guarded(fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the answer could not be understood: %v", p)
		}
	}()
	return fn()
}

// plan divides objects into pieces.
func (c *Client) plan(ctx context.Context, list iter.Seq2[object, error], hand func(*piece) error) error {
	left := c.policy.MaxBytes
	for o, err := range list {
		if err != nil {
			return cause(ctx, err)
		}
		if left -= o.size; left < 0 {
			return c.tooLarge()
		}
		for off := int64(0); ; off += pieceSize {
			n := min(pieceSize, o.size-off)
			if err := hand(&piece{object: o, off: off, n: n, done: make(chan struct{})}); err != nil {
				return cause(ctx, err)
			}
			if off+n == o.size {
				break
			}
		}
	}
	return nil
}
