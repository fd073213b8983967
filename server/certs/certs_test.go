package certs

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/minipachd/minipachd/clock/clocktest"
)

// handshake connects to source as a client that trusts the CA in dir and offers
// protos; it returns the server's certificate and the protocol that was agreed on.
func handshake(t *testing.T, source *Source, dir string, protos ...string) (*x509.Certificate, string, error) {
	t.Helper()
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(CAFile(dir))
	if err != nil || !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("CA: %v", err)
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	server := tls.Server(far, source.Config())
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	client := tls.Client(near, &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: protos, MinVersion: tls.VersionTLS12})
	if err := client.Handshake(); err != nil {
		return nil, "", err
	}
	if err := <-done; err != nil {
		return nil, "", err
	}
	state := client.ConnectionState()
	return state.PeerCertificates[0], state.NegotiatedProtocol, nil
}

// start is near now: the client of a handshake has the system's clock.
func start() time.Time { return time.Now().Truncate(time.Second) }

func TestAuto_MakesRenewsAndKeeps(t *testing.T) {
	dir := t.TempDir()
	clk := clocktest.New(start())
	source, err := Auto(dir, []string{"localhost", "127.0.0.1"}, "", nil, clk)
	if err != nil {
		t.Fatal(err)
	}
	first, _, err := handshake(t, source, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.key", "server.key"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want mode 0600", name, info.Mode(), err)
		}
	}
	ca, err := os.ReadFile(CAFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	same := func() {
		t.Helper()
		if now, err := os.ReadFile(CAFile(dir)); err != nil || string(now) != string(ca) {
			t.Errorf("the CA changed (%v); clients trust the one before", err)
		}
	}
	again, err := Auto(dir, []string{"127.0.0.1", "localhost"}, "", nil, clk)
	if err != nil {
		t.Fatal(err)
	}
	if c, _, err := handshake(t, again, dir); err != nil || !c.Equal(first) {
		t.Errorf("started again: another certificate, %v; want the same", err)
	}
	// Shortly before its end it is made anew, in a daemon that has run all the time.
	clk.Advance(first.NotAfter.Sub(clk.Now()) - renewBefore + time.Minute)
	h1, _ := source.current()
	renewed, err := x509.ParseCertificate(h1.Certificates[0].Certificate[0])
	if err != nil || !renewed.NotAfter.After(first.NotAfter) {
		t.Errorf("after 11 months: valid until %v, %v; want longer than %v", renewed.NotAfter, err, first.NotAfter)
	}
	same()
	// Another name: another certificate of the same CA.
	other, err := Auto(dir, []string{"localhost", "example.org"}, "", nil, clocktest.New(start()))
	if err != nil {
		t.Fatal(err)
	}
	if c, _, err := handshake(t, other, dir); err != nil || c.VerifyHostname("example.org") != nil {
		t.Errorf("a new name: %v; want a certificate for it", err)
	}
	same()
}

func TestAuto_RefusesACAThatItCannotUse(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(dir string) error
		want  string
	}{
		"no key":       {func(dir string) error { return os.Remove(filepath.Join(dir, "ca.key")) }, "remove the directory"},
		"no PEM":       {func(dir string) error { return os.WriteFile(CAFile(dir), []byte("x"), 0o600) }, "no PEM certificate"},
		"no directory": {func(dir string) error { return os.WriteFile(filepath.Join(dir, "f"), nil, 0o600) }, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := Auto(dir, []string{"localhost"}, "", nil, nil); err != nil {
				t.Fatal(err)
			}
			if err := tc.spoil(dir); err != nil {
				t.Fatal(err)
			}
			if name == "no directory" {
				dir = filepath.Join(dir, "f")
			}
			if _, err := Auto(dir, []string{"localhost", "x.example"}, "", nil, nil); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestSource_SpeaksHTTP2ToGRPCOnly(t *testing.T) {
	dir := t.TempDir()
	source, err := Auto(dir, []string{"localhost"}, "", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		offers []string
		want   string
	}{
		{[]string{"h2"}, "h2"},
		{[]string{"grpc-exp", "h2"}, "h2"},
		{[]string{"h2", "http/1.1"}, "http/1.1"},
		{[]string{"http/1.1"}, "http/1.1"},
		{nil, ""},
	} {
		if _, got, err := handshake(t, source, dir, tc.offers...); err != nil || got != tc.want {
			t.Errorf("a client that offers %v gets %q, %v; want %q", tc.offers, got, err, tc.want)
		}
	}
}

// TestSource_FollowsTheFiles replaces the files under a running listener, well and
// badly.
func TestSource_FollowsTheFiles(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	for _, dir := range []string{one, two} {
		if _, err := Auto(dir, []string{"localhost"}, "", nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	core, logged := observer.New(zapcore.ErrorLevel)
	clk := clocktest.New(start())
	files := Files{Cert: filepath.Join(one, "server.pem"), Key: filepath.Join(one, "server.key")}
	source, err := Load(files, zap.New(core), clk)
	if err != nil {
		t.Fatal(err)
	}
	first, _, err := handshake(t, source, one)
	if err != nil {
		t.Fatal(err)
	}
	replaced := func(name string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(two, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(one, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	// A certificate without its key yet, looked at several times: said once.
	replaced("server.pem")
	for range 3 {
		clk.Advance(lookEvery)
		if c, _, err := handshake(t, source, one); err != nil || !c.Equal(first) {
			t.Fatalf("with half of a change: %v; want the certificate of before", err)
		}
	}
	if n := logged.Len(); n != 1 {
		t.Errorf("%d errors logged, want 1", n)
	}
	// The key comes, and the file of the CA for the client of this test.
	replaced("server.key")
	replaced("ca.pem")
	clk.Advance(lookEvery)
	if c, _, err := handshake(t, source, one); err != nil || c.Equal(first) {
		t.Errorf("with the whole change: the certificate of before, %v; want the new one", err)
	}
	if err := os.Remove(files.Cert); err != nil {
		t.Fatal(err)
	}
	clk.Advance(lookEvery)
	if _, _, err := handshake(t, source, one); err != nil {
		t.Errorf("without the file: %v; want what was loaded before", err)
	}
	if n := logged.Len(); n != 2 {
		t.Errorf("%d errors logged, want 2", n)
	}
}

func TestLoad_SaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	if _, err := Auto(dir, []string{"localhost"}, "", nil, nil); err != nil {
		t.Fatal(err)
	}
	cert, key := filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key")
	for want, files := range map[string]Files{
		"no such file":                  {Cert: cert, Key: "/does/not/exist"},
		"with key":                      {Cert: cert, Key: filepath.Join(dir, "ca.key")},
		"holds no PEM certificate":      {Cert: cert, Key: key, ClientCA: key},
		"/other: no such file":          {Cert: "/other", Key: key},
		"/clients: no such file or dir": {Cert: cert, Key: key, ClientCA: "/clients"},
	} {
		if _, err := Load(files, nil, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: got %v, want an error with %q", files, err, want)
		}
	}
}
