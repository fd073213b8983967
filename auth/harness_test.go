package auth

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/clock/clocktest"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// env is a daemon's auth, running over an etcd of its own or another's.
type env struct {
	*authServer
	t     testing.TB
	ctx   context.Context
	clock *clocktest.Clock
	waits <-chan time.Time // what the sweeper waits for
	dir   string
	stop  func()
}

// newStore opens an etcd in dir.
func newStore(t testing.TB, dir string) *store.Store {
	t.Helper()
	st, err := store.Open(t.Context(), store.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

// newEnv is a daemon with auth off.
func newEnv(t testing.TB, change ...func(*Config)) *env {
	t.Helper()
	dir := t.TempDir()
	e := newDaemon(t, newStore(t, dir), change...)
	e.dir = dir
	return e
}

// newDaemon is one of several over the same etcd.
func newDaemon(t testing.TB, st *store.Store, change ...func(*Config)) *env {
	t.Helper()
	clk, waits := clocktest.NewTelling(time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), 100)
	cfg := Config{Store: st, Clock: clk}
	for _, c := range change {
		c(&cfg)
	}
	e := &env{t: t, ctx: t.Context(), clock: clk, waits: waits, authServer: &authServer{Service: New(cfg)}}
	if err := e.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Run(ctx)
	}()
	e.stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(e.stop)
	return e
}

// activated is newEnv with auth on, and the context and token of the root user.
func activated(t testing.TB, change ...func(*Config)) (e *env, root context.Context, token string) {
	t.Helper()
	e = newEnv(t, change...)
	on, err := e.Activate(t.Context(), &authpb.ActivateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	e.reach()
	return e, e.as(RootUser), on.GetPachToken()
}

// as is a context of a caller's, as the daemon makes one when it knows the token.
func (e *env) as(subject string) context.Context {
	return WithCaller(e.ctx, Caller{Subject: subject})
}

// reach returns once the daemon's memory has all that is in etcd now.
func (e *env) reach() {
	e.t.Helper()
	rev, err := e.store.Update(e.ctx, func(tx *store.Txn) error {
		e.records.Delete(tx, groupsPrefix+"robot:nobody")
		return e.records.Put(tx, groupsPrefix+"robot:nobody", &recordpb.AccessRecord{Kind: &recordpb.AccessRecord_Groups{Groups: &authpb.Groups{}}})
	})
	if err != nil {
		e.t.Fatal(err)
	}
	for {
		e.cache.mu.RLock()
		rev, known, passed := rev, e.cache.rev, e.cache.passed
		e.cache.mu.RUnlock()
		if known >= rev {
			return
		}
		select {
		case <-passed:
		case <-time.After(time.Minute):
			e.t.Fatal("the memory does not follow etcd")
		}
	}
}

// robot makes a token.
func (e *env) robot(name string, ttl time.Duration) string {
	e.t.Helper()
	a, err := e.GetRobotToken(e.as(RootUser), &authpb.GetRobotTokenRequest{Robot: name, Ttl: int64(ttl / time.Second)})
	if err != nil {
		e.t.Fatal(err)
	}
	return a.GetToken()
}

// whose tells who has a token, "" for nobody.
func (e *env) whose(token string) string {
	e.t.Helper()
	id, err := e.Service.Authenticate(e.ctx, token)
	switch {
	case err == nil:
		return id.Subject
	case status.Code(err) == codes.Unauthenticated && status.Convert(err).Message() == "provided auth token is corrupted or has expired (try logging in again)":
		return ""
	}
	e.t.Fatalf("authenticate: %v", err)
	return ""
}

// bind gives a principal roles.
func (e *env) bind(res Resource, principal string, roles ...string) {
	e.t.Helper()
	_, err := e.store.Update(e.ctx, func(tx *store.Txn) error { return e.Bind(e.ctx, tx, res, principal, roles...) })
	if err != nil {
		e.t.Fatal(err)
	}
}

// onDisk is all that etcd's files hold, whatever of it is deleted or superseded.
func (e *env) onDisk() string {
	e.t.Helper()
	var all strings.Builder
	err := filepath.Walk(e.dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		all.Write(b)
		return err
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return all.String()
}

// wants compares an error with the code and text that clients see; text may be the
// beginning.
func wants(t testing.TB, what string, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.HasPrefix(status.Convert(err).Message(), text) {
		t.Errorf("%s: got %v, want %v %s", what, err, code, text)
	}
}
