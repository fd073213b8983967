package server

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/minipachd/minipachd/pps/runtime/process"
)

// TestAccessTable_HasEveryMethod holds the table of accesses against what a daemon
// serves: no method is missing, and none is there that is not served.
func TestAccessTable_HasEveryMethod(t *testing.T) {
	process.MaybeInit() // as main does
	s, err := New(t.Context(), Config{Listen: "127.0.0.1:0", DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var served []string
	for service, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			served = append(served, "/"+service+"/"+m.Name)
		}
	}
	slices.Sort(served)
	if diff := cmp.Diff(served, slices.Sorted(maps.Keys(accessTable))); diff != "" {
		t.Errorf("served (-) and in the table (+):\n%s", diff)
	}
	for method, need := range accessTable {
		if need.public && need.perm != 0 {
			t.Errorf("%s is for everybody and wants %v", method, need.perm)
		}
	}
}
