package server

import (
	"cmp"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"go.uber.org/zap"

	"github.com/minipachd/minipachd/pfs"
	"github.com/minipachd/minipachd/pfs/remote"
	"github.com/minipachd/minipachd/store"
	"github.com/minipachd/minipachd/store/disk"
)

// Config says how one daemon runs. The zero value of a field means its default.
type Config struct {
	// Listen is the host:port that serves gRPC and REST; port 0 takes a free one.
	Listen string
	// Advertise is the host:port at which the other daemons on the same etcd reach this
	// one; empty means where it listens, by the machine's name if that is everywhere.
	Advertise string
	// DataDir holds embedded etcd, objects, logs and workers' scratch space.
	DataDir string
	// EtcdEndpoints are those of an etcd cluster to use instead of the embedded one.
	EtcdEndpoints []string
	// EtcdQuota is how many bytes the database of the embedded etcd may have, and that of
	// a cluster which does not tell its own quota (before etcd 3.6).
	EtcdQuota int64
	// EtcdUsername and EtcdPassword are sent to EtcdEndpoints when not empty.
	EtcdUsername, EtcdPassword string
	// EtcdCA, EtcdCert and EtcdKey are PEM files for TLS to EtcdEndpoints.
	EtcdCA, EtcdCert, EtcdKey string
	// Bucket is the URL of the object store; empty means a folder of DataDir.
	Bucket string
	// Idempotency says how long clients' idempotency keys are remembered.
	Idempotency pfs.Idempotency
	// DiskReserve is how many bytes of the disks of DataDir and Bucket stay free:
	// below that data is refused, and below half of it all other writes. Negative
	// keeps nothing free.
	DiskReserve int64
	// MemoryLimit is how many bytes of memory the garbage collector keeps the process
	// near, see limitMemory; 0 leaves it alone. It concerns the whole process.
	MemoryLimit int64
	// Runtime starts the workers of spouts: "process".
	Runtime string
	// Apply lists spec files whose pipelines are created or updated at start.
	Apply []string
	// SecretKeyFile holds the key that secrets are encrypted with; empty means a file
	// of DataDir, made at the first start.
	SecretKeyFile string
	// RootToken is the only token of the root user, if auth is or is turned on; empty
	// lets whoever turns it on choose.
	RootToken string
	// AuditDir has the audit log; empty means a folder of DataDir, AuditOff none.
	AuditDir string
	// Grace is how long a worker has between SIGTERM and SIGKILL; negative: no time.
	Grace time.Duration
	// GCInterval is the time between two garbage collections; negative for none.
	GCInterval time.Duration
	// GCGrace is how long readers may go on with a commit after it was deleted;
	// negative for not at all.
	GCGrace time.Duration
	// URLs says which URLs files may be taken from and written to. Nil schemes mean
	// all but file.
	URLs remote.Policy
	// InitialBackoff, MaxBackoff and ResetAfter are the pauses between starts of a
	// worker, and how long it must be up for them to begin anew.
	InitialBackoff, MaxBackoff, ResetAfter time.Duration
	// BackoffFactor is from one such pause to the next, and BackoffJitter the share by
	// which each varies at random; negative for not at all.
	BackoffFactor, BackoffJitter float64
	// LeaseTTL is how long after a daemon's death others run its spouts.
	LeaseTTL time.Duration
	// TLSCert and TLSKey are the PEM files of the port's certificate and its key,
	// looked at again while the daemon runs; empty for none.
	TLSCert, TLSKey string
	// TLSAuto makes such a certificate, and a CA for it, in DataDir.
	TLSAuto bool
	// TLSClientCA is a PEM file of CAs, one of which must have signed the certificate
	// of every client; empty asks for none.
	TLSClientCA string
	// Logger gets the daemon's log; nil discards it.
	Logger *zap.Logger
}

// Defaults of the configuration, shown by pachd --help.
const (
	DefaultListen  = "127.0.0.1:30650"
	DefaultDataDir = "data"
	DefaultRuntime = "process"
	DefaultGrace   = 30 * time.Second

	DefaultGCInterval     = time.Hour
	DefaultGCGrace        = 10 * time.Minute
	DefaultInitialBackoff = time.Second
	DefaultMaxBackoff     = 5 * time.Minute
	DefaultResetAfter     = 10 * time.Minute
	DefaultBackoffFactor  = 2.0
	DefaultBackoffJitter  = 0.2
	DefaultLeaseTTL       = 10 * time.Second

	DefaultEtcdQuota = store.DefaultQuota
)

// Defaults of Config.Idempotency.
const (
	DefaultIdempotencyRetention = pfs.DefaultIdempotencyRetention
	DefaultIdempotencyKeys      = pfs.DefaultIdempotencyKeys
)

// gcFence is how long a delete in the bucket may go on after its daemon has lost
// its lease, where several daemons share an etcd.
const gcFence = 30 * time.Second

// gc is how this daemon collects garbage. With an etcd of its own it is alone: it
// holds the data directory's lock.
func (c Config) gc() pfs.GCConfig {
	g := pfs.GCConfig{Interval: max(c.GCInterval, 0), Grace: max(c.GCGrace, 0), Exclusive: len(c.EtcdEndpoints) == 0}
	if !g.Exclusive {
		g.Fence = gcFence
	}
	return g
}

// withDefaults fills in what is empty and refuses what cannot work.
func (c Config) withDefaults() (Config, error) {
	if c.Listen == "" {
		c.Listen = DefaultListen
	}
	if c.DataDir == "" {
		c.DataDir = DefaultDataDir
	}
	if c.Runtime == "" {
		c.Runtime = DefaultRuntime
	}
	if c.Grace == 0 {
		c.Grace = DefaultGrace
	}
	if c.DiskReserve == 0 {
		c.DiskReserve = disk.DefaultReserve
	}
	if c.EtcdQuota == 0 {
		c.EtcdQuota = DefaultEtcdQuota
	}
	if c.EtcdQuota < store.MinQuota {
		return c, fmt.Errorf("--etcd-quota is %s; want at least %s", humanize.IBytes(uint64(max(0, c.EtcdQuota))), humanize.IBytes(store.MinQuota))
	}
	if c.GCInterval == 0 {
		c.GCInterval = DefaultGCInterval
	}
	if c.GCGrace == 0 {
		c.GCGrace = DefaultGCGrace
	}
	if c.URLs.Schemes == nil {
		c.URLs.Schemes = remote.Schemes()
	}
	for _, d := range []struct {
		flag             string
		value            *time.Duration
		otherwise, least time.Duration
	}{
		{"initial-backoff", &c.InitialBackoff, DefaultInitialBackoff, 10 * time.Millisecond},
		{"max-backoff", &c.MaxBackoff, DefaultMaxBackoff, 10 * time.Millisecond},
		{"backoff-reset", &c.ResetAfter, DefaultResetAfter, 10 * time.Millisecond},
		{"lease-ttl", &c.LeaseTTL, DefaultLeaseTTL, 2 * time.Second},
	} {
		*d.value = cmp.Or(*d.value, d.otherwise)
		if *d.value < d.least {
			return c, fmt.Errorf("--%s is %v; want at least %v", d.flag, *d.value, d.least)
		}
	}
	c.BackoffFactor = cmp.Or(c.BackoffFactor, DefaultBackoffFactor)
	c.BackoffJitter = cmp.Or(c.BackoffJitter, DefaultBackoffJitter)
	if !(c.BackoffFactor >= 1 && c.BackoffFactor <= 100) {
		return c, fmt.Errorf("--backoff-factor is %v; want 1 to 100", c.BackoffFactor)
	}
	if !(c.BackoffJitter <= 0.5) {
		return c, fmt.Errorf("--backoff-jitter is %v; want 0 to 0.5", c.BackoffJitter)
	}
	if c.MaxBackoff < c.InitialBackoff {
		return c, fmt.Errorf("--max-backoff (%v) is shorter than --initial-backoff (%v)", c.MaxBackoff, c.InitialBackoff)
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if err := c.checkTLS(); err != nil {
		return c, err
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return c, fmt.Errorf("listen address %q: %w; want host:port, for example %s", c.Listen, err, DefaultListen)
	}
	if c.Advertise != "" {
		if host, port, err := net.SplitHostPort(c.Advertise); err != nil || host == "" || port == "" || port == "0" {
			return c, fmt.Errorf("--advertise %q; want host:port at which other daemons reach this one, for example node-1:30650", c.Advertise)
		}
	}
	if c.Idempotency.Retention < 0 || c.Idempotency.Keys < 0 {
		return c, fmt.Errorf("idempotency keys: the retention (%v) and the number (%d) must not be negative", c.Idempotency.Retention, c.Idempotency.Keys)
	}
	if c.Runtime != "process" {
		return c, fmt.Errorf("runtime %q is not supported; supported: process", c.Runtime)
	}
	dir, err := filepath.Abs(c.DataDir)
	if err != nil {
		return c, fmt.Errorf("data directory %q: %w", c.DataDir, err)
	}
	c.DataDir = dir
	if c.Bucket == "" {
		c.Bucket = "file://" + filepath.ToSlash(filepath.Join(dir, "objects"))
	}
	for _, e := range c.EtcdEndpoints {
		if strings.TrimSpace(e) == "" {
			return c, fmt.Errorf("etcd endpoints: one of %q is empty", c.EtcdEndpoints)
		}
	}
	return c, nil
}
