// Package pachctl is the command line client: a tree of commands, verb first
// (`pachctl list file repo@branch:/`), over package client. It is a package, not
// a program, so that the pachd binary can be pachctl too when it is called by
// that name. Results go to stdout, everything else to stderr; any failure is
// exit code 1 and one line saying why.
package pachctl

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// InvokedAs tells whether a program called argv0 is to be pachctl.
func InvokedAs(argv0 string) bool {
	return strings.TrimSuffix(filepath.Base(argv0), ".exe") == "pachctl"
}

// Main runs one command and gives the exit code. args are without the program's
// name. An interrupt ends the command: those that follow something without end
// then exit with 0. One that does not end, as it waits for more standard input, is
// abandoned: its process is to end then.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code := make(chan int, 1)
	go func() { code <- run(ctx, args, stdin, stdout, stderr) }()
	select {
	case c := <-code:
		return c
	case <-ctx.Done():
	}
	select {
	case c := <-code:
		return c
	case <-time.After(interruptGrace):
		fmt.Fprintln(stderr, "interrupted")
		return exitInterrupted
	}
}

const (
	interruptGrace  = time.Second // for a command to end by itself
	exitInterrupted = 130
)

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := Command()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "interrupted")
		return exitInterrupted
	case errors.Is(err, syscall.EPIPE): // head has seen enough
		return 0
	}
	fmt.Fprintln(stderr, err)
	return 1
}

// Command makes the tree of commands.
func Command() *cobra.Command {
	a := &app{}
	root := &cobra.Command{
		Use:   "pachctl",
		Short: "Command line client of pachd",
		Long: `pachctl talks to pachd: repos, branches, commits and files that are versioned,
and the pipelines (above all spouts) that write them.

Where pachd is comes from, in this order: PACHD_ADDRESS, the active context of
the configuration (see pachctl connect), grpc://127.0.0.1:30650. The configuration
is the file PACH_CONFIG, or ~/.pachyderm/config.json.

Repos, commits and files are written repo, repo@branch-or-commit and
repo@branch-or-commit:/path; branch^2 is the second commit before the head.`,
		SilenceErrors: true,
		SilenceUsage:  true,

		SuggestionsMinimumDistance: 1,

		Args: cobra.ArbitraryArgs, // RunE tells about them
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args)
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; %s --help tells which there are", err, cmd.CommandPath())
	})
	p := root.PersistentFlags()
	p.BoolVarP(&a.verbose, "verbose", "v", false, "say on stderr which pachd is asked, as whom")
	p.Bool("no-color", false, "accepted for compatibility: there are no colours")
	root.AddCommand(
		a.versionCmd(), a.fsckCmd(), a.connectCmd(), a.configCmd(), a.authCmd(), a.logsCmd(),
		verb("create", "Make something", a.createProjectCmd(), a.createRepoCmd(), a.createBranchCmd(), a.createPipelineCmd(), a.createDefaultsCmd(), a.createSecretCmd()),
		verb("update", "Change something", a.updateProjectCmd(), a.updateRepoCmd(), a.updatePipelineCmd(), a.updateDefaultsCmd()),
		verb("inspect", "Show one thing in detail", a.inspectClusterCmd(), a.inspectProjectCmd(), a.inspectRepoCmd(), a.inspectBranchCmd(), a.inspectCommitCmd(), a.inspectFileCmd(), a.inspectPipelineCmd(), a.inspectDefaultsCmd(), a.inspectSecretCmd(), a.inspectTransactionCmd()),
		verb("list", "List things", a.listProjectCmd(), a.listRepoCmd(), a.listBranchCmd(), a.listCommitCmd(), a.listFileCmd(), a.listPipelineCmd(), a.listJobCmd(), a.listSecretCmd(), a.listTransactionCmd()),
		verb("delete", "Delete things", a.deleteAllCmd(), a.deleteProjectCmd(), a.deleteRepoCmd(), a.deleteBranchCmd(), a.deleteCommitCmd(), a.deleteFileCmd(), a.deletePipelineCmd(), a.deleteDefaultsCmd(), a.deleteSecretCmd(), a.deleteTransactionCmd()),
		verb("start", "Start something", a.startCommitCmd(), a.startPipelineCmd(), a.startTransactionCmd()),
		verb("stop", "Stop something", a.stopPipelineCmd(), a.stopTransactionCmd()),
		verb("finish", "Finish something", a.finishCommitCmd(), a.finishTransactionCmd()),
		verb("wait", "Wait for something to finish", a.waitCommitCmd()),
		verb("subscribe", "Follow something", a.subscribeCommitCmd()),
		verb("squash", "Remove commits, keeping their data", a.squashCommitCmd()),
		verb("drop", "Remove commits with their data", a.dropCommitCmd()),
		verb("find", "Search for something", a.findCommitCmd()),
		verb("put", "Write data", a.putFileCmd()),
		verb("get", "Read data", a.getFileCmd()),
		verb("glob", "List what matches a pattern", a.globFileCmd()),
		verb("copy", "Copy data without moving it", a.copyFileCmd()),
		verb("diff", "Compare data", a.diffFileCmd()),
		verb("rerun", "Do something again", a.rerunPipelineCmd()),
		verb("resume", "Go on with something", a.resumeTransactionCmd()),
		verb("edit", "Change something in place", a.editPipelineCmd(), a.editMetadataCmd()),
	)
	return root
}

// verb is a command that only holds others.
func verb(name, short string, nouns ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   name,
		Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			var names []string
			for _, n := range nouns {
				names = append(names, n.Name())
			}
			return fmt.Errorf("%s: there is no %q; there is %s", cmd.CommandPath(), args[0], strings.Join(names, ", "))
		},
	}
	cmd.AddCommand(nouns...)
	return cmd
}

// unknownCommand says what was probably meant: a command of nearly that name, or
// a noun that should have come second.
func unknownCommand(root *cobra.Command, args []string) error {
	for _, v := range root.Commands() {
		if n, _, err := v.Find(args[:1]); err == nil && n != v {
			if len(args) > 1 {
				if verb, _, err := root.Find(args[1:2]); err == nil && verb != root {
					return fmt.Errorf("there is no command %q; the verb comes first: pachctl %s %s", args[0], verb.Name(), args[0])
				}
			}
			return fmt.Errorf("there is no command %q; the verb comes first, for example: pachctl list %s", args[0], args[0])
		}
	}
	near := root.SuggestionsFor(args[0])
	for _, c := range root.Commands() {
		if !slices.Contains(near, c.Name()) && sameLetters(c.Name(), args[0]) {
			near = append(near, c.Name())
		}
	}
	if len(near) > 0 {
		return fmt.Errorf("there is no command %q; perhaps %s is meant", args[0], strings.Join(near, " or "))
	}
	return fmt.Errorf("there is no command %q; pachctl --help lists them", args[0])
}

// sameLetters tells whether two words differ only in the order of their letters.
func sameLetters(a, b string) bool {
	x, y := []byte(a), []byte(b)
	slices.Sort(x)
	slices.Sort(y)
	return bytes.Equal(x, y)
}

// nargs demands between least and most arguments, most < 0 for any number.
func nargs(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) >= least && (most < 0 || len(args) <= most) {
			return nil
		}
		want := fmt.Sprint(least)
		switch {
		case most < 0:
			want = fmt.Sprintf("at least %d", least)
		case most > least:
			want = fmt.Sprintf("%d to %d", least, most)
		}
		noun := "arguments"
		if want == "1" {
			noun = "argument"
		}
		return fmt.Errorf("%s takes %s %s, not %d\nUsage: %s", cmd.CommandPath(), want, noun, len(args), cmd.UseLine())
	}
}
