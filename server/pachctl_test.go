package server_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/minipachd/minipachd/client"
	"github.com/minipachd/minipachd/client/pachctl"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
)

// shell runs pachctl against a daemon, with a configuration of its own.
type shell struct {
	t      *testing.T
	config string
}

func newShell(t *testing.T, p *proc) *shell {
	t.Helper()
	t.Setenv("PACHD_ADDRESS", "")
	t.Setenv("PACH_CONTEXT", "")
	sh := &shell{t: t, config: filepath.Join(t.TempDir(), "config.json")}
	t.Setenv("PACH_CONFIG", sh.config)
	sh.ok("", "connect", p.addr)
	return sh
}

func (sh *shell) run(stdin string, args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = pachctl.Main(args, strings.NewReader(stdin), &out, &err)
	return code, out.String(), err.String()
}

// ok runs a command that must succeed; it gives both outputs.
func (sh *shell) ok(stdin string, args ...string) (stdout, stderr string) {
	sh.t.Helper()
	code, stdout, stderr := sh.run(stdin, args...)
	if code != 0 {
		sh.t.Fatalf("pachctl %s: exit code %d: %s", strings.Join(args, " "), code, stderr)
	}
	return stdout, stderr
}

// fails runs a command that must fail with exactly this text.
func (sh *shell) fails(want string, args ...string) {
	sh.t.Helper()
	if code, _, stderr := sh.run("", args...); code != 1 || stderr != want+"\n" {
		sh.t.Errorf("pachctl %s: exit code %d: %swant %s", strings.Join(args, " "), code, stderr, want)
	}
}

func TestPachctl_Transaction(t *testing.T) {
	sh := newShell(t, startPachd(t, t.TempDir()))
	out, _ := sh.ok("", "start", "transaction")
	m := regexp.MustCompile(`^Started new transaction: ([0-9a-f]{32})\n$`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("printed %q", out)
	}
	id := m[1]
	sh.fails("transaction "+id+" is active: finish, delete or stop it first", "start", "transaction")
	added := "Added to transaction: " + id + "\n"
	if _, stderr := sh.ok("", "create", "repo", "r"); stderr != added {
		t.Errorf("stderr %q, want %q", stderr, added)
	}
	if out, stderr := sh.ok("", "start", "commit", "r@master"); out != id+"\n" || stderr != added {
		t.Errorf("start commit printed %q and %q", out, stderr)
	}
	sh.fails("repo default/r already exists", "create", "repo", "r")
	if out, stderr := sh.ok("", "list", "repo", "--raw"); out != "" || stderr != "" {
		t.Errorf("list repo printed %q and %q", out, stderr)
	}
	if out, _ := sh.ok("", "inspect", "transaction"); !strings.Contains(out, "create_repo default/r\n") || !strings.Contains(out, "start_commit default/r@master\n") {
		t.Errorf("inspect transaction printed\n%s", out)
	}
	if out, _ := sh.ok("", "stop", "transaction"); out != "Cleared active transaction: "+id+"\n" {
		t.Errorf("stop transaction printed %q", out)
	}
	sh.fails("no transaction is active: name one, or start one", "finish", "transaction")
	sh.ok("", "create", "repo", "atonce")
	if out, _ := sh.ok("", "resume", "transaction", id); out != "Resuming existing transaction with 2 requests: "+id+"\n" {
		t.Errorf("resume transaction printed %q", out)
	}
	if out, _ := sh.ok("", "list", "transaction"); !regexp.MustCompile(`(?m)^\* +` + id + ` .* 2$`).MatchString(out) {
		t.Errorf("list transaction printed\n%s", out)
	}
	if out, _ := sh.ok("", "finish", "transaction"); out != "Completed transaction with 2 requests: "+id+"\n" {
		t.Errorf("finish transaction printed %q", out)
	}
	if _, stderr := sh.ok("", "finish", "commit", "r@"+id); stderr != "" {
		t.Errorf("after the transaction: stderr %q", stderr)
	}
	// One that somebody else has deleted is forgotten.
	out, _ = sh.ok("", "start", "transaction")
	id = strings.TrimSpace(strings.TrimPrefix(out, "Started new transaction:"))
	sh.ok("", "delete", "transaction", id)
	sh.fails("no transaction is active: name one, or start one", "inspect", "transaction")
	sh.ok("", "start", "transaction")
	sh.ok("", "delete", "all", "-y")
	if code, _, stderr := sh.run("", "finish", "transaction"); code != 1 || !strings.Contains(stderr, "not found") {
		t.Errorf("finish what is gone: %d, %s", code, stderr)
	}
	sh.ok("", "start", "transaction")
}

func TestPachctl_MetadataAndIdempotencyKey(t *testing.T) {
	sh := newShell(t, startPachd(t, t.TempDir()))
	sh.ok("", "create", "repo", "r")
	first, _ := sh.ok("hello", "put", "file", "r@master:/f", "--idempotency-key", "k")
	again, _ := sh.ok("hello", "put", "file", "r@master:/f", "--idempotency-key", "k")
	if len(first) != 33 || again != first {
		t.Errorf("put file printed %q, then %q", first, again)
	}
	sh.ok("", "edit", "metadata", "commit", "r@master", "add", "a=b", "cluster", "edit", "site=lab", "repo", "r", "set", `{"x":"y"}`)
	for _, tc := range []struct{ want, args string }{
		{`"a": "b"`, "inspect commit r@master --raw"},
		{`"site": "lab"`, "inspect cluster --raw"},
		{`"x": "y"`, "list repo --raw"},
	} {
		if out, _ := sh.ok("", strings.Fields(tc.args)...); !strings.Contains(out, tc.want) {
			t.Errorf("pachctl %s printed\n%swithout %s", tc.args, out, tc.want)
		}
	}
	sh.fails(`edit 1: key "a" already exists: edit it instead of adding it`, "edit", "metadata", "commit", "r@master", "add", "a=c", "repo", "r", "delete", "x")
	sh.fails(`edit metadata: add takes <key>=<value>, not "a"`, "edit", "metadata", "repo", "r", "add", "a")
	sh.fails(`edit metadata: "plan" is none of project, repo, branch, commit, pipeline and cluster`, "edit", "metadata", "plan", "r", "add", "a=b")
	sh.fails(`edit metadata: "put" is none of add, edit, delete and set`, "edit", "metadata", "repo", "r", "put", "a=b")
	sh.fails(`edit metadata: "repo r add" is not complete: want <type> <name> add|edit|delete|set <data>`, "edit", "metadata", "repo", "r", "add")
	sh.fails(`"r.0" is not a commit: an ancestor is written x^, x^2 or x~2, the n-th commit of a branch x.n`, "edit", "metadata", "commit", "r@r.0", "add", "a=b")
	sh.fails(`the idempotency key is invalid: it must have 1 to 255 characters`, "put", "file", "r@master:/f", "--idempotency-key", "")
}

// TestClient_TransactionsAndKeys uses the SDK's helpers with the real daemon.
func TestClient_TransactionsAndKeys(t *testing.T) {
	p := startPachd(t, t.TempDir())
	ctx := within(t)
	c, err := client.New(p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var commit *pfspb.Commit
	info, err := c.RunInTransaction(ctx, func(ctx context.Context) error {
		if err := c.CreateRepo(ctx, c.Repo("r"), ""); err != nil {
			return err
		}
		commit, err = c.StartCommit(ctx, c.Branch("r", "open"), "")
		return err
	})
	if err != nil || info.GetTransaction().GetId() != commit.GetId() {
		t.Fatalf("transaction: %v, %v, commit %v", info, err, commit)
	}
	errOwn := errors.New("changed my mind")
	if _, err := c.RunInTransaction(ctx, func(ctx context.Context) error {
		if err := c.CreateRepo(ctx, c.Repo("never"), ""); err != nil {
			t.Error(err)
		}
		return errOwn
	}); !errors.Is(err, errOwn) {
		t.Errorf("a callback that fails: %v", err)
	}
	_, err = c.BatchTransaction(ctx,
		&transactionpb.TransactionRequest{CreateRepo: &pfspb.CreateRepoRequest{Repo: c.Repo("batch")}},
		&transactionpb.TransactionRequest{CreateRepo: &pfspb.CreateRepoRequest{Repo: c.Repo("r")}})
	if !errors.Is(err, client.ErrAlreadyExists) {
		t.Errorf("batch: %v", err)
	}
	for _, name := range []string{"never", "batch"} {
		if _, err := c.InspectRepo(ctx, c.Repo(name)); !errors.Is(err, client.ErrNotFound) {
			t.Errorf("repo %s: %v", name, err)
		}
	}
	if left, err := c.ListTransaction(ctx); err != nil || len(left) != 0 {
		t.Errorf("left open: %v, %v", left, err)
	}

	write := func(m *client.Modifier) error { return m.PutFile("/f", strings.NewReader("x")) }
	first, err := c.ModifyFileOnce(ctx, c.Commit("r", "master"), "k", write)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.PutFile(ctx, c.Commit("r", "master"), "/f", strings.NewReader("x"), client.IdempotencyKey("k")); err != nil {
		t.Error(err)
	}
	if again, err := c.ModifyFileOnce(ctx, c.Commit("r", "master"), "k", write); err != nil || again != first {
		t.Errorf("again: %s, %v, want %s", again, err, first)
	}
	head, err := c.InspectBranch(ctx, c.Branch("r", "master"))
	if err != nil || head.GetHead().GetId() != first {
		t.Errorf("head %v, %v, want %s", head, err, first)
	}
}
