package pfs

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	taskpb "github.com/minipachd/minipachd/proto/taskapi"
)

// The methods below say in a sentence what is missing; nothing else happens.

func unsupported(what string) error { return &UnsupportedError{What: what} }

// ActivateAuth implements pfs_v2.API.
func (s *Service) ActivateAuth(context.Context, *pfspb.ActivateAuthRequest) (*pfspb.ActivateAuthResponse, error) {
	return nil, unsupported("authentication is")
}

// CreateFileSet implements pfs_v2.API.
func (s *Service) CreateFileSet(grpc.ClientStreamingServer[pfspb.ModifyFileRequest, pfspb.CreateFileSetResponse]) error {
	return unsupported("file sets are")
}

// GetFileSet implements pfs_v2.API.
func (s *Service) GetFileSet(context.Context, *pfspb.GetFileSetRequest) (*pfspb.CreateFileSetResponse, error) {
	return nil, unsupported("file sets are")
}

// AddFileSet implements pfs_v2.API.
func (s *Service) AddFileSet(context.Context, *pfspb.AddFileSetRequest) (*emptypb.Empty, error) {
	return nil, unsupported("file sets are")
}

// RenewFileSet implements pfs_v2.API.
func (s *Service) RenewFileSet(context.Context, *pfspb.RenewFileSetRequest) (*emptypb.Empty, error) {
	return nil, unsupported("file sets are")
}

// ComposeFileSet implements pfs_v2.API.
func (s *Service) ComposeFileSet(context.Context, *pfspb.ComposeFileSetRequest) (*pfspb.CreateFileSetResponse, error) {
	return nil, unsupported("file sets are")
}

// ShardFileSet implements pfs_v2.API.
func (s *Service) ShardFileSet(context.Context, *pfspb.ShardFileSetRequest) (*pfspb.ShardFileSetResponse, error) {
	return nil, unsupported("file sets are")
}

// CheckStorage implements pfs_v2.API.
func (s *Service) CheckStorage(context.Context, *pfspb.CheckStorageRequest) (*pfspb.CheckStorageResponse, error) {
	return nil, unsupported("counting chunk objects is")
}

// PutCache implements pfs_v2.API.
func (s *Service) PutCache(context.Context, *pfspb.PutCacheRequest) (*emptypb.Empty, error) {
	return nil, unsupported("the cache is")
}

// GetCache implements pfs_v2.API.
func (s *Service) GetCache(context.Context, *pfspb.GetCacheRequest) (*pfspb.GetCacheResponse, error) {
	return nil, unsupported("the cache is")
}

// ClearCache implements pfs_v2.API.
func (s *Service) ClearCache(context.Context, *pfspb.ClearCacheRequest) (*emptypb.Empty, error) {
	return nil, unsupported("the cache is")
}

// ListTask implements pfs_v2.API.
func (s *Service) ListTask(*taskpb.ListTaskRequest, grpc.ServerStreamingServer[taskpb.TaskInfo]) error {
	return unsupported("listing background tasks is")
}

// Egress implements pfs_v2.API.
func (s *Service) Egress(context.Context, *pfspb.EgressRequest) (*pfspb.EgressResponse, error) {
	return nil, unsupported("egress is")
}
