package pachctl

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

func gotText(v any) string { return fmt.Sprint(v) }

func TestRepos(t *testing.T) {
	sh := newShell(t)
	if out := sh.ok("", "create", "repo", "events", "-d", "what\nhappened"); out != "" {
		t.Errorf("printed %q", out)
	}
	sh.fails("repo default/events already exists", "create", "repo", "events")
	sh.fails("name (a b) invalid: only alphanumeric characters, underscores, and dashes are allowed", "create", "repo", "a b")
	sh.fails("repo default/none not found", "inspect", "repo", "none")
	out := sh.table("list", "repo")
	want := "PROJECT NAME CREATED SIZE (<= MASTER) DESCRIPTION\ndefault events now ≤ 0 B what happened\n"
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if out := sh.table("inspect", "repo", "events"); out != "Name: default/events\nDescription: what happened\nCreated: now\nSize of HEAD on master: 0 B\n" {
		t.Errorf("printed\n%s", out)
	}
	if out := sh.ok("", "list", "repo", "--raw"); !strings.Contains(out, "{\n  \"repo\": {\n    \"name\": \"events\",\n") {
		t.Errorf("printed\n%s", out)
	}
	sh.ok("", "create", "repo", "more")
	out = sh.ok("", "list", "repo", "-o", "yaml")
	if !strings.HasPrefix(out, "repo:\n  name: events\n  type: user\n  project:\n    name: default\n") || strings.Count(out, "\n---\nrepo:\n") != 1 {
		t.Errorf("printed\n%s", out)
	}
	sh.fails(`output format "xml" is neither json nor yaml`, "list", "repo", "-o", "xml")
	sh.ok("", "delete", "repo", "events")
	sh.fails("No repo deleted.", "delete", "repo", "events")
	sh.fails("name a repo, or give --all", "delete", "repo")
}

func TestCommitsAndFiles(t *testing.T) {
	sh := newShell(t)
	sh.ok("", "create", "repo", "r")
	sh.ok("hello\n", "put", "file", "r@master:/a.txt")
	if got := sh.ok("", "get", "file", "r@master:/a.txt"); got != "hello\n" {
		t.Errorf("got %q", got)
	}
	sh.ok("again\n", "put", "file", "-a", "r@master:/a.txt", "-f", "-")
	if got := sh.ok("", "get", "file", "r@master:/a.txt", "--offset", "3"); got != "lo\nagain\n" {
		t.Errorf("got %q", got)
	}
	id := strings.TrimSpace(sh.ok("", "start", "commit", "r@master", "-m", "three"))
	sh.fails("parent commit default/r@"+id+" has not been finished", "start", "commit", "r@master")
	sh.ok("new", "put", "file", "-c", "r@master:/d/b")
	sh.ok("", "finish", "commit", "r@"+id)
	sh.fails("commit default/r@"+id+" has already finished", "finish", "commit", "r@"+id)
	if out := sh.table("list", "file", "r@master"); out != "NAME TYPE SIZE\n/a.txt file 12 B\n/d/ dir 3 B\n" {
		t.Errorf("printed\n%s", out)
	}
	if out := sh.ok("", "glob", "file", "r@master:/d/*"); out != "NAME TYPE SIZE\n/d/b file 3 B\n" {
		t.Errorf("printed\n%s", out)
	}
	if out := sh.table("list", "commit", "r"); strings.Count(out, "\n") != 4 || !strings.Contains(out, "default r "+id+" now 15 B USER") {
		t.Errorf("printed\n%s", out)
	}
	if out := sh.table("inspect", "commit", "r@"+id); !strings.HasPrefix(out, "Commit: default/r@"+id+"\nParent: ") {
		t.Errorf("printed\n%s", out)
	}
	if out := sh.table("inspect", "file", "r@master:/a.txt"); !strings.HasPrefix(out, "Path: /a.txt\nDatum: default\nType: file\nSize: 12 B\nCommitted: now\nHash: ") {
		t.Errorf("printed\n%s", out)
	}
	sh.fails("file /none not found in repo default/r at commit "+id, "get", "file", "r@master:/none")
	sh.ok("", "delete", "file", "r@master:/a.txt")
	if out := sh.ok("", "diff", "file", "r@master:/", "--name-only"); out != "OP NAME   TYPE SIZE\n-  /a.txt file 12 B\n" {
		t.Errorf("printed\n%s", out)
	}
	sh.ok("newer", "put", "file", "r@master:/d/b")
	if out := sh.ok("", "diff", "file", "r@master:/"); !strings.Contains(out, "-new\n") || !strings.Contains(out, "+newer\n") {
		t.Errorf("printed\n%s", out)
	}
}

func TestPutFile_Targets(t *testing.T) {
	sh := newShell(t)
	sh.ok("", "create", "repo", "r")
	var z bytes.Buffer
	w := tar.NewWriter(&z)
	for _, name := range []string{"t/one", "../two"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 1}); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte("x"))
	}
	_ = w.Close()
	dir := sh.write(map[string]string{"f": "1", "g": "", "d/x": "2", "d/e/y": "3", "a.tar": z.String(), "list": ""})
	t.Chdir(dir)
	if err := os.WriteFile("list", []byte("f\n\n d/x \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("x", "d/link"); err != nil {
		t.Fatal(err)
	}
	for i, tc := range []struct {
		args, path string
		want       map[string]string
	}{
		{"-f f", "", map[string]string{"f": "1"}},
		{"-f f", ":/", map[string]string{"f": "1"}},
		{"-f f", ":/new", map[string]string{"new": "1"}},
		{"-f f", ":new", map[string]string{"new": "1"}},
		{"-f f", ":/dir/", map[string]string{"dir/f": "1"}},
		{"-f f -f g", ":/dir", map[string]string{"dir/f": "1", "dir/g": ""}},
		{"-f d/x", "", map[string]string{"x": "2"}},
		{"-f d/x --full-path", ":/dir/", map[string]string{"dir/d/x": "2"}},
		{"-f " + dir + "/d/x", ":/dir/", map[string]string{"dir/x": "2"}},
		{"-r -f d", "", map[string]string{"d/x": "2", "d/link": "2", "d/e/y": "3"}},
		{"-r -f d", ":/", map[string]string{"x": "2", "link": "2", "e/y": "3"}},
		{"-r -f d", ":/n", map[string]string{"n/x": "2", "n/link": "2", "n/e/y": "3"}},
		{"-r -f d -f f", ":/n", map[string]string{"n/d/x": "2", "n/d/link": "2", "n/d/e/y": "3", "n/f": "1"}},
		{"-i list", ":/n", map[string]string{"n/f": "1", "n/x": "2"}},
		{"-f a.tar", "", map[string]string{"a.tar": z.String()}},
		{"--untar -f a.tar", ":/u", map[string]string{"u/t/one": "x", "u/two": "x"}},
		{"--untar -f a.tar", "", map[string]string{"a.tar/t/one": "x", "a.tar/two": "x"}},
	} {
		branch := fmt.Sprint("b", i)
		args := append([]string{"put", "file", "r@" + branch + tc.path}, strings.Fields(tc.args)...)
		sh.ok("", args...)
		out := t.TempDir()
		sh.ok("", "get", "file", "-r", "r@"+branch+":/", "-o", out)
		if diff := cmp.Diff(tc.want, sh.tree(out)); diff != "" {
			t.Errorf("put file r@b%s %s (-want +got):\n%s", tc.path, tc.args, diff)
		}
	}
	sh.s.Forget()
	sh.fails("d is a directory: give -r to put everything below it", "put", "file", "r@b", "-f", "d")
	sh.fails("none: no such file or directory", "put", "file", "r@b", "-f", "f", "-f", "none")
	sh.fails("standard input has no name: give one path for it, <repo>@<branch>:<path>", "put", "file", "r@b")
	if calls := sh.requests(); calls != "" {
		t.Errorf("sent although it cannot work:\n%s", calls)
	}
	sh.fails("repo default/none not found", "put", "file", "none@b", "-f", "f")
}

func TestGetFile_Output(t *testing.T) {
	sh := newShell(t)
	sh.s.AddFiles("default", "r", "master", map[string]string{"/top": "0", "/d/x": "1", "/d/e/y": "2"})
	for _, tc := range []struct {
		path string
		want map[string]string
	}{
		{"/", map[string]string{"top": "0", "d/x": "1", "d/e/y": "2"}},
		{"/d", map[string]string{"x": "1", "e/y": "2"}},
		{"/d/", map[string]string{"x": "1", "e/y": "2"}},
		{"/d/x", map[string]string{"x": "1"}},
		{"/d/*", map[string]string{"x": "1", "e/y": "2"}},
		{"/*", map[string]string{"top": "0", "d/x": "1", "d/e/y": "2"}},
	} {
		out := filepath.Join(t.TempDir(), "new")
		sh.ok("", "get", "file", "-r", "r@master:"+tc.path, "-o", out)
		if diff := cmp.Diff(tc.want, sh.tree(out)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.path, diff)
		}
	}
	dir := t.TempDir()
	sh.ok("", "get", "file", "r@master:/d/x", "-o", dir+"/file")
	sh.ok("", "get", "file", "r@master:/d/x", "-o", dir)
	sh.ok("", "get", "file", "r@master:/d/x", "-o", "/dev/null")
	if code, _, _ := sh.try("", "get", "file", "r@master:/none", "-o", dir+"/none"); code != 1 {
		t.Error("a missing file was got")
	}
	if diff := cmp.Diff(map[string]string{"file": "1", "x": "1"}, sh.tree(dir)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	names := ""
	for r := tar.NewReader(strings.NewReader(sh.ok("", "get", "file", "-r", "r@master:/d", "-o", "-"))); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names += h.Name + " "
	}
	if names != "/d/ /d/e/ /d/e/y /d/x " {
		t.Errorf("tar of %s", names)
	}
	sh.fails("-r needs -o: a directory to write to, or - for a tar on standard output", "get", "file", "-r", "r@master:/")
	sh.fails("file /none not found in repo default/r at commit 0000000000014"+strings.Repeat("0", 18)+"1", "get", "file", "-r", "r@master:/none", "-o", dir)
}

func TestExtract_StaysInside(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "out"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(dir, "out", "link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/../../x", "/link/x"} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		err := extract(&b, "/", filepath.Join(dir, "out"))
		t.Logf("%s: %v", name, err)
		if _, err := os.Stat(filepath.Join(dir, "x")); err == nil {
			t.Errorf("%s was written outside", name)
		}
	}
}

func TestPipelines(t *testing.T) {
	sh := newShell(t)
	dir := sh.write(map[string]string{
		"one.json": `{"pipeline": {"name": "one"},  "n": 1.0, "spout": {}}`,
		"more.yml": "pipeline:\n  name: two\n  project: {name: q}\nspout: {}\n---\npipeline: {name: three}\nupdate: true\n",
		"bad.json": "{\"pipeline\": {\n",
	})
	sh.ok("", "create", "pipeline", "-f", dir+"/one.json")
	sh.fails(`pipeline "default/one" already exists`, "create", "pipeline", "-f", dir+"/one.json")
	sh.ok("", "update", "pipeline", "-f", dir+"/one.json", "--reprocess")
	sh.s.Forget()
	sh.ok("", "create", "pipeline", "-f", dir+"/more.yml", "--project", "p")
	want := `pps_v2.API/CreatePipelineV2 {"create_pipeline_request_json":"{\"pipeline\":{\"name\":\"two\",\"project\":{\"name\":\"q\"}},\"spout\":{}}"}
pps_v2.API/CreatePipelineV2 {"create_pipeline_request_json":"{\"pipeline\":{\"project\":{\"name\":\"p\"},\"name\":\"three\"},\"update\":true}","update":true}
`
	if diff := cmp.Diff(want, sh.requests()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	sh.fails(dir+"/bad.json: document 1, line 1: the JSON text ends too early", "create", "pipeline", "-f", dir+"/bad.json")
	sh.fails("standard input holds no pipeline spec", "create", "pipeline")
	if out := sh.ok(`{"pipeline":{"name":"dry"}}`, "create", "pipeline", "--dry-run"); out != "{\n  \"pipeline\": {\n    \"name\": \"dry\"\n  }\n}\n" {
		t.Errorf("printed\n%s", out)
	}
	out := sh.table("list", "pipeline")
	wantList := "PROJECT NAME VERSION INPUT CREATED STATE WORKERS RESTARTS LAST COMMIT DESCRIPTION\n" +
		"default one 2 none (spout) now running 1/1 0 - \n" +
		"p three 1 none (spout) now running 1/1 0 - \n" +
		"q two 1 none (spout) now running 1/1 0 - \n"
	if diff := cmp.Diff(wantList, out); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if out := sh.table("inspect", "pipeline", "one"); out != "Name: default/one\nVersion: 2\nInput: none (spout)\nState: running\nWorkers: 1 of 1 running\nRestarts: 0\nLast commit: -\nCreated: now\n" {
		t.Errorf("printed\n%s", out)
	}
	sh.fails(`pipeline "default/none" not found`, "stop", "pipeline", "none")
	if out := sh.ok("", "list", "job", "-p", "one"); out != "PROJECT PIPELINE ID STARTED STATE REASON\n" {
		t.Errorf("printed\n%s", out)
	}
	sh.s.Forget()
	sh.ok("", "edit", "pipeline", "one", "--editor", "sed -i s/1.0/2.0/")
	if got := sh.requests(); !strings.Contains(got, `\"n\": 2.0`) || !strings.Contains(got, `"update":true`) {
		t.Errorf("sent %s", got)
	}
	if _, _, stderr := sh.try("", "edit", "pipeline", "one", "--editor", "true"); stderr != "nothing was changed\n" {
		t.Errorf("printed %q", stderr)
	}
}

// TestEditPipeline_KeepsWhatIsRefused does not throw away what somebody typed.
func TestEditPipeline_KeepsWhatIsRefused(t *testing.T) {
	sh := newShell(t)
	t.Setenv("TMPDIR", t.TempDir())
	sh.ok(`{"pipeline": {"name": "one"}, "spout": {}}`, "create", "pipeline")
	code, _, stderr := sh.try("", "edit", "pipeline", "one", "--editor", "sed -i 1s/{/[/")
	_, kept, ok := strings.Cut(stderr, "what was edited is kept: pachctl update pipeline -f ")
	if code != 1 || !ok {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	if text, err := os.ReadFile(strings.TrimSpace(kept)); err != nil || !strings.HasPrefix(string(text), "[") {
		t.Errorf("kept %q, %v", text, err)
	}
}

func TestWithProject(t *testing.T) {
	for in, want := range map[string]string{
		`{"pipeline":{"name":"x"}}`:                                    `{"pipeline":{"project":{"name":"p"},"name":"x"}}`,
		`{ "a":{"pipeline":{}}, "pipeline" : { } , "b":1}`:             `{ "a":{"pipeline":{}}, "pipeline" : {"project":{"name":"p"} } , "b":1}`,
		`{"a":["pipeline",{}],"b":"pipeline","pipeline":{"name":"x"}}`: `{"a":["pipeline",{}],"b":"pipeline","pipeline":{"project":{"name":"p"},"name":"x"}}`,
		`{"pipeline":{"name":"x","project":{"name":"q"}}}`:             `{"pipeline":{"name":"x","project":{"name":"q"}}}`,
		`{"pipeline":5}`: `{"pipeline":5}`,
		`{}`:             `{}`,
	} {
		if got := string(withProject([]byte(in), "p")); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", in, got, want)
		}
	}
}

func TestLogs(t *testing.T) {
	sh := newShell(t)
	at := timestamppb.New(timestamppb.New(timestamppb.Now().AsTime()).AsTime())
	sh.s.Logs = []*ppspb.LogMessage{
		{Message: "beginning to run user code", WorkerId: "w", Ts: at},
		{Message: "line one\n", User: true, WorkerId: "w", Ts: at},
		{Message: "of the master", Master: true, Ts: at},
		{Message: "line two", User: true, WorkerId: "w", Ts: at},
	}
	for args, want := range map[string]string{
		"logs -p s":          "line one\nline two\n",
		"logs -p s --worker": "beginning to run user code\n",
		"logs -p s --master": "of the master\n",
		"logs":               "beginning to run user code\nline one\nof the master\nline two\n",
	} {
		if out := sh.ok("", strings.Fields(args)...); out != want {
			t.Errorf("%s printed\n%s", args, out)
		}
	}
	if out := sh.ok("", "logs", "-p", "s", "--raw"); strings.Count(out, "\n") != 4 || !strings.Contains(out, `"worker_id"`) {
		t.Errorf("printed\n%s", out)
	}
	if out := sh.ok("", "logs", "-p", "s", "-t"); !strings.HasSuffix(out, " w line two\n") {
		t.Errorf("printed\n%s", out)
	}
	sh.fails("tail has been deprecated and removed from Pachyderm, use --since instead", "logs", "-p", "s", "--tail", "5")
	sh.fails(`--since "x" is not a duration such as 90s, 30m or 24h`, "logs", "-p", "s", "--since", "x")
	sh.fails(`"x" is not a job: want <pipeline>@<job>`, "logs", "-j", "x")
}

// interrupted runs a command and interrupts it once it has printed want.
func interrupted(t *testing.T, sh *shell, want string, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithCancel(sh.ctx)
	defer cancel()
	var out, stderr bytes.Buffer
	code := run(ctx, args, strings.NewReader(""), writerFunc(func(p []byte) (int, error) {
		out.Write(p)
		if strings.Contains(out.String(), want) {
			cancel()
		}
		return len(p), nil
	}), &stderr)
	if stderr.Len() > 0 {
		t.Errorf("stderr: %s", stderr.String())
	}
	return code, out.String()
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestFollow_InterruptIsNoFailure(t *testing.T) {
	sh := newShell(t)
	sh.s.Logs = []*ppspb.LogMessage{{Message: "tick", User: true}}
	if code, out := interrupted(t, sh, "tick\n", "logs", "-p", "s", "-f"); code != 0 || out != "tick\n" {
		t.Errorf("exit code %d, printed %q", code, out)
	}
	id := sh.s.AddFiles("default", "r", "master", nil)
	if code, out := interrupted(t, sh, "USER", "subscribe", "commit", "r@master"); code != 0 || !strings.HasPrefix(out, id+"  ") {
		t.Errorf("exit code %d, printed %q", code, out)
	}
	sh.s.Forget()
	interruptedNew := make(chan int)
	ctx, cancel := context.WithCancel(sh.ctx)
	go func() {
		interruptedNew <- run(ctx, []string{"subscribe", "commit", "r@master", "--new"}, nil, io.Discard, io.Discard)
	}()
	call := sh.s.Received(sh.ctx, t, "pfs_v2.API/SubscribeCommit", 1)
	if from := call.Requests[0].(*pfspb.SubscribeCommitRequest).GetFrom().GetId(); from != id {
		t.Errorf("--new sent from %q", from)
	}
	cancel()
	if code := <-interruptedNew; code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestFsck(t *testing.T) {
	sh := newShell(t)
	if out := sh.ok("", "fsck", "--deep"); out != "" {
		t.Errorf("printed %q", out)
	}
	sh.s.Fsck = []*pfspb.FsckResponse{{Info: "nothing new"}}
	if out := sh.ok("", "fsck", "--info"); out != "nothing new\n" {
		t.Errorf("printed %q", out)
	}
	sh.s.Fsck = []*pfspb.FsckResponse{{Fix: "a"}, {Error: "chunk b is missing"}}
	code, out, stderr := sh.try("", "fsck")
	if code != 1 || out != "fixed: a\nerror: chunk b is missing\n" || stderr != "1 errors found\n" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, out, stderr)
	}
}

func TestDeleteAll_Asks(t *testing.T) {
	sh := newShell(t)
	sh.s.AddFiles("default", "r", "master", nil)
	for _, answer := range []string{"", "n\n", "what\n"} {
		if code, _, stderr := sh.try(answer, "delete", "all"); code != 1 || !strings.Contains(stderr, "repo default/r") || !strings.HasSuffix(stderr, "nothing was deleted\n") {
			t.Errorf("answer %q: exit code %d, stderr %q", answer, code, stderr)
		}
	}
	sh.ok("", "inspect", "repo", "r")
	if code, _, stderr := sh.try("y\n", "delete", "all"); code != 0 { // identity, auth and transactions are not there
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	sh.fails("repo default/r not found", "inspect", "repo", "r")
}

func TestAuthOff(t *testing.T) {
	sh := newShell(t)
	sh.fails("the auth service is not activated", "auth", "whoami")
}

func TestVersion(t *testing.T) {
	sh := newShell(t)
	if out := sh.ok("", "version"); out != "COMPONENT VERSION\npachctl   2.12.0\npachd     2.12.3\n" {
		t.Errorf("printed\n%s", out)
	}
	if out := sh.ok("", "inspect", "cluster"); out != "cluster\n" {
		t.Errorf("printed %q", out)
	}
	t.Setenv("PACHD_ADDRESS", "127.0.0.1:1")
	if out := sh.ok("", "version", "--client-only"); out != "2.12.0\n" {
		t.Errorf("printed %q", out)
	}
	code, _, stderr := sh.try("", "list", "repo")
	if code != 1 || !strings.HasPrefix(stderr, "cannot connect to pachd at grpc://127.0.0.1:1: connection refused; start it") {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

func TestConfigCommands(t *testing.T) {
	sh := newShell(t)
	t.Setenv("PACHD_ADDRESS", "")
	sh.fails("no context is in use: `pachctl connect <address>` makes one", "config", "get", "active-context")
	if out := sh.ok("", "connect", sh.s.Addr()); out != "context \"grpc://"+sh.s.Addr()+"\" is in use; it leads to grpc://"+sh.s.Addr()+"\n" {
		t.Errorf("printed %q", out)
	}
	sh.ok("", "list", "repo")
	sh.ok("", "config", "update", "context", "--project", "p")
	sh.ok("", "create", "repo", "x")
	if out := sh.ok("", "list", "repo"); !strings.Contains(out, "\np       x") {
		t.Errorf("printed\n%s", out)
	}
	sh.ok(`{"pachd_address":"h:1","future":{"a":1}}`, "config", "set", "context", "other")
	sh.fails(`context "other" exists: give --overwrite to replace it`, "config", "set", "context", "other")
	if out := sh.ok("", "config", "get", "context", "other"); out != "{\n  \"future\": {\n    \"a\": 1\n  },\n  \"pachd_address\": \"h:1\"\n}\n" {
		t.Errorf("printed\n%s", out)
	}
	sh.ok("tok\n", "auth", "use-auth-token")
	_, _, _ = sh.try("", "auth", "whoami")
	if got := sh.s.Last(sh.ctx, t, "auth_v2.API/WhoAmI").Metadata.Get("authn-token"); len(got) != 1 || got[0] != "tok" {
		t.Errorf("sent token %q", got)
	}
	sh.ok("", "config", "set", "active-context", "other")
	if out := sh.ok("", "config", "get", "active-enterprise-context"); out != "other\n" {
		t.Errorf("printed %q", out)
	}
	sh.ok("", "config", "set", "active-enterprise-context", "grpc://"+sh.s.Addr())
	if out := sh.ok("", "config", "get", "active-enterprise-context"); out != "grpc://"+sh.s.Addr()+"\n" {
		t.Errorf("printed %q", out)
	}
	sh.fails(`context "gone" does not exist`, "config", "set", "active-enterprise-context", "gone")
	out := sh.ok("", "config", "list", "context")
	if !strings.HasPrefix(out, "ACTIVE NAME") || !strings.Contains(out, "*      other") {
		t.Errorf("printed\n%s", out)
	}
	sh.fails(`context "other" is in use: use another one first`, "config", "delete", "context", "other")
	sh.ok("", "config", "delete", "context", "grpc://"+sh.s.Addr())
	sh.fails(`context "gone" does not exist`, "config", "get", "context", "gone")
	sh.ok("", "config", "set", "metrics", "false")
	if out := sh.ok("", "config", "get", "metrics"); out != "false\n" {
		t.Errorf("printed %q", out)
	}
	sh.fails(`pachd address "ftp://x": scheme "ftp" is none of grpc, grpcs, http, https, unix`, "connect", "ftp://x")
}

func TestUsageErrors(t *testing.T) {
	sh := newShell(t)
	sh.fails("pachctl create repo takes 1 argument, not 0\nUsage: pachctl create repo <repo> [flags]", "create", "repo")
	sh.fails(`pachctl list: there is no "foo"; there is project, repo, branch, commit, file, pipeline, job, secret, transaction`, "list", "foo")
	sh.fails(`"r" has no branch or commit: want <repo>@<branch-or-commit>:<path>`, "list", "file", "r")
	sh.fails(`there is no command "lst"; perhaps list is meant`, "lst", "repo")
	sh.fails(`there is no command "craete"; perhaps create is meant`, "craete", "repo", "r")
	sh.fails(`there is no command "frobnicate"; pachctl --help lists them`, "frobnicate")
	sh.fails(`there is no command "repo"; the verb comes first: pachctl inspect repo`, "repo", "inspect", "r")
	sh.fails(`there is no command "pipelines"; the verb comes first, for example: pachctl list pipelines`, "pipelines")
	sh.fails("unknown flag: --nope; pachctl --help tells which there are", "--nope")
	sh.fails("unknown flag: --nope; pachctl list repo --help tells which there are", "list", "repo", "--nope")
	if code, out, _ := sh.try("", "list", "file", "none@master"); code != 1 || out != "" {
		t.Errorf("a list that cannot be had: exit code %d, stdout %q", code, out)
	}
	if out := sh.ok("", "completion", "bash"); !strings.Contains(out, "pachctl") {
		t.Error("no completion")
	}
	if !InvokedAs("/x/bin/pachctl") || InvokedAs("/x/bin/pachd") {
		t.Error("InvokedAs")
	}
}
