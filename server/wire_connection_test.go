package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	versionpb "github.com/minipachd/minipachd/proto/versionpb_v2"
)

// TestWireConnection_MessagesOf20MiB sends and gets messages of the size that
// clients count on, and learns that larger ones are refused by their size.
func TestWireConnection_MessagesOf20MiB(t *testing.T) {
	w := newWire(t)
	ctx := within(t)
	pfs := pfspb.NewAPIClient(w.conn)
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`)
	const most = 20 << 20
	big := bytes.Repeat([]byte("0123456789abcdef"), most/16)
	if err := put(ctx, pfs, "r", "/big", big[:most-64]); err != nil {
		t.Fatalf("a message of nearly 20 MiB: %v", err)
	}
	got, err := get(ctx, pfs, "r", "/big")
	if err != nil || !bytes.Equal(got, big[:most-64]) {
		t.Errorf("read back %d bytes, %v", len(got), err)
	}
	err = put(ctx, pfs, "r", "/bigger", big)
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message beyond 20 MiB: %v", err)
	}
	w.exchange([]exchange{{"pfs_v2.API/InspectFile", `{"file":{"path":"/bigger","commit":{"branch":{"name":"master","repo":{"name":"r"}}}}}`, codes.NotFound, "file /bigger not found..."}})
}

// TestWireConnection_Gzip compresses one way and accepts it the other way.
func TestWireConnection_Gzip(t *testing.T) {
	w := newWire(t)
	ctx := within(t)
	pfs := pfspb.NewAPIClient(w.conn)
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`)
	stream, err := pfs.ModifyFile(ctx, grpc.UseCompressor(gzip.Name))
	if err != nil {
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("compressible "), 1000)
	for _, m := range []*pfspb.ModifyFileRequest{
		{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: head("r")}},
		{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{Path: "/a", Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes(text)}}}},
	} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
	if got, err := get(ctx, pfs, "r", "/a"); err != nil || !bytes.Equal(got, text) {
		t.Errorf("read back %d bytes, %v", len(got), err)
	}
}

// TestWireConnection_VersionAtOnce asks what a client asks first, within the
// second that it waits.
func TestWireConnection_VersionAtOnce(t *testing.T) {
	w := newWire(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	v, err := versionpb.NewAPIClient(w.conn).GetVersion(ctx, &emptypb.Empty{})
	if err != nil || v.GetMajor() != 2 || v.GetMinor() != 12 || v.GetAdditional() != "" {
		t.Errorf("version %v, %v", v, err)
	}
	w.exchange([]exchange{{"enterprise_v2.API/GetState", `{}`, codes.OK, `ACTIVE`}})
}

// TestWireConnection_InspectCluster holds the first call of every command.
func TestWireConnection_InspectCluster(t *testing.T) {
	dir := t.TempDir()
	p := startPachd(t, dir)
	_, _, conn := dial(t, p.addr)
	w := &wire{t: t, proc: p, conn: conn}
	version := func(v string) string { return `{"clientVersion":` + v + `,"currentProject":{"name":"default"}}` }
	for _, tc := range []struct{ request, warning string }{
		{version(`{"major":2,"minor":12,"micro":3}`), ""},
		{version(`{}`), ""}, // 0.0.0 is a development build
		{version(`{"major":2,"minor":6}`), "is much older than the server; please upgrade the client."},
		{version(`{"major":2,"minor":13}`), "is much newer than the server"},
		{version(`{"major":3,"minor":1}`), "is much newer than the server"},
		{version(`{"major":2,"minor":12,"additional":"-alpha.1"}`), "must match exactly"},
		{`{"currentProject":{"name":"default"}}`, "did not send its version"},
		{`{"clientVersion":{"major":2,"minor":12},"currentProject":{"name":"nope"}}`, `WARNING: Could not inspect project "nope": `},
		{`{"clientVersion":{"major":2,"minor":12},"currentProject":{}}`, ""},
	} {
		info := w.one("admin_v2.API/InspectCluster", tc.request)
		warnings, _ := at(info, "warnings").([]any)
		switch {
		case tc.warning == "" && len(warnings) != 0:
			t.Errorf("%s: warnings %v", tc.request, warnings)
		case tc.warning != "" && (len(warnings) != 1 || !strings.Contains(fmt.Sprint(warnings[0]), tc.warning)):
			t.Errorf("%s: warnings %v, want one with %q", tc.request, warnings, tc.warning)
		}
		if at(info, "warningsOk") != true || at(info, "paused") != nil || at(info, "pendingRestart") != nil {
			t.Errorf("%s: %v", tc.request, info)
		}
	}
	before := w.one("admin_v2.API/InspectCluster", `{}`)
	if at(before, "id") == nil || at(before, "deploymentId") == nil {
		t.Errorf("no ids: %v", before)
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	p = startPachd(t, dir)
	_, _, conn = dial(t, p.addr)
	w = &wire{t: t, proc: p, conn: conn}
	if after := w.one("admin_v2.API/InspectCluster", `{}`); at(after, "deploymentId") != at(before, "deploymentId") || at(after, "id") != at(before, "id") {
		t.Errorf("ids change with a restart: %v, then %v", before, after)
	}
}

// TestWireConnection_OldClients answers methods of the 1.x packages.
func TestWireConnection_OldClients(t *testing.T) {
	w := newWire(t)
	const upgrade = "this server is running pachyderm 2.x, but your client appears to be an older version - please upgrade"
	for _, tc := range []struct {
		method string
		code   codes.Code
		text   string
	}{
		{"/pfs.API/ListRepo", codes.Unknown, upgrade},
		{"/pps.API/ListPipeline", codes.Unknown, upgrade},
		{"/auth.API/WhoAmI", codes.Unknown, upgrade},
		{"/admin.API/InspectCluster", codes.Unknown, upgrade},
		{"/versionpb.API/GetVersion", codes.Unknown, upgrade},
		{"/transaction.API/StartTransaction", codes.Unknown, upgrade},
		{"/enterprise.API/GetState", codes.Unknown, upgrade},
		{"/pfs_v2.API/Nonsense", codes.Unimplemented, "unknown method /pfs_v2.API/Nonsense"},
		{"/debug_v2.Debug/Dump", codes.Unimplemented, "unknown method /debug_v2.Debug/Dump"},
		{"/logs.API/GetLogs", codes.Unimplemented, "unknown method /logs.API/GetLogs"},
	} {
		err := w.conn.Invoke(within(t), tc.method, &emptypb.Empty{}, &emptypb.Empty{})
		if status.Code(err) != tc.code || status.Convert(err).Message() != tc.text {
			t.Errorf("%s: %v, want %v %q", tc.method, err, tc.code, tc.text)
		}
	}
}

// TestWireConnection_Pings pings as often as the clients may, also without a
// stream, and more often than that.
func TestWireConnection_Pings(t *testing.T) {
	t.Parallel() // it mostly waits
	w := newWire(t)
	nc, err := net.Dial("tcp", w.proc.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(nc, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(nc, nc)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	// ping gives the debug text of a GOAWAY, empty if the server goes on. The
	// settings after the ping are answered only by one that does.
	ping := func() string {
		t.Helper()
		if err := errors.Join(f.WritePing(false, [8]byte{1}), f.WriteSettings()); err != nil {
			t.Fatal(err)
		}
		for answered := false; ; {
			frame, err := f.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			switch frame := frame.(type) {
			case *http2.GoAwayFrame:
				return string(frame.DebugData())
			case *http2.PingFrame:
				answered = answered || frame.IsAck()
			case *http2.SettingsFrame:
				if frame.IsAck() && answered {
					return ""
				}
			}
		}
	}
	// Two pings too many are forgiven, a third is not: so one that comes 5 s
	// later must not count.
	for i := range 3 {
		if said := ping(); said != "" {
			t.Fatalf("ping %d: %s", i, said)
		}
	}
	time.Sleep(5100 * time.Millisecond) // the server goes by the wall clock
	if said := ping(); said != "" {
		t.Fatalf("a ping 5 s after the last one, without a stream: %s", said)
	}
	if said := ping(); said != "too_many_pings" {
		t.Errorf("a ping at once after that: %q", said)
	}
}

// TestWireConnection_ManyStreams has far more streams on one connection than
// HTTP/2 servers usually allow.
func TestWireConnection_ManyStreams(t *testing.T) {
	w := newWire(t)
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	pfs := pfspb.NewAPIClient(w.conn)
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`)
	w.ok("pfs_v2.API/CreateBranch", `{"branch":{"name":"master","repo":{"name":"r"}}}`)
	var streams []grpc.ServerStreamingClient[pfspb.CommitInfo]
	for range 300 {
		s, err := pfs.SubscribeCommit(ctx, &pfspb.SubscribeCommitRequest{Repo: repo("r"), State: pfspb.CommitState_STARTED, All: true})
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	for i, s := range slices.Backward(streams) {
		if _, err := s.Recv(); err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
	}
}

// TestVersionFlag prints what GetVersion says.
func TestVersionFlag(t *testing.T) {
	out, err := exec.Command(pachdBinary(t), "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	v := newWire(t).one("versionpb_v2.API/GetVersion", `{}`)
	micro, _ := at(v, "micro").(float64)
	if want := fmt.Sprintf("pachd %v.%v.%v\n", at(v, "major"), at(v, "minor"), micro); string(out) != want {
		t.Errorf("pachd --version prints %q, want %q", out, want)
	}
}

// TestWireConnection_ErrorsFitIntoHeaders sends names of a megabyte: the error
// that quotes them must be one that every client has room for.
func TestWireConnection_ErrorsFitIntoHeaders(t *testing.T) {
	w := newWire(t)
	long := strings.Repeat("ü", 500_000)
	for _, c := range []exchange{
		{"pfs_v2.API/CreateRepo", `{"repo":{"name":"` + long + `"}}`, codes.Unknown, "name (ü...ü) invalid: only alphanumeric characters, underscores, and dashes are allowed"},
		{"pfs_v2.API/ListFile", `{"file":{"commit":{"branch":{"name":"` + long + `","repo":{"name":"r"}}}}}`, codes.NotFound, "..."},
		{"pps_v2.API/CreatePipelineV2", `{"createPipelineRequestJson":"{\"` + long[:100_000] + `\":1}"}`, codes.InvalidArgument, "could not make effective spec: unexpected field ... in pps_v2.CreatePipelineRequest"},
	} {
		a := w.call(within(t), c.method, c.request)
		s := status.Convert(a.err)
		if s.Code() != c.code || !matches(s.Message(), c.want) || proto.Size(s.Proto()) > 4<<10 {
			t.Errorf("%s: %v with %d bytes: %.200q", c.method, s.Code(), proto.Size(s.Proto()), s.Message())
		}
	}
	if log := w.proc.log.String(); len(log) > 100_000 {
		t.Errorf("the log has %d bytes of it", len(log))
	}
}
