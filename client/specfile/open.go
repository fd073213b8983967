package specfile

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// fetchTimeout bounds a download, from the connection to the last byte.
const fetchTimeout = 60 * time.Second

// Open opens a spec source: "-" is stdin (Close leaves it open), http:// and
// https:// URLs are fetched within a minute, anything else is a path.
func Open(ctx context.Context, source string, stdin io.Reader) (io.ReadCloser, error) {
	switch {
	case source == "-":
		return io.NopCloser(stdin), nil
	case strings.HasPrefix(source, "http://"), strings.HasPrefix(source, "https://"):
		return fetch(ctx, source)
	}
	return os.Open(source)
}

func fetch(ctx context.Context, url string) (io.ReadCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		cancel()
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		cancel()
		return nil, fmt.Errorf("get %s: %s", url, resp.Status)
	}
	return &body{resp.Body, cancel}, nil
}

// body ends its request's context when closed.
type body struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *body) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
