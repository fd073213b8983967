package oidc

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/auth/oidc/oidctest"
	"github.com/minipachd/minipachd/clock/clocktest"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	"github.com/minipachd/minipachd/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// env is a daemon's logins, with a store of their own and a clock that stands.
type env struct {
	*Logins
	t      testing.TB
	clock  *clocktest.Clock
	waits  <-chan time.Time // for which times Redeem waits
	front  *httptest.Server // where browsers come back
	logged *observer.ObservedLogs
}

func newEnv(t testing.TB) *env {
	t.Helper()
	st, err := store.Open(t.Context(), store.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return newDaemon(t, st)
}

// newDaemon is one of several over the same etcd.
func newDaemon(t testing.TB, st *store.Store, change ...func(*Config)) *env {
	e := &env{t: t}
	e.clock, e.waits = clocktest.NewTelling(time.Now().Truncate(time.Second), 100)
	core, logged := observer.New(zapcore.DebugLevel)
	e.logged = logged
	cfg := Config{Store: st, Clock: e.clock, Logger: zap.New(core)}
	for _, c := range change {
		c(&cfg)
	}
	e.Logins = New(cfg)
	e.front = httptest.NewServer(e.Logins)
	t.Cleanup(e.front.Close)
	return e
}

// issuer starts an issuer that goes by e's clock.
func (e *env) newIssuer() *oidctest.Issuer {
	i := oidctest.New(e.t)
	i.Now = e.clock.Now
	return i
}

// configFor is a configuration with which e takes logins of i.
func (e *env) configFor(i *oidctest.Issuer) *authpb.OIDCConfig {
	return &authpb.OIDCConfig{
		Issuer: i.URL, ClientId: oidctest.ClientID, ClientSecret: oidctest.ClientSecret,
		RedirectUri: e.front.URL + CallbackPath, RequireEmailVerified: true,
	}
}

// configured is an env with an issuer.
func configured(t testing.TB) (*env, *oidctest.Issuer) {
	t.Helper()
	e := newEnv(t)
	i := e.newIssuer()
	if err := e.SetConfiguration(t.Context(), e.configFor(i)); err != nil {
		t.Fatal(err)
	}
	return e, i
}

// SetConfiguration is what package auth does with the two halves of it.
func (e *env) SetConfiguration(ctx context.Context, config *authpb.OIDCConfig) error {
	if err := e.CheckConfiguration(ctx, config); err != nil {
		return err
	}
	_, err := e.store.Update(ctx, func(tx *store.Txn) error { return e.PutConfiguration(tx, config) })
	return err
}

func (e *env) stored(ctx context.Context) (config *authpb.OIDCConfig, err error) {
	err = e.store.View(ctx, func(tx *store.Txn) error {
		config, err = e.Configuration(tx)
		return err
	})
	return config, err
}

func (e *env) begin() (loginURL, state string) {
	e.t.Helper()
	loginURL, state, err := e.Begin(e.t.Context())
	if err != nil {
		e.t.Fatal(err)
	}
	return loginURL, state
}

// answer is what a browser sees.
type answer struct {
	code   int
	body   string
	header http.Header
	at     *url.URL // where it ended
}

// browse opens a page as a browser does: it follows redirects.
func browse(t testing.TB, address string) answer {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, string(body), resp.Header, resp.Request.URL}
}

// result is what Redeem came to.
type result struct {
	user User
	err  error
}

func (e *env) redeem(ctx context.Context, state string) result {
	var r result
	_, r.err = e.Redeem(ctx, state, func(_ *store.Txn, u User) error {
		r.user = u
		return nil
	})
	return r
}

// redeeming begins to redeem, and returns once that waits.
func (e *env) redeeming(ctx context.Context, state string) <-chan result {
	e.t.Helper()
	ch := make(chan result, 1)
	go func() { ch <- e.redeem(ctx, state) }()
	select {
	case <-e.waits:
	case r := <-ch:
		e.t.Fatalf("redeem did not wait: %v", r)
	}
	return ch
}

// refused checks the code and a part of the text of an error.
func refused(t testing.TB, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want %s with %q", err, code, text)
	}
}

// noSecrets fails if anything logged, or in text, gives a secret away.
func (e *env) noSecrets(text ...string) {
	e.t.Helper()
	for _, entry := range e.logged.All() {
		text = append(text, entry.Message)
		for _, f := range entry.Context {
			text = append(text, f.String)
			if err, ok := f.Interface.(error); ok {
				text = append(text, err.Error())
			}
		}
	}
	for _, s := range text {
		if strings.Contains(s, oidctest.ClientSecret) {
			e.t.Errorf("gives the client's secret away: %s", s)
		}
	}
}
