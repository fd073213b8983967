package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// full is the size of the embedded database, in bytes, from which on it takes no
// more data. What is left of the quota is for the transactions that free space.
func (s *Store) full() int64 { return s.quota - max(s.quota/16, growth) }

// growth is more than the database grows by at a time, 16 MiB.
const growth = 24 << 20

// Room says whether there is room for more data: *FullError when the embedded
// database nears its quota, *disk.LowError when its disk does. It costs about a
// microsecond. Transactions are not held to it, so that whoever deletes something
// is not refused; the callers of those that add data ask first.
func (s *Store) Room() error {
	if s.etcd == nil {
		return nil
	}
	if s.etcd.Server.Backend().Size() >= s.full() {
		s.wakeRelief()
		return &FullError{Err: errors.New("the database is near its quota")}
	}
	return s.disk.Room()
}

func (s *Store) wakeRelief() {
	select {
	case s.relief <- struct{}{}:
	default:
	}
}

// relieve makes room in the embedded database until ctx ends: whenever somebody
// found it full it drops old revisions, gives free pages back and lifts etcd's
// alarm, if that helped.
func (s *Store) relieve(ctx context.Context, pause time.Duration) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.relief:
		}
		before := s.etcd.Server.Backend().Size()
		err := s.makeRoom(ctx)
		after := s.etcd.Server.Backend().Size()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.log.Warn("make room in etcd", zap.Error(err))
		case after >= s.full():
			s.log.Warn("etcd is near its quota and takes no more data: delete repos, or squash commits",
				zap.Int64("bytes", after), zap.Int64("quota", s.quota))
		default:
			s.log.Info("made room in etcd", zap.Int64("before", before), zap.Int64("after", after))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (s *Store) makeRoom(ctx context.Context) error {
	now, err := s.client.Get(ctx, s.prefix, clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("revision: %w", err)
	}
	// Physical: the space is free when it returns.
	if _, err := s.client.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	backend := s.etcd.Server.Backend()
	backend.ForceCommit() // what is deleted is counted as free from then on
	if size, used := backend.Size(), backend.SizeInUse(); used < size-size/8 {
		if err := backend.Defrag(); err != nil {
			return fmt.Errorf("defragment: %w", err)
		}
	}
	if backend.Size() >= s.full() {
		return nil
	}
	for _, a := range s.etcd.Server.Alarms() {
		if a.Alarm != etcdserverpb.AlarmType_NOSPACE {
			continue
		}
		if _, err := s.client.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: a.MemberID, Alarm: a.Alarm}); err != nil {
			return fmt.Errorf("lift the alarm: %w", err)
		}
	}
	return nil
}
