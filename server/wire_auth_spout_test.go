package server_test

import (
	"encoding/json"
	"strconv"
	"testing"
	"time"
)

// TestWireAuth_SpoutWritesThrough has a spout that commits all the time, and ends on
// the first commit that is refused, while auth is turned on, its root token is
// changed, and auth is turned off. It must not end, and every number it committed
// must be there.
func TestWireAuth_SpoutWritesThrough(t *testing.T) {
	w := newWire(t)
	w.created(`{"pipeline":{"name":"s"},"spout":{},"transform":{"cmd":["sh","-c","i=0; while i=$((i+1)); do echo $i | pachctl put file -a s@master:/n || exit 1; done"]}}`)
	token := ""
	commits := func() int {
		t.Helper()
		a := w.mustAs(token, "pfs_v2.API/ListCommit", `{"repo":{"name":"s","type":"user","project":{"name":"default"}}}`)
		return len(a.messages)
	}
	// more waits for commits that began after now.
	more := func(after string) {
		t.Helper()
		ctx := within(t)
		for want := commits() + 3; commits() < want; {
			select {
			case <-ctx.Done():
				t.Fatalf("the spout does not commit after %s; the daemon printed: %s", after, w.proc.log.String())
			case <-time.After(20 * time.Millisecond): // paces the looks
			}
		}
	}
	more("its start")
	w.ok("auth_v2.API/Activate", `{"rootToken":"root"}`)
	token = "root"
	more("Activate")
	w.mustAs(token, "pps_v2.API/ActivateAuth", `{}`)
	more("ActivateAuth")
	w.mustAs(token, "auth_v2.API/RotateRootToken", `{"rootToken":"new"}`)
	token = "new"
	more("RotateRootToken")
	w.mustAs(token, "auth_v2.API/Deactivate", `{}`)
	token = ""
	more("Deactivate")
	w.ok("pps_v2.API/StopPipeline", `{"pipeline":{"name":"s"}}`)

	info := w.inspected("s")
	if r := at(info, "details", "restarts"); r != nil {
		t.Errorf("the spout was started again: %v; %v", r, info)
	}
	a := w.ok("pfs_v2.API/GetFile", `{"file":{"commit":{"branch":{"name":"master","repo":{"name":"s","type":"user"}}},"path":"/n"}}`)
	var data []byte
	for _, m := range a.messages {
		var b struct{ Value []byte }
		if err := json.Unmarshal([]byte(m), &b); err != nil {
			if err = json.Unmarshal([]byte(m), &b.Value); err != nil {
				t.Fatalf("%s: %v", m, err)
			}
		}
		data = append(data, b.Value...)
	}
	want := ""
	for i := 1; len(want) < len(data); i++ {
		want += strconv.Itoa(i) + "\n"
	}
	if string(data) != want || len(data) == 0 {
		t.Errorf("the spout wrote %q", data)
	}
}
