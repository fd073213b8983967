package pachctl

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/spf13/cobra"

	"github.com/minipachd/minipachd/client"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

func (a *app) startCommitCmd() *cobra.Command {
	var parent, message string
	cmd := &cobra.Command{
		Use: "commit <repo>@<branch>", Short: "Open a commit and print its id", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			branch, err := s.branch(args[0])
			if err != nil {
				return err
			}
			var from *pfspb.Commit
			if parent != "" {
				from = client.NewCommit("", "", parent)
				from.Repo, from.Branch.Repo = branch.GetRepo(), branch.GetRepo()
			}
			commit, err := s.StartCommitFrom(s.ctx, branch, from, message)
			if err != nil {
				return err
			}
			fmt.Fprintln(s.out, commit.GetId())
			return nil
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&parent, "parent", "p", "", "branch or commit id in the same repo to start from (default: the head)")
	f.StringVarP(&message, "message", "m", "", "what the commit is")
	f.StringVar(&message, "description", "", "the same as --message")
	return a.projectFlag(cmd)
}

func (a *app) finishCommitCmd() *cobra.Command {
	var message string
	var force bool
	cmd := &cobra.Command{
		Use: "commit <repo>@<branch-or-commit>", Short: "Close a commit", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			commit, err := s.commit(args[0])
			if err != nil {
				return err
			}
			_, err = s.PFS.FinishCommit(s.ctx, &pfspb.FinishCommitRequest{Commit: commit, Description: message, Force: force})
			return err
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&message, "message", "m", "", "what the commit is; replaces what start commit said")
	f.StringVar(&message, "description", "", "the same as --message")
	f.BoolVarP(&force, "force", "f", false, "finish a commit that a pipeline writes to")
	return a.projectFlag(cmd)
}

func (a *app) inspectCommitCmd() *cobra.Command {
	return a.projectFlag(a.outputFlags(&cobra.Command{
		Use: "commit <repo>@<branch-or-commit>", Short: "Show a commit", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			commit, err := s.commit(args[0])
			if err != nil {
				return err
			}
			info, err := s.InspectCommit(s.ctx, commit)
			if err != nil {
				return err
			}
			return s.showCommit(info)
		}),
	}))
}

func (a *app) waitCommitCmd() *cobra.Command {
	return a.projectFlag(a.outputFlags(&cobra.Command{
		Use: "commit <repo>@<branch-or-commit> | <commit-set-id>", Short: "Wait until a commit is finished and show it", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			if client.IsCommitID(args[0]) {
				return s.listCommits(s.InspectCommitSet(s.ctx, args[0], true))
			}
			commit, err := s.commit(args[0])
			if err != nil {
				return err
			}
			info, err := s.WaitCommit(s.ctx, commit)
			if err != nil {
				return err
			}
			return s.showCommit(info)
		}),
	}))
}

func (s *session) showCommit(info *pfspb.CommitInfo) error {
	return show(s, info, func(t *table) {
		t.field("Commit", client.CommitName(info.GetCommit()))
		t.field("Description", info.GetDescription())
		if p := info.GetParentCommit(); p != nil {
			t.field("Parent", p.GetId())
		}
		t.field("Origin", info.GetOrigin().GetKind().String())
		t.field("Started", s.when(info.GetStarted()))
		t.field("Finished", s.when(info.GetFinished()))
		t.field("Error", info.GetError())
		t.field("Size", commitSize(info))
		for _, p := range info.GetDirectProvenance() {
			t.field("Provenance", client.CommitName(p))
		}
	})
}

// commitSize is exact for a finished commit.
func commitSize(info *pfspb.CommitInfo) string {
	if d := info.GetDetails(); d != nil {
		return size(d.GetSizeBytes())
	}
	return "≤ " + size(info.GetSizeBytesUpperBound())
}

const commitHeader = "PROJECT\tREPO\tCOMMIT\tFINISHED\tSIZE\tORIGIN\tDESCRIPTION"

func (s *session) listCommits(seq iter.Seq2[*pfspb.CommitInfo, error]) error {
	return list(s, seq, commitHeader, s.commitRow)
}

func (s *session) commitRow(c *pfspb.CommitInfo) []string {
	project, repo, _ := strings.Cut(client.RepoName(c.GetCommit().GetRepo()), "/")
	description := c.GetDescription()
	if c.GetError() != "" {
		description = strings.TrimSpace(description + " (error: " + c.GetError() + ")")
	}
	return []string{project, repo, c.GetCommit().GetId(), s.when(c.GetFinished()), commitSize(c), c.GetOrigin().GetKind().String(), description}
}

func (a *app) listCommitCmd() *cobra.Command {
	var from, origin string
	var number int64
	var all bool
	cmd := &cobra.Command{
		Use: "commit [<repo>[@<branch-or-commit>] | <commit-set-id>]", Aliases: []string{"commits"},
		Short: "List commits, newest first", Args: nargs(0, 1),
		RunE: a.remote(func(s *session, args []string) error {
			if len(args) == 0 {
				return s.listCommitSets(number)
			}
			if client.IsCommitID(args[0]) {
				return s.listCommits(s.InspectCommitSet(s.ctx, args[0], false))
			}
			name, ref, at := strings.Cut(args[0], "@")
			repo, err := s.repo(name)
			if err != nil {
				return err
			}
			opts := []client.ListCommitOption{client.CommitLimit(number)}
			if at {
				to, err := s.commit(name + "@" + ref)
				if err != nil {
					return err
				}
				opts = append(opts, client.To(to))
			}
			if from != "" {
				c, err := s.commit(name + "@" + from)
				if err != nil {
					return err
				}
				opts = append(opts, client.From(c))
			}
			if all {
				opts = append(opts, client.AllOrigins())
			}
			kind, err := originKind(origin)
			if err != nil {
				return err
			}
			opts = append(opts, client.Origin(kind))
			return s.listCommits(s.ListCommit(s.ctx, repo, opts...))
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&from, "from", "f", "", "only commits after this one of the same repo")
	f.Int64VarP(&number, "number", "n", 0, "at most that many (0: all)")
	f.BoolVar(&all, "all", false, "include commits that nobody asked for, such as propagated ones")
	f.StringVar(&origin, "origin", "", "only of this origin: user, auto or fsck")
	return a.projectFlag(a.outputFlags(cmd))
}

func originKind(s string) (pfspb.OriginKind, error) {
	if s == "" {
		return pfspb.OriginKind_ORIGIN_KIND_UNKNOWN, nil
	}
	if k, ok := pfspb.OriginKind_value[strings.ToUpper(s)]; ok {
		return pfspb.OriginKind(k), nil
	}
	return 0, fmt.Errorf("origin %q is none of user, auto, fsck", s)
}

func (s *session) listCommitSets(limit int64) error {
	seq := func(yield func(*pfspb.CommitSetInfo, error) bool) {
		n := int64(0)
		for set, err := range s.ListCommitSet(s.ctx, s.Project()) {
			if n++; limit > 0 && n > limit || !yield(set, err) {
				return
			}
		}
	}
	return list(s, seq, "ID\tSUBCOMMITS\tFINISHED\tCREATED", func(set *pfspb.CommitSetInfo) []string {
		finished, created := 0, "-"
		for _, c := range set.GetCommits() {
			if c.GetFinished() != nil {
				finished++
			}
			// Older commits that the set was made from are listed with it.
			if c.GetCommit().GetId() == set.GetCommitSet().GetId() {
				created = s.when(c.GetStarted())
			}
		}
		return []string{set.GetCommitSet().GetId(), fmt.Sprint(len(set.GetCommits())), fmt.Sprint(finished), created}
	})
}

func (a *app) subscribeCommitCmd() *cobra.Command {
	var from, origin string
	var onlyNew, all bool
	cmd := &cobra.Command{
		Use: "commit <repo>[@<branch>]", Short: "Print commits as they are made, without end", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			name, branch, _ := strings.Cut(args[0], "@")
			repo, err := s.repo(name)
			if err != nil {
				return err
			}
			kind, err := originKind(origin)
			if err != nil {
				return err
			}
			req := &pfspb.SubscribeCommitRequest{Repo: repo, Branch: branch, State: pfspb.CommitState_STARTED, All: all, OriginKind: kind}
			switch {
			case onlyNew && from != "":
				return errors.New("--new and --from exclude each other")
			case onlyNew:
				if branch == "" {
					return errors.New("--new needs a branch: <repo>@<branch>")
				}
				info, err := s.InspectBranch(s.ctx, &pfspb.Branch{Repo: repo, Name: branch})
				if err != nil && !errors.Is(err, client.ErrNotFound) {
					return err
				}
				req.From = info.GetHead()
			case from != "":
				if req.From, err = s.commit(name + "@" + from); err != nil {
					return err
				}
			}
			return s.unlessInterrupted(s.follow(req))
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&onlyNew, "new", false, "only commits after the present head of the branch")
	f.StringVar(&from, "from", "", "only commits after this one")
	f.StringVar(&origin, "origin", "", "only of this origin: user, auto or fsck")
	f.BoolVar(&all, "all", false, "include commits that nobody asked for")
	return a.projectFlag(a.outputFlags(cmd))
}

// follow prints each commit at once, so columns have fixed widths.
func (s *session) follow(req *pfspb.SubscribeCommitRequest) error {
	stream, err := s.PFS.SubscribeCommit(s.ctx, req)
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		c, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the server has ended the subscription")
		}
		if err != nil {
			return err
		}
		if s.whole() {
			err = s.encode(s.out, c, first)
		} else {
			_, err = fmt.Fprintf(s.out, "%s  %-14s  %10s  %-4s  %s\n", c.GetCommit().GetId(), s.when(c.GetStarted()), commitSize(c), c.GetOrigin().GetKind(), oneLine(c.GetDescription()))
		}
		if err != nil {
			return err
		}
	}
}

func (a *app) squashCommitCmd() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use: "commit <commit-set-id> | <repo>@<commit>", Short: "Remove commits; their children keep the data", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			if !strings.Contains(args[0], "@") {
				return s.SquashCommitSet(s.ctx, args[0])
			}
			commit, err := s.commit(args[0])
			if err != nil {
				return err
			}
			_, err = s.PFS.SquashCommit(s.ctx, &pfspb.SquashCommitRequest{Commit: commit, Recursive: recursive})
			return err
		}),
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "also the commits that depend on it")
	return a.projectFlag(cmd)
}

func (a *app) deleteCommitCmd() *cobra.Command {
	var recursive bool
	cmd := &cobra.Command{
		Use: "commit <commit-set-id> | <repo>@<commit>", Short: "Remove commits with their data; none may have children", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			if !strings.Contains(args[0], "@") {
				return s.DropCommitSet(s.ctx, args[0])
			}
			commit, err := s.commit(args[0])
			if err != nil {
				return err
			}
			_, err = s.PFS.DropCommit(s.ctx, &pfspb.DropCommitRequest{Commit: commit, Recursive: recursive})
			return err
		}),
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "r", false, "also the commits that depend on it")
	return a.projectFlag(cmd)
}

func (a *app) dropCommitCmd() *cobra.Command { return a.deleteCommitCmd() }

func (a *app) findCommitCmd() *cobra.Command {
	var limit uint32
	cmd := &cobra.Command{
		Use: "commit <repo>@<branch-or-commit>:<path>", Aliases: []string{"commits"},
		Short: "List the commits that added or deleted a path", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			file, err := s.file(args[0])
			if err != nil {
				return err
			}
			for r, err := range s.FindCommits(s.ctx, file.GetCommit(), file.GetPath(), limit) {
				if err != nil {
					return err
				}
				if c := r.GetFoundCommit(); c != nil {
					fmt.Fprintln(s.out, c.GetId())
				}
			}
			return nil
		}),
	}
	cmd.Flags().Uint32VarP(&limit, "limit", "n", 0, "stop after that many (0: none)")
	return a.projectFlag(cmd)
}
