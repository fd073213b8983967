package oidc

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/time/rate"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
)

const (
	// defaultTimeout bounds one request to the issuer.
	defaultTimeout = 10 * time.Second
	// maxAnswer bounds what the issuer answers, in bytes.
	maxAnswer = 1 << 20
)

// transport sends requests to the issuer. Whatever is wrong with the answer as such
// is an error of the request, so callers tell an issuer in trouble from one that
// says no.
type transport struct {
	base http.RoundTripper
	// secure is an https issuer's: what it names must be https too.
	secure bool
	// limit bounds how often; nil means no bound. Anybody can send an ID token with a
	// key that nobody knows, and each makes the daemon ask for the issuer's keys.
	limit *rate.Limiter
	// timeout bounds a request from dialing to the last byte.
	timeout time.Duration
}

var errTooOften = errors.New("it has been asked too often: try again in a few seconds")

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if t.limit != nil && !t.limit.Allow() {
		return nil, errTooOften
	}
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusInternalServerError || (req.Method == http.MethodGet && resp.StatusCode != http.StatusOK) {
		return nil, fmt.Errorf("it answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("its answer has more than %d bytes", maxAnswer)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// newTransport gives the way to an issuer. Requests to a localhost issuer go to
// this machine, whatever its name says; certificates are checked against the name.
func newTransport(config *authpb.OIDCConfig, roots *x509.CertPool, timeout time.Duration) *transport {
	dialer := &net.Dialer{}
	base := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		DisableKeepAlives:      true, // logins are rare
		ForceAttemptHTTP2:      true,
		MaxResponseHeaderBytes: 64 << 10,
	}
	u, err := url.Parse(config.GetIssuer())
	if err == nil && config.GetLocalhostIssuer() {
		base.Proxy = nil
		base.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if host, port, err := net.SplitHostPort(addr); err == nil && host == u.Hostname() {
				addr = net.JoinHostPort("localhost", port)
			}
			return dialer.DialContext(ctx, network, addr)
		}
	}
	return &transport{base: base, secure: err == nil && u.Scheme == "https", timeout: timeout}
}

// client makes requests by t, and follows no redirect: where the issuer's addresses
// are, its discovery document says.
func (t *transport) client() *http.Client {
	return &http.Client{
		Transport:     t,
		Timeout:       t.timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// limited is t, asked at most so often.
func (t *transport) limited(limit *rate.Limiter) *transport {
	return &transport{base: t.base, secure: t.secure, limit: limit, timeout: t.timeout}
}
