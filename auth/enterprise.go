package auth

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	enterprisepb "github.com/minipachd/minipachd/proto/enterprise_v2"
	licensepb "github.com/minipachd/minipachd/proto/license_v2"
)

// noExpiry is the end of the licence that older clients ask for; nothing here
// needs one, so it lies far ahead.
var noExpiry = timestamppb.New(time.Date(9999, time.December, 31, 0, 0, 0, 0, time.UTC))

// enterpriseServer answers enterprise_v2.API as a server that needs no licence.
type enterpriseServer struct {
	enterprisepb.UnimplementedAPIServer
}

func (*enterpriseServer) GetState(context.Context, *enterprisepb.GetStateRequest) (*enterprisepb.GetStateResponse, error) {
	return &enterprisepb.GetStateResponse{
		State: enterprisepb.State_ACTIVE,
		Info:  &enterprisepb.TokenInfo{Expires: noExpiry},
	}, nil
}

func (*enterpriseServer) GetActivationCode(context.Context, *enterprisepb.GetActivationCodeRequest) (*enterprisepb.GetActivationCodeResponse, error) {
	return &enterprisepb.GetActivationCodeResponse{
		State: enterprisepb.State_ACTIVE,
		Info:  &enterprisepb.TokenInfo{Expires: noExpiry},
	}, nil
}

func (*enterpriseServer) Activate(context.Context, *enterprisepb.ActivateRequest) (*enterprisepb.ActivateResponse, error) {
	return &enterprisepb.ActivateResponse{}, nil
}

func (*enterpriseServer) Heartbeat(context.Context, *enterprisepb.HeartbeatRequest) (*enterprisepb.HeartbeatResponse, error) {
	return &enterprisepb.HeartbeatResponse{}, nil
}

func (*enterpriseServer) Deactivate(context.Context, *enterprisepb.DeactivateRequest) (*enterprisepb.DeactivateResponse, error) {
	return &enterprisepb.DeactivateResponse{}, nil
}

func (*enterpriseServer) PauseStatus(context.Context, *enterprisepb.PauseStatusRequest) (*enterprisepb.PauseStatusResponse, error) {
	return &enterprisepb.PauseStatusResponse{Status: enterprisepb.PauseStatusResponse_UNPAUSED}, nil
}

func (*enterpriseServer) Pause(context.Context, *enterprisepb.PauseRequest) (*enterprisepb.PauseResponse, error) {
	return nil, status.Error(codes.Unimplemented, "pausing the cluster is not supported: stop its pipelines one by one instead")
}

func (*enterpriseServer) Unpause(context.Context, *enterprisepb.UnpauseRequest) (*enterprisepb.UnpauseResponse, error) {
	return nil, status.Error(codes.Unimplemented, "unpausing the cluster is not supported: it is never paused")
}

// licenseServer answers license_v2.API as a server that needs no licence.
type licenseServer struct {
	licensepb.UnimplementedAPIServer
}

// Activate accepts every code, and says that it is valid for as long as was asked.
func (*licenseServer) Activate(_ context.Context, req *licensepb.ActivateRequest) (*licensepb.ActivateResponse, error) {
	expires := noExpiry
	if t := req.GetExpires(); t.IsValid() {
		expires = t
	}
	return &licensepb.ActivateResponse{Info: &enterprisepb.TokenInfo{Expires: expires}}, nil
}

func (*licenseServer) GetActivationCode(context.Context, *licensepb.GetActivationCodeRequest) (*licensepb.GetActivationCodeResponse, error) {
	return &licensepb.GetActivationCodeResponse{
		State: enterprisepb.State_ACTIVE,
		Info:  &enterprisepb.TokenInfo{Expires: noExpiry},
	}, nil
}

func (*licenseServer) AddCluster(context.Context, *licensepb.AddClusterRequest) (*licensepb.AddClusterResponse, error) {
	return &licensepb.AddClusterResponse{}, nil
}

func (*licenseServer) UpdateCluster(context.Context, *licensepb.UpdateClusterRequest) (*licensepb.UpdateClusterResponse, error) {
	return &licensepb.UpdateClusterResponse{}, nil
}

func (*licenseServer) ListClusters(context.Context, *licensepb.ListClustersRequest) (*licensepb.ListClustersResponse, error) {
	return &licensepb.ListClustersResponse{}, nil
}

func (*licenseServer) DeleteCluster(context.Context, *licensepb.DeleteClusterRequest) (*licensepb.DeleteClusterResponse, error) {
	return &licensepb.DeleteClusterResponse{}, nil
}

func (*licenseServer) DeleteAll(context.Context, *licensepb.DeleteAllRequest) (*licensepb.DeleteAllResponse, error) {
	return nil, status.Error(codes.Unimplemented, "there is no licence to delete: this server needs none")
}

func (*licenseServer) Heartbeat(context.Context, *licensepb.HeartbeatRequest) (*licensepb.HeartbeatResponse, error) {
	return nil, status.Error(codes.Unimplemented, "licence heartbeats are not supported: this server needs no licence")
}

func (*licenseServer) ListUserClusters(context.Context, *licensepb.ListUserClustersRequest) (*licensepb.ListUserClustersResponse, error) {
	return nil, status.Error(codes.Unimplemented, "listing clusters is not supported: this server is not a licence server")
}
