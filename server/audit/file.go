package audit

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/buffer"
	"gopkg.in/natefinch/lumberjack.v2"
)

const (
	// A file is rotated at maxMegabytes, and keep older ones remain.
	maxMegabytes = 32
	keep         = 8

	// queued is how many entries wait for the disk at most.
	queued = 1024
	// batch is how many bytes are written at once, if so many wait.
	batch = 64 << 10
	// patience is how long a call waits for a disk that takes nothing. The next ones
	// do not wait at all, until it takes something again.
	patience = 2 * time.Second
	// reportEvery is the time between two complaints about the same file.
	reportEvery = time.Minute
)

// file is one file of the record, written by a goroutine of its own: a disk that
// hangs holds up nobody for long.
type file struct {
	name  string
	log   *zap.Logger
	out   io.WriteCloser
	queue chan line
	stuck atomic.Bool // somebody has lost patience, and nothing was written since

	closing chan struct{}
	once    sync.Once
	ended   chan struct{} // closed when out is

	mu       sync.Mutex
	lost     int64 // since the last entry that was written
	reported time.Time
}

// line is an entry. Written, if not nil, is closed when the file has it or cannot
// take it.
type line struct {
	text    *buffer.Buffer
	written chan struct{}
}

// openFile continues the file name in dir. That it can be written is tried at once.
func openFile(dir, name string, log *zap.Logger) (*file, error) {
	path := filepath.Join(dir, name)
	if err := mend(path); err != nil {
		return nil, err
	}
	return newFile(path, log, &lumberjack.Logger{Filename: path, MaxSize: maxMegabytes, MaxBackups: keep}), nil
}

func newFile(path string, log *zap.Logger, out io.WriteCloser) *file {
	f := &file{
		name: path, log: log, out: out,
		queue: make(chan line, queued), closing: make(chan struct{}), ended: make(chan struct{}),
	}
	go f.run()
	return f
}

// mend makes the file if there is none, and ends a line that a power cut or a full
// disk has left in the middle.
func mend(path string) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 || info.Mode().Type() != fs.FileMode(0) {
		return err
	}
	var last [1]byte
	if _, err = f.ReadAt(last[:], info.Size()-1); err == nil && last[0] != '\n' {
		_, err = f.Write([]byte("\n"))
	}
	return err
}

// write takes an entry over. If wait is set, it returns once the file has it.
func (f *file) write(text *buffer.Buffer, wait bool) {
	l := line{text: text}
	if wait {
		l.written = make(chan struct{})
	}
	select {
	case f.queue <- l:
	default:
		if f.stuck.Load() || !f.offer(l) {
			f.fail(1, errors.New("the disk takes nothing"))
			return
		}
	}
	if !wait || f.stuck.Load() {
		return
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-l.written:
	case <-f.ended:
	case <-timer.C:
		f.stuck.Store(true)
		f.fail(0, errors.New("the disk takes nothing"))
	}
}

// offer puts an entry into a full queue, if there is room soon.
func (f *file) offer(l line) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case f.queue <- l:
		return true
	case <-f.closing:
	case <-timer.C:
		f.stuck.Store(true)
	}
	return false
}

// run writes what is queued until the file is closed.
func (f *file) run() {
	defer close(f.ended)
	var text []byte
	torn := false // the last line in the file may have no end
	for {
		var lines []line
		select {
		case l := <-f.queue:
			lines = append(lines, l)
		case <-f.closing:
			if len(f.queue) == 0 {
				if err := f.out.Close(); err != nil {
					f.fail(0, err)
				}
				return
			}
			continue
		}
		text = text[:0]
		if torn {
			text = append(text, '\n')
		}
		var told int64
		text, told = f.appendLost(text)
		text = append(text, lines[0].text.Bytes()...)
	more:
		for len(text) < batch {
			select {
			case l := <-f.queue:
				lines = append(lines, l)
				text = append(text, l.text.Bytes()...)
			default:
				break more
			}
		}
		_, err := f.out.Write(text)
		if torn = err != nil; torn {
			f.fail(int64(len(lines)), err)
		} else {
			f.forgive(told)
		}
		f.stuck.Store(false)
		for _, l := range lines {
			l.text.Free()
			if l.written != nil {
				close(l.written)
			}
		}
	}
}

// appendLost adds a line that tells of a gap in the record.
func (f *file) appendLost(text []byte) ([]byte, int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost == 0 {
		return text, 0
	}
	gap, _ := json.Marshal(map[string]any{"ts": time.Now().UTC(), "lost": f.lost}) // always has JSON
	return append(append(text, gap...), '\n'), f.lost
}

// fail counts entries that are lost, and says so in the daemon's log now and then.
func (f *file) fail(entries int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost += entries
	if now := time.Now(); f.reported.IsZero() || now.Sub(f.reported) >= reportEvery {
		f.reported = now
		f.log.Error("THE AUDIT LOG CANNOT BE WRITTEN: requests go on, and are not recorded", zap.String("file", f.name), zap.Int64("lost", f.lost), zap.Error(err))
	}
}

// forgive is told that the file is written again, with the gap of so many entries.
func (f *file) forgive(told int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost -= told
	if !f.reported.IsZero() {
		f.log.Warn("the audit log is written again", zap.String("file", f.name), zap.Int64("lost", told))
		f.reported = time.Time{}
	}
}

// close writes what is queued and closes the file; a disk that hangs is left alone.
func (f *file) close() error {
	if f == nil {
		return nil
	}
	f.once.Do(func() { close(f.closing) })
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-f.ended:
		return nil
	case <-timer.C:
		return errors.New("audit log: " + f.name + ": the disk takes nothing")
	}
}
