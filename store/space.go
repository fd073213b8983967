package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// Space is how full the database of etcd is.
type Space struct {
	Bytes, Quota int64 // of the file; a Quota of 0 is not known
	// Alarm says that etcd itself takes no writes but deletions.
	Alarm bool
}

// full is the size of a database, in bytes, from which on it takes no more data. What
// is left of the quota is for the transactions that free space.
func full(quota int64) int64 { return quota - max(quota/16, growth) }

// growth is more than a database grows by at a time, 16 MiB.
const growth = 24 << 20

// MinQuota is the least quota that leaves room for data.
const MinQuota = 2 * growth

// Full tells whether there is no room for more data.
func (sp Space) Full() bool { return sp.Alarm || sp.Quota > 0 && sp.Bytes >= full(sp.Quota) }

// Filling tells whether there soon will be none: four fifths are used.
func (sp Space) Filling() bool { return sp.Full() || sp.Quota > 0 && sp.Bytes >= full(sp.Quota)/5*4 }

// Space says how full etcd is; of a remote one, how full it was some seconds, or a few MiB
// of this daemon's, ago.
func (s *Store) Space() Space {
	if s.etcd == nil {
		return *s.seenSpace.Load()
	}
	// The alarm is not asked for, which takes a lock: it comes when the quota is reached.
	return Space{Bytes: s.etcd.Server.Backend().Size(), Quota: s.quota}
}

// Room says whether there is room for more data: *FullError when etcd's database
// nears its quota, *disk.LowError when the disk of the embedded one does. It costs about a
// microsecond. Transactions are not held to it, so that whoever deletes something
// is not refused; the callers of those that add data ask first.
func (s *Store) Room() error {
	if sp := s.Space(); sp.Full() {
		s.wakeRelief()
		return &FullError{Space: sp, Remote: s.etcd == nil}
	}
	return s.disk.Room()
}

// Warning is what people should know of the space that is left in etcd, empty if
// there is enough.
func (s *Store) Warning() string {
	sp := s.Space()
	switch {
	case sp.Full():
		return (&FullError{Space: sp, Remote: s.etcd == nil}).Error()
	case sp.Filling():
		return fmt.Sprintf("etcd fills up: it has %s of its quota of %s, and takes no more data from %s on", humanize.IBytes(uint64(sp.Bytes)),
			humanize.IBytes(uint64(sp.Quota)), humanize.IBytes(uint64(full(sp.Quota))))
	}
	return ""
}

func (s *Store) wakeRelief() {
	select {
	case s.relief <- struct{}{}:
	default:
	}
}

// wrote counts what is sent to a remote etcd, whose size is looked at again after growth/8
// bytes: a fast writer would fill what is left of the quota before the next look.
func (s *Store) wrote(req *etcdserverpb.TxnRequest) {
	if s.etcd == nil && s.unseen.Add(int64(proto.Size(req))) >= growth/8 {
		s.unseen.Store(0)
		s.wakeRelief()
	}
}

// relieve makes room in the embedded database until ctx ends: whenever somebody
// found it full it drops old revisions, gives free pages back and lifts etcd's
// alarm, if that helped.
func (s *Store) relieve(ctx context.Context, pause time.Duration) {
	if len(s.etcd.Server.Alarms()) > 0 {
		s.wakeRelief() // of the time before the start, perhaps under a smaller quota
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.relief:
		}
		before := s.etcd.Server.Backend().Size()
		err := s.makeRoom(ctx)
		after := s.Space()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.log.Warn("make room in etcd", zap.Error(err))
		case !after.Full():
			s.log.Info("made room in etcd", zap.Int64("before", before), zap.Int64("after", after.Bytes))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// observe watches how full etcd is until ctx ends, and says so in the log when it
// begins to fill, takes no more data, and does again.
func (s *Store) observe(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var woken chan struct{}
	if s.etcd == nil {
		woken = s.relief // somebody was refused: how it is now counts
	}
	var was Space
	for {
		if s.etcd == nil {
			if sp, err := s.askSpace(ctx); err == nil {
				s.seenSpace.Store(&sp)
			} else if ctx.Err() == nil {
				s.log.Debug("ask etcd for its size", zap.Error(err))
			}
		}
		now := s.Space()
		fields := []zap.Field{zap.Int64("bytes", now.Bytes), zap.Int64("quota", now.Quota)}
		switch {
		case now.Full() && !was.Full():
			s.log.Warn("WRITES ARE REFUSED: "+s.Warning(), fields...)
		case now.Filling() && !was.Filling():
			s.log.Warn(s.Warning(), fields...)
		case was.Full() && !now.Full():
			s.log.Info("etcd takes data again", fields...)
		}
		was = now
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-woken:
		}
	}
}

// askSpace asks the members of a remote cluster: the largest database counts, and
// the smallest quota.
func (s *Store) askSpace(ctx context.Context) (Space, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	sp := Space{}
	var answered bool
	var errs []error
	for _, endpoint := range s.client.Endpoints() {
		st, err := s.client.Status(ctx, endpoint)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		answered = true
		sp.Bytes = max(sp.Bytes, st.DbSize)
		if q := st.DbSizeQuota; q > 0 && (sp.Quota == 0 || q < sp.Quota) {
			sp.Quota = q
		}
		for _, text := range st.Errors {
			sp.Alarm = sp.Alarm || strings.Contains(text, etcdserverpb.AlarmType_NOSPACE.String())
		}
	}
	if !answered {
		return Space{}, errors.Join(errs...)
	}
	if sp.Quota == 0 {
		sp.Quota = s.quota // etcd before 3.6 does not tell
	}
	return sp, nil
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
	if backend.Size() >= s.quota-2*maxRequestBytes {
		return nil // the alarm would be back with the next write
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
