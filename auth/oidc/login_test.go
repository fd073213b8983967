package oidc

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	"github.com/minipachd/minipachd/store"
)

func TestLogin(t *testing.T) {
	e, i := configured(t)
	other := newDaemon(t, e.store) // takes the callback
	config := e.configFor(i)
	config.RedirectUri = other.front.URL + CallbackPath
	config.Scopes = []string{"openid", "email", "groups"}
	if err := e.SetConfiguration(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	i.Claims["groups"] = []string{"writers", "readers", "writers"}

	loginURL, state := e.begin()
	u, err := url.Parse(loginURL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	for name, want := range map[string]string{
		"response_type": "code", "client_id": "pachd", "redirect_uri": config.RedirectUri,
		"scope": "openid email groups", "code_challenge_method": "S256",
	} {
		if q.Get(name) != want {
			t.Errorf("the login's URL has %s %q, want %q", name, q.Get(name), want)
		}
	}
	for _, name := range []string{"state", "nonce", "code_challenge"} {
		if len(q.Get(name)) != 43 {
			t.Errorf("%s %q is not 256 bits", name, q.Get(name))
		}
	}
	if q.Get("state") == state {
		t.Error("the URL is enough to fetch the token")
	}

	waits := e.redeeming(t.Context(), state)
	page := browse(t, loginURL)
	if page.code != http.StatusOK || !strings.Contains(page.body, "You are logged in.") {
		t.Errorf("the browser got %d %s", page.code, page.body)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
		"Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
	} {
		if got := page.header.Get(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if csp := page.header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none';") {
		t.Errorf("Content-Security-Policy: %s", csp)
	}
	r := <-waits
	want := User{Email: "ann@example.com", Groups: []string{"readers", "writers"}, Expires: e.clock.Now().Add(time.Hour).UTC()}
	r.user.Expires = r.user.Expires.UTC()
	if diff := cmp.Diff(want, r.user); r.err != nil || diff != "" {
		t.Errorf("logged in: %v, %s", r.err, diff)
	}

	// Neither half of it works twice.
	refused(t, e.redeem(t.Context(), state).err, codes.Unauthenticated, "the login is not known, has been used or has run out")
	if again := browse(t, page.at.String()); again.code != http.StatusBadRequest || !strings.Contains(again.body, textUnknown) {
		t.Errorf("a replayed callback got %d %s", again.code, again.body)
	}
	e.noSecrets(page.body)
	other.noSecrets()
}

// TestLogin_Once races for one login: one callback exchanges the code, one client
// gets the user.
func TestLogin_Once(t *testing.T) {
	e, i := configured(t)
	loginURL, state := e.begin()
	const n = 8
	var got atomic.Int32
	var g errgroup.Group
	for range n {
		waits := e.redeeming(t.Context(), state)
		g.Go(func() error {
			r := <-waits
			if r.err == nil {
				got.Add(1)
				return nil
			}
			refused(t, r.err, codes.Unauthenticated, "the login is not known, has been used")
			return nil
		})
	}
	u, err := url.Parse(loginURL)
	if err != nil {
		t.Fatal(err)
	}
	again := e.front.URL + CallbackPath + "?code=x&state=" + u.Query().Get("state")
	i.Override("/token", func(w http.ResponseWriter, r *http.Request) {
		i.Override("/token", nil)
		// While the code is being exchanged.
		if page := browse(t, again); page.code != http.StatusBadRequest || !strings.Contains(page.body, textUnknown) {
			t.Errorf("a second callback got %d %s", page.code, page.body)
		}
		i.ServeHTTP(w, r)
	})
	if page := browse(t, loginURL); page.code != http.StatusOK {
		t.Errorf("the first callback got %d %s", page.code, page.body)
	}
	_ = g.Wait()
	if got.Load() != 1 {
		t.Errorf("%d clients logged in", got.Load())
	}
}

// TestLogin_GrantFails keeps the login of a transaction that did not commit.
func TestLogin_GrantFails(t *testing.T) {
	e, _ := configured(t)
	loginURL, state := e.begin()
	browse(t, loginURL)
	errGrant := errors.New("no")
	if _, err := e.Redeem(t.Context(), state, func(*store.Txn, User) error { return errGrant }); !errors.Is(err, errGrant) {
		t.Errorf("got %v", err)
	}
	if r := e.redeem(t.Context(), state); r.err != nil || r.user.Email != "ann@example.com" || r.user.Groups != nil {
		t.Errorf("afterwards: %v", r)
	}
}

func TestLogin_EndsWithoutUser(t *testing.T) {
	e, i := configured(t)

	t.Run("cancelled", func(t *testing.T) {
		_, state := e.begin()
		ctx, cancel := context.WithCancel(t.Context())
		waits := e.redeeming(ctx, state)
		cancel()
		if r := <-waits; !errors.Is(r.err, context.Canceled) {
			t.Errorf("got %v", r.err)
		}
	})
	t.Run("of another login", func(t *testing.T) {
		oneURL, one := e.begin()
		_, two := e.begin()
		ctx, cancel := context.WithCancel(t.Context())
		waits := e.redeeming(ctx, two)
		browse(t, oneURL)
		if r := e.redeem(t.Context(), one); r.err != nil {
			t.Error(r.err)
		}
		cancel()
		if r := <-waits; !errors.Is(r.err, context.Canceled) {
			t.Errorf("the other login ended with %v", r)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		loginURL, _ := e.begin()
		u, _ := url.Parse(loginURL)
		for _, state := range []string{"", "x", random(), u.Query().Get("state"), strings.Repeat("A", 1<<20)} {
			refused(t, e.redeem(t.Context(), state).err, codes.Unauthenticated, "the login is not known")
		}
	})
	t.Run("runs out", func(t *testing.T) {
		loginURL, state := e.begin()
		_, left := e.begin() // nobody waits for
		waits := e.redeeming(t.Context(), state)
		e.clock.Advance(lifetime)
		refused(t, (<-waits).err, codes.DeadlineExceeded, "nobody has logged in within 5m0s: begin a new login")
		if page := browse(t, loginURL); page.code != http.StatusBadRequest || i.Asked("/token") != 1 {
			t.Errorf("a callback that is late got %d, %d codes were exchanged", page.code, i.Asked("/token"))
		}
		refused(t, e.redeem(t.Context(), state).err, codes.DeadlineExceeded, "nobody has logged in")
		e.begin() // sweeps
		refused(t, e.redeem(t.Context(), left).err, codes.Unauthenticated, "the login is not known")
	})
	t.Run("configuration changes", func(t *testing.T) {
		_, state := e.begin()
		waits := e.redeeming(t.Context(), state)
		if err := e.SetConfiguration(t.Context(), e.configFor(i)); err != nil {
			t.Fatal(err)
		}
		refused(t, (<-waits).err, codes.Unauthenticated, "the login is not known")
	})
}

func TestBegin_IsBounded(t *testing.T) {
	e, _ := configured(t)
	var g errgroup.Group
	g.SetLimit(8)
	for range maxLogins {
		g.Go(func() error {
			_, _, err := e.Begin(t.Context())
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	_, _, err := e.Begin(t.Context())
	refused(t, err, codes.ResourceExhausted, "1000 logins have begun and not ended")
	e.clock.Advance(lifetime)
	_, state := e.begin()

	e.waiting.Store(maxWaiting - 1)
	waits := e.redeeming(t.Context(), state)
	refused(t, e.redeem(t.Context(), state).err, codes.ResourceExhausted, "1000 clients are waiting for a login")
	e.clock.Advance(lifetime)
	refused(t, (<-waits).err, codes.DeadlineExceeded, "nobody has logged in")
	if n := e.waiting.Load(); n != maxWaiting-1 {
		t.Errorf("%d clients are waiting", n)
	}
}
