package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"github.com/minipachd/minipachd/server/certs"
)

// Secure tells whether the daemon's port speaks TLS.
func (c Config) Secure() bool { return c.TLSCert != "" || c.TLSAuto }

// checkTLS refuses flags that do not go together.
func (c Config) checkTLS() error {
	switch {
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return errors.New("--tls-cert and --tls-key go together: give both or none")
	case c.TLSCert != "" && c.TLSAuto:
		return errors.New("--tls-auto makes a certificate of its own: leave out --tls-cert and --tls-key, or --tls-auto")
	case c.TLSClientCA != "" && !c.Secure():
		return errors.New("--tls-client-ca asks clients for certificates, which needs TLS: give --tls-cert and --tls-key, or --tls-auto")
	}
	return nil
}

// secure puts TLS on the daemon's port, if it is to have it. Workers are on this
// machine and get a listener of their own on loopback then: no certificate needs
// to be for 127.0.0.1, and none is asked of them.
func (s *Server) secure(ctx context.Context) error {
	if !s.cfg.Secure() {
		return nil
	}
	var source *certs.Source
	var err error
	log := s.log.Named("tls")
	if s.cfg.TLSAuto {
		host, _, _ := net.SplitHostPort(s.cfg.Listen)
		if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
			host = ""
		}
		source, err = certs.Auto(s.dir.join("tls"), certs.LocalNames(host), s.cfg.TLSClientCA, log, nil)
	} else {
		source, err = certs.Load(certs.Files{Cert: s.cfg.TLSCert, Key: s.cfg.TLSKey, ClientCA: s.cfg.TLSClientCA}, log, nil)
	}
	if err != nil {
		return fmt.Errorf("tls: %w", err)
	}
	if s.local, err = (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
		return fmt.Errorf("listen on loopback for workers: %w", err)
	}
	s.peers.cert = source
	s.listener = tls.NewListener(s.listener, source.Config())
	return nil
}

// CAFile is the certificate that clients must trust when the daemon has made its
// own, empty otherwise.
func (s *Server) CAFile() string {
	if !s.cfg.TLSAuto {
		return ""
	}
	return certs.CAFile(s.dir.join("tls"))
}

// Secure tells whether clients must use TLS.
func (s *Server) Secure() bool { return s.cfg.Secure() }

// Exposed tells whether others than programs of this machine can reach the port.
func (s *Server) Exposed() bool {
	addr, ok := s.listener.Addr().(*net.TCPAddr)
	return !ok || !addr.IP.IsLoopback()
}
