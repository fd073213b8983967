package pfs

import (
	"context"

	"google.golang.org/grpc"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	taskpb "github.com/minipachd/minipachd/proto/taskapi"
)

// The methods below say in a sentence what is missing; nothing else happens.

func unsupported(what string) error { return &UnsupportedError{What: what} }

// ActivateAuth implements pfs_v2.API.
func (s *Service) ActivateAuth(context.Context, *pfspb.ActivateAuthRequest) (*pfspb.ActivateAuthResponse, error) {
	return nil, unsupported("authentication is")
}

// ListTask implements pfs_v2.API.
func (s *Service) ListTask(*taskpb.ListTaskRequest, grpc.ServerStreamingServer[taskpb.TaskInfo]) error {
	return unsupported("listing background tasks is")
}
