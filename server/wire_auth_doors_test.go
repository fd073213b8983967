package server_test

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// TestWireAuth_EveryDoorIsShut calls every method that the daemon says it has, while
// auth is on, without a token: but for those that are open to everybody, each refuses.
// A method that the table of accesses lacks is refused with another code.
func TestWireAuth_EveryDoorIsShut(t *testing.T) {
	w := newWire(t)
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	open := []protoreflect.FullName{
		"grpc.health.v1.Health.Check", "grpc.health.v1.Health.List", "grpc.health.v1.Health.Watch",
		"versionpb_v2.API.GetVersion", "admin_v2.API.InspectCluster", "enterprise_v2.API.GetState", "license_v2.API.Heartbeat",
		"auth_v2.API.Activate", "auth_v2.API.Authenticate", "auth_v2.API.Authorize", "auth_v2.API.WhoAmI", "auth_v2.API.GetOIDCLogin",
		"pfs_v2.API.GetFileTAR", // asks by itself: file sets are read without a token
	}
	methods, met := 0, 0
	for _, service := range reflected(within(t), t, w.conn) {
		if strings.HasPrefix(string(service.FullName()), "grpc.reflection.") {
			continue
		}
		for i := range service.Methods().Len() {
			m := service.Methods().Get(i)
			methods++
			if slices.Contains(open, m.FullName()) {
				met++
				continue
			}
			if err := callEmpty(within(t), w.conn, m); status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s without a token: %v; want Unauthenticated", m.FullName(), err)
			}
			err := callEmpty(withTokens(within(t), "x"), w.conn, m)
			if status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s with a bad token: %v; want Unauthenticated", m.FullName(), err)
			}
		}
	}
	if methods < 140 || met != len(open) {
		t.Errorf("reflection lists %d methods, %d of the %d that are open", methods, met, len(open))
	}
}
