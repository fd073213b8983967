package pachctl

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/minipachd/minipachd/client"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
)

func (a *app) authCmd() *cobra.Command {
	return verb("auth", "Log in, see who you are, and say who may do what",
		a.whoamiCmd(), a.loginCmd(), a.getConfigCmd(), a.setConfigCmd(), a.useTokenCmd(), a.logoutCmd(), a.robotTokenCmd(),
		a.activateAuthCmd(), a.deactivateAuthCmd(), a.rotateRootTokenCmd(), a.revokeCmd(), a.getGroupsCmd(),
		a.getRolesCmd(), a.setRolesCmd(), a.checkRolesCmd(), a.rolesForPermissionCmd())
}

func (a *app) whoamiCmd() *cobra.Command {
	return a.outputFlags(&cobra.Command{
		Use: "whoami", Short: "Print whose token you use", Args: nargs(0, 0),
		RunE: a.remote(func(s *session, _ []string) error {
			resp, err := s.WhoAmI(s.ctx)
			if err != nil {
				return err
			}
			if s.whole() {
				return s.encode(s.out, resp, true)
			}
			fmt.Fprintf(s.out, "You are %q\n", resp.GetUsername())
			if at := resp.GetExpiration(); at != nil {
				fmt.Fprintf(s.out, "session expires: %s\n", at.AsTime().Format(time.RFC3339))
			}
			return nil
		}),
	})
}

// secretLine reads one line from stdin; the prompt is for people only.
func (s *session) secretLine(prompt string) (string, error) {
	if isTerminal(s.in) {
		fmt.Fprint(s.err, prompt)
	}
	return readLine(s.in)
}

func readLine(r io.Reader) (string, error) {
	line, err := bufio.NewReader(r).ReadString('\n')
	if line = strings.TrimSpace(line); line != "" {
		return line, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = errors.New("standard input has no token")
	}
	return "", err
}

// saveToken makes token that of the context in use.
func saveToken(token string) error {
	return changeActive(func(x *client.Context) { x.SessionToken = &token })
}

// changeActive changes the context in use, making one called default if there is none.
func changeActive(f func(*client.Context)) error {
	cfg, err := client.LoadConfig("")
	if err != nil {
		return err
	}
	name, x, err := cfg.Active()
	if err != nil {
		return err
	}
	if name == "" {
		cfg.ActiveContext = "default"
		cfg.Contexts[cfg.ActiveContext] = x
	}
	f(x)
	return cfg.Save()
}

func (a *app) useTokenCmd() *cobra.Command {
	return &cobra.Command{
		Use: "use-auth-token", Short: "Read a session token from standard input and keep it in the context", Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			token, err := readLine(cmd.InOrStdin())
			if err != nil {
				return err
			}
			return saveToken(token)
		},
	}
}

func (a *app) logoutCmd() *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "Forget the session token of the context", Args: nargs(0, 0),
		RunE: func(*cobra.Command, []string) error {
			return changeActive(func(x *client.Context) { x.SessionToken = nil })
		},
	}
}

func (a *app) robotTokenCmd() *cobra.Command {
	var ttl time.Duration
	var quiet bool
	cmd := &cobra.Command{
		Use: "get-robot-token <robot>", Short: "Make a token for a program", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			resp, err := s.Auth.GetRobotToken(s.ctx, &authpb.GetRobotTokenRequest{Robot: args[0], Ttl: int64(ttl / time.Second)})
			if err != nil {
				return err
			}
			if quiet {
				_, err = fmt.Fprintln(s.out, resp.GetToken())
			} else {
				_, err = fmt.Fprintln(s.out, "Token:", resp.GetToken())
			}
			return err
		}),
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "how long it is valid, for example 24h (0: for ever)")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print the token only")
	return cmd
}
