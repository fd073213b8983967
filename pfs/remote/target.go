package remote

import (
	"context"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc/codes"
)

// Target is a place that a URL names, to store objects at or below it. It may be
// used concurrently.
type Target struct {
	url    string
	bucket bucket
	key    string
	ctx    context.Context
	cancel context.CancelFunc
}

// Target opens a place for writing; the caller must close it. Everything has to be
// done within the policy's time.
func (c *Client) Target(ctx context.Context, rawURL string) (*Target, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.policy.Timeout,
		fmt.Errorf("it took longer than %v: %w", c.policy.Timeout, context.DeadlineExceeded))
	t := &Target{url: rawURL, ctx: ctx, cancel: cancel}
	err := func() error {
		u, err := c.parse(rawURL)
		if err != nil {
			return err
		}
		if u.Scheme == "http" || u.Scheme == "https" {
			return refusal(codes.InvalidArgument, "nothing can be stored at an %s URL, only in an object store", u.Scheme)
		}
		t.bucket, t.key, err = c.open(ctx, u)
		return err
	}()
	if err != nil {
		cancel()
		return nil, wrap(rawURL, true, cause(ctx, err))
	}
	return t, nil
}

// Put stores what fill writes: as the very object that the URL names if rel is
// empty, else as the object rel below it. An object is seen once it is complete.
// An error of fill is returned in an *Error too.
func (t *Target) Put(rel string, fill func(io.Writer) error) error {
	key := t.key
	if rel = strings.TrimPrefix(rel, "/"); rel != "" {
		if key != "" && !strings.HasSuffix(key, "/") {
			key += "/"
		}
		key += rel
	}
	if key == "" || strings.HasSuffix(key, "/") {
		return wrap(t.url, true, refusal(codes.InvalidArgument, "it names no object to store to"))
	}
	err := guarded(func() error { return t.bucket.write(t.ctx, key, fill) })
	return wrap(t.url, true, cause(t.ctx, err))
}

// Context is that of everything stored; it ends with the policy's time.
func (t *Target) Context() context.Context { return t.ctx }

// Close releases the place.
func (t *Target) Close() error {
	t.cancel()
	return t.bucket.close()
}
