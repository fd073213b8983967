package server_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	identitypb "github.com/minipachd/minipachd/proto/identity_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// TestWireAuth_EveryDaemonKnows turns auth on at one of two daemons that share an
// etcd, by the calls that pachctl makes, and ends a token there: at the other one it is
// refused, and a stream that it had opened there ends.
func TestWireAuth_EveryDaemonKnows(t *testing.T) {
	t.Parallel()
	etcd, addr := startEtcd(t, t.TempDir(), "")
	t.Cleanup(func() { etcd.Close() })
	bucket := "file://" + t.TempDir()
	start := func() *proc {
		return startPachd(t, t.TempDir(), "--etcd-endpoints", addr, "--bucket", bucket)
	}
	here, there := start(), start()
	_, pps, conn := dial(t, here.addr)
	pfs := pfspb.NewAPIClient(conn)
	remote, _, _ := dial(t, there.addr)
	auth, identity := authpb.NewAPIClient(conn), identitypb.NewAPIClient(conn)
	ctx := within(t)
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	_, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("r")})
	must("CreateRepo", err)

	_, err = auth.Activate(ctx, &authpb.ActivateRequest{RootToken: "root"})
	must("Activate", err)
	root := withToken(ctx, "root")
	_, err = pfs.ActivateAuth(root, &pfspb.ActivateAuthRequest{})
	must("pfs ActivateAuth", err)
	_, err = pps.ActivateAuth(root, &ppspb.ActivateAuthRequest{})
	must("pps ActivateAuth", err)
	_, err = identity.SetIdentityServerConfig(root, &identitypb.SetIdentityServerConfigRequest{Config: &identitypb.IdentityServerConfig{Issuer: "http://pachd:30658/dex"}})
	must("SetIdentityServerConfig", err)
	client, err := identity.CreateOIDCClient(root, &identitypb.CreateOIDCClientRequest{Client: &identitypb.OIDCClient{
		Id: "pachyderm", Name: "pachyderm", RedirectUris: []string{"http://pachd:30657/authorization-code/callback"},
	}})
	must("CreateOIDCClient", err)
	_, err = auth.SetConfiguration(root, &authpb.SetConfigurationRequest{Configuration: &authpb.OIDCConfig{
		Issuer: "http://pachd:30658/dex", ClientId: "pachyderm", ClientSecret: client.GetClient().GetSecret(),
		RedirectUri: "http://pachd:30657/authorization-code/callback", LocalhostIssuer: true,
	}})
	must("SetConfiguration", err)

	token, err := auth.GetRobotToken(root, &authpb.GetRobotTokenRequest{Robot: "one"})
	must("GetRobotToken", err)
	_, err = auth.ModifyRoleBinding(root, &authpb.ModifyRoleBindingRequest{
		Resource: &authpb.Resource{Type: authpb.ResourceType_CLUSTER}, Principal: "robot:one", Roles: []string{"clusterAdmin"},
	})
	must("ModifyRoleBinding", err)
	robot := withToken(ctx, token.Token)
	_, err = remote.InspectRepo(robot, &pfspb.InspectRepoRequest{Repo: repo("r")})
	must("what was granted at the other daemon", err)
	for { // it hears of the activation a moment later
		_, err = remote.InspectRepo(ctx, &pfspb.InspectRepoRequest{Repo: repo("r")})
		if status.Code(err) == codes.Unauthenticated {
			break
		}
		must("InspectRepo until the other daemon has heard of the activation", err)
	}
	open, err := remote.SubscribeCommit(robot, &pfspb.SubscribeCommitRequest{Repo: repo("r"), State: pfspb.CommitState_FINISHED})
	must("SubscribeCommit", err)

	_, err = auth.RevokeAuthToken(root, &authpb.RevokeAuthTokenRequest{Token: token.Token})
	must("RevokeAuthToken", err)
	revoked := time.Now()
	for {
		_, err = remote.InspectRepo(robot, &pfspb.InspectRepoRequest{Repo: repo("r")})
		if status.Code(err) == codes.Unauthenticated {
			break
		}
		must("InspectRepo until the token has ended", err)
	}
	refused := time.Since(revoked)
	if _, err = open.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the open stream ends with %v", err)
	}
	t.Logf("refused at the other daemon after %v, its stream ended after %v", refused, time.Since(revoked))
}
