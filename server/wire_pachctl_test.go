package server_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// terminal runs pachctl, the real program, as a person would.
type terminal struct {
	t    *testing.T
	path string
	dir  string
	env  []string
}

// newTerminal has a pachctl beside the daemon and a home directory of its own.
func newTerminal(t *testing.T, w *wire) *terminal {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(t.TempDir(), "pachctl")
	if err := os.Symlink(pachdBinary(t), path); err != nil {
		t.Fatal(err)
	}
	return &terminal{t: t, path: path, dir: dir, env: []string{"HOME=" + dir, "PACHD_ADDRESS=grpc://" + w.proc.addr, "PATH=" + os.Getenv("PATH")}}
}

func (x *terminal) command(ctx context.Context, stdin string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, x.path, args...)
	cmd.Dir, cmd.Env = x.dir, x.env
	cmd.Stdin = strings.NewReader(stdin)
	return cmd
}

// run gives the exit code and what was said where.
func (x *terminal) run(stdin string, args ...string) (code int, stdout, stderr string) {
	x.t.Helper()
	var out, err bytes.Buffer
	cmd := x.command(within(x.t), stdin, args...)
	cmd.Stdout, cmd.Stderr = &out, &err
	if e := cmd.Run(); e != nil {
		var exit *exec.ExitError
		if !errors.As(e, &exit) {
			x.t.Fatal(e)
		}
	}
	return cmd.ProcessState.ExitCode(), out.String(), err.String()
}

// file writes a file in the terminal's directory.
func (x *terminal) file(name, text string) {
	x.t.Helper()
	path := filepath.Join(x.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		x.t.Fatal(err)
	}
}

// TestWirePachctl_Commands is a day's work, typed command by command.
func TestWirePachctl_Commands(t *testing.T) {
	w := newWire(t)
	x := newTerminal(t, w)
	x.file("tree/a", "1\n")
	x.file("tree/sub/b", "22\n")
	x.file("list.txt", "tree/a\n\ntree/sub/b\n")
	x.file("spec.yaml", "# two spouts\npipeline: {name: one}\nspout: {}\ntransform:\n  cmd: [sleep, '1000']\n  env: {PORT: '9092'}\n---\npipeline:\n  name: two\nspout: {}\ntransform: {cmd: [sleep, '1000']}\n")
	x.file("bad.yaml", "pipeline: {name: three}\nspout: {}\ntransform:\n  env: {PORT: 9092}\n")
	for _, c := range []struct {
		line   string // words; those of quoted arguments have no spaces here
		stdin  string
		code   int
		stdout string // "..." for any text
		stderr string
	}{
		{"version", "", 0, "...pachd     2.12.0\n", ""},
		{"inspect cluster", "", 0, "...-...\n", ""},
		{"create repo r -d things", "", 0, "", ""},
		{"create repo r", "", 1, "", "repo default/r already exists\n"},
		{"update repo r -d other", "", 0, "", ""},
		{"list repo", "", 0, "...default r ...other...", ""},
		{"put file r@master:/in", "from a pipe", 0, "", ""},
		{"put file -a r@master:/in -f -", ", and more", 0, "", ""},
		{"get file r@master:/in", "", 0, "from a pipe, and more", ""},
		{"get file r@master:/in --offset 13", "", 0, "and more", ""},
		{"put file -r r@master:/tree -f tree", "", 0, "", ""},
		{"put file r@master:/flat/ -i list.txt", "", 0, "", ""},
		{"put file r@master:/full -f tree/sub/b --full-path", "", 0, "", ""},
		{"list file r@master:/tree", "", 0, "NAME...TYPE...SIZE\n/tree/a...file 2 B\n/tree/sub/ dir  3 B\n", ""},
		{"glob file r@master:/*/b", "", 0, "...\n/flat/b...", ""},
		{"inspect file r@master:/tree/sub/b", "", 0, "...3 B...", ""},
		{"get file -r r@master:/tree -o got", "", 0, "", ""},
		{"copy file r@master:/in r@other:/copied", "", 0, "", ""},
		{"get file r@other:/copied", "", 0, "from a pipe, and more", ""},
		{"delete file r@master:/tree -r", "", 0, "", ""},
		{"list file r@master:/tree", "", 0, "NAME TYPE SIZE\n", ""},
		{"diff file r@master:/ r@master^:/ --name-only", "", 0, "...-  /tree/a...", ""},
		{"get file r@master^:/tree/a", "", 0, "1\n", ""},
		{"create branch r@copy --head master", "", 0, "", ""},
		{"inspect branch r@copy", "", 0, "...default/r@copy\n...", ""},
		{"list branch r", "", 0, "...copy...master...", ""},
		{"delete branch r@copy", "", 0, "", ""},
		{"list commit r@master -n 1 --raw", "", 0, "{...\"finished\"...}\n", ""},
		{"inspect commit r@master^2", "", 0, "Commit: ...Finished: ...", ""},
		{"wait commit r@master", "", 0, "Commit: ...", ""},
		{"fsck", "", 0, "", ""},
		{"create pipeline -f spec.yaml --dry-run", "", 0, "{...\"image\": \"ubuntu:20.04\"...}\n{...}\n", ""},
		{"list pipeline", "", 0, "PROJECT NAME ...\n", ""},
		{"create pipeline -f spec.yaml", "", 0, "", ""},
		{"create pipeline -f spec.yaml", "", 1, "", "spec 1 of 2: pipeline \"default/one\" already exists\n"},
		{"create pipeline -f bad.yaml", "", 1, "", "could not make effective spec: transform.env.PORT must be a string, not a number (9092): put it in quotes\n"},
		{"create pipeline", `{"pipeline": {"name": "four"}, "spout": {}, "transform": {"cmd": ["true"]}} {"pipeline": {"name": "five"}, "spout": {}}`, 0, "", ""},
		{"update pipeline -f -", `[{"pipeline": {"name": "four"}, "spout": {}, "transform": {"cmd": ["sleep", "9"]}}]`, 0, "", ""},
		{"inspect pipeline four", "", 0, "...\nVersion: ... 2\n...Command: ... sleep 9\n...", ""},
		{"inspect pipeline four^ -o yaml", "", 0, "pipeline:\n...version: \"1\"\n...", ""},
		{"create defaults", `{create_pipeline_request: {description: from the project}}`, 0, "", ""},
		{"inspect defaults", "", 0, "{...from the project...}\n", ""},
		{"update defaults --cluster --regenerate", `{"create_pipeline_request": {"datum_tries": 7}}`, 0, "...default/four\n...", ""},
		{"inspect pipeline four", "", 0, "...\nVersion: ... 3\nDescription: ... from the project\n...", ""},
		{"delete defaults", "", 0, "", ""},
		{"inspect defaults", "", 0, "{}\n", ""},
		{"update defaults", `[]`, 1, "", "...holds no...\n"},
		{"update defaults", `{"colour": 1}`, 1, "", "invalid project defaults JSON: unexpected field \"colour\"...\n"},
		{"stop pipeline four", "", 0, "", ""},
		{"list pipeline --state paused", "", 0, "...\ndefault four ...paused...", ""},
		{"start pipeline four", "", 0, "", ""},
		{"logs -p one --worker", "", 0, "...", ""},
		{"list job", "", 0, "ID SUBJOBS CREATED\n", ""},
		{"list job -p one", "", 0, "...", ""},
		{"delete pipeline one --keep-repo", "", 0, "", ""},
		{"list repo", "", 0, "...default one...", ""},
		{"delete repo one", "", 0, "", ""},
		{"delete repo one", "", 1, "", "No repo deleted.\n"},
		{"delete pipeline --all", "", 0, "...", ""},
		{"create project p", "", 0, "", ""},
		{"create repo r --project p", "", 0, "", ""},
		{"list repo --project p", "", 0, "...\np       r ...", ""},
		{"list repo --project nope", "", 0, "...", "WARNING: Could not inspect project \"nope\": project \"nope\" not found\n"},
		{"auth whoami", "", 1, "", "the auth service is not activated\n"},
		// What goes wrong is said on stderr alone, in a line, with exit code 1.
		{"get file nope@master:/x", "", 1, "", "repo default/nope not found\n"},
		{"get file r@nope:/x", "", 1, "", "branch \"nope\" not found in repo default/r\n"},
		{"get file r@master:/nope", "", 1, "", "file /nope not found in repo default/r at commit ...\n"},
		{"get file r@master:/", "", 1, "", "this is not one file...-r -o...\n"},
		{"list file r@nope", "", 1, "", "branch \"nope\" not found in repo default/r\n"},
		{"put file nope@master:/x", "x", 1, "", "repo default/nope not found\n"},
		{"put file r@master:/a*b", "x", 1, "", "path (/a*b) invalid: globbing character (*) not allowed in path\n"},
		{"put file r@master -f none", "", 1, "", "none: no such file or directory\n"},
		{"inspect pipeline nope", "", 1, "", "pipeline \"default/nope\" not found\n"},
		{"logs -p nope", "", 1, "", "...pipeline \"default/nope\" not found\n"},
		{"craete repo x", "", 1, "", "there is no command \"craete\"; perhaps create is meant\n"},
		{"delete all", "no\n", 1, "...", "...nothing was deleted\n"},
		{"delete all", "yes\n", 0, "...", "..."},
		{"list repo --all", "", 0, "PROJECT NAME...\n", ""},
	} {
		code, out, stderr := x.run(c.stdin, strings.Fields(c.line)...)
		if code != c.code || !matches(out, c.stdout) || !matches(stderr, c.stderr) {
			t.Errorf("pachctl %s: exit code %d, want %d\nstdout %q\n  want %q\nstderr %q\n  want %q", c.line, code, c.code, out, c.stdout, stderr, c.stderr)
		}
	}
	for name, want := range map[string]string{"got/a": "1\n", "got/sub/b": "22\n"} {
		if b, err := os.ReadFile(filepath.Join(x.dir, name)); err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v", name, b, err)
		}
	}
}

// TestWirePachctl_Interrupted presses Ctrl-C in the middle of a put: nothing of
// it is there, and the program says so.
func TestWirePachctl_Interrupted(t *testing.T) {
	w := newWire(t)
	x := newTerminal(t, w)
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"r"}}`)
	cmd := x.command(within(t), "", "put", "file", "r@master:/x")
	cmd.Stdin = nil
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// More than fits into pipes and windows, so that much has reached the daemon.
	if _, err := stdin.Write(bytes.Repeat([]byte("0123456789abcdef"), 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 130 || stderr.String() != "interrupted\n" {
		t.Errorf("exit code %d (%v), stderr %q", code, err, stderr.String())
	}
	w.exchange([]exchange{{"pfs_v2.API/InspectBranch", `{"branch":{"name":"master","repo":{"name":"r"}}}`, codes.NotFound, `branch "master" not found in repo default/r`}})

	// Following ends with Ctrl-C too, and that is no failure.
	if a := w.putAs(bareCommit, "/a", "a"); a.err != nil {
		t.Fatal(a)
	}
	follow := x.command(within(t), "", "subscribe", "commit", "r@master")
	out, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAtLeast(out, make([]byte, 32), 32); err != nil {
		t.Fatal(err)
	}
	if err := follow.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := follow.Wait(); err != nil {
		t.Errorf("an interrupted subscription: %v", err)
	}
}

// TestWirePachctl_NobodyListens says at once what to do when there is no daemon.
func TestWirePachctl_NobodyListens(t *testing.T) {
	w := newWire(t)
	x := newTerminal(t, w)
	if err := w.proc.stop(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	code, out, stderr := x.run("", "list", "repo")
	if code != 1 || out != "" || !matches(stderr, "cannot connect to pachd at grpc://"+w.proc.addr+": connection refused...PACHD_ADDRESS...\n") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, out, stderr)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("it took %v to say so", took)
	}
}
