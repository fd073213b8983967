package client

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Default address of a pachd that nothing says otherwise about.
const (
	DefaultPort    = 30650
	DefaultAddress = "grpc://127.0.0.1:30650"
)

// Address is where a pachd listens.
type Address struct {
	Secure bool   // TLS
	Host   string // name or IP, without brackets; empty for a Unix socket
	Port   uint16
	Path   string // of a Unix socket
}

// ParseAddress reads [grpc|grpcs|http|https]://host[:port] or unix:path. No
// scheme means grpc, no port 30650; IPv6 addresses with a port stand in
// brackets. A path, user or query is refused.
func ParseAddress(s string) (Address, error) {
	fail := func(why string) (Address, error) {
		return Address{}, fmt.Errorf("pachd address %q: %s", s, why)
	}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = "grpc", s
		if path, isUnix := strings.CutPrefix(s, "unix:"); isUnix {
			scheme, rest = "unix", path
		}
	}
	var a Address
	switch scheme {
	case "grpc", "http":
	case "grpcs", "https":
		a.Secure = true
	case "unix":
		if rest == "" {
			return fail("the path of the socket is missing")
		}
		return Address{Path: rest}, nil
	default:
		return fail("scheme " + strconv.Quote(scheme) + " is none of grpc, grpcs, http, https, unix")
	}
	switch {
	case rest == "":
		return fail("the host is missing")
	case strings.ContainsAny(rest, "/?#"):
		return fail("only host and port are wanted, no path or query")
	case strings.Contains(rest, "@"):
		return fail("a user cannot be given")
	case strings.ContainsAny(rest, " \t\r\n"):
		return fail("contains white space")
	}
	host, port, err := splitHostPort(rest)
	if err != nil {
		return fail(err.Error())
	}
	a.Host, a.Port = host, port
	return a, nil
}

func splitHostPort(s string) (string, uint16, error) {
	if ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return ip.String(), DefaultPort, nil
	}
	if !strings.Contains(s, ":") {
		return s, DefaultPort, nil
	}
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, errors.New("want host:port, with brackets around an IPv6 address")
	}
	if host == "" {
		return "", 0, errors.New("the host is missing")
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return "", 0, fmt.Errorf("port %q is not a number from 1 to 65535", text)
	}
	return host, uint16(port), nil
}

// String is the full text form, which ParseAddress reads.
func (a Address) String() string {
	if a.Path != "" {
		return "unix://" + a.Path
	}
	scheme := "grpc://"
	if a.Secure {
		scheme = "grpcs://"
	}
	return scheme + a.hostPort()
}

func (a Address) hostPort() string {
	return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port)))
}

// target is the form that gRPC dials.
func (a Address) target() string {
	if a.Path != "" {
		return "unix:" + a.Path
	}
	return "dns:///" + a.hostPort()
}
