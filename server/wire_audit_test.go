package server_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/minipachd/minipachd/server/audit"
)

// entries reads a file of the audit log.
func (w *wire) entries(file string) []map[string]any {
	w.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	var all []map[string]any
	for line := range strings.Lines(string(text)) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			w.t.Fatalf("%s: %v in %q", file, err, line)
		}
		all = append(all, e)
	}
	return all
}

// short is what an entry says, but for when and from where.
func short(e map[string]any) string {
	text := fmt.Sprintf("%v %v %v %v", e["method"], e["subject"], e["code"], e["objects"])
	if d, ok := e["details"]; ok {
		text += fmt.Sprintf(" %v", d)
	}
	return text
}

// TestWireAudit_WhoDidWhat has calls of all kinds, by gRPC, REST and streams, done and
// refused, and kills the daemon after the last one: every entry is there, and no
// secret is in any.
func TestWireAudit_WhoDidWhat(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "elsewhere")
	w := newWire(t, "--audit-dir", dir)
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"before"}}`)
	const root = "r00t-t0ken-that-is-secret"
	w.ok("auth_v2.API/Activate", fmt.Sprintf(`{"rootToken":%q}`, root))
	must := func(method, request string) answer {
		t.Helper()
		return w.mustAs(root, method, request)
	}
	one := strings.Split(must("auth_v2.API/GetRobotToken", `{"robot":"one"}`).messages[0], `"`)[3]
	const repo = `{"name":"r","type":"user"}`
	must("pfs_v2.API/CreateRepo", `{"repo":`+repo+`}`)
	must("pfs_v2.API/ModifyFile", `{"setCommit":{"branch":{"name":"m","repo":`+repo+`}}}{"addFile":{"path":"/a","raw":"`+base64.StdEncoding.EncodeToString([]byte("t0ken in a file"))+`"}}{"deleteFile":{"path":"/b"}}`)
	must("pfs_v2.API/ListRepo", `{}`)
	secret := base64.StdEncoding.EncodeToString([]byte(`{"metadata":{"name":"db"},"stringData":{"pw":"s3cret-value"}}`))
	must("pps_v2.API/CreateSecret", `{"file":"`+secret+`"}`)
	w.as(root, "pps_v2.API/CreateSecret", `{"file":"`+secret[:len(secret)-8]+`"}`)
	spec := `{"pipeline":{"name":"s"},"spout":{},"parallelism_spec":{"constant":"s3cret-mistake"},"transform":{"cmd":["true"],"env":{"PW":"s3cret-env"}}}`
	for _, spec := range []string{spec, strings.Replace(spec, `"spout"`, `"unheard_of"`, 1)} {
		w.as(root, "pps_v2.API/CreatePipelineV2", fmt.Sprintf(`{"createPipelineRequestJson":%q}`, spec))
	}
	must("auth_v2.API/ModifyRoleBinding", `{"resource":{"type":"CLUSTER"},"principal":"robot:one","roles":["robotUser"]}`)
	must("transaction_v2.API/BatchTransaction", `{"requests":[{"createRepo":{"repo":{"name":"x"}}},{"createRepo":{"repo":{"name":"y"}}}]}`)
	w.as(one, "auth_v2.API/ExtractAuthTokens", `{}`)
	w.as(one, "pfs_v2.API/GetFile", `{"file":{"commit":{"branch":{"name":"m","repo":{"name":"none"}}},"path":"/a"}}`)
	w.as("t0ken-guessed", "pfs_v2.API/DeleteRepo", `{"repo":`+repo+`}`)
	w.as("", "pfs_v2.API/ListRepo", `{}`)
	w.as("", "auth_v2.API/Activate", `{"rootToken":"t0ken"}`)
	r := &rest{t: t, addr: w.proc.addr}
	if code, _, body := r.do("POST", "/api/pfs_v2.API/CreateRepo", `{"repo":{"name":"by-rest"}}`, "authn-token", root, "User-Agent", "curl"); code != 200 {
		t.Fatal(body)
	}
	must("auth_v2.API/RevokeAuthToken", fmt.Sprintf(`{"token":%q}`, one))
	w.proc.kill()

	var texts []string
	read := func(name string) (all []string) {
		for _, e := range w.entries(filepath.Join(dir, name)) {
			if !strings.HasPrefix(fmt.Sprint(e["from"]), "127.0.0.1:") || e["agent"] == "" || e["ts"] == "" {
				t.Errorf("%s: an entry from nowhere: %v", name, e)
			}
			all = append(all, short(e))
			texts = append(texts, fmt.Sprint(e))
		}
		return all
	}
	// The daemon was killed the moment that the last call was answered.
	control := read(audit.ControlFile)
	for _, want := range []string{
		"/pfs_v2.API/CreateRepo  OK [repo default/before]",
		"/auth_v2.API/Activate  OK []",
		"/auth_v2.API/GetRobotToken pach:root OK [] [robot one ttl 0s]",
		"/pfs_v2.API/CreateRepo pach:root OK [repo default/r]",
		"/pps_v2.API/CreateSecret pach:root OK [secret db]",
		"/pps_v2.API/CreateSecret pach:root InvalidArgument []",
		"/pps_v2.API/CreatePipelineV2 pach:root InvalidArgument [pipeline default/s]",
		"/auth_v2.API/ModifyRoleBinding pach:root OK [bindings of CLUSTER] [principal robot:one roles [robotUser]]",
		"/transaction_v2.API/BatchTransaction pach:root OK [repo default/x repo default/y]",
		"/pfs_v2.API/CreateRepo pach:root OK [repo default/by-rest]",
		"/auth_v2.API/RevokeAuthToken pach:root OK []",
	} {
		i := slices.Index(control, want)
		if i < 0 {
			t.Fatalf("%s is missing, or in the wrong place; left of the record:\n%s", want, strings.Join(control, "\n"))
		}
		control = control[i+1:]
	}
	if data := read(audit.DataFile); len(data) != 1 || data[0] != "/pfs_v2.API/ModifyFile pach:root OK [commit default/r@m file /a file /b]" {
		t.Errorf("data: %q", data)
	}
	want := []string{
		"/auth_v2.API/ExtractAuthTokens robot:one PermissionDenied []",
		"/pfs_v2.API/GetFile robot:one Unknown [commit default/none@m file /a]",
		"/pfs_v2.API/DeleteRepo  Unauthenticated [repo default/r]",
		"/pfs_v2.API/ListRepo  Unauthenticated []",
		"/auth_v2.API/Activate  Unimplemented []",
	}
	if refused := read(audit.RefusedFile); !slices.Equal(refused, want) {
		t.Errorf("refused:\n%s\nwant\n%s", strings.Join(refused, "\n"), strings.Join(want, "\n"))
	}
	for _, text := range texts {
		for _, never := range []string{"t0ken", "s3cret", one, secret} {
			if strings.Contains(text, never) {
				t.Errorf("%s gives away %s", text, never)
			}
		}
	}
	if rest := slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(s, "(REST)") && strings.Contains(s, "agent:curl") }); !rest {
		t.Error("nothing tells that a call came by REST")
	}
}

// TestWireAudit_FullDisk has the files of the audit log on a full disk: the daemon
// works on, and says so.
func TestWireAudit_FullDisk(t *testing.T) {
	data, dir := t.TempDir(), t.TempDir()
	for _, name := range []string{audit.ControlFile, audit.DataFile, audit.RefusedFile} {
		if err := os.Symlink("/dev/full", filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	p := startPachd(t, data, "--audit-dir", dir)
	_, _, conn := dial(t, p.addr)
	w := &wire{t: t, proc: p, conn: conn}
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`)
	w.ok("pfs_v2.API/ModifyFile", `{"setCommit":{"branch":{"name":"m","repo":{"name":"r","type":"user"}}}}{"addFile":{"path":"/a","raw":"YQ=="}}`)
	if !strings.Contains(p.log.String(), "THE AUDIT LOG CANNOT BE WRITTEN") {
		t.Error("nobody is told")
	}
	p.kill()

	if _, err := tryPachd(t, data, "--audit-dir", filepath.Join(data, "FORMAT")); err == nil || !strings.Contains(err.Error(), "audit log") {
		t.Errorf("a file in place of the directory: %v", err)
	}
	p = startPachd(t, data, "--audit-dir", "off")
	_, _, conn = dial(t, p.addr)
	w = &wire{t: t, proc: p, conn: conn}
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"s"}}`)
	if _, err := os.Stat(filepath.Join(data, "audit")); !os.IsNotExist(err) {
		t.Errorf("there is an audit log although it is off: %v", err)
	}
}
