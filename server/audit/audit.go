// Package audit keeps a record of who did what to which object, from where and
// with what result: one JSON line for every call that changes something or gives a
// secret away, and for every call that is refused for want of a right. It looks at
// names alone, never at contents, specs, tokens or secrets.
package audit

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/codes"
)

// Class says how the calls of a method are recorded.
type Class int

const (
	// Control is for what people do now and then. The entry is in the file before the
	// call is answered.
	Control Class = iota
	// Data is for what programs do all the time: writing files and commits. The entry
	// follows at once, and nobody waits for it.
	Data
	// Read is for methods that change nothing: only their refusals are recorded.
	Read
)

// The files of the record. A busy spout does not push people's doings out of it, nor
// does somebody who is refused again and again.
const (
	ControlFile = "control.log"
	DataFile    = "data.log"
	RefusedFile = "refused.log"
)

// maxText bounds each text of an entry, in bytes.
const maxText = 512

// Log writes the record. A nil Log writes none. Its methods may be called
// concurrently.
type Log struct {
	enc                    zapcore.Encoder
	control, data, refused *file
}

// Open continues the record in dir, which is made if missing with mode 0700. What
// cannot be written is reported to log.
func Open(dir string, log *zap.Logger) (*Log, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	l := &Log{enc: newEncoder()}
	for name, f := range map[string]**file{ControlFile: &l.control, DataFile: &l.data, RefusedFile: &l.refused} {
		var err error
		if *f, err = openFile(dir, name, log); err != nil {
			return nil, errors.Join(fmt.Errorf("audit log: %w", err), l.Close())
		}
	}
	return l, nil
}

func newEncoder() zapcore.Encoder {
	return zapcore.NewJSONEncoder(zapcore.EncoderConfig{
		TimeKey: "ts", MessageKey: "method", EncodeTime: zapcore.RFC3339NanoTimeEncoder,
	})
}

// Close writes what is left and ends the record; entries that come later are lost.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	return errors.Join(l.control.close(), l.data.close(), l.refused.close())
}

// Entry is one call.
type Entry struct {
	Method   string // as in gRPC: /pfs_v2.API/CreateRepo
	Class    Class  // of the method
	Refused  bool   // for want of a right
	Subject  string // who: "user:a@b", "pipeline:p/x"; empty is nobody known
	From     string // address of the caller
	Agent    string // what the caller says it is
	Objects  []string
	Details  []string
	Duration time.Duration
	Code     codes.Code
	Error    string
}

// Wants tells whether such a call is recorded.
func (l *Log) Wants(class Class, refused bool) bool {
	return l != nil && (class != Read || refused)
}

// Record writes e if it is wanted. Unless its class is Data it returns once the
// operating system has the entry, or cannot take it now.
func (l *Log) Record(e Entry) {
	if !l.Wants(e.Class, e.Refused) {
		return
	}
	fields := make([]zap.Field, 0, 8)
	fields = append(fields, zap.String("subject", cut(e.Subject)), zap.String("from", cut(e.From)), zap.String("agent", cut(e.Agent)),
		zap.Strings("objects", e.Objects))
	for i := range e.Details {
		e.Details[i] = cut(e.Details[i])
	}
	if len(e.Details) > 0 {
		fields = append(fields, zap.Strings("details", e.Details))
	}
	fields = append(fields, zap.Stringer("code", e.Code), zap.Float64("ms", float64(e.Duration.Microseconds())/1000))
	if e.Error != "" {
		fields = append(fields, zap.String("error", cut(e.Error)))
	}
	text, err := l.enc.EncodeEntry(zapcore.Entry{Time: time.Now().UTC(), Message: e.Method}, fields)
	if err != nil {
		l.control.fail(1, err) // no field is of a type that has no JSON
		return
	}
	switch {
	case e.Refused:
		l.refused.write(text, true)
	case e.Class == Data:
		l.data.write(text, false)
	default:
		l.control.write(text, true)
	}
}

// cut shortens a text that a client has made long.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "..."
}
