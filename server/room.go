package server

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	"github.com/minipachd/minipachd/store"
)

// refuseGrowth refuses the calls that make something new while room says that etcd is
// full. The rest of its quota is for those that make room.
func refuseGrowth(room func() error) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if accessTable[info.FullMethod].grows {
			var full *store.FullError
			if errors.As(room(), &full) {
				return nil, full
			}
		}
		return next(ctx, req)
	}
}
