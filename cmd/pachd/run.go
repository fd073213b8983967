package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"

	"github.com/minipachd/minipachd/pfs/remote"
	"github.com/minipachd/minipachd/server"
	"github.com/minipachd/minipachd/store/disk"
)

// run is main without the process around it; it returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends it at once, as SIGKILL does, and with it all workers: whoever
	// sends it does not want to wait for their grace periods.
	context.AfterFunc(ctx, stop)
	cmd := command(stdout, stderr)
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "pachd: %v\n", err)
		return 1
	}
	return 0
}

// command declares every flag; each has an environment variable of the same
// name, PACHD_ in front, upper case, dashes as underscores.
func command(stdout, stderr io.Writer) *cobra.Command {
	cfg := server.Config{DiskReserve: disk.DefaultReserve, MemoryLimit: server.DefaultMemoryLimit, EtcdQuota: server.DefaultEtcdQuota, URLs: remote.Policy{MaxBytes: remote.DefaultMaxBytes}}
	var logLevel, rootTokenFile string
	cmd := &cobra.Command{
		Use:   "pachd",
		Short: "Keeps spouts alive and their data versioned, over gRPC and REST",
		Long: `pachd serves versioned repos (PFS) and pipelines (PPS), above all spouts:
programs that run for ever, take data from outside and commit it to a repo.

It needs nothing else to run: etcd is embedded, data goes to a local directory,
workers are local processes. Ctrl-C stops it and its workers gracefully, a
second one at once; starting it again continues with all data.

Every flag can be given as an environment variable: --data-dir is PACHD_DATA_DIR,
lists are separated by commas. A flag on the command line wins.`,
		Version: server.Version,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("there is no argument %q: pachd takes flags only, its commands are those of pachctl", args[0])
			}
			return nil
		},
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.GCInterval < 0 || cfg.GCGrace < 0 {
				return errors.New("--gc-interval and --gc-grace must not be negative; --gc-interval 0 collects no garbage")
			}
			if cfg.GCInterval == 0 {
				cfg.GCInterval = -1 // in a Config 0 is the default
			}
			if cfg.GCGrace == 0 {
				cfg.GCGrace = -1
			}
			for _, d := range []struct {
				flag  string
				value time.Duration
			}{
				{"initial-backoff", cfg.InitialBackoff},
				{"max-backoff", cfg.MaxBackoff},
				{"backoff-reset", cfg.ResetAfter},
				{"lease-ttl", cfg.LeaseTTL},
			} {
				if d.value == 0 {
					return fmt.Errorf("--%s must not be 0", d.flag)
				}
			}
			switch {
			case cfg.Grace < 0:
				return errors.New("--grace-period must not be negative; 0 is none")
			case cfg.Grace == 0:
				cfg.Grace = -1
			}
			switch {
			case cfg.BackoffFactor == 0:
				return errors.New("--backoff-factor is 0; want 1 to 100")
			case cfg.BackoffJitter < 0:
				return errors.New("--backoff-jitter must not be negative; 0 is none")
			case cfg.BackoffJitter == 0:
				cfg.BackoffJitter = -1
			}
			var err error
			if cfg.RootToken, err = rootToken(rootTokenFile, os.LookupEnv); err != nil {
				return err
			}
			tty := isTerminal(stderr)
			log, err := newLogger(stderr, logLevel, tty)
			if err != nil {
				return err
			}
			defer func() { _ = log.Sync() }() // a terminal cannot be synced
			cfg.Logger = log
			return serve(cmd.Context(), cfg, stdout)
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return fmt.Errorf("%w; pachd --help explains every flag", err)
	})
	cmd.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&cfg.Listen, "listen", server.DefaultListen, "host:port that serves gRPC and REST")
	f.StringVar(&cfg.Advertise, "advertise", "", "host:port at which the other daemons on --etcd-endpoints reach this one (default: that of --listen, with the machine's name if that is every address)")
	f.StringVar(&cfg.DataDir, "data-dir", server.DefaultDataDir, "directory for etcd, objects, logs and workers' scratch space; made if missing")
	f.StringSliceVar(&cfg.Apply, "apply", nil, "spec file (JSON or YAML) whose pipelines are created, or updated if they differ; may be repeated")
	f.StringVar(&cfg.Bucket, "bucket", "", "URL of the object store: file:///path, or mem:// for a throw-away one (default: the folder objects of --data-dir)")
	f.Var(&byteSize{&cfg.DiskReserve}, "disk-reserve", "free space kept on the disks of --data-dir and --bucket: below it data is refused, and below half of it every write; 0 keeps none")
	f.Var(&byteSize{&cfg.EtcdQuota}, "etcd-quota", "size that the database of the embedded etcd may reach; data is refused a sixteenth before. Also of --etcd-endpoints before etcd 3.6, which do not tell theirs")
	f.Var(&byteSize{&cfg.MemoryLimit}, "memory-limit", "memory that the garbage collector keeps pachd near, without the pages of etcd's file; 0 for none")
	f.StringVar(&cfg.Runtime, "runtime", server.DefaultRuntime, "how workers are started: process (local processes)")
	f.StringVar(&cfg.SecretKeyFile, "secret-key-file", "", "file with the key that secrets are encrypted with, 64 hexadecimal digits (default: secret.key in --data-dir, made at the first start)")
	f.StringVar(&cfg.TLSCert, "tls-cert", "", "PEM file of the certificate to serve TLS with, followed by those between it and its CA; looked at again when it changes")
	f.StringVar(&cfg.TLSKey, "tls-key", "", "PEM file of the key of --tls-cert")
	f.BoolVar(&cfg.TLSAuto, "tls-auto", false, "serve TLS with a certificate of a CA of this machine's own, made in the folder tls of --data-dir")
	f.StringVar(&cfg.TLSClientCA, "tls-client-ca", "", "PEM file of CAs: only clients with a certificate that one of them has signed are served")
	f.StringVar(&rootTokenFile, "auth-root-token-file", "", "file with the token of the root user, to be used when auth is turned on (default: the environment variable AUTH_ROOT_TOKEN, or a random one)")
	f.StringVar(&cfg.AuditDir, "audit-dir", "", `directory of the audit log, or "off" for none (default: the folder audit of --data-dir)`)
	f.DurationVar(&cfg.Grace, "grace-period", server.DefaultGrace, "time that a worker has between SIGTERM and SIGKILL; 0 for none")
	f.DurationVar(&cfg.GCInterval, "gc-interval", server.DefaultGCInterval, "time between two collections of garbage in the bucket and in etcd; 0 for none")
	f.DurationVar(&cfg.GCGrace, "gc-grace", server.DefaultGCGrace, "time that readers may go on with a commit after it was deleted")
	f.StringSliceVar(&cfg.URLs.Schemes, "url-sources", remote.Schemes(), "schemes of URLs that files may be taken from and written to; empty for none")
	f.BoolVar(&cfg.URLs.AllowPrivate, "url-allow-private", false, "let such URLs lead to addresses that are not public: loopback, link-local, private networks")
	f.StringVar(&cfg.URLs.FileRoot, "url-file-root", "", "directory of this machine that file:// URLs may read and write (default: none)")
	f.DurationVar(&cfg.URLs.Timeout, "url-timeout", remote.DefaultTimeout, "time that taking from, or writing to, one URL may last")
	f.Var(&byteSize{&cfg.URLs.MaxBytes}, "url-max-bytes", "bytes that may be taken from one URL")
	f.DurationVar(&cfg.InitialBackoff, "initial-backoff", server.DefaultInitialBackoff, "pause before a worker that failed is started again; grows with each failure in a row")
	f.DurationVar(&cfg.MaxBackoff, "max-backoff", server.DefaultMaxBackoff, "longest such pause")
	f.Float64Var(&cfg.BackoffFactor, "backoff-factor", server.DefaultBackoffFactor, "from one such pause to the next")
	f.Float64Var(&cfg.BackoffJitter, "backoff-jitter", server.DefaultBackoffJitter, "share by which each such pause varies at random, up and down, 0 to 0.5")
	f.DurationVar(&cfg.ResetAfter, "backoff-reset", server.DefaultResetAfter, "a worker that was up so long starts over with the first pause")
	f.DurationVar(&cfg.LeaseTTL, "lease-ttl", server.DefaultLeaseTTL, "how long after a daemon's death the others on its etcd run its spouts")
	f.StringSliceVar(&cfg.EtcdEndpoints, "etcd-endpoints", nil, "host:port of etcd members to use instead of the embedded etcd")
	f.StringVar(&cfg.EtcdUsername, "etcd-username", "", "user at --etcd-endpoints")
	f.StringVar(&cfg.EtcdPassword, "etcd-password", "", "password of --etcd-username; better given as PACHD_ETCD_PASSWORD")
	f.StringVar(&cfg.EtcdCA, "etcd-ca", "", "PEM file of the CA that signed the certificates of --etcd-endpoints")
	f.StringVar(&cfg.EtcdCert, "etcd-cert", "", "PEM file of the client certificate for --etcd-endpoints")
	f.StringVar(&cfg.EtcdKey, "etcd-key", "", "PEM file of the key of --etcd-cert")
	f.DurationVar(&cfg.Idempotency.Retention, "idempotency-retention", server.DefaultIdempotencyRetention, "how long the idempotency key of a commit is remembered")
	f.Int64Var(&cfg.Idempotency.Keys, "idempotency-keys", server.DefaultIdempotencyKeys, "how many idempotency keys are remembered, of all branches together; the oldest are forgotten first")
	f.StringVar(&logLevel, "log-level", "", "debug, info, warn or error (default: warn on a terminal, info otherwise)")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error { return fromEnv(cmd.Flags(), os.LookupEnv) }
	return cmd
}

// rootToken is the root token that whoever runs the daemon has chosen, if any.
func rootToken(file string, lookup func(string) (string, bool)) (string, error) {
	if file == "" {
		token, _ := lookup("AUTH_ROOT_TOKEN")
		return token, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("--auth-root-token-file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", fmt.Errorf("--auth-root-token-file: %s is empty", file)
	}
	return token, nil
}

// fromEnv sets the flags that the command line left alone from the environment.
func fromEnv(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var err error
	flags.VisitAll(func(f *pflag.Flag) {
		name := "PACHD_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		v, ok := lookup(name)
		if err != nil || !ok || f.Changed || f.Name == "help" {
			return
		}
		if e := flags.Set(f.Name, v); e != nil {
			err = fmt.Errorf("environment variable %s: %w", name, e)
		}
	})
	return err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// newLogger writes for people on a terminal and JSON lines otherwise.
func newLogger(w io.Writer, level string, tty bool) (*zap.Logger, error) {
	at := zapcore.InfoLevel
	if tty {
		at = zapcore.WarnLevel
	}
	if level != "" {
		var err error
		if at, err = zapcore.ParseLevel(level); err != nil {
			return nil, fmt.Errorf("log level %q: want debug, info, warn or error", level)
		}
	}
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	cfg.EncodeDuration = zapcore.StringDurationEncoder
	enc := zapcore.NewJSONEncoder(cfg)
	if tty {
		cfg.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		cfg.EncodeLevel = zapcore.CapitalColorLevelEncoder
		enc = zapcore.NewConsoleEncoder(cfg)
	}
	return zap.New(zapcore.NewCore(enc, zapcore.Lock(zapcore.AddSync(w)), at)), nil
}

// serve runs the daemon until ctx ends and tells the person in front of it what
// they need to know.
func serve(ctx context.Context, cfg server.Config, stdout io.Writer) error {
	s, err := server.New(ctx, cfg)
	if err != nil {
		return err
	}
	stopping := context.AfterFunc(ctx, func() {
		fmt.Fprintln(stdout, "\nstopping: workers first, then requests, then storage (Ctrl-C again: all at once)")
	})
	defer stopping()
	dir := s.DataDir()
	if err := s.Run(ctx, func() { greet(stdout, s) }); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "stopped; all data is in %s\n", dir)
	return nil
}

// greet prints where the daemon is and what to type next.
func greet(w io.Writer, s *server.Server) {
	with := ""
	if s.Secure() {
		with = ", with TLS"
	}
	fmt.Fprintf(w, "pachd listens on %s (gRPC, and REST under /api/%s)\n", s.Addr(), with)
	fmt.Fprintf(w, "data lies in     %s\n", s.DataDir())
	pachctl := "go run ./cmd/pachctl"
	switch {
	case s.Secure():
		pachctl = "PACHD_ADDRESS=grpcs://" + s.Addr() + " " + pachctl
		if ca := s.CAFile(); ca != "" {
			pachctl = "SSL_CERT_FILE=" + ca + " " + pachctl
			fmt.Fprintf(w, "clients trust    %s\n", ca)
		}
	case s.Addr() != server.DefaultListen:
		pachctl = "PACHD_ADDRESS=" + s.Addr() + " " + pachctl
	}
	next := []string{"create pipeline -f examples/heartbeat/pipeline.json"}
	for _, a := range s.Applied() {
		fmt.Fprintf(w, "pipeline         %s (%s)\n", a.Pipeline, a.Action)
	}
	if applied := s.Applied(); len(applied) > 0 {
		name := applied[0].Pipeline
		next = []string{
			"list file " + name + "@master",
			"get file " + name + "@master:/$(date -u +%F).jsonl",
			"logs -p " + name + " -f",
		}
	}
	fmt.Fprintf(w, "\nIn a second terminal:\n")
	for _, n := range next {
		fmt.Fprintf(w, "  %s %s\n", pachctl, n)
	}
	fmt.Fprintf(w, "\nCtrl-C stops everything.\n")
}
