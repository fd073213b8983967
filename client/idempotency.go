package client

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// The metadata of calls with an idempotency key.
const (
	idempotencyKey = "pach-idempotency-key"
	commitIDKey    = "pach-commit-id"
)

// IdempotencyKey makes a call that makes a commit of its own safe to repeat: on one
// branch only the first call with the key makes a commit, and calls that repeat it
// with the same content succeed and write nothing. It counts for the calls that
// open a stream of their own, such as PutFile of Client. A key has 1 to 255
// printable ASCII characters and is remembered for a day unless the server is set
// up otherwise; other servers than minipachd ignore it.
func IdempotencyKey(key string) FileOption { return func(o *fileOptions) { o.key = &key } }

// keyed gives a context whose call carries the key, if there is one.
func (o *fileOptions) keyed(ctx context.Context) context.Context {
	if o.key == nil {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, idempotencyKey, *o.key)
}

// ModifyFileOnce is ModifyFile, safe to repeat: see IdempotencyKey. commit must be
// a branch whose head is not open. It gives the id of the commit that was made by
// this call or by an earlier one with the key.
func (c *Client) ModifyFileOnce(ctx context.Context, commit *pfspb.Commit, key string, fn func(*Modifier) error, opts ...grpc.CallOption) (commitID string, err error) {
	var header metadata.MD
	ctx = metadata.AppendToOutgoingContext(ctx, idempotencyKey, key)
	if err := c.ModifyFile(ctx, commit, fn, append(opts, grpc.Header(&header))...); err != nil {
		return "", err
	}
	ids := header.Get(commitIDKey)
	if len(ids) == 0 {
		return "", errors.New("the server knows nothing of idempotency keys: the commit was made, but repeating the call would make another")
	}
	return ids[0], nil
}
