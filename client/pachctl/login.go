package pachctl

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"runtime"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/minipachd/minipachd/client"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
)

var errNoProvider = errors.New("no authentication providers are configured")

func (a *app) loginCmd() *cobra.Command {
	var idToken, noBrowser bool
	cmd := &cobra.Command{
		Use: "login", Short: "Log in through the identity provider", Args: nargs(0, 0),
		Long: `Log in through the identity provider: print the address to log in at, open it in
a browser, wait until you have logged in, and keep the token in the context. No
browser is opened with --no-browser, or when there is no terminal or desktop.`,
		RunE: a.remote(func(s *session, _ []string) error {
			req := &authpb.AuthenticateRequest{}
			var err error
			if idToken {
				req.IdToken, err = s.secretLine("Token: ")
			} else {
				req.OidcState, err = s.beginLogin(!noBrowser)
			}
			if err != nil {
				return err
			}
			resp, err := s.Auth.Authenticate(s.ctx, req)
			if err != nil {
				return err
			}
			return saveToken(resp.GetPachToken())
		}),
	}
	f := cmd.Flags()
	f.BoolVarP(&idToken, "id-token", "t", false, "read an id token from standard input instead")
	f.BoolVarP(&noBrowser, "no-browser", "b", false, "open no browser, only print the address")
	return cmd
}

// exchangeIDToken logs this one command in with the ID token of $DEX_TOKEN, as
// programs do that have one, if there is no session token. It gives the client to go
// on with.
func exchangeIDToken(ctx context.Context, cfg *client.Config, c *client.Client, opts []client.Option) (*client.Client, error) {
	_, x, err := cfg.Active()
	idToken := os.Getenv("DEX_TOKEN")
	if err != nil || idToken == "" || os.Getenv("PACH_TOKEN") != "" || (x.SessionToken != nil && *x.SessionToken != "") {
		return c, nil
	}
	resp, err := c.Auth.Authenticate(ctx, &authpb.AuthenticateRequest{IdToken: idToken})
	if errors.Is(err, client.ErrAuthOff) {
		return c, nil
	}
	c.Close()
	if err != nil {
		return nil, fmt.Errorf("log in with the ID token of $DEX_TOKEN: %w", err)
	}
	return client.NewFromConfig(cfg, append(opts, client.WithToken(resp.GetPachToken()))...)
}

// beginLogin sends the user to the identity provider; the state it gives is the
// login's.
func (s *session) beginLogin(browser bool) (state string, err error) {
	login, err := s.Auth.GetOIDCLogin(s.ctx, &authpb.GetOIDCLoginRequest{})
	if status.Code(err) == codes.FailedPrecondition {
		return "", errNoProvider
	}
	if err != nil {
		return "", err
	}
	address, err := loginAddress(login.GetLoginUrl())
	if err != nil {
		return "", err
	}
	fmt.Fprintf(s.err, "Log in at this address, this command waits for it:\n\n%s\n\n", address)
	if browser && isTerminal(s.in) {
		openBrowser(address)
	}
	return login.GetState(), nil
}

// loginAddress checks what a server says is an address before it goes to a terminal
// and a program.
func loginAddress(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		return "", errors.New("the server gave an address to log in at that does not begin with https:// or http://")
	}
	return u.String(), nil
}

// openBrowser shows a page on the user's desktop, if there is one. The user has the
// address anyway, so nothing is made of a failure.
func openBrowser(address string) {
	var cmd *exec.Cmd
	switch {
	case runtime.GOOS == "darwin":
		cmd = exec.Command("open", address)
	case runtime.GOOS == "windows":
		cmd = exec.Command("rundll32", "url.dll,FileProtocolHandler", address)
	case os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != "":
		cmd = exec.Command("xdg-open", address)
	default:
		return
	}
	if cmd.Start() == nil {
		_ = cmd.Process.Release() // it may outlive this command
	}
}

func (a *app) getConfigCmd() *cobra.Command {
	return a.outputFlags(&cobra.Command{
		Use: "get-config", Short: "Print how users log in", Args: nargs(0, 0),
		RunE: a.remote(func(s *session, _ []string) error {
			resp, err := s.Auth.GetConfiguration(s.ctx, &authpb.GetConfigurationRequest{})
			if err != nil {
				return err
			}
			config := resp.GetConfiguration()
			if config == nil {
				config = &authpb.OIDCConfig{}
			}
			return s.encode(s.out, config, true)
		}),
	})
}

func (a *app) setConfigCmd() *cobra.Command {
	var source string
	cmd := &cobra.Command{
		Use: "set-config", Short: "Set how users log in", Args: nargs(0, 0),
		Long: `Set how users log in. The file is JSON or YAML of the form

    issuer: https://accounts.example.com
    client_id: pachd
    client_secret: the issuer gave it to you
    redirect_uri: https://pachd.example.com/authorization-code/callback
    scopes: [openid, email, profile, groups]
    require_email_verified: true

and replaces what was set before; {} ends logging in through an identity provider.`,
		RunE: a.remote(func(s *session, _ []string) error {
			texts, err := s.readSpecs(source)
			if err != nil {
				return err
			}
			if len(texts) != 1 {
				return fmt.Errorf("%s holds %d documents, want one", source, len(texts))
			}
			config := &authpb.OIDCConfig{}
			if err := protojson.Unmarshal(texts[0], config); err != nil {
				return fmt.Errorf("%s: %w", source, err)
			}
			_, err = s.Auth.SetConfiguration(s.ctx, &authpb.SetConfigurationRequest{Configuration: config})
			return err
		}),
	}
	cmd.Flags().StringVarP(&source, "file", "f", "-", "path or URL of the configuration, - for standard input")
	return cmd
}
