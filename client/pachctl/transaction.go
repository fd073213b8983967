package pachctl

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/minipachd/minipachd/client"
	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
)

// The transaction that commands are part of is remembered in the context in use.

// remembered reads the configuration and the context in use, which must exist for
// a transaction to be remembered in.
func remembered() (*client.Config, *client.Context, error) {
	cfg, err := client.LoadConfig("")
	if err != nil {
		return nil, nil, err
	}
	name, x, err := cfg.Active()
	if err != nil {
		return nil, nil, err
	}
	if name == "" {
		return nil, nil, errors.New("no context is in use that could remember a transaction: `pachctl connect <address>` makes one")
	}
	return cfg, x, nil
}

// activate remembers a transaction; "" forgets it.
func activate(id string) error {
	cfg, x, err := remembered()
	if err != nil {
		return err
	}
	x.ActiveTransaction = id
	return cfg.Save()
}

// forget forgets a transaction if it is the one that is remembered.
func forget(id string) error {
	cfg, x, err := remembered()
	if err != nil || x.ActiveTransaction != id {
		return nil //nolint:nilerr // nothing is remembered
	}
	x.ActiveTransaction = ""
	return cfg.Save()
}

// chosen is the transaction that an argument names, else the active one.
func chosen(args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	_, x, err := remembered()
	if err != nil {
		return "", err
	}
	if x.ActiveTransaction == "" {
		return "", errors.New("no transaction is active: name one, or start one")
	}
	return x.ActiveTransaction, nil
}

// tellQueued says on stderr, once, that the server has added a call to a
// transaction instead of carrying it out.
func (a *app) tellQueued(cmd *cobra.Command) client.Option {
	var once sync.Once
	return client.WithDialOptions(grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			var header metadata.MD
			err := invoke(ctx, method, req, reply, cc, append(opts, grpc.Header(&header))...)
			if id := header.Get("pach-transaction"); err == nil && len(id) > 0 {
				once.Do(func() { fmt.Fprintln(cmd.ErrOrStderr(), "Added to transaction:", id[0]) })
			}
			return err
		}))
}

func (a *app) startTransactionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "transaction", Short: "Start a transaction: the commands that follow are part of it", Args: nargs(0, 0),
		Long: `Starts a transaction. Until it is finished, deleted or stopped, commands that create
or delete repos and branches, start, finish or squash commits and create or update
pipelines are added to it; they print what they would have done. All other commands
run at once.`,
		RunE: a.remote(func(s *session, _ []string) error {
			_, x, err := remembered()
			if err != nil {
				return err
			}
			if x.ActiveTransaction != "" {
				return fmt.Errorf("transaction %s is active: finish, delete or stop it first", x.ActiveTransaction)
			}
			id, err := s.StartTransaction(s.ctx)
			if err != nil {
				return err
			}
			if err := activate(id); err != nil {
				return errors.Join(err, s.DeleteTransaction(s.ctx, id))
			}
			fmt.Fprintln(s.out, "Started new transaction:", id)
			return nil
		}),
	}
}

func (a *app) finishTransactionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "transaction [<transaction>]", Short: "Carry out all that a transaction (default: the active one) holds", Args: nargs(0, 1),
		RunE: a.remote(func(s *session, args []string) error {
			id, err := chosen(args)
			if err != nil {
				return err
			}
			info, err := s.FinishTransaction(s.ctx, id)
			if err != nil {
				return s.forgetGone(id, err)
			}
			fmt.Fprintf(s.out, "Completed transaction with %d requests: %s\n", len(info.GetRequests()), id)
			return forget(id)
		}),
	}
}

// forgetGone gives err, what came of finishing or deleting a transaction, and
// forgets the transaction if that is because the server does not have it. NotFound
// may also be about what a call of it needs.
func (s *session) forgetGone(id string, err error) error {
	if !errors.Is(err, client.ErrNotFound) {
		return err
	}
	if _, e := s.InspectTransaction(s.ctx, id); errors.Is(e, client.ErrNotFound) {
		return errors.Join(err, forget(id))
	}
	return err
}

func (a *app) deleteTransactionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "transaction [<transaction>]", Short: "Forget a transaction (default: the active one) and what it holds", Args: nargs(0, 1),
		RunE: a.remote(func(s *session, args []string) error {
			id, err := chosen(args)
			if err != nil {
				return err
			}
			if err := s.DeleteTransaction(s.ctx, id); err != nil {
				return s.forgetGone(id, err)
			}
			return forget(id)
		}),
	}
}

func (a *app) stopTransactionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "transaction", Short: "Stop adding commands to the active transaction; it stays open", Args: nargs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			id, err := chosen(nil)
			if err != nil {
				return err
			}
			if err := forget(id); err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "Cleared active transaction:", id)
			return nil
		},
	}
}

func (a *app) resumeTransactionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "transaction <transaction>", Short: "Add the commands that follow to an open transaction", Args: nargs(1, 1),
		RunE: a.remote(func(s *session, args []string) error {
			info, err := s.InspectTransaction(s.ctx, args[0])
			if err != nil {
				return err
			}
			if err := activate(args[0]); err != nil {
				return err
			}
			fmt.Fprintf(s.out, "Resuming existing transaction with %d requests: %s\n", len(info.GetRequests()), args[0])
			return nil
		}),
	}
}

func (a *app) inspectTransactionCmd() *cobra.Command {
	return a.outputFlags(&cobra.Command{
		Use: "transaction [<transaction>]", Short: "Show an open transaction (default: the active one)", Args: nargs(0, 1),
		RunE: a.remote(func(s *session, args []string) error {
			id, err := chosen(args)
			if err != nil {
				return err
			}
			info, err := s.InspectTransaction(s.ctx, id)
			if err != nil {
				return err
			}
			return show(s, info, func(t *table) {
				t.field("ID", info.GetTransaction().GetId())
				t.field("Started", s.when(info.GetStarted()))
				t.field("Requests", fmt.Sprint(len(info.GetRequests())))
				for i, r := range info.GetRequests() {
					t.field(fmt.Sprint(i+1), callText(r))
				}
			})
		}),
	})
}

// callText names the call that a request holds and what it is about.
func callText(r *transactionpb.TransactionRequest) (text string) {
	r.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		text = string(f.Name())
		return false
	})
	var about string
	switch {
	case r.GetCreateRepo() != nil:
		about = client.RepoName(r.GetCreateRepo().GetRepo())
	case r.GetDeleteRepo() != nil:
		about = client.RepoName(r.GetDeleteRepo().GetRepo())
	case r.GetStartCommit() != nil:
		about = client.BranchName(r.GetStartCommit().GetBranch())
	case r.GetFinishCommit() != nil:
		about = client.CommitName(r.GetFinishCommit().GetCommit())
	case r.GetSquashCommitSet() != nil:
		about = r.GetSquashCommitSet().GetCommitSet().GetId()
	case r.GetCreateBranch() != nil:
		about = client.BranchName(r.GetCreateBranch().GetBranch())
	case r.GetDeleteBranch() != nil:
		about = client.BranchName(r.GetDeleteBranch().GetBranch())
	case r.GetCreatePipelineV2() != nil:
		about = pipelineName(r.GetCreatePipelineV2().GetCreatePipelineRequest().GetPipeline())
	}
	if about != "" {
		text += " " + about
	}
	return text
}

func (a *app) listTransactionCmd() *cobra.Command {
	return a.outputFlags(&cobra.Command{
		Use: "transaction", Aliases: []string{"transactions"}, Short: "List open transactions; * is the active one", Args: nargs(0, 0),
		RunE: a.remote(func(s *session, _ []string) error {
			active, _ := chosen(nil) // there may be none
			infos, err := s.ListTransaction(s.ctx)
			if err != nil {
				return err
			}
			all := func(yield func(*transactionpb.TransactionInfo, error) bool) {
				for _, info := range infos {
					if !yield(info, nil) {
						return
					}
				}
			}
			return list(s, all, "ACTIVE\tTRANSACTION\tSTARTED\tREQUESTS", func(info *transactionpb.TransactionInfo) []string {
				mark := ""
				if info.GetTransaction().GetId() == active {
					mark = "*"
				}
				return []string{mark, info.GetTransaction().GetId(), s.when(info.GetStarted()), fmt.Sprint(info.GetVersion())}
			})
		}),
	})
}
