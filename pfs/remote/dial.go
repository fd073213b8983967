package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
)

const (
	dialTimeout   = 30 * time.Second
	headerTimeout = time.Minute
	maxRedirects  = 10
	maxHeader     = 1 << 20
)

// nat64 embeds IPv4 addresses (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// globalV6 is where public IPv6 addresses are.
var globalV6 = netip.MustParsePrefix("2000::/3")

// special are ranges that are not public although their form does not say so
// (IANA special-purpose address registries).
var special = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),       // this network
	netip.MustParsePrefix("100.64.0.0/10"),   // shared by carriers
	netip.MustParsePrefix("192.0.0.0/24"),    // protocol assignments
	netip.MustParsePrefix("192.0.2.0/24"),    // documentation
	netip.MustParsePrefix("192.88.99.0/24"),  // 6to4 relays
	netip.MustParsePrefix("198.18.0.0/15"),   // benchmarks
	netip.MustParsePrefix("198.51.100.0/24"), // documentation
	netip.MustParsePrefix("203.0.113.0/24"),  // documentation
	netip.MustParsePrefix("240.0.0.0/4"),     // reserved, broadcast
	netip.MustParsePrefix("2001::/23"),       // protocol assignments, Teredo
	netip.MustParsePrefix("2001:db8::/32"),   // documentation
	netip.MustParsePrefix("2002::/16"),       // 6to4, embeds IPv4
	netip.MustParsePrefix("3fff::/20"),       // documentation
}

// public tells whether an address belongs to the public internet.
func public(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	if !a.IsGlobalUnicast() || a.IsPrivate() || a.Is6() && !globalV6.Contains(a) {
		return false
	}
	for _, p := range special {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// control is called with the resolved address, before a connection is made.
func (c *Client) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return refusal(codes.PermissionDenied, "address %s is not allowed on this server: %w", address, err)
	}
	if !c.admit(a.Addr()) {
		return refusal(codes.PermissionDenied, "address %s is not allowed on this server: it is not public", a.Addr())
	}
	return nil
}

// stallConn is a connection that fails when nothing arrives for a time.
type stallConn struct {
	net.Conn
	stall time.Duration
}

func (s *stallConn) Read(p []byte) (int, error) {
	if err := s.SetReadDeadline(time.Now().Add(s.stall)); err != nil {
		return 0, err
	}
	n, err := s.Conn.Read(p)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		err = fmt.Errorf("nothing was received for %v: %w", s.stall, context.DeadlineExceeded)
	}
	return n, err
}

func (s *stallConn) Write(p []byte) (int, error) {
	if err := s.SetWriteDeadline(time.Now().Add(s.stall)); err != nil {
		return 0, err
	}
	return s.Conn.Write(p)
}

// transport makes the connections of one fetch; the caller ends them with
// CloseIdleConnections. It uses no proxy: the address of a proxy says nothing of
// where it leads.
func (c *Client) transport() *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second, ControlContext: c.control}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &stallConn{Conn: conn, stall: c.policy.Stall}, nil
		},
		TLSHandshakeTimeout:    dialTimeout,
		ResponseHeaderTimeout:  headerTimeout,
		MaxResponseHeaderBytes: maxHeader,
		MaxIdleConnsPerHost:    defaultConcurrency,
		DisableCompression:     true, // what is stored is what was sent
	}
}

// follow checks every redirect of an http request.
func (c *Client) follow(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return refusal(codes.FailedPrecondition, "stopped after %d redirects", maxRedirects)
	}
	return c.allowed(req.URL.Scheme)
}
