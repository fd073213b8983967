package logs

import (
	"bytes"
	"io"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

// CutMarker ends every piece but the last of a line longer than Options.MaxLine.
const CutMarker = " …[line continues]"

// Daemon is the Pipeline, without a Project, of the daemon's own log.
const Daemon = "pachd"

// Key says whose lines a Writer writes.
type Key struct {
	Project, Pipeline string
	Version           uint64 // of the pipeline
	WorkerID          string // stable name of the worker
	Incarnation       string // one start of the worker
}

// Writer takes the output of one start of a worker.
type Writer struct {
	log            *pipelineLog // nil if the log cannot be opened: everything is dropped
	prefix         []byte       // encoded fields that all lines share
	stdout, stderr splitter
}

// Writer returns the writer for k. It never fails: if the files cannot be
// opened, the lines are dropped and the store's logger hears of it.
func (s *Store) Writer(k Key) *Writer {
	p, err := s.get(name{k.Project, k.Pipeline})
	if err != nil {
		s.opt.Logger.Sugar().Warnf("open logs of %s/%s: %v", k.Project, k.Pipeline, err)
	}
	b := strconv.AppendUint([]byte(`,"version":`), k.Version, 10)
	b = appendString(append(b, `,"worker":`...), []byte(k.WorkerID))
	b = appendString(append(b, `,"incarnation":`...), []byte(k.Incarnation))
	w := &Writer{log: p, prefix: b}
	w.stdout = splitter{w: w, stream: `,"stream":"stdout","user":true,"message":`, max: s.opt.MaxLine}
	w.stderr = splitter{w: w, stream: `,"stream":"stderr","user":true,"message":`, max: s.opt.MaxLine}
	return w
}

// Stdout takes the program's standard output. It never returns an error.
func (w *Writer) Stdout() io.Writer { return &w.stdout }

// Stderr takes the program's standard error. It never returns an error.
func (w *Writer) Stderr() io.Writer { return &w.stderr }

// System adds a line of the daemon itself about the worker; user is false in it.
func (w *Writer) System(msg string) {
	w.line(`,"stream":"system","user":false,"message":`, []byte(msg), "")
}

// Close adds what was printed without a final line end. The Writer stays usable.
func (w *Writer) Close() error {
	w.stdout.flush()
	w.stderr.flush()
	return nil
}

// line adds a line and returns how many bytes it takes in the file.
func (w *Writer) line(stream string, msg []byte, marker string) int {
	if w.log == nil {
		return 0
	}
	return w.log.append(func(b []byte, at time.Time) []byte {
		b = append(b, `{"ts":"`...)
		b = at.AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
		b = append(b, w.prefix...)
		b = append(b, stream...)
		b = appendString(b, msg)
		if marker != "" {
			b = append(append(b[:len(b)-1], marker...), '"')
		}
		return append(b, '}', '\n')
	})
}

// splitter turns a byte stream into lines. It holds at most max bytes.
type splitter struct {
	w      *Writer
	stream string
	max    int

	mu   sync.Mutex
	part []byte // start of the line that has not ended
	took int    // bytes in the file since the last Write
}

// Write implements io.Writer. It waits while the pipeline has printed too fast.
func (s *splitter) Write(data []byte) (int, error) {
	if took := s.split(data); took > 0 {
		s.w.log.throttle(took)
	}
	return len(data), nil
}

// split adds the lines of data and returns how many bytes they take in the file.
func (s *splitter) split(data []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.took = 0
	for len(data) > 0 {
		i := bytes.IndexByte(data, '\n')
		if i >= 0 && len(s.part) == 0 && i <= s.max {
			s.emit(data[:i], "")
			data = data[i+1:]
			continue
		}
		take := len(data)
		if i >= 0 {
			take = i
		}
		if len(s.part)+take > s.max {
			take = s.max - len(s.part)
			s.part = append(s.part, data[:take]...)
			data = data[take:]
			s.cut()
			continue
		}
		s.part = append(s.part, data[:take]...)
		data = data[take:]
		if i >= 0 {
			data = data[1:]
			s.emit(s.part, "")
			s.part = s.part[:0]
		}
	}
	return s.took
}

// cut emits a full part, without its last character if that is incomplete.
func (s *splitter) cut() {
	end := len(s.part)
	for k := 1; k < utf8.UTFMax && k < end; k++ {
		if c := s.part[end-k]; utf8.RuneStart(c) {
			if !utf8.FullRune(s.part[end-k:]) {
				end -= k
			}
			break
		}
	}
	s.emit(s.part[:end], CutMarker)
	s.part = append(s.part[:0], s.part[end:]...)
}

func (s *splitter) emit(line []byte, marker string) {
	if marker == "" {
		line = bytes.TrimSuffix(line, []byte{'\r'})
	}
	s.took += s.w.line(s.stream, line, marker)
}

func (s *splitter) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.part) > 0 {
		s.emit(s.part, "")
		s.part = nil
	}
}

// appendString appends s as a JSON string; bytes that are not UTF-8 become U+FFFD.
func appendString(b, s []byte) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c == '\t':
				b = append(b, '\\', 't')
			case c == '\n':
				b = append(b, '\\', 'n')
			case c < 0x20:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			default:
				b = append(b, c)
			}
			i++
			continue
		}
		r, n := utf8.DecodeRune(s[i:])
		b = utf8.AppendRune(b, r)
		i += n
	}
	return append(b, '"')
}
