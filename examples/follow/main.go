// Follow is a spout: it follows the file that FILE names, as it grows, and appends each
// complete line of it to /lines of its output repo, once, whatever is killed in
// between. The cursor is how many bytes have been committed.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/minipachd/minipachd/client"
	"github.com/minipachd/minipachd/client/spout"
)

const (
	pollEvery = 200 * time.Millisecond // how often the file is looked at for more
	batchSize = 1 << 20                // bytes that one commit takes at most, and of a line
)

func main() { spout.Main(follow) }

func follow(ctx context.Context, s *spout.Spout) error {
	var at int64
	if s.Cursor() != "" {
		var err error
		if at, err = strconv.ParseInt(s.Cursor(), 10, 64); err != nil {
			return fmt.Errorf("cursor: %w", err)
		}
	}
	file, err := os.Open(os.Getenv("FILE"))
	if err != nil {
		return err
	}
	defer file.Close()
	log.Printf("following %s from byte %d", file.Name(), at)
	buf := make([]byte, batchSize)
	for {
		n, err := file.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		lines := buf[:bytes.LastIndexByte(buf[:n], '\n')+1]
		if len(lines) == 0 {
			if n == len(buf) {
				return fmt.Errorf("%s: the line at byte %d has more than %d bytes", file.Name(), at, len(buf))
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(pollEvery):
			}
			continue
		}
		at += int64(len(lines))
		err = s.Commit(ctx, strconv.FormatInt(at, 10), func(m *client.Modifier) error {
			return m.PutFile("/lines", bytes.NewReader(lines), client.Append())
		})
		if err != nil {
			return err
		}
	}
}
