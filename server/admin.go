package server

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	adminpb "github.com/minipachd/minipachd/proto/admin_v2"
	versionpb "github.com/minipachd/minipachd/proto/versionpb_v2"
)

// The version of the API that pachd serves and reports: clients compare major
// and minor number with their own.
const (
	versionMajor = 2
	versionMinor = 12
	versionMicro = 0

	// Version is all of it as text.
	Version = "2.12.0"
)

// versionServer is versionpb_v2.API.
type versionServer struct {
	versionpb.UnimplementedAPIServer
}

func (versionServer) GetVersion(context.Context, *emptypb.Empty) (*versionpb.Version, error) {
	v := &versionpb.Version{
		Major:     versionMajor,
		Minor:     versionMinor,
		Micro:     versionMicro,
		GoVersion: runtime.Version(),
		Platform:  runtime.GOOS + "/" + runtime.GOARCH,
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.GitCommit = s.Value
			case "vcs.modified":
				v.GitTreeModified = s.Value
			case "vcs.time":
				v.BuildDate = s.Value
			}
		}
	}
	return v, nil
}

// adminServer is admin_v2.API.
type adminServer struct {
	adminpb.UnimplementedAPIServer
	clusterID    string
	deploymentID string
	address      string
	secure       bool
	// metadata returns what users have attached to the cluster.
	metadata func(ctx context.Context) (map[string]string, error)
	// space is what people should know of the space that is left, empty if nothing.
	space func() string
	// projectErr says why a project cannot be inspected, nil if it can.
	projectErr func(ctx context.Context, name string) error
}

func (a *adminServer) InspectCluster(ctx context.Context, req *adminpb.InspectClusterRequest) (*adminpb.ClusterInfo, error) {
	info := &adminpb.ClusterInfo{
		Id:           a.clusterID,
		DeploymentId: a.deploymentID,
		WarningsOk:   true,
		ProxyHost:    a.address,
		ProxyTls:     a.secure,
		WebResources: &adminpb.WebResource{},
		Warnings:     versionWarnings(req.GetClientVersion()),
	}
	if text := a.space(); text != "" {
		info.Warnings = append(info.Warnings, "WARNING: "+text)
	}
	attached, err := a.metadata(ctx)
	if err != nil {
		info.Warnings = append(info.Warnings, fmt.Sprintf("WARNING: Could not read the metadata of the cluster: %v", err))
	}
	info.Metadata = attached
	if name := req.GetCurrentProject().GetName(); name != "" {
		if err := a.projectErr(ctx, name); err != nil {
			info.Warnings = append(info.Warnings, fmt.Sprintf("WARNING: Could not inspect project %q: %v", name, err))
		}
	}
	return info, nil
}

func (*adminServer) RestartPachyderm(context.Context, *adminpb.RestartPachydermRequest) (*adminpb.RestartPachydermResponse, error) {
	return nil, status.Error(codes.Unimplemented, "restarting the daemon over the API is not supported: restart the pachd process")
}

// versionWarnings compares a client's version with the server's. Development
// builds (0.0.0) are never warned.
func versionWarnings(c *versionpb.Version) []string {
	switch {
	case c == nil:
		return []string{"WARNING: The client used to connect to this server did not send its version; please upgrade the client."}
	case c.Major == 0 && c.Minor == 0 && c.Micro == 0:
		return nil
	case c.Additional != "":
		return []string{fmt.Sprintf("WARNING: The client is a pre-release (%s) and the server (%s) is not that build; their versions must match exactly.", printVersion(c), Version)}
	case c.Major == versionMajor && c.Minor == versionMinor:
		return nil
	case c.Major < versionMajor || c.Major == versionMajor && c.Minor < versionMinor:
		return []string{fmt.Sprintf("WARNING: The client (version %s; the server has %s) is much older than the server; please upgrade the client.", printVersion(c), Version)}
	}
	return []string{fmt.Sprintf("WARNING: The client (version %s; the server has %s) is much newer than the server; please upgrade the server.", printVersion(c), Version)}
}

func printVersion(v *versionpb.Version) string {
	return fmt.Sprintf("%d.%d.%d%s", v.Major, v.Minor, v.Micro, v.Additional)
}
