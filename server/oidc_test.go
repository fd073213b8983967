package server_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/auth/oidc"
	"github.com/minipachd/minipachd/auth/oidc/oidctest"
	"github.com/minipachd/minipachd/client/pachctl"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
)

// withToken sends a token with every call.
func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authn-token", token)
}

// browse opens a page as a browser does: it follows redirects.
func browse(t *testing.T, address string) (code int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(within(t), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestOIDC logs in at the real daemon: by plain gRPC, by pachctl, by an ID token,
// and over a restart of the daemon in the middle.
func TestOIDC(t *testing.T) {
	dir := t.TempDir()
	p := startPachd(t, dir)
	issuer := oidctest.New(t)
	issuer.Claims["groups"] = []string{"ops"}
	ctx := within(t)
	api := func() authpb.APIClient {
		_, _, conn := dial(t, p.addr)
		return authpb.NewAPIClient(conn)
	}
	c := api()
	restart := func() {
		t.Helper()
		p.kill()
		p = startPachd(t, dir, "--listen", p.addr)
		c = api()
	}
	sh := newShell(t, p)
	t.Setenv("DEX_TOKEN", "ignored while auth is off")
	sh.ok("", "list", "repo")
	t.Setenv("DEX_TOKEN", "")
	on, err := c.Activate(ctx, &authpb.ActivateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	root := withToken(ctx, on.GetPachToken())

	// What `pachctl auth login` prints while nobody has configured an issuer.
	_, err = c.GetOIDCLogin(ctx, &authpb.GetOIDCLoginRequest{})
	if status.Code(err) != codes.FailedPrecondition || status.Convert(err).Message() != "no authentication providers are configured" {
		t.Errorf("without a configuration: %v", err)
	}
	sh.fails("no authentication providers are configured", "auth", "login")

	config := map[string]any{
		"issuer": issuer.URL, "client_id": oidctest.ClientID, "client_secret": oidctest.ClientSecret,
		"redirect_uri": "http://" + p.addr + oidc.CallbackPath, "require_email_verified": true,
	}
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.SetConfiguration(ctx, &authpb.SetConfigurationRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("somebody without a token sets the configuration: %v", err)
	}
	sh.ok(on.GetPachToken(), "auth", "use-auth-token")
	sh.ok(string(text), "auth", "set-config")
	if out, _ := sh.ok("", "auth", "get-config"); !strings.Contains(out, issuer.URL) {
		t.Errorf("get-config printed %s", out)
	}

	whoami := func(token string) string {
		t.Helper()
		who, err := c.WhoAmI(withToken(ctx, token), &authpb.WhoAmIRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if !who.GetExpiration().IsValid() {
			t.Error("the token does not expire")
		}
		return who.GetUsername()
	}
	const ann = "user:ann@example.com"

	t.Run("gRPC", func(t *testing.T) {
		login, err := c.GetOIDCLogin(ctx, &authpb.GetOIDCLoginRequest{})
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan *authpb.AuthenticateResponse, 1)
		go func() {
			defer close(got)
			if resp, err := c.Authenticate(ctx, &authpb.AuthenticateRequest{OidcState: login.GetState()}, grpc.WaitForReady(true)); err != nil {
				t.Error(err)
			} else {
				got <- resp
			}
		}()
		if code, page := browse(t, login.GetLoginUrl()); code != http.StatusOK || !strings.Contains(page, "You are logged in.") {
			t.Errorf("the browser got %d %s", code, page)
		}
		token := (<-got).GetPachToken()
		if who := whoami(token); who != ann {
			t.Errorf("logged in as %s", who)
		}
		groups, err := c.GetGroups(withToken(ctx, token), &authpb.GetGroupsRequest{})
		if err != nil || strings.Join(groups.GetGroups(), " ") != "group:ops" {
			t.Errorf("groups %v, %v", groups, err)
		}
		if _, err := c.GetConfiguration(withToken(ctx, token), &authpb.GetConfigurationRequest{}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("a user reads the client's secret: %v", err)
		}
	})

	t.Run("ID token", func(t *testing.T) {
		resp, err := c.Authenticate(ctx, &authpb.AuthenticateRequest{IdToken: issuer.Token(nil)})
		if err != nil {
			t.Fatal(err)
		}
		if who := whoami(resp.GetPachToken()); who != ann {
			t.Errorf("logged in as %s", who)
		}
		_, err = c.Authenticate(ctx, &authpb.AuthenticateRequest{IdToken: oidctest.New(t).Token(map[string]any{"iss": issuer.URL})})
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("a forged one: %v", err)
		}
		sh.ok(issuer.Token(nil)+"\n", "auth", "login", "-t")
		if out, _ := sh.ok("", "auth", "whoami"); !strings.HasPrefix(out, "You are \""+ann+"\"\n") {
			t.Errorf("whoami printed %s", out)
		}
	})

	t.Run("DEX_TOKEN", func(t *testing.T) {
		sh.ok("", "auth", "logout")
		t.Setenv("DEX_TOKEN", issuer.Token(nil))
		if out, _ := sh.ok("", "auth", "whoami"); !strings.HasPrefix(out, "You are \""+ann+"\"\n") {
			t.Errorf("whoami printed %s", out)
		}
		t.Setenv("DEX_TOKEN", "x")
		sh.fails("log in with the ID token of $DEX_TOKEN: the ID token is not accepted: it is not a signed token of three parts", "list", "repo")
	})

	t.Run("pachctl", func(t *testing.T) {
		r, w := io.Pipe()
		var out bytes.Buffer
		code := make(chan int, 1)
		go func() {
			code <- pachctl.Main([]string{"auth", "login", "-b"}, strings.NewReader(""), &out, w)
			w.Close()
		}()
		lines := bufio.NewScanner(r)
		said := ""
		for lines.Scan() {
			said += lines.Text() + "\n"
			if strings.HasPrefix(lines.Text(), issuer.URL+"/authorize?") {
				if code, page := browse(t, lines.Text()); code != http.StatusOK {
					t.Errorf("the browser got %d %s", code, page)
				}
			}
		}
		if c := <-code; c != 0 || out.Len() > 0 {
			t.Fatalf("login ended with %d: %s%s", c, said, out.String())
		}
		if out, _ := sh.ok("", "auth", "whoami"); !strings.HasPrefix(out, "You are \""+ann+"\"\n") {
			t.Errorf("whoami printed %s", out)
		}
	})

	t.Run("restart", func(t *testing.T) {
		login, err := c.GetOIDCLogin(ctx, &authpb.GetOIDCLoginRequest{})
		if err != nil {
			t.Fatal(err)
		}
		before := p.log
		restart()
		if code, page := browse(t, login.GetLoginUrl()); code != http.StatusOK {
			t.Errorf("the browser got %d %s", code, page)
		}
		resp, err := c.Authenticate(ctx, &authpb.AuthenticateRequest{OidcState: login.GetState()})
		if err != nil {
			t.Fatal(err)
		}
		if who := whoami(resp.GetPachToken()); who != ann {
			t.Errorf("logged in as %s", who)
		}
		_, err = c.Authenticate(ctx, &authpb.AuthenticateRequest{OidcState: login.GetState()})
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("a replayed state: %v", err)
		}
		for _, secret := range []string{oidctest.ClientSecret, resp.GetPachToken(), login.GetState()} {
			if strings.Contains(before.String()+p.log.String(), secret) {
				t.Errorf("the log holds the secret %s", secret)
			}
		}
	})

	if err := filepath.WalkDir(filepath.Join(dir, "etcd"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(oidctest.ClientSecret)) {
			t.Errorf("%s holds the client's secret", path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}

	t.Run("off", func(t *testing.T) {
		if _, err := c.SetConfiguration(withToken(ctx, on.GetPachToken()), &authpb.SetConfigurationRequest{}); err != nil {
			t.Fatal(err)
		}
		_, err := c.GetOIDCLogin(root, &authpb.GetOIDCLoginRequest{})
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("after its removal: %v", err)
		}
	})
}
