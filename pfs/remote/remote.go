// Package remote reads from and writes to places outside of pachd that URLs name:
// http and https, the object stores s3, gs and azblob, and a directory of this
// machine. URLs come from callers and are not trusted: a Policy says which are
// served, every address is checked after its name was resolved, redirects
// included, and time and bytes are bounded. The package knows nothing of commits.
package remote

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc/codes"
)

// Policy says what URLs may do. The zero value serves none.
type Policy struct {
	// Schemes are the allowed ones, of Schemes.
	Schemes []string
	// AllowPrivate admits addresses that are not public: loopback, link-local,
	// private networks and the like.
	AllowPrivate bool
	// FileRoot is a directory whose files can be named by file URLs; empty for none.
	FileRoot string
	// Timeout bounds one Fetch and one Target; default DefaultTimeout.
	Timeout time.Duration
	// Stall bounds the time that nothing is received for; default one minute.
	Stall time.Duration
	// MaxBytes bounds what one Fetch brings; default DefaultMaxBytes.
	MaxBytes int64
}

// Defaults of a Policy.
const (
	DefaultTimeout  = time.Hour
	DefaultMaxBytes = 100 << 30
	defaultStall    = time.Minute
)

// maxBuffered bounds the bytes that all fetches hold in memory.
const maxBuffered = 64 << 20

// Schemes lists what a Policy can allow; file is allowed by its FileRoot.
func Schemes() []string { return []string{"http", "https", "s3", "gs", "azblob"} }

// aliases are other names of schemes.
func canonical(scheme string) string {
	switch scheme {
	case "wasb", "wasbs":
		return "azblob"
	case "gcs":
		return "gs"
	}
	return scheme
}

// Client fetches and stores under one policy. It is safe for concurrent use and
// needs no closing.
type Client struct {
	policy Policy
	memory *semaphore.Weighted // of maxBuffered bytes
	admit  func(netip.Addr) bool
}

// New checks a policy and gives the client that follows it.
func New(p Policy) (*Client, error) {
	for _, s := range p.Schemes {
		if s == "file" {
			return nil, fmt.Errorf("URL scheme file is allowed by naming the directory that file URLs may reach")
		}
		if !slices.Contains(Schemes(), s) {
			return nil, fmt.Errorf("URL scheme %q is not supported, only %s are", s, strings.Join(Schemes(), ", "))
		}
	}
	if p.FileRoot != "" {
		root, err := filepath.Abs(p.FileRoot)
		if err != nil {
			return nil, fmt.Errorf("directory of file URLs %q: %w", p.FileRoot, err)
		}
		if info, err := os.Stat(root); err != nil {
			return nil, fmt.Errorf("directory of file URLs: %w", err)
		} else if !info.IsDir() {
			return nil, fmt.Errorf("directory of file URLs: %s is not a directory", root)
		}
		p.FileRoot = root
	}
	if p.Timeout < 0 || p.Stall < 0 || p.MaxBytes < 0 {
		return nil, fmt.Errorf("limits of URLs must not be negative")
	}
	if p.Timeout == 0 {
		p.Timeout = DefaultTimeout
	}
	if p.Stall == 0 {
		p.Stall = defaultStall
	}
	if p.MaxBytes == 0 {
		p.MaxBytes = DefaultMaxBytes
	}
	c := &Client{policy: p, memory: semaphore.NewWeighted(maxBuffered), admit: public}
	if p.AllowPrivate {
		c.admit = func(netip.Addr) bool { return true }
	}
	return c, nil
}

// parse reads a URL and checks that its scheme is allowed.
func (c *Client) parse(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, refusal(codes.InvalidArgument, "it is not a URL: %w", withoutURL(err))
	}
	if u.Scheme == "" || u.Opaque != "" {
		return nil, refusal(codes.InvalidArgument, "it is not a URL of the form scheme://host/path")
	}
	u.Scheme = canonical(strings.ToLower(u.Scheme))
	if err := c.allowed(u.Scheme); err != nil {
		return nil, err
	}
	if u.Scheme != "file" && u.Host == "" {
		return nil, refusal(codes.InvalidArgument, "it has no host or bucket")
	}
	return u, nil
}

// allowed checks a canonical scheme.
func (c *Client) allowed(scheme string) error {
	switch {
	case scheme == "file" && c.policy.FileRoot != "":
		return nil
	case scheme == "file":
		return refusal(codes.PermissionDenied, "file URLs are not allowed on this server")
	case !slices.Contains(Schemes(), scheme):
		return refusal(codes.InvalidArgument, "scheme %q is not supported, only %s are", scheme, strings.Join(Schemes(), ", "))
	case !slices.Contains(c.policy.Schemes, scheme):
		allowed := "none is"
		if len(c.policy.Schemes) > 0 {
			allowed = "allowed: " + strings.Join(c.policy.Schemes, ", ")
		}
		return refusal(codes.PermissionDenied, "scheme %s is not allowed on this server (%s)", scheme, allowed)
	}
	return nil
}
