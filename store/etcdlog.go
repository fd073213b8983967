package store

import (
	"strings"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// etcdLog passes on the errors of the embedded etcd, except those that are none:
// what it says while it is being closed on purpose, and, on a database that has
// just been made, that the storage version is not known yet.
type etcdLog struct {
	zapcore.Core
	closing *atomic.Bool
}

// firstStart is what etcd logs as an error before its first snapshot.
const firstStart = "failed to update storage version"

// quiet makes the logger for etcd; after closing is set it is silent.
func quiet(log *zap.Logger, closing *atomic.Bool) *zap.Logger {
	return log.WithOptions(zap.IncreaseLevel(zapcore.ErrorLevel), zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return &etcdLog{Core: c, closing: closing}
	}))
}

// With implements zapcore.Core.
func (l *etcdLog) With(fields []zapcore.Field) zapcore.Core {
	return &etcdLog{Core: l.Core.With(fields), closing: l.closing}
}

// Check implements zapcore.Core.
func (l *etcdLog) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if l.closing.Load() || strings.HasPrefix(e.Message, firstStart) {
		return ce
	}
	return l.Core.Check(e, ce)
}
