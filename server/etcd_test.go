package server_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// startEtcd runs an etcd at addr, or at a free port, with its data in dir; edit
// may change its configuration.
func startEtcd(t *testing.T, dir, addr string, edit ...func(*embed.Config)) (*embed.Etcd, string) {
	t.Helper()
	peer := url.URL{Scheme: "unix", Path: filepath.Join(t.TempDir(), "peer")}
	for try := 0; ; try++ {
		at := addr
		if addr == "" {
			at = fmt.Sprintf("127.0.0.1:%d", freePort(t))
		}
		c := embed.NewConfig()
		c.Dir = dir
		c.LogLevel = "fatal"
		client := url.URL{Scheme: "http", Host: at}
		c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
		c.ListenPeerUrls = []url.URL{peer}
		c.MaxTxnOps, c.MaxRequestBytes = 8192, 4<<20
		for _, f := range edit {
			f(c)
		}
		e, err := embed.StartEtcd(c)
		if err != nil && addr == "" && errors.Is(err, syscall.EADDRINUSE) && try < 10 {
			continue // somebody was faster
		}
		if err != nil {
			t.Fatal(err)
		}
		<-e.Server.ReadyNotify()
		return e, at
	}
}

// TestEtcdGone_CallsFailAndGoOn takes the etcd cluster away from a running
// daemon and gives it back.
func TestEtcdGone_CallsFailAndGoOn(t *testing.T) {
	t.Parallel() // it waits most of the time
	etcdDir := filepath.Join(t.TempDir(), "etcd")
	etcd, addr := startEtcd(t, etcdDir, "")
	t.Cleanup(func() { etcd.Close() }) // after the daemon's end
	p := startPachd(t, t.TempDir(), "--etcd-endpoints", addr)
	ctx := within(t)
	pfs, _, _ := dial(t, p.addr)
	if _, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("r")}); err != nil {
		t.Fatal(err)
	}
	if err := put(ctx, pfs, "r", "/a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	etcd.Close()
	start := time.Now()
	committed := make(chan error, 1)
	go func() { committed <- put(ctx, pfs, "r", "/a", []byte("2")) }()
	_, err := pfs.InspectRepo(ctx, &pfspb.InspectRepoRequest{Repo: repo("r")})
	wantStatus(t, "a read without etcd", err, codes.Unavailable, "etcd")
	wantStatus(t, "a commit without etcd", <-committed, codes.Unavailable, "etcd")
	t.Logf("both failed within %v", time.Since(start))

	etcd, _ = startEtcd(t, etcdDir, addr)
	for ctx.Err() == nil { // until the daemon has found it again
		if _, err = pfs.InspectRepo(ctx, &pfspb.InspectRepoRequest{Repo: repo("r")}); status.Code(err) != codes.Unavailable {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := put(ctx, pfs, "r", "/a", []byte("3")); err != nil {
		t.Errorf("a commit with etcd back: %v", err)
	}
	if got, err := get(ctx, pfs, "r", "/a"); err != nil || string(got) != "13" {
		t.Errorf("read back %q, %v; want what was acknowledged, 13", got, err)
	}
}

// certificates writes a CA, and a certificate with its key that the CA signed for
// 127.0.0.1, as PEM files.
func certificates(t *testing.T) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	newKey := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	sign := func(c, parent *x509.Certificate, public, signer *ecdsa.PrivateKey) []byte {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, parent, public.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	caKey, leafKey := newKey(), newKey()
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "etcd"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.MarshalECPrivateKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	return write("ca.pem", "CERTIFICATE", sign(root, root, caKey, caKey)),
		write("cert.pem", "CERTIFICATE", sign(leaf, root, leafKey, caKey)),
		write("key.pem", "EC PRIVATE KEY", der)
}

// TestEtcdCluster_TLSAndCredentials runs the daemon on an etcd that wants a
// client certificate and a password, and tells what is missing without them.
func TestEtcdCluster_TLSAndCredentials(t *testing.T) {
	t.Parallel() // it waits most of the time
	ca, cert, key := certificates(t)
	etcd, addr := startEtcd(t, filepath.Join(t.TempDir(), "etcd"), "", func(c *embed.Config) {
		c.ListenClientUrls[0].Scheme = "https"
		c.AdvertiseClientUrls[0].Scheme = "https"
		c.ClientTLSInfo = transport.TLSInfo{CertFile: cert, KeyFile: key, TrustedCAFile: ca, ClientCertAuth: true}
	})
	t.Cleanup(etcd.Close)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if b, err := os.ReadFile(ca); err != nil || !roots.AppendCertsFromPEM(b) {
		t.Fatalf("CA: %v", err)
	}
	admin, err := clientv3.New(clientv3.Config{Endpoints: []string{"https://" + addr}, TLS: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12}})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	ctx := within(t)
	for _, step := range []func() error{
		func() error { _, err := admin.UserAdd(ctx, "root", "secret"); return err },
		func() error { _, err := admin.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := admin.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	endpoint := []string{"--etcd-endpoints", "https://" + addr, "--etcd-ca", ca}
	for _, tc := range []struct {
		name string
		args []string
		want string
	}{
		{"no client certificate", endpoint, "does not answer"},
		{"no password", append(endpoint, "--etcd-cert", cert, "--etcd-key", key), "permission denied"},
		{"wrong password", append(endpoint, "--etcd-cert", cert, "--etcd-key", key, "--etcd-username", "root", "--etcd-password", "guess"), "authentication failed"},
		{"no such file", append(endpoint, "--etcd-cert", "/does/not/exist", "--etcd-key", key), "no such file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := tryPachd(t, t.TempDir(), tc.args...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
	p := startPachd(t, t.TempDir(), append(endpoint, "--etcd-cert", cert, "--etcd-key", key, "--etcd-username", "root", "--etcd-password", "secret")...)
	pfs, _, _ := dial(t, p.addr)
	if _, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo("r")}); err != nil {
		t.Fatal(err)
	}
	if err := put(ctx, pfs, "r", "/a", []byte("1")); err != nil {
		t.Error(err)
	}
}
