package server

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"

	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/server/certs"
)

// peers holds the connections to other daemons on the same etcd. Which daemon is at the
// other end is known by the key that it has written into etcd, so certificates need be
// for no name; one whose key was replaced since must be good by this system's CAs.
type peers struct {
	self func() string
	cert *certs.Source // of our own; nil: the daemons speak no TLS

	mu    sync.Mutex
	conns map[string]*peerConn // by daemon
}

type peerConn struct {
	*grpc.ClientConn
	to *recordpb.DaemonRecord
}

// Self implements pps.Peers.
func (p *peers) Self() string { return p.self() }

// Connect implements pps.Peers.
func (p *peers) Connect(to *recordpb.DaemonRecord) (grpc.ClientConnInterface, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.conns[to.GetId()]
	if old != nil && proto.Equal(old.to, to) {
		return old, nil
	}
	creds := insecure.NewCredentials()
	if len(to.GetTlsKey()) > 0 {
		creds = credentials.NewTLS(p.trust(to))
	}
	conn, err := grpc.NewClient("passthrough:///"+to.GetAddress(),
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		// A daemon that is frozen takes connections and does not answer.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 3 * time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", to.GetAddress(), err)
	}
	if old != nil {
		old.Close()
	}
	if p.conns == nil {
		p.conns = map[string]*peerConn{}
	}
	p.conns[to.GetId()] = &peerConn{conn, to}
	return conn, nil
}

// trust is how a daemon that speaks TLS is known. If it wants to know us, it is shown
// our certificate.
func (p *peers) trust(to *recordpb.DaemonRecord) *tls.Config {
	host, _, _ := net.SplitHostPort(to.GetAddress())
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         host,
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection: func(state tls.ConnectionState) error {
			leaf := state.PeerCertificates[0]
			if bytes.Equal(keyDigest(leaf), to.GetTlsKey()) {
				return nil
			}
			between := x509.NewCertPool()
			for _, c := range state.PeerCertificates[1:] {
				between.AddCert(c)
			}
			_, err := leaf.Verify(x509.VerifyOptions{DNSName: host, Intermediates: between})
			return err
		},
	}
	if p.cert != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return p.cert.Certificate(), nil
		}
	}
	return config
}

// key is the digest that others know this daemon by; nil without TLS.
func (p *peers) key() []byte {
	if p.cert == nil {
		return nil
	}
	return keyDigest(p.cert.Certificate().Leaf)
}

func keyDigest(c *x509.Certificate) []byte {
	digest := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return digest[:]
}

// Close ends all connections.
func (p *peers) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

// advertised is the host:port at which other daemons reach this one: as configured, or
// where it listens; if that is every address, by the name of this machine.
func (s *Server) advertised() string {
	if s.cfg.Advertise != "" {
		return s.cfg.Advertise
	}
	host, port, err := net.SplitHostPort(s.Addr())
	if err != nil {
		return s.Addr()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return net.JoinHostPort(host, port)
}
