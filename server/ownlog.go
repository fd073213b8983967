package server

import (
	"bytes"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/minipachd/minipachd/pps/logs"
)

// keepLog has what the daemon logs from level info on kept beside the logs of
// pipelines, as JSON lines, whatever else becomes of it.
func keepLog(log *zap.Logger, store *logs.Store) *zap.Logger {
	cfg := zap.NewProductionEncoderConfig()
	cfg.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	cfg.EncodeDuration = zapcore.StringDurationEncoder
	kept := lineSink{store.Writer(logs.Key{Pipeline: logs.Daemon})}
	core := zapcore.NewCore(zapcore.NewJSONEncoder(cfg), kept, zapcore.InfoLevel)
	return log.WithOptions(zap.WrapCore(func(shown zapcore.Core) zapcore.Core { return zapcore.NewTee(shown, core) }))
}

// lineSink takes one line a call. Unlike a program's output the daemon's is
// never slowed down.
type lineSink struct{ to *logs.Writer }

func (s lineSink) Write(line []byte) (int, error) {
	s.to.System(string(bytes.TrimSuffix(line, []byte{'\n'})))
	return len(line), nil
}

// Sync does nothing: the store writes lines out by itself, in time.
func (s lineSink) Sync() error { return nil }
