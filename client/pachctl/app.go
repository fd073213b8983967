package pachctl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/minipachd/minipachd/client"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// app holds what the flags of one command line say.
type app struct {
	verbose bool
	project string // of --project
	raw     bool
	output  string // of -o: json or yaml
	full    bool   // of --full-timestamps
}

// session is one command that talks to pachd.
type session struct {
	*app
	*client.Client
	ctx context.Context
	in  io.Reader
	out io.Writer
	err io.Writer
}

// remote makes the function of a command that talks to pachd. The first call
// always is InspectCluster, so that what the server has to say to this client
// is said whatever the command does.
func (a *app) remote(f func(s *session, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		s, err := a.open(cmd)
		if err != nil {
			return err
		}
		defer s.Close()
		info, err := s.InspectCluster(s.ctx)
		switch {
		case errors.Is(err, client.ErrUnimplemented):
			fmt.Fprintln(s.err, "WARNING: the server does not say what it is; is it a pachd of version 2?")
		case err != nil:
			return err
		case os.Getenv("PACHYDERM_IGNORE_VERSION_SKEW") == "":
			for _, w := range info.GetWarnings() {
				fmt.Fprintln(s.err, w)
			}
		}
		return f(s, args)
	}
}

func (a *app) open(cmd *cobra.Command) (*session, error) {
	if err := a.checkOutput(); err != nil {
		return nil, err
	}
	var opts []client.Option
	if a.project != "" {
		opts = append(opts, client.WithProject(a.project))
	}
	cfg, err := client.LoadConfig("")
	if err != nil {
		return nil, err
	}
	if _, x, err := cfg.Active(); err == nil && x.ActiveTransaction != "" {
		opts = append(opts, a.tellQueued(cmd))
	}
	c, err := client.NewFromConfig(cfg, opts...)
	if err != nil {
		return nil, err
	}
	if c, err = exchangeIDToken(cmd.Context(), cfg, c, opts); err != nil {
		return nil, err
	}
	if a.verbose {
		name, _, _ := cfg.Active() // NewFromConfig has checked it
		fmt.Fprintf(cmd.ErrOrStderr(), "pachd at %s, project %s, context %q of %s\n", c.Address(), c.Project(), name, cfg.Path())
	}
	return &session{app: a, Client: c, ctx: cmd.Context(), in: cmd.InOrStdin(), out: cmd.OutOrStdout(), err: cmd.ErrOrStderr()}, nil
}

// projectFlag adds --project.
func (a *app) projectFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&a.project, "project", "", "project of the names (default: the context's, else default)")
	return cmd
}

// outputFlags adds the flags of commands that show things.
func (a *app) outputFlags(cmd *cobra.Command) *cobra.Command {
	f := cmd.Flags()
	f.BoolVar(&a.raw, "raw", false, "print the whole answer, as JSON")
	f.StringVarP(&a.output, "output", "o", "", "print the whole answer, as json or yaml")
	f.BoolVar(&a.full, "full-timestamps", false, "print times in full, not as how long ago")
	f.Bool("no-pager", false, "accepted for compatibility: there is no pager")
	return cmd
}

// Text forms of arguments, in the session's project.

func (s *session) repo(arg string) (*pfspb.Repo, error) { return client.ParseRepo(s.Project(), arg) }

func (s *session) branch(arg string) (*pfspb.Branch, error) {
	return client.ParseBranch(s.Project(), arg)
}

func (s *session) commit(arg string) (*pfspb.Commit, error) {
	return client.ParseCommit(s.Project(), arg)
}

func (s *session) file(arg string) (*pfspb.File, error) { return client.ParseFile(s.Project(), arg) }

// pipeline reads [project/]name, with an ancestor suffix in name if there is one.
func (s *session) pipeline(arg string) *ppspb.Pipeline {
	if p, name, ok := strings.Cut(arg, "/"); ok {
		return client.NewPipeline(p, name)
	}
	return s.Client.Pipeline(arg)
}

// ask puts a yes-or-no question; anything but yes, also no answer, is no.
func (s *session) ask(question string) bool {
	fmt.Fprintf(s.err, "%s (y/N) ", question)
	line, _ := bufio.NewReader(s.in).ReadString('\n') // the end of input answers no
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true
	}
	return false
}

// errDeclined ends a command whose question was answered with no.
var errDeclined = errors.New("nothing was deleted")

// isTerminal tells whether a person looks at v, a reader or writer.
func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// unlessInterrupted forgives an error that only says that the user has pressed
// Ctrl-C, for commands that have no other end.
func (s *session) unlessInterrupted(err error) error {
	if s.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
