package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/minipachd/minipachd/pfs"
	"github.com/minipachd/minipachd/pps/fence"
)

// tokenKey is the metadata key that clients send their token under.
const tokenKey = "authn-token"

// identify makes what a worker asks for depend on its still being the one that may
// write. Other callers, and tokens that are not of workers, are let through.
func identify(ctx context.Context) context.Context {
	for _, token := range metadata.ValueFromIncomingContext(ctx, tokenKey) {
		if c, ok := fence.Parse(token); ok {
			return pfs.WithWriter(ctx, &pfs.Writer{ID: c.Writer(), Key: c.Key(), Value: c.Value(), Ended: c.Ended})
		}
	}
	return ctx
}

// identified is a stream with another context.
type identified struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *identified) Context() context.Context { return s.ctx }
