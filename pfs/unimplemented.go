package pfs

import (
	"google.golang.org/grpc"

	taskpb "github.com/minipachd/minipachd/proto/taskapi"
)

// The methods below say in a sentence what is missing; nothing else happens.

func unsupported(what string) error { return &UnsupportedError{What: what} }

// ListTask implements pfs_v2.API.
func (s *Service) ListTask(*taskpb.ListTaskRequest, grpc.ServerStreamingServer[taskpb.TaskInfo]) error {
	return unsupported("listing background tasks is")
}
