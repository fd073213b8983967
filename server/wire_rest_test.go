package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// rest is an HTTP client that knows only URLs.
type rest struct {
	t    *testing.T
	addr string
}

// do gives status, header and body of one request; headers are pairs.
func (r *rest) do(method, path, body string, headers ...string) (int, http.Header, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(within(r.t), method, "http://"+r.addr+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, compact(string(b))
}

// compact takes the spaces out of lines of JSON; other texts stay as they are.
func compact(text string) string {
	var b bytes.Buffer
	for line := range strings.Lines(text) {
		raw, end := strings.CutSuffix(line, "\n")
		if err := json.Compact(&b, []byte(raw)); err != nil {
			return text
		}
		if end {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

const restMaster = `"commit":{"branch":{"name":"master","repo":{"name":"r"}}}`

// TestWireREST_Calls makes unary and streaming calls with curl's means.
func TestWireREST_Calls(t *testing.T) {
	w := newWire(t)
	r := &rest{t, w.proc.addr}
	const set = `{"setCommit":{"branch":{"name":"master","repo":{"name":"r"}}}}`
	for _, c := range []struct {
		method, body string
		status       int
		want         string // the whole body, "..." for any text
	}{
		{"pfs_v2.API/CreateRepo", `{"repo":{"name":"r","type":"user","project":{"name":"default"}},"description":"d"}`, 200, `{}`},
		{"pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`, 409, `{"code":6,"message":"repo default/r already exists","details":[]}`},
		{"pfs_v2.API/CreateRepo", `{"repo":{"name":"r"},"no_such_field":{"a":[1]},"update":true}`, 200, `{}`},
		{"pfs_v2.API/CreateRepo", ``, 400, `{"code":3,"message":"validate request: ...","details":[]}`},
		{"pfs_v2.API/CreateRepo", `{"repo":`, 400, `{"code":3,"message":"...","details":[]}`},
		{"pfs_v2.API/CreateRepo", `{"repo":"r"}`, 400, `{"code":3,"message":"...","details":[]}`},
		{"pfs_v2.API/InspectRepo", `{"repo":{"name":"nope"}}`, 404, `{"code":5,"message":"repo default/nope not found","details":[]}`},
		{"pfs_v2.API/StartCommit", `{}`, 500, `{"code":2,"message":"branch must be specified","details":[]}`},
		{"pfs_v2.API/ModifyFile", set + "\n" + `{"deleteFile":{"path":"/a"}}` + "\n" + `{"addFile":{"path":"/a","raw":"aGkK"}}` + "\n", 200, `{}`},
		{"pfs_v2.API/ModifyFile", `{"set_commit":{"branch":{"name":"master","repo":{"name":"r"}}}}{"add_file":{"path":"/b","raw":""}}`, 200, `{}`},
		{"pfs_v2.API/ModifyFile", set + `{"addFile":{"path":"/c","raw":"aGkK"}}{"addFile":{"path":"/c*","raw":"aGkK"}}`, 500, `{"code":2,"message":"path (/c*) invalid: globbing character (*) not allowed in path","details":[]}`},
		{"pfs_v2.API/ModifyFile", set + `{"addFile":{"path":"/c","raw":"aGkK"}} and then some`, 400, `{"code":3,"message":"...","details":[]}`},
		{"pfs_v2.API/ModifyFile", ``, 500, `{"code":2,"message":"first message must be a commit","details":[]}`},
		// The head is what the last good stream made: /c is nowhere.
		{"pfs_v2.API/ListFile", `{"file":{` + restMaster + `}}`, 200, `{"result":{..."path":"/a"..."committed":"...Z",..."sizeBytes":"3"...}}` + "\n" + `{"result":{..."path":"/b"..."sizeBytes":"0"...}}` + "\n"},
		{"pfs_v2.API/GetFile", `{"file":{` + restMaster + `,"path":"/a"}}`, 200, `{"result":"aGkK"}` + "\n"},
		{"pfs_v2.API/GetFile", `{"file":{` + restMaster + `,"path":"/a"},"offset":1}`, 200, `{"result":"aQo="}` + "\n"},
		{"pfs_v2.API/GetFile", `{"file":{` + restMaster + `,"path":"/a"},"offset":"1"}`, 200, `{"result":"aQo="}` + "\n"},
		{"pfs_v2.API/GetFile", `{"file":{` + restMaster + `,"path":"/b"}}`, 200, ``},
		{"pfs_v2.API/GetFile", `{"file":{` + restMaster + `,"path":"/nope"}}`, 404, `{"error":{"code":5,"message":"file /nope not found in repo default/r at commit ...","details":[]}}` + "\n"},
		{"pfs_v2.API/InspectCommit", `{` + restMaster + `,"wait":4}`, 200, `{"commit":...,"origin":{"kind":"USER"},"description":"",..."childCommits":[],...}`},
		{"pfs_v2.API/InspectCommit", `{` + restMaster + `,"wait":"FINISHED"}`, 200, `{...}`},
		{"pfs_v2.API/InspectRepo", `{"repo":{"name":"r"}}`, 200, `{..."authInfo":null,"details":{"sizeBytes":"3"},"metadata":{}}`},
		{"pps_v2.API/ListPipeline", `{}`, 200, ``},
		{"pps_v2.API/CreatePipeline", `{"pipeline":{"name":"s"},"spout":{},"transform":{"cmd":["sleep","1000"]},"datum_timeout":"3.5s"}`, 200, `{}`},
		{"pps_v2.API/InspectPipeline", `{"pipeline":{"name":"s"},"details":true}`, 200, `{"pipeline":{"project":{"name":"default"},"name":"s"},"version":"1",..."datumTimeout":"3.500s",...}`},
		{"pps_v2.API/GetLogs", `{"pipeline":{"name":"nope"}}`, 404, `{"error":{"code":5,...}}` + "\n"},
		{"pps_v2.API/RunLoadTest", `{}`, 501, `{"code":12,"message":"load tests are not part of this server","details":[]}`},
		{"auth_v2.API/WhoAmI", `{}`, 501, `{"code":12,"message":"the auth service is not activated","details":[]}`},
		{"enterprise_v2.API/GetState", `{}`, 200, `{"state":"ACTIVE","info":{"expires":"9999-12-31T00:00:00Z"},"activationCode":""}`},
		{"versionpb_v2.API/GetVersion", `{}`, 200, `{"major":2,"minor":12,...}`},
		{"admin_v2.API/InspectCluster", `{"clientVersion":{"major":2,"minor":12}}`, 200, `{"id":"...","deploymentId":"...","warningsOk":true,"warnings":[],..."paused":false,...}`},
		{"license_v2.API/GetActivationCode", `{}`, 200, `{"state":"ACTIVE",...}`},
		{"identity_v2.API/DeleteAll", `{}`, 200, `{}`},
		{"identity_v2.API/GetIdentityServerConfig", `{}`, 200, `{"config":{"issuer":"","idTokenExpiry":"","rotationTokenExpiry":""}}`},
		{"transaction_v2.API/DeleteAll", `{}`, 200, `{}`},
		{"metadata.API/EditMetadata", `{"edits":[]}`, 0, `{...}`},
		{"pfs_v2.API/Nonsense", `{}`, 404, `{"code":5,"message":"Not Found","details":[]}`},
		{"nonsense.API/ListRepo", `{}`, 404, `{"code":5,"message":"Not Found","details":[]}`},
	} {
		code, header, body := r.do("POST", "/api/"+c.method, c.body)
		if c.status != 0 && code != c.status || !matches(body, c.want) {
			t.Errorf("%s %s:\n got %d %s\nwant %d %s", c.method, c.body, code, body, c.status, c.want)
		}
		if got := header.Get("Content-Type"); body != "" && got != "application/json" {
			t.Errorf("%s: content type %q", c.method, got)
		}
	}
}

// TestWireREST_VerbsAndPaths uses a known path wrongly, and unknown ones.
func TestWireREST_VerbsAndPaths(t *testing.T) {
	p := startPachd(t, t.TempDir())
	r := &rest{t, p.addr}
	for _, c := range []struct {
		verb, path string
		status     int
		want       string
	}{
		{"GET", "/api/pfs_v2.API/ListRepo", 501, `{"code":12,...}`},
		{"PUT", "/api/pfs_v2.API/ModifyFile", 501, `{"code":12,...}`},
		{"DELETE", "/api/auth_v2.API/WhoAmI", 501, `{"code":12,...}`},
		{"GET", "/api/pfs_v2.API/Nonsense", 404, `{"code":5,...}`},
		{"POST", "/api/", 404, `{"code":5,...}`},
		{"POST", "/api/pfs_v2.API/ListRepo/", 404, `{"code":5,...}`},
		{"POST", "/pfs_v2.API/ListRepo", 404, `...`},
		{"GET", "/healthz", 200, "healthy\n"},
		{"HEAD", "/healthz", 200, ""},
		{"GET", "/nowhere", 404, `...`},
	} {
		if code, _, body := r.do(c.verb, c.path, ""); code != c.status || !matches(body, c.want) {
			t.Errorf("%s %s: %d %s, want %d %s", c.verb, c.path, code, body, c.status, c.want)
		}
	}
}

// TestWireREST_Headers passes headers on as metadata, whatever they are.
func TestWireREST_Headers(t *testing.T) {
	w := newWire(t)
	r := &rest{t, w.proc.addr}
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`)
	for _, headers := range [][]string{
		{"authn-token", ""},
		{"authn-token", "x", "Authorization", "Bearer y", "Cookie", "a=b; c=d", "User-Agent", "Mozilla/5.0", "Accept-Encoding", "gzip", "Connection", "keep-alive", "TE", "trailers"},
		{"X-Name", "Jürgen", "X-Odd!Name", "x", "X_Under", "y", "Expect", "100-continue"},
		{"Content-Type", "application/json"},
		{"Content-Type", "text/plain; charset=utf-8", "Accept", "text/html"},
		{"Content-Type", "application/x-www-form-urlencoded"},
		{"Grpc-Timeout", "20S", "Grpc-Metadata-X", "y", "Grpc-Status", "7", "X-Forwarded-For", "10.0.0.1"},
	} {
		code, header, body := r.do("POST", "/api/pfs_v2.API/InspectRepo", `{"repo":{"name":"r"}}`, headers...)
		if code != 200 || !strings.Contains(body, `"name":"r"`) || header.Get("Grpc-Metadata-Content-Type") != "application/grpc" {
			t.Errorf("with %q: %d %v %s", headers, code, header, body)
		}
	}
	code, _, body := r.do("POST", "/api/pfs_v2.API/CreateRepo", `{"repo":{"name":"queued"}}`, "pach-transaction", "0123456789ab4def0123456789abcdef")
	if code == 200 {
		t.Errorf("a call in a transaction that does not exist: %d %s", code, body)
	}
	if code, _, body := r.do("POST", "/api/pfs_v2.API/InspectRepo", `{"repo":{"name":"r"}}`, "Grpc-Timeout", "soon"); code != 400 || !strings.Contains(body, "soon") {
		t.Errorf("a timeout that is none: %d %s", code, body)
	}
	code, _, body = r.do("POST", "/api/pfs_v2.API/SubscribeCommit", `{"repo":{"name":"r"}}`, "Grpc-Timeout", "50m")
	if code != 504 || !matches(body, `{"error":{"code":4,..."details":[]}}`+"\n") {
		t.Errorf("a deadline before the first message: %d %s", code, body)
	}
	if a := w.putAs(bareCommit, "/a", "a"); a.err != nil {
		t.Fatal(a)
	}
	code, _, body = r.do("POST", "/api/pfs_v2.API/SubscribeCommit", `{"repo":{"name":"r"}}`, "Grpc-Timeout", "300m")
	if code != 200 || !matches(body, `{"result":{...}}`+"\n"+`{"error":{"code":4,..."details":[]}}`+"\n") {
		t.Errorf("a deadline in mid-stream: %d %s", code, body)
	}
}

// TestWireREST_FollowsAsItHappens reads a stream that has no end, line by line.
func TestWireREST_FollowsAsItHappens(t *testing.T) {
	w := newWire(t)
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`)
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+w.proc.addr+"/api/pfs_v2.API/SubscribeCommit", strings.NewReader(`{"repo":{"name":"r"},"branch":"master","state":"FINISHED"}`))
	if err != nil {
		t.Fatal(err)
	}
	if a := w.putAs(bareCommit, "/a", "a"); a.err != nil {
		t.Fatal(a)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for i := range 3 {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		var got struct{ Result map[string]any }
		if err := json.Unmarshal([]byte(line), &got); err != nil || at(got.Result, "finished") == nil {
			t.Errorf("line %d: %s: %v", i, line, err)
		}
		if a := w.putAs(bareCommit, "/a", "a"); a.err != nil {
			t.Fatal(a)
		}
	}
}

// TestWireREST_BrokenUploadLeavesNothing breaks off in the body of a stream, in
// the middle of a message and between two.
func TestWireREST_BrokenUploadLeavesNothing(t *testing.T) {
	w := newWire(t)
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`)
	const whole = `{"setCommit":{"branch":{"name":"master","repo":{"name":"r"}}}}{"addFile":{"path":"/a","raw":"aGkK"}}`
	for _, c := range []struct{ headers, body string }{
		{fmt.Sprintf("Content-Length: %d", len(whole)+100), whole},
		{fmt.Sprintf("Content-Length: %d", len(whole)+100), whole + `{"addFile":{"pa`},
		{"Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n%s\r\n", len(whole), whole)},
	} {
		conn, err := net.Dial("tcp", w.proc.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(conn, "POST /api/pfs_v2.API/ModifyFile HTTP/1.1\r\nHost: pachd\r\n%s\r\n\r\n%s", c.headers, c.body); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode == http.StatusOK {
			t.Errorf("%s %s is answered with %s", c.headers, c.body, resp.Status)
		}
		resp.Body.Close()
		conn.Close()
	}
	if commits := w.ok("pfs_v2.API/ListCommit", `{"repo":{"name":"r"},"all":true}`).messages; len(commits) != 0 {
		t.Errorf("broken uploads made commits: %v", commits)
	}
}
