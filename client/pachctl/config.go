package pachctl

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/minipachd/minipachd/client"
)

func (a *app) connectCmd() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "connect <address>", Short: "Make a pachd the one that commands talk to", Args: nargs(1, 1),
		Long: `Makes a context for the pachd at [grpc|grpcs|http|https|unix]://host[:port] and
uses it from now on. The address is not tried.`,
		RunE: withConfig(func(cmd *cobra.Command, cfg *client.Config, args []string) error {
			addr, err := client.ParseAddress(args[0])
			if err != nil {
				return err
			}
			if name == "" {
				name = addr.String()
				for old, x := range cfg.Contexts {
					if known, err := client.ParseAddress(x.PachdAddress); err == nil && known == addr {
						name = old
					}
				}
			}
			if cfg.Contexts[name] == nil {
				cfg.Contexts[name] = &client.Context{}
			}
			cfg.Contexts[name].PachdAddress = addr.String()
			cfg.ActiveContext = name
			if err := cfg.Save(); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "context %q is in use; it leads to %s\n", name, addr)
			return nil
		}),
	}
	cmd.Flags().StringVar(&name, "alias", "", "name of the context (default: the one of that address, else the address)")
	return cmd
}

// withConfig makes the function of a command that works on the configuration.
func withConfig(f func(cmd *cobra.Command, cfg *client.Config, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		cfg, err := client.LoadConfig("")
		if err != nil {
			return err
		}
		return f(cmd, cfg, args)
	}
}

func (a *app) configCmd() *cobra.Command {
	return verb("config", "Say which pachd to talk to, and how",
		verb("get", "Show a part of the configuration", getActiveContextCmd(), getEnterpriseContextCmd(), getContextCmd(), getMetricsCmd(), getPathCmd()),
		verb("set", "Set a part of the configuration", setActiveContextCmd(), setEnterpriseContextCmd(), setContextCmd(), setMetricsCmd()),
		verb("list", "List parts of the configuration", listContextCmd()),
		verb("update", "Change a part of the configuration", updateContextCmd()),
		verb("delete", "Delete a part of the configuration", deleteContextCmd()),
	)
}

func getActiveContextCmd() *cobra.Command {
	return &cobra.Command{
		Use: "active-context", Aliases: []string{"current-context"}, Short: "Print the name of the context in use", Args: nargs(0, 0),
		RunE: withConfig(func(cmd *cobra.Command, cfg *client.Config, _ []string) error {
			name, _, err := cfg.Active()
			if err == nil && name == "" {
				err = errors.New("no context is in use: `pachctl connect <address>` makes one")
			}
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), name)
			}
			return err
		}),
	}
}

func setActiveContextCmd() *cobra.Command {
	return &cobra.Command{
		Use: "active-context <context>", Aliases: []string{"current-context"}, Short: "Use a context from now on", Args: nargs(1, 1),
		RunE: withConfig(func(_ *cobra.Command, cfg *client.Config, args []string) error {
			if cfg.Contexts[args[0]] == nil {
				return noContext(args[0])
			}
			cfg.ActiveContext = args[0]
			return cfg.Save()
		}),
	}
}

func getEnterpriseContextCmd() *cobra.Command {
	return &cobra.Command{
		Use: "active-enterprise-context", Short: "Print the name of the context of the enterprise server, which pachctl does not need", Args: nargs(0, 0),
		RunE: withConfig(func(cmd *cobra.Command, cfg *client.Config, _ []string) error {
			name := cfg.ActiveEnterpriseContext
			if name == "" {
				name = cfg.ActiveContext
			}
			if name == "" {
				return errors.New("no context is in use: `pachctl connect <address>` makes one")
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), name)
			return err
		}),
	}
}

func setEnterpriseContextCmd() *cobra.Command {
	return &cobra.Command{
		Use: "active-enterprise-context <context>", Short: "Say which context is that of the enterprise server, for clients that need one", Args: nargs(1, 1),
		RunE: withConfig(func(_ *cobra.Command, cfg *client.Config, args []string) error {
			if cfg.Contexts[args[0]] == nil {
				return noContext(args[0])
			}
			cfg.ActiveEnterpriseContext = args[0]
			return cfg.Save()
		}),
	}
}

func noContext(name string) error { return fmt.Errorf("context %q does not exist", name) }

func getContextCmd() *cobra.Command {
	return &cobra.Command{
		Use: "context [<context>]", Short: "Print a context (default: the one in use) as JSON", Args: nargs(0, 1),
		RunE: withConfig(func(cmd *cobra.Command, cfg *client.Config, args []string) error {
			_, x, err := cfg.Active()
			if len(args) == 1 {
				x, err = cfg.Contexts[args[0]], nil
			}
			if err != nil {
				return err
			}
			if x == nil {
				return noContext(args[0])
			}
			text, err := json.MarshalIndent(x, "", "  ")
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "%s\n", text)
			}
			return err
		}),
	}
}

func setContextCmd() *cobra.Command {
	var overwrite bool
	cmd := &cobra.Command{
		Use: "context <context>", Short: "Make a context from JSON on standard input", Args: nargs(1, 1),
		RunE: withConfig(func(cmd *cobra.Command, cfg *client.Config, args []string) error {
			if cfg.Contexts[args[0]] != nil && !overwrite {
				return fmt.Errorf("context %q exists: give --overwrite to replace it", args[0])
			}
			data, err := io.ReadAll(cmd.InOrStdin())
			if err != nil {
				return err
			}
			x, err := client.ParseContext(data)
			if err != nil {
				return fmt.Errorf("the context on standard input: %w", err)
			}
			if x.PachdAddress != "" {
				if _, err := client.ParseAddress(x.PachdAddress); err != nil {
					return err
				}
			}
			cfg.Contexts[args[0]] = x
			return cfg.Save()
		}),
	}
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "replace a context that exists")
	return cmd
}

func listContextCmd() *cobra.Command {
	return &cobra.Command{
		Use: "context", Aliases: []string{"contexts"}, Short: "List contexts; * is the one in use", Args: nargs(0, 0),
		RunE: withConfig(func(cmd *cobra.Command, cfg *client.Config, _ []string) error {
			active, _, err := cfg.Active()
			if err != nil {
				active = "" // the list helps to put it right
			}
			t := newTable(cmd.OutOrStdout(), "ACTIVE\tNAME\tADDRESS\tPROJECT")
			for _, name := range slices.Sorted(maps.Keys(cfg.Contexts)) {
				mark := ""
				if name == active {
					mark = "*"
				}
				x := cfg.Contexts[name]
				t.row(mark, name, x.PachdAddress, x.Project)
			}
			return t.flush()
		}),
	}
}

func updateContextCmd() *cobra.Command {
	var address, project, casFile, clusterName, namespace, authInfo string
	cmd := &cobra.Command{
		Use: "context [<context>]", Short: "Change a context (default: the one in use)", Args: nargs(0, 1),
		RunE: withConfig(func(cmd *cobra.Command, cfg *client.Config, args []string) error {
			name, x, err := cfg.Active()
			if len(args) == 1 {
				name, err = args[0], nil
				if x = cfg.Contexts[name]; x == nil {
					return noContext(name)
				}
			}
			if err != nil {
				return err
			}
			if name == "" {
				name = "default"
				cfg.ActiveContext, cfg.Contexts[name] = name, x
			}
			set := cmd.Flags().Changed
			if set("pachd-address") {
				x.PachdAddress = ""
				if address != "" {
					addr, err := client.ParseAddress(address)
					if err != nil {
						return err
					}
					x.PachdAddress = addr.String()
				}
			}
			if set("server-cas") {
				pem, err := readIf(casFile)
				if err != nil {
					return err
				}
				x.ServerCAs = base64.StdEncoding.EncodeToString(pem)
			}
			if set("project") {
				x.Project = project
			}
			if set("cluster-name") {
				x.ClusterName = clusterName
			}
			if set("namespace") {
				x.Namespace = namespace
			}
			if set("auth-info") {
				if x.AuthInfo, err = json.Marshal(authInfo); err != nil {
					return err
				}
			}
			return cfg.Save()
		}),
	}
	f := cmd.Flags()
	f.StringVar(&address, "pachd-address", "", "where pachd is")
	f.StringVar(&project, "project", "", "project of names that have none")
	f.StringVar(&casFile, "server-cas", "", "PEM file of the CAs that may sign pachd's certificate")
	f.StringVar(&clusterName, "cluster-name", "", "name of the Kubernetes cluster")
	f.StringVar(&namespace, "namespace", "", "Kubernetes namespace")
	f.StringVar(&authInfo, "auth-info", "", "Kubernetes user")
	return cmd
}

// readIf reads a file; no name is no content.
func readIf(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	return os.ReadFile(name)
}

func deleteContextCmd() *cobra.Command {
	return &cobra.Command{
		Use: "context <context>", Short: "Delete a context", Args: nargs(1, 1),
		RunE: withConfig(func(_ *cobra.Command, cfg *client.Config, args []string) error {
			switch {
			case cfg.Contexts[args[0]] == nil:
				return noContext(args[0])
			case cfg.ActiveContext == args[0]:
				return fmt.Errorf("context %q is in use: use another one first", args[0])
			}
			delete(cfg.Contexts, args[0])
			return cfg.Save()
		}),
	}
}

func getMetricsCmd() *cobra.Command {
	return &cobra.Command{
		Use: "metrics", Short: "Print whether clients may report their use (pachctl never does)", Args: nargs(0, 0),
		RunE: withConfig(func(cmd *cobra.Command, cfg *client.Config, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), cfg.Metrics)
			return err
		}),
	}
}

func setMetricsCmd() *cobra.Command {
	return &cobra.Command{
		Use: "metrics (true | false)", Short: "Say whether clients may report their use", Args: nargs(1, 1),
		RunE: withConfig(func(_ *cobra.Command, cfg *client.Config, args []string) error {
			on, err := strconv.ParseBool(args[0])
			if err != nil {
				return fmt.Errorf("%q is neither true nor false", args[0])
			}
			cfg.Metrics = on
			return cfg.Save()
		}),
	}
}

func getPathCmd() *cobra.Command {
	return &cobra.Command{
		Use: "path", Short: "Print the path of the configuration", Args: nargs(0, 0),
		RunE: withConfig(func(cmd *cobra.Command, cfg *client.Config, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), cfg.Path())
			return err
		}),
	}
}
