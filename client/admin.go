package client

import (
	"context"
	"errors"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/emptypb"

	adminpb "github.com/minipachd/minipachd/proto/admin_v2"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	identitypb "github.com/minipachd/minipachd/proto/identity_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
	versionpb "github.com/minipachd/minipachd/proto/versionpb_v2"
)

// APIVersion is the version of the API that this client was written for.
const APIVersion = "2.12.0"

func apiVersion() *versionpb.Version { return &versionpb.Version{Major: 2, Minor: 12} }

// versionTimeout bounds ServerVersion, which servers answer at once.
const versionTimeout = time.Second

// ServerVersion asks the server for its version, for at most a second.
func (c *Client) ServerVersion(ctx context.Context) (*versionpb.Version, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	return c.Version.GetVersion(ctx, &emptypb.Empty{})
}

// InspectCluster describes the server; its warnings are about this client's
// version and project.
func (c *Client) InspectCluster(ctx context.Context) (*adminpb.ClusterInfo, error) {
	req := &adminpb.InspectClusterRequest{ClientVersion: apiVersion(), CurrentProject: NewProject(c.project)}
	info, err := c.Admin.InspectCluster(ctx, req)
	if errors.Is(err, ErrUnauthenticated) || errors.Is(err, ErrPermissionDenied) {
		req.CurrentProject = nil // the project may be what the caller must not see
		info, err = c.Admin.InspectCluster(ctx, req)
	}
	return info, err
}

// Health is nil if the server is ready to serve.
func (c *Client) Health(ctx context.Context) error {
	resp, err := grpc_health_v1.NewHealthClient(c.conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		return err
	}
	if s := resp.GetStatus(); s != grpc_health_v1.HealthCheckResponse_SERVING {
		return errors.New("pachd at " + c.addr.String() + " is " + s.String())
	}
	return nil
}

// Fsck checks the server's storage and gives what it found; nothing is good.
func (c *Client) Fsck(ctx context.Context, req *pfspb.FsckRequest) iter.Seq2[*pfspb.FsckResponse, error] {
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[pfspb.FsckResponse], error) {
		return c.PFS.Fsck(ctx, req)
	})
}

// DeleteAll deletes every pipeline, repo and project, and everything of auth;
// project "default" is there again afterwards, empty. What the server does not
// have it cannot delete: that is no error.
func (c *Client) DeleteAll(ctx context.Context) error {
	steps := []func() error{
		func() error { _, err := c.Identity.DeleteAll(ctx, &identitypb.DeleteAllRequest{}); return err },
		func() error { _, err := c.Auth.Deactivate(ctx, &authpb.DeactivateRequest{}); return err },
		func() error { _, err := c.PPS.DeleteAll(ctx, &emptypb.Empty{}); return err },
		func() error { _, err := c.PFS.DeleteAll(ctx, &emptypb.Empty{}); return err },
		func() error { _, err := c.Transaction.DeleteAll(ctx, &transactionpb.DeleteAllRequest{}); return err },
	}
	for i, step := range steps {
		core := i == 2 || i == 3
		if err := step(); err != nil && (core || !errors.Is(err, ErrAuthOff) && !errors.Is(err, ErrUnimplemented)) {
			return err
		}
	}
	return nil
}

// WhoAmI tells whose the token is; ErrAuthOff if the server has no auth.
func (c *Client) WhoAmI(ctx context.Context) (*authpb.WhoAmIResponse, error) {
	return c.Auth.WhoAmI(ctx, &authpb.WhoAmIRequest{})
}
