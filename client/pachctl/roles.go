package pachctl

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/minipachd/minipachd/client"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// resource names what roles are bound to, as arguments do.
func (s *session) resource(kind, name string) (*authpb.Resource, error) {
	switch kind {
	case "cluster":
		return &authpb.Resource{Type: authpb.ResourceType_CLUSTER}, nil
	case "project":
		return &authpb.Resource{Type: authpb.ResourceType_PROJECT, Name: name}, nil
	}
	repo, err := s.repo(name)
	if err != nil {
		return nil, err
	}
	return &authpb.Resource{Type: authpb.ResourceType_REPO, Name: repo.GetProject().GetName() + "/" + repo.GetName()}, nil
}

// bindingCmd is a command with one form each for the cluster, a project and a repo.
// run gets the arguments that come after the name of the resource, n of them.
func (a *app) bindingCmd(name, short, args string, n int, run func(*session, *authpb.Resource, []string) error) *cobra.Command {
	var nouns []*cobra.Command
	for _, kind := range []string{"cluster", "project", "repo"} {
		use, named := kind, 0
		if kind != "cluster" {
			use, named = kind+" <"+kind+">", 1
		}
		nouns = append(nouns, a.projectFlag(&cobra.Command{
			Use: strings.TrimSpace(use + " " + args), Short: short + " the " + kind, Args: nargs(named+n, named+n),
			RunE: a.remote(func(s *session, args []string) error {
				var of string
				if named == 1 {
					of = args[0]
				}
				res, err := s.resource(kind, of)
				if err != nil {
					return err
				}
				return run(s, res, args[named:])
			}),
		}))
	}
	return verb(name, short+" the cluster, a project or a repo", nouns...)
}

func (a *app) getRolesCmd() *cobra.Command {
	return a.bindingCmd("get", "Show who has which roles on", "", 0, func(s *session, res *authpb.Resource, _ []string) error {
		resp, err := s.Auth.GetRoleBinding(s.ctx, &authpb.GetRoleBindingRequest{Resource: res})
		if err != nil {
			return err
		}
		var lines []string
		for principal, roles := range resp.GetBinding().GetEntries() {
			var names []string
			for role, has := range roles.GetRoles() {
				if has {
					names = append(names, role)
				}
			}
			slices.Sort(names)
			lines = append(lines, fmt.Sprintf("%s: [%s]\n", principal, strings.Join(names, " ")))
		}
		slices.Sort(lines)
		_, err = fmt.Fprint(s.out, strings.Join(lines, ""))
		return err
	})
}

func (a *app) setRolesCmd() *cobra.Command {
	return a.bindingCmd("set", "Replace the roles of somebody on", "<role>[,<role>...]|none <subject>", 2, func(s *session, res *authpb.Resource, args []string) error {
		var roles []string
		if args[0] != "none" {
			roles = strings.Split(args[0], ",")
		}
		_, err := s.Auth.ModifyRoleBinding(s.ctx, &authpb.ModifyRoleBindingRequest{Resource: res, Roles: roles, Principal: args[1]})
		return err
	})
}

func (a *app) checkRolesCmd() *cobra.Command {
	return a.bindingCmd("check", "Show what you may do with", "", 0, func(s *session, res *authpb.Resource, _ []string) error {
		resp, err := s.Auth.GetPermissions(s.ctx, &authpb.GetPermissionsRequest{Resource: res})
		if err != nil {
			return err
		}
		fmt.Fprintf(s.out, "Roles: [%s]\nPermissions: %v\n", strings.Join(resp.GetRoles(), " "), resp.GetPermissions())
		return nil
	})
}

func (a *app) rolesForPermissionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "roles-for-permission <permission>", Short: "List the roles that grant a permission", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			n, ok := authpb.Permission_value[strings.ToUpper(args[0])]
			if !ok {
				return fmt.Errorf("unknown permission %q; they are named as in denials, such as REPO_READ", args[0])
			}
			resp, err := s.Auth.GetRolesForPermission(s.ctx, &authpb.GetRolesForPermissionRequest{Permission: authpb.Permission(n)})
			if err != nil {
				return err
			}
			var names []string
			for _, r := range resp.GetRoles() {
				names = append(names, r.GetName())
			}
			slices.Sort(names)
			for _, name := range names {
				fmt.Fprintln(s.out, name)
			}
			return nil
		}),
	}
}

func (a *app) rotateRootTokenCmd() *cobra.Command {
	var supply bool
	cmd := &cobra.Command{
		Use: "rotate-root-token", Short: "Replace the root token, and keep the new one in the context if it has the old one", Args: nargs(0, 0),
		RunE: a.remote(func(s *session, _ []string) error {
			req := &authpb.RotateRootTokenRequest{}
			who, err := s.WhoAmI(s.ctx)
			if err != nil {
				return err
			}
			if supply {
				if req.RootToken, err = s.secretLine("Token: "); err != nil {
					return err
				}
			}
			resp, err := s.Auth.RotateRootToken(s.ctx, req)
			if err != nil {
				return err
			}
			// It is printed first: nobody could get it again.
			fmt.Fprintln(s.out, resp.GetRootToken())
			if who.GetUsername() != "pach:root" {
				return nil
			}
			return saveToken(resp.GetRootToken())
		}),
	}
	cmd.Flags().BoolVar(&supply, "supply-root-token", false, "read the new token from standard input")
	return cmd
}

func (a *app) activateAuthCmd() *cobra.Command {
	var supply, only bool
	cmd := &cobra.Command{
		Use: "activate", Short: "Turn auth on, and keep the root token in the context", Args: nargs(0, 0),
		Long: `Turn auth on, print the root token and keep it in the context, and then give what
there is already, repos and pipelines, its role bindings. If auth is on, only the
latter is done, with the token of the context.`,
		RunE: a.remote(func(s *session, _ []string) error {
			req := &authpb.ActivateRequest{}
			var err error
			if supply {
				if req.RootToken, err = s.secretLine("Token: "); err != nil {
					return err
				}
			}
			c := s.Client
			resp, err := s.Auth.Activate(s.ctx, req)
			switch {
			case err == nil:
				// It is printed first: nobody could get it again.
				fmt.Fprintln(s.err, "This is the root token. Store it safely: without it nobody gets in who has no other.")
				fmt.Fprintln(s.out, resp.GetPachToken())
				if err := saveToken(resp.GetPachToken()); err != nil {
					return err
				}
				if c, err = client.NewFromEnv(client.WithToken(resp.GetPachToken())); err != nil {
					return err
				}
				defer c.Close()
			case !strings.Contains(err.Error(), "the auth service is already activated"):
				return err
			}
			if _, err = c.PFS.ActivateAuth(s.ctx, &pfspb.ActivateAuthRequest{}); err != nil {
				err = fmt.Errorf("role bindings of repos: %w", err)
			}
			_, errPPS := c.PPS.ActivateAuth(s.ctx, &ppspb.ActivateAuthRequest{})
			if errPPS != nil {
				errPPS = fmt.Errorf("role bindings of pipelines: %w", errPPS)
			}
			return errors.Join(err, errPPS)
		}),
	}
	cmd.Flags().BoolVar(&supply, "supply-root-token", false, "read the root token from standard input")
	cmd.Flags().BoolVar(&only, "only-activate", false, "accepted for compatibility: nothing else is done")
	return cmd
}

func (a *app) deactivateAuthCmd() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "deactivate", Short: "Turn auth off, and delete all tokens, roles and groups, after asking", Args: nargs(0, 0),
		RunE: a.remote(func(s *session, _ []string) error {
			if !yes {
				fmt.Fprintln(s.err, "This deletes all tokens, role bindings and groups; everybody may then do everything.")
				if !s.ask("Are you sure?") {
					return errDeclined
				}
			}
			_, err := s.Auth.Deactivate(s.ctx, &authpb.DeactivateRequest{})
			return err
		}),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func (a *app) revokeCmd() *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use: "revoke", Short: "Make a token, read from standard input, or all those of a user invalid", Args: nargs(0, 0),
		RunE: a.remote(func(s *session, _ []string) error {
			if user != "" {
				resp, err := s.Auth.RevokeAuthTokensForUser(s.ctx, &authpb.RevokeAuthTokensForUserRequest{Username: user})
				if err == nil {
					_, err = fmt.Fprintf(s.out, "%d tokens revoked\n", resp.GetNumber())
				}
				return err
			}
			token, err := s.secretLine("Token: ")
			if err != nil {
				return err
			}
			resp, err := s.Auth.RevokeAuthToken(s.ctx, &authpb.RevokeAuthTokenRequest{Token: token})
			if err == nil {
				_, err = fmt.Fprintf(s.out, "%d tokens revoked\n", resp.GetNumber())
			}
			return err
		}),
	}
	cmd.Flags().StringVar(&user, "user", "", "whose tokens, such as user:someone@example.com")
	return cmd
}

func (a *app) getGroupsCmd() *cobra.Command {
	return &cobra.Command{
		Use: "get-groups [<subject>]", Short: "List the groups that you are in, or somebody else", Args: nargs(0, 1),
		RunE: a.remote(func(s *session, args []string) error {
			var resp *authpb.GetGroupsResponse
			var err error
			if len(args) == 0 {
				resp, err = s.Auth.GetGroups(s.ctx, &authpb.GetGroupsRequest{})
			} else {
				resp, err = s.Auth.GetGroupsForPrincipal(s.ctx, &authpb.GetGroupsForPrincipalRequest{Principal: args[0]})
			}
			if err != nil {
				return err
			}
			for _, g := range resp.GetGroups() {
				fmt.Fprintln(s.out, g)
			}
			return nil
		}),
	}
}
