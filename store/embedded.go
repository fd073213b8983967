package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy/adapter"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/minipachd/minipachd/store/disk"
)

// InUseError reports an etcd directory that another process has open.
type InUseError struct{ Dir string }

func (e *InUseError) Error() string {
	return fmt.Sprintf("etcd directory %s is in use by another process: stop it first, or choose another directory", e.Dir)
}

// openEmbedded starts a cluster of one in this process. It listens on Unix
// sockets in a directory of its own, so that it takes no port; the client is
// linked to it directly, without a connection.
func (s *Store) openEmbedded(ctx context.Context, cfg Config) error {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("etcd directory: %w", err)
	}
	if err := checkFree(cfg.Dir); err != nil {
		return err
	}
	s.disk = disk.NewGuard(cfg.Dir, cfg.DiskReserve)
	if err := s.disk.Spare(); err != nil {
		return err
	}
	// The path of a socket may have 108 bytes at most, so it cannot lie in Dir.
	sockets, err := os.MkdirTemp("", "pachd-etcd-")
	if err != nil {
		return fmt.Errorf("etcd sockets: %w", err)
	}
	s.clean = func() { os.RemoveAll(sockets) }
	client := url.URL{Scheme: "unix", Path: filepath.Join(sockets, "client")}
	peer := url.URL{Scheme: "unix", Path: filepath.Join(sockets, "peer")}

	c := embed.NewConfig()
	c.Name = "pachd"
	c.Dir = cfg.Dir
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls = []url.URL{peer}
	// The member's identity is derived from this address, so it must not change.
	advertised := url.URL{Scheme: "http", Host: "localhost:2380"}
	c.AdvertisePeerUrls = []url.URL{advertised}
	c.InitialCluster = c.Name + "=" + advertised.String()
	c.QuotaBackendBytes = cfg.QuotaBytes
	c.MaxTxnOps = maxTxnOps
	c.MaxRequestBytes = maxRequestBytes
	c.AutoCompactionMode = "periodic"
	c.AutoCompactionRetention = cfg.CompactionRetention.String()
	// Entries of its log stay in memory for followers that are slow, 5000 by default, and
	// there are none. At the start, those since the last snapshot are read into memory.
	c.SnapshotCatchUpEntries, c.SnapshotCount = 100, 2000
	// One member elects itself: no reason to wait long for others.
	c.TickMs, c.ElectionMs = 10, 100
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(quiet(s.log, &s.closing))
	if s.etcd, err = embed.StartEtcd(c); err != nil {
		return fmt.Errorf("start embedded etcd in %s: %w", cfg.Dir, err)
	}
	select {
	case <-s.etcd.Server.ReadyNotify():
	case err := <-s.etcd.Err():
		return fmt.Errorf("start embedded etcd in %s: %w", cfg.Dir, err)
	case <-ctx.Done():
		return fmt.Errorf("start embedded etcd in %s: %w", cfg.Dir, ctx.Err())
	}
	s.client = v3client.New(s.etcd.Server)
	s.kv = adapter.KvServerToKvClient(v3rpc.NewQuotaKVServer(s.etcd.Server))
	return nil
}

// checkFree reports a database that another process holds: etcd itself would
// wait for it without end.
func checkFree(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "member", "snap", "db"), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("etcd directory: %w", err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return &InUseError{Dir: dir}
		}
		return fmt.Errorf("etcd directory: %w", err)
	}
	return nil
}

// defragment gives free pages of the database back to the disk from time to
// time. Writes wait while it runs, so it runs only when it pays.
func (s *Store) defragment(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		backend := s.etcd.Server.Backend()
		size, used := backend.Size(), backend.SizeInUse()
		if size < 64<<20 || used > size/2 {
			continue
		}
		if s.disk.Room() != nil {
			continue // it would need a second copy of what is in use
		}
		if err := backend.Defrag(); err != nil {
			s.log.Warn("defragment etcd", zap.Error(err))
			continue
		}
		s.log.Info("defragmented etcd", zap.Int64("before", size), zap.Int64("after", backend.Size()))
	}
}
