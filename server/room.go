package server

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	"github.com/minipachd/minipachd/store"
)

// growing are the calls that make something new in etcd, files apart: those ask for
// room where they are written. What frees space, or keeps workers going, is not among them.
var growing = map[string]bool{
	"/pfs_v2.API/CreateProject":    true,
	"/pfs_v2.API/CreateRepo":       true,
	"/pfs_v2.API/CreateBranch":     true,
	"/pfs_v2.API/StartCommit":      true,
	"/pfs_v2.API/ComposeFileSet":   true,
	"/pfs_v2.API/PutCache":         true,
	"/pps_v2.API/CreatePipeline":   true,
	"/pps_v2.API/CreatePipelineV2": true,
	"/pps_v2.API/CreateSecret":     true,
}

// refuseGrowth refuses these calls while room says that etcd is full. The rest of its
// quota is for those that make room.
func refuseGrowth(room func() error) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if growing[info.FullMethod] {
			var full *store.FullError
			if errors.As(room(), &full) {
				return nil, full
			}
		}
		return next(ctx, req)
	}
}
