// Package certs serves TLS from PEM files that may change while the daemon runs,
// and makes a local CA for trying TLS out.
package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/minipachd/minipachd/clock"
)

// Files names the PEM files of a listener.
type Files struct {
	// Cert is the certificate, followed by those between it and its CA; Key is its
	// private key.
	Cert, Key string
	// ClientCA has the CAs that must have signed the certificate of every client;
	// empty asks clients for none.
	ClientCA string
}

// lookEvery is how often the files are looked at: a handshake that comes later
// than this after the last look, looks again.
const lookEvery = time.Second

// Source gives each handshake the files as they are now. A change that cannot be
// used, such as a certificate whose key has not been written yet, is logged, and
// what was loaded before stays in use.
type Source struct {
	files Files
	log   *zap.Logger
	clock clock.Clock
	// renew, if not nil, makes the files anew when they run out.
	renew func(now time.Time) error

	mu     sync.Mutex
	looked time.Time
	seen   [][]byte // what the files had when they were last tried
	h1, h2 *tls.Config
}

// Load reads the files; they must be usable. Nil log discards, nil clock is the
// system's.
func Load(files Files, log *zap.Logger, clk clock.Clock) (*Source, error) {
	if log == nil {
		log = zap.NewNop()
	}
	if clk == nil {
		clk = clock.System{}
	}
	s := &Source{files: files, log: log, clock: clk}
	s.looked = clk.Now()
	if _, err := s.read(); err != nil {
		return nil, err
	}
	return s, nil
}

// Config is for the listener. A client that can speak HTTP/1.1 is spoken to in
// HTTP/1.1: HTTP/2 is gRPC here, whose clients offer nothing else.
func (s *Source) Config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			h1, h2 := s.current()
			if slices.Contains(hello.SupportedProtos, "http/1.1") || !slices.Contains(hello.SupportedProtos, "h2") {
				return h1, nil
			}
			return h2, nil
		},
	}
}

// Certificate is what the listener shows now.
func (s *Source) Certificate() *tls.Certificate {
	h1, _ := s.current()
	return &h1.Certificates[0]
}

// current looks at the files, unless that was done a moment ago.
func (s *Source) current() (h1, h2 *tls.Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	if now.Sub(s.looked) < lookEvery {
		return s.h1, s.h2
	}
	s.looked = now
	if s.renew != nil {
		if err := s.renew(now); err != nil {
			s.log.Error("the TLS certificate could not be renewed; the one before stays in use", zap.Error(err))
		}
	}
	changed, err := s.read()
	switch {
	case err != nil && changed:
		s.log.Error("the TLS files changed and cannot be used; those before stay in use", zap.Error(err))
	case changed:
		s.log.Info("the TLS files changed; new connections use them")
	}
	return s.h1, s.h2
}

// read loads the files if they have other content than at the last try.
func (s *Source) read() (changed bool, err error) {
	var content [][]byte
	for _, name := range []string{s.files.Cert, s.files.Key, s.files.ClientCA} {
		var b []byte
		if name != "" {
			var failed error
			if b, failed = os.ReadFile(name); failed != nil {
				b, err = []byte(failed.Error()), errors.Join(err, failed) // said once
			}
		}
		content = append(content, b)
	}
	if slices.EqualFunc(s.seen, content, bytes.Equal) {
		return false, nil
	}
	s.seen = content
	if err != nil {
		return true, err
	}
	pair, err := tls.X509KeyPair(content[0], content[1])
	if err != nil {
		return true, fmt.Errorf("certificate %s with key %s: %w", s.files.Cert, s.files.Key, err)
	}
	base := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	if s.files.ClientCA != "" {
		base.ClientCAs = x509.NewCertPool()
		if !base.ClientCAs.AppendCertsFromPEM(content[2]) {
			return true, fmt.Errorf("%s holds no PEM certificate", s.files.ClientCA)
		}
		base.ClientAuth = tls.RequireAndVerifyClientCert
	}
	s.h1, s.h2 = base, base.Clone()
	s.h1.NextProtos, s.h2.NextProtos = []string{"http/1.1"}, []string{"h2"}
	return true, nil
}

// leaf reads the first certificate of a PEM file.
func leaf(name string) (*x509.Certificate, error) {
	pem, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return parseCert(pem)
}

var errNoCert = errors.New("no PEM certificate")
