package logs

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// ErrClosed is what Read returns when the store is closed under it.
var ErrClosed = errors.New("read logs: the log store is closed")

// Options bounds a Store. The zero value means the defaults.
type Options struct {
	// SegmentBytes is the size at which a file is rotated; default 8 MiB.
	SegmentBytes int64
	// Segments is how many files of a pipeline are kept, the current one
	// included; default 8. SegmentBytes*Segments bounds a pipeline's disk use.
	Segments int
	// MaxLine is the longest line in bytes; default 64 KiB. A longer one is cut
	// into several, each but the last ending in CutMarker.
	MaxLine int
	// BytesPerSecond is how fast a pipeline may fill its files in the long run,
	// default 8 MiB, after a burst of Burst bytes, default 16 MiB. A program that
	// prints faster waits at its pipe: neither disk nor processor is its alone.
	BytesPerSecond, Burst int
	// FlushInterval is how long a line may stay in memory only; default 200 ms.
	FlushInterval time.Duration
	// Now is the clock of the lines' timestamps; default time.Now.
	Now func() time.Time
	// Logger hears of disk errors; default none.
	Logger *zap.Logger
}

func (o Options) withDefaults() Options {
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = 8 << 20
	}
	if o.Segments <= 0 {
		o.Segments = 8
	}
	if o.MaxLine <= 0 {
		o.MaxLine = 64 << 10
	}
	if o.BytesPerSecond <= 0 {
		o.BytesPerSecond = 8 << 20
	}
	if o.Burst <= 0 {
		o.Burst = 16 << 20
	}
	if o.FlushInterval <= 0 {
		o.FlushInterval = 200 * time.Millisecond
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return o
}

// Store holds the logs of all pipelines. Its methods may be called concurrently.
type Store struct {
	dir      string
	opt      Options
	unfollow chan struct{} // closed by Unfollow
	once     sync.Once

	mu     sync.Mutex
	logs   map[name]*pipelineLog
	closed bool
}

type name struct{ project, pipeline string }

// Open returns the store in dir, which is made if missing. One process may have
// a directory open.
func Open(dir string, opt Options) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &Store{dir: dir, opt: opt.withDefaults(), unfollow: make(chan struct{}), logs: map[name]*pipelineLog{}}, nil
}

// Unfollow ends all readers that wait for more, with ErrClosed, once they have all lines
// that there are.
func (s *Store) Unfollow() { s.once.Do(func() { close(s.unfollow) }) }

// Close writes out what is buffered and ends all readers with ErrClosed. Lines
// written later are dropped.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	all := s.logs
	s.logs = map[name]*pipelineLog{}
	s.mu.Unlock()
	var errs []error
	for _, p := range all {
		errs = append(errs, p.close(ErrClosed))
	}
	return errors.Join(errs...)
}

// Delete removes the logs of a pipeline, ends its readers, and makes existing
// Writers of it drop what they are given. A pipeline without logs is no error.
func (s *Store) Delete(project, pipeline string) error {
	n := name{project, pipeline}
	s.mu.Lock()
	p := s.logs[n]
	delete(s.logs, n)
	s.mu.Unlock()
	if p != nil {
		_ = p.close(errDeleted) // the files go away anyway
	}
	return os.RemoveAll(s.path(n))
}

// Retain deletes the logs of all pipelines that keep does not want; not the daemon's own.
func (s *Store) Retain(keep func(project, pipeline string) bool) error {
	files, err := filepath.Glob(filepath.Join(s.dir, "*", "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range files {
		dir, base := filepath.Split(file)
		project, err := url.PathUnescape(filepath.Base(dir))
		pipeline, bad := url.PathUnescape(base)
		if err != nil || bad != nil || file == s.path(name{"", Daemon}) || keep(project, pipeline) {
			continue
		}
		errs = append(errs, s.Delete(project, pipeline))
	}
	return errors.Join(errs...)
}

// get returns the pipeline's log, opening it if need be; nil if the store is closed.
func (s *Store) get(n name) (*pipelineLog, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if p := s.logs[n]; p != nil {
		return p, nil
	}
	p, err := openPipelineLog(s.path(n), s.opt)
	if err != nil {
		return nil, err
	}
	s.logs[n] = p
	return p, nil
}

func (s *Store) path(n name) string {
	return filepath.Join(s.dir, escape(n.project), escape(n.pipeline))
}

// escape makes any string one harmless path element; valid names stay as they are.
func escape(s string) string {
	s = url.PathEscape(s)
	if s == "" || s[0] == '.' {
		return "%2E" + strings.TrimPrefix(s, ".")
	}
	return s
}
