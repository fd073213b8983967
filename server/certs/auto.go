package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/minipachd/minipachd/clock"
)

// How long what Auto makes is valid, and how long before its end the server's
// certificate is made anew.
const (
	caValid     = 10 * 365 * 24 * time.Hour
	serverValid = 365 * 24 * time.Hour
	renewBefore = 30 * 24 * time.Hour
	// early is by how much clocks of clients may be behind.
	early = time.Hour
)

// Auto serves TLS with a certificate for names (DNS names and IP addresses) that a
// CA of this machine's own has signed. Both are kept in dir: ca.pem, which clients
// are to trust, ca.key, server.pem and server.key. They are made when they are
// missing, run out, or are for other names; clientCA is as in Files.
func Auto(dir string, names []string, clientCA string, log *zap.Logger, clk clock.Clock) (*Source, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if clk == nil {
		clk = clock.System{}
	}
	a := &auto{dir: dir, names: names}
	if err := a.renew(clk.Now()); err != nil {
		return nil, fmt.Errorf("local CA in %s: %w", dir, err)
	}
	s, err := Load(Files{Cert: a.path("server.pem"), Key: a.path("server.key"), ClientCA: clientCA}, log, clk)
	if err != nil {
		return nil, err
	}
	s.renew = a.renew
	return s, nil
}

// CAFile is the certificate in dir that clients are to trust.
func CAFile(dir string) string { return filepath.Join(dir, "ca.pem") }

type auto struct {
	dir   string
	names []string
}

func (a *auto) path(name string) string { return filepath.Join(a.dir, name) }

// renew makes what is missing or about to run out.
func (a *auto) renew(now time.Time) error {
	ca, err := leaf(CAFile(a.dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w; remove the directory for a new CA", CAFile(a.dir), err)
	}
	if ca == nil || now.After(ca.NotAfter.Add(-serverValid)) {
		if err := a.makeCA(now); err != nil {
			return err
		}
		if ca, err = leaf(CAFile(a.dir)); err != nil {
			return err
		}
	}
	if cert, err := leaf(a.path("server.pem")); err == nil && now.Before(cert.NotAfter.Add(-renewBefore)) &&
		slices.Equal(namesOf(cert), sorted(a.names)) && cert.CheckSignatureFrom(ca) == nil {
		return nil
	}
	return a.makeServer(now, ca)
}

func (a *auto) makeCA(now time.Time) error {
	host, err := os.Hostname()
	if err != nil {
		host = "this machine"
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "mini-pachd on " + host},
		NotBefore: now.Add(-early), NotAfter: now.Add(caValid),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	return a.issue(template, nil, nil, "ca.pem", "ca.key")
}

func (a *auto) makeServer(now time.Time, ca *x509.Certificate) error {
	pair, err := tls.LoadX509KeyPair(CAFile(a.dir), a.path("ca.key"))
	if err != nil {
		return fmt.Errorf("key of the CA: %w; remove the directory for a new CA", err)
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "pachd"},
		NotBefore: now.Add(-early), NotAfter: now.Add(serverValid),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range a.names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return a.issue(template, ca, pair.PrivateKey, "server.pem", "server.key")
}

// issue signs a certificate for a new key, with the key itself if there is no
// parent, and writes both files, the key first: a certificate never stands there
// without the key that goes with it for longer than the two renames take.
func (a *auto) issue(template, parent *x509.Certificate, signer crypto.PrivateKey, certFile, keyFile string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return err
	}
	if parent == nil {
		parent, signer = template, key
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := replace(a.path(keyFile), 0o600, &pem.Block{Type: "PRIVATE KEY", Bytes: secret}); err != nil {
		return err
	}
	return replace(a.path(certFile), 0o644, &pem.Block{Type: "CERTIFICATE", Bytes: cert})
}

// replace writes a file so that nobody sees half of it.
func replace(name string, mode fs.FileMode, block *pem.Block) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = errors.Join(f.Chmod(mode), pem.Encode(f, block), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

func parseCert(text []byte) (*x509.Certificate, error) {
	for {
		block, rest := pem.Decode(text)
		if block == nil {
			return nil, errNoCert
		}
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
		text = rest
	}
}

// namesOf are the names that a certificate is for, in order.
func namesOf(cert *x509.Certificate) []string {
	names := slices.Clone(cert.DNSNames)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	return sorted(names)
}

func sorted(names []string) []string {
	out := slices.Clone(names)
	for i, name := range out {
		if ip := net.ParseIP(name); ip != nil {
			out[i] = ip.String()
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// LocalNames are the names under which this machine may be reached: its host
// name, localhost, the addresses of its interfaces, and those of more that are
// not empty.
func LocalNames(more ...string) []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	if addrs, err := net.InterfaceAddrs(); err == nil {
		for _, addr := range addrs {
			if n, ok := addr.(*net.IPNet); ok {
				names = append(names, n.IP.String())
			}
		}
	}
	for _, name := range more {
		if name != "" {
			names = append(names, name)
		}
	}
	return sorted(names)
}
