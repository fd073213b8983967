package pachctl

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/minipachd/minipachd/client/internal/fakepachd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shell runs commands against a stand-in for pachd.
type shell struct {
	t   *testing.T
	s   *fakepachd.Server
	ctx context.Context
}

func newShell(t *testing.T, opts ...grpc.ServerOption) *shell {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	s := fakepachd.Start(t, opts...)
	for _, v := range []string{"PACH_CONTEXT", "PACH_TOKEN", "PACHYDERM_IGNORE_VERSION_SKEW", "EDITOR"} {
		t.Setenv(v, "")
		os.Unsetenv(v)
	}
	t.Setenv("PACHD_ADDRESS", s.Addr())
	t.Setenv("PACH_CONFIG", filepath.Join(t.TempDir(), "config.json"))
	return &shell{t, s, ctx}
}

// try runs one command.
func (sh *shell) try(stdin string, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(sh.ctx, args, strings.NewReader(stdin), &out, &err)
	return code, out.String(), err.String()
}

// ok runs a command that must succeed and say nothing on stderr.
func (sh *shell) ok(stdin string, args ...string) string {
	sh.t.Helper()
	code, out, err := sh.try(stdin, args...)
	if code != 0 || err != "" {
		sh.t.Fatalf("pachctl %s: exit code %d, stderr:\n%s", strings.Join(args, " "), code, err)
	}
	return out
}

var (
	spaces = regexp.MustCompile(` +`)
	ago    = regexp.MustCompile(`\b\d+ seconds? ago\b`)
)

// table runs a command like ok, and takes out of its output what depends on how
// long the test took and how wide the columns are.
func (sh *shell) table(args ...string) string {
	sh.t.Helper()
	return ago.ReplaceAllString(spaces.ReplaceAllString(sh.ok("", args...), " "), "now")
}

// fails runs a command that must fail with exactly this line on stderr.
func (sh *shell) fails(want string, args ...string) {
	sh.t.Helper()
	if code, _, err := sh.try("", args...); code != 1 || err != want+"\n" {
		sh.t.Errorf("pachctl %s: exit code %d, stderr:\n%swant:\n%s", strings.Join(args, " "), code, err, want)
	}
}

// requests gives the requests of the calls since the last time, one per line.
func (sh *shell) requests() string {
	sh.t.Helper()
	var b strings.Builder
	for _, c := range sh.s.Calls() {
		for _, m := range c.Requests {
			raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
			if err != nil {
				sh.t.Fatal(err)
			}
			b.WriteString(c.Method + " ")
			var compact bytes.Buffer
			if err := json.Compact(&compact, raw); err != nil {
				sh.t.Fatal(err)
			}
			b.Write(compact.Bytes())
			b.WriteByte('\n')
		}
	}
	sh.s.Forget()
	return b.String()
}

// write makes files below a new directory.
func (sh *shell) write(files map[string]string) string {
	sh.t.Helper()
	dir := sh.t.TempDir()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o777); err != nil {
			sh.t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o666); err != nil {
			sh.t.Fatal(err)
		}
	}
	return dir
}

// tree reads the files below a directory.
func (sh *shell) tree(dir string) map[string]string {
	sh.t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		files[filepath.ToSlash(rel)] = string(data)
		return err
	})
	if err != nil {
		sh.t.Fatal(err)
	}
	return files
}
