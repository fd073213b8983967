//go:build unix

package process

import (
	"io"
	"os"
	"sync"
)

// pump copies until the end of from. It goes on reading when a writer fails: a
// worker must not block, or die of SIGPIPE, because its log cannot be written.
func pump(from *os.File, to io.Writer, keep *tail) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if keep != nil {
				keep.Write(buf[:n])
			}
			if to != nil {
				_, _ = to.Write(buf[:n])
			}
		}
		if err != nil {
			return
		}
	}
}

// tail keeps the last bytes that were written to it.
type tail struct {
	mu    sync.Mutex
	limit int
	buf   []byte
}

func newTail(limit int) *tail { return &tail{limit: limit} }

// Write implements io.Writer; it never fails.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-t.limit):]...)
	if extra := len(t.buf) - t.limit; extra > 0 {
		t.buf = append(t.buf[:0], t.buf[extra:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
