package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

const (
	segmentSuffix = ".jsonl"
	bufferBytes   = 64 << 10
)

var errDeleted = errors.New("the logs were deleted")

// segment is one file; size counts whole lines that are in it.
type segment struct {
	seq  uint64
	size int64
}

// pipelineLog is the series of files of one pipeline. Only whole lines are ever
// written, so every recorded size ends at a line's end.
type pipelineLog struct {
	dir string
	opt Options

	limiter *rate.Limiter // of the program's output, in bytes of the files
	done    chan struct{} // closed by close

	mu       sync.Mutex // held across file writes on purpose: they are the back-pressure
	segments []segment  // oldest first
	file     *os.File   // the last segment, nil until the first write
	buf      []byte     // whole lines not written yet
	timer    *time.Timer
	armed    bool
	wake     chan struct{} // closed at the next line, if somebody waits
	ended    error         // why nothing more will come
	failing  bool          // the last write failed
	last     time.Time     // of the newest line
}

func openPipelineLog(dir string, opt Options) (*pipelineLog, error) {
	p := &pipelineLog{
		dir: dir, opt: opt, done: make(chan struct{}),
		limiter: rate.NewLimiter(rate.Limit(opt.BytesPerSecond), opt.Burst),
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		seq, err := strconv.ParseUint(strings.TrimSuffix(e.Name(), segmentSuffix), 10, 64)
		if err != nil || !strings.HasSuffix(e.Name(), segmentSuffix) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		p.segments = append(p.segments, segment{seq: seq, size: info.Size()})
	}
	slices.SortFunc(p.segments, func(a, b segment) int { return int(int64(a.seq - b.seq)) })
	if n := len(p.segments); n > 0 {
		last := &p.segments[n-1]
		if last.size, err = wholeLines(p.path(last.seq), last.size, int64(opt.MaxLine)*8); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// wholeLines cuts a line torn by a crash off the end of a file. It looks back
// by at most max bytes; a file without any line end there is left as it is, with
// a line end added.
func wholeLines(path string, size, max int64) (int64, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	tail := make([]byte, min(size, max))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil && err != io.EOF {
		return 0, err
	}
	if len(tail) == 0 || tail[len(tail)-1] == '\n' {
		return size, nil
	}
	i := bytes.LastIndexByte(tail, '\n')
	if i < 0 && size > max {
		_, err := f.WriteAt([]byte{'\n'}, size)
		return size + 1, err
	}
	size -= int64(len(tail) - i - 1)
	return size, f.Truncate(size)
}

func (p *pipelineLog) path(seq uint64) string {
	return filepath.Join(p.dir, fmt.Sprintf("%010d%s", seq, segmentSuffix))
}

// append adds one encoded line, which encode appends to the buffer it is given,
// and returns its length.
func (p *pipelineLog) append(encode func(b []byte, at time.Time) []byte) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended != nil {
		return 0
	}
	at := p.opt.Now().UTC()
	if !at.After(p.last) {
		at = p.last.Add(1)
	}
	p.last = at
	before := len(p.buf)
	p.buf = encode(p.buf, at)
	n := len(p.buf) - before
	if p.wake != nil {
		close(p.wake)
		p.wake = nil
	}
	if len(p.buf) >= bufferBytes {
		p.flushLocked()
		return n
	}
	if !p.armed {
		p.armed = true
		if p.timer == nil {
			p.timer = time.AfterFunc(p.opt.FlushInterval, p.flushLater)
		} else {
			p.timer.Reset(p.opt.FlushInterval)
		}
	}
	return n
}

// throttle waits until n bytes more are in order, or the log is closed.
func (p *pipelineLog) throttle(n int) {
	r := p.limiter.ReserveN(time.Now(), min(n, p.opt.Burst))
	delay := r.Delay()
	if delay <= 0 {
		return
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.done:
	}
}

func (p *pipelineLog) flushLater() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = false
	p.flushLocked()
}

// flushLocked writes the buffer out. After an error the lines are gone and the
// file is cut back to its last whole line.
func (p *pipelineLog) flushLocked() {
	if len(p.buf) == 0 {
		return
	}
	err := p.writeLocked()
	if err != nil && !p.failing {
		p.opt.Logger.Warn("write logs: lines are lost", zap.String("dir", p.dir), zap.Error(err))
	}
	p.failing = err != nil
	if cap(p.buf) > 4*bufferBytes {
		p.buf = nil
	}
	p.buf = p.buf[:0]
}

func (p *pipelineLog) writeLocked() error {
	if n := len(p.segments); n > 0 {
		if size := p.segments[n-1].size; size > 0 && size+int64(len(p.buf)) > p.opt.SegmentBytes {
			if err := p.rotateLocked(); err != nil {
				return err
			}
		}
	}
	if p.file == nil {
		if err := p.openFileLocked(); err != nil {
			return err
		}
	}
	last := &p.segments[len(p.segments)-1]
	if _, err := p.file.Write(p.buf); err != nil {
		return errors.Join(err, p.file.Truncate(last.size))
	}
	last.size += int64(len(p.buf))
	return nil
}

func (p *pipelineLog) openFileLocked() error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return err
	}
	if len(p.segments) == 0 {
		p.segments = append(p.segments, segment{seq: 1})
	}
	last := p.segments[len(p.segments)-1]
	f, err := os.OpenFile(p.path(last.seq), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	p.file = f
	return nil
}

// rotateLocked starts a new segment and removes the oldest ones beyond the limit.
func (p *pipelineLog) rotateLocked() error {
	if p.file != nil {
		_ = p.file.Close() // its bytes were written already
		p.file = nil
	}
	next := p.segments[len(p.segments)-1].seq + 1
	p.segments = append(p.segments, segment{seq: next})
	var errs []error
	for len(p.segments) > p.opt.Segments {
		if err := os.Remove(p.path(p.segments[0].seq)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		p.segments = p.segments[1:]
	}
	p.segments = slices.Clone(p.segments)
	return errors.Join(errs...)
}

// snapshot flushes and returns the segments as they are, and why there will be
// no more, if so.
func (p *pipelineLog) snapshot() ([]segment, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended != nil {
		return nil, p.ended
	}
	p.flushLocked()
	return slices.Clone(p.segments), nil
}

// changed returns a channel that is closed once there is more than what a
// snapshot ending at (seq, size) showed; nil if there is already.
func (p *pipelineLog) changed(seq uint64, size int64) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended != nil || len(p.buf) > 0 {
		return nil
	}
	if n := len(p.segments); n > 0 && (p.segments[n-1].seq > seq || p.segments[n-1].size > size) {
		return nil
	}
	if p.wake == nil {
		p.wake = make(chan struct{})
	}
	return p.wake
}

func (p *pipelineLog) close(why error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !errors.Is(why, errDeleted) {
		p.flushLocked()
	}
	if p.ended == nil {
		close(p.done)
	}
	p.ended, p.buf = why, nil
	if p.timer != nil {
		p.timer.Stop()
	}
	if p.wake != nil {
		close(p.wake)
		p.wake = nil
	}
	if p.file == nil {
		return nil
	}
	err := p.file.Close()
	p.file = nil
	return err
}
