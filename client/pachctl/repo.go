package pachctl

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/minipachd/minipachd/client"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

func (a *app) createRepoCmd() *cobra.Command {
	var description string
	cmd := &cobra.Command{
		Use: "repo <repo>", Short: "Make a repo", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			repo, err := s.repo(args[0])
			if err != nil {
				return err
			}
			return s.CreateRepo(s.ctx, repo, description)
		}),
	}
	cmd.Flags().StringVarP(&description, "description", "d", "", "what the repo is for")
	return a.projectFlag(cmd)
}

func (a *app) updateRepoCmd() *cobra.Command {
	var description string
	cmd := &cobra.Command{
		Use: "repo <repo>", Short: "Change the description of a repo", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			repo, err := s.repo(args[0])
			if err != nil {
				return err
			}
			return s.UpdateRepo(s.ctx, repo, description)
		}),
	}
	cmd.Flags().StringVarP(&description, "description", "d", "", "what the repo is for")
	return a.projectFlag(cmd)
}

func (a *app) inspectRepoCmd() *cobra.Command {
	return a.projectFlag(a.outputFlags(&cobra.Command{
		Use: "repo <repo>", Short: "Show a repo", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			repo, err := s.repo(args[0])
			if err != nil {
				return err
			}
			info, err := s.InspectRepo(s.ctx, repo)
			if err != nil {
				return err
			}
			return show(s, info, func(t *table) {
				t.field("Name", client.RepoName(info.GetRepo()))
				t.field("Description", info.GetDescription())
				t.field("Created", s.when(info.GetCreated()))
				t.field("Size of HEAD on master", size(info.GetDetails().GetSizeBytes()))
				t.field("Branches", branchNames(info.GetBranches()))
			})
		}),
	}))
}

func branchNames(branches []*pfspb.Branch) string {
	var names []string
	for _, b := range branches {
		names = append(names, b.GetName())
	}
	return strings.Join(names, ", ")
}

func (a *app) listRepoCmd() *cobra.Command {
	var allTypes, allProjects bool
	cmd := &cobra.Command{
		Use: "repo", Aliases: []string{"repos"}, Short: "List repos", Args: nargs(0, 0),
		RunE: a.remote(func(s *session, _ []string) error {
			kind := client.UserRepo
			if allTypes {
				kind = ""
			}
			projects := []string{s.Project()}
			if allProjects {
				projects = nil
			}
			return list(s, s.ListRepoByType(s.ctx, kind, projects...), "PROJECT\tNAME\tCREATED\tSIZE (<= MASTER)\tDESCRIPTION", func(r *pfspb.RepoInfo) []string {
				project, name, _ := strings.Cut(client.RepoName(r.GetRepo()), "/")
				return []string{project, name, s.when(r.GetCreated()), "≤ " + size(r.GetSizeBytesUpperBound()), r.GetDescription()}
			})
		}),
	}
	cmd.Flags().BoolVar(&allTypes, "all", false, "include the spec and meta repos of pipelines")
	cmd.Flags().BoolVarP(&allProjects, "all-projects", "A", false, "of every project")
	return a.projectFlag(a.outputFlags(cmd))
}

func (a *app) deleteRepoCmd() *cobra.Command {
	var force, all bool
	cmd := &cobra.Command{
		Use: "repo <repo>", Aliases: []string{"repos"}, Short: "Delete a repo with all its commits", Args: nargs(0, 1),
		RunE: a.remote(func(s *session, args []string) error {
			if all == (len(args) == 1) {
				return errors.New("name a repo, or give --all")
			}
			if all {
				repos, err := s.DeleteRepos(s.ctx, s.Project(), force)
				for _, r := range repos {
					fmt.Fprintln(s.out, client.RepoName(r))
				}
				return err
			}
			repo, err := s.repo(args[0])
			if err != nil {
				return err
			}
			deleted, err := s.DeleteRepo(s.ctx, repo, force)
			if err == nil && !deleted {
				err = errors.New("No repo deleted.") //nolint:staticcheck // scripts know this text
			}
			return err
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "delete it although branches elsewhere depend on it")
	cmd.Flags().BoolVar(&all, "all", false, "every repo of the project")
	return a.projectFlag(cmd)
}

func (a *app) createBranchCmd() *cobra.Command {
	var head string
	var provenance []string
	var trigger pfspb.Trigger
	cmd := &cobra.Command{
		Use: "branch <repo>@<branch>", Short: "Make a branch, or change one", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			branch, err := s.branch(args[0])
			if err != nil {
				return err
			}
			req := &pfspb.CreateBranchRequest{Branch: branch}
			if head != "" {
				// The server resolves branch names and ids alike from the id.
				_, ref, ok := strings.Cut(head, "@")
				if !ok {
					ref = head
				}
				req.Head = &pfspb.Commit{Repo: branch.GetRepo(), Id: ref, Branch: &pfspb.Branch{Repo: branch.GetRepo()}}
			}
			for _, p := range provenance {
				b, err := s.branch(p)
				if err != nil {
					return err
				}
				req.Provenance = append(req.Provenance, b)
			}
			if trigger.GetBranch() != "" {
				req.Trigger = &trigger
			} else if trigger.GetSize() != "" || trigger.GetCommits() != 0 || trigger.GetRateLimitSpec() != "" || trigger.GetCronSpec() != "" {
				return errors.New("a trigger needs the branch that it looks at: give --trigger <branch>")
			}
			_, err = s.PFS.CreateBranch(s.ctx, req)
			return err
		}),
	}
	f := cmd.Flags()
	f.StringVar(&head, "head", "", "branch or commit id that the branch starts at (default: an empty commit)")
	f.StringSliceVarP(&provenance, "provenance", "p", nil, "branches that it depends on, as <repo>@<branch>")
	f.StringVarP(&trigger.Branch, "trigger", "t", "", "branch whose head this one takes when the conditions hold")
	f.StringVar(&trigger.Size, "trigger-size", "", "condition: data added, for example 100MB")
	f.Int64Var(&trigger.Commits, "trigger-commits", 0, "condition: commits added")
	f.StringVar(&trigger.RateLimitSpec, "trigger-rate-limit", "", "condition: cron spec of the highest rate")
	f.StringVar(&trigger.CronSpec, "trigger-cron", "", "condition: cron spec, in place of the others")
	f.BoolVar(&trigger.All, "trigger-all", false, "all conditions must hold, not one of them")
	return a.projectFlag(cmd)
}

func (a *app) inspectBranchCmd() *cobra.Command {
	return a.projectFlag(a.outputFlags(&cobra.Command{
		Use: "branch <repo>@<branch>", Short: "Show a branch", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			branch, err := s.branch(args[0])
			if err != nil {
				return err
			}
			info, err := s.InspectBranch(s.ctx, branch)
			if err != nil {
				return err
			}
			return show(s, info, func(t *table) {
				t.field("Name", client.BranchName(info.GetBranch()))
				t.field("Head Commit", client.CommitName(info.GetHead()))
				for _, p := range info.GetProvenance() {
					t.field("Provenance", client.BranchName(p))
				}
				t.field("Trigger", triggerText(info.GetTrigger()))
			})
		}),
	}))
}

func triggerText(t *pfspb.Trigger) string {
	if t == nil {
		return "-"
	}
	var on []string
	if t.GetCronSpec() != "" {
		on = append(on, "cron "+t.GetCronSpec())
	}
	if t.GetRateLimitSpec() != "" {
		on = append(on, "at most "+t.GetRateLimitSpec())
	}
	if t.GetSize() != "" {
		on = append(on, t.GetSize())
	}
	if t.GetCommits() != 0 {
		on = append(on, fmt.Sprintf("%d commits", t.GetCommits()))
	}
	join := " or "
	if t.GetAll() {
		join = " and "
	}
	return t.GetBranch() + " on " + strings.Join(on, join)
}

func (a *app) listBranchCmd() *cobra.Command {
	return a.projectFlag(a.outputFlags(&cobra.Command{
		Use: "branch <repo>", Aliases: []string{"branches"}, Short: "List the branches of a repo", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			repo, err := s.repo(args[0])
			if err != nil {
				return err
			}
			return list(s, s.ListBranch(s.ctx, repo), "BRANCH\tHEAD\tTRIGGER", func(b *pfspb.BranchInfo) []string {
				return []string{b.GetBranch().GetName(), b.GetHead().GetId(), triggerText(b.GetTrigger())}
			})
		}),
	}))
}

func (a *app) deleteBranchCmd() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "branch <repo>@<branch>", Short: "Delete a branch; its commits stay", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			branch, err := s.branch(args[0])
			if err != nil {
				return err
			}
			return s.DeleteBranch(s.ctx, branch, force)
		}),
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "delete it although other branches depend on it")
	return a.projectFlag(cmd)
}
