package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	adminpb "github.com/minipachd/minipachd/proto/admin_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// trusting is the TLS of a client that trusts the CA of a PEM file and shows pairs.
func trusting(t *testing.T, ca string, pairs ...tls.Certificate) *tls.Config {
	t.Helper()
	roots := x509.NewCertPool()
	if b, err := os.ReadFile(ca); err != nil || !roots.AppendCertsFromPEM(b) {
		t.Fatalf("CA: %v", err)
	}
	return &tls.Config{RootCAs: roots, Certificates: pairs, MinVersion: tls.VersionTLS12}
}

func dialTLS(t *testing.T, addr string, config *tls.Config) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestTLS_Auto runs a daemon with a CA of its own: clients that trust it get in
// over gRPC and REST, a spout commits without knowing of it, others are told.
func TestTLS_Auto(t *testing.T) {
	dir := t.TempDir()
	p := startPachd(t, dir, "--tls-auto")
	ctx := within(t)
	ca := filepath.Join(dir, "tls", "ca.pem")
	conn := dialTLS(t, p.addr, trusting(t, ca))
	pfs, pps := pfspb.NewAPIClient(conn), ppspb.NewAPIClient(conn)
	info, err := adminpb.NewAPIClient(conn).InspectCluster(ctx, &adminpb.InspectClusterRequest{})
	if err != nil || !info.GetProxyTls() {
		t.Errorf("InspectCluster: %v, %v; want proxy_tls", info, err)
	}
	spec := fmt.Sprintf(`{"pipeline": {"name": "s"}, "spout": {},
	  "transform": {"cmd": ["sh"], "stdin": ["echo $PACHD_ADDRESS | pachctl put file s@master:/a", "sleep 1000"], "working_dir": %q}}`, t.TempDir())
	if _, err := pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: spec}); err != nil {
		t.Fatal(err)
	}
	if got := waitForFile(ctx, t, pfs, "s", "/a"); !strings.HasPrefix(got, "grpc://127.0.0.1:") || strings.Contains(got, p.addr) {
		t.Errorf("the spout reached pachd at %q, want a port of its own on loopback", got)
	}
	// As a person would, with an address and the CA's file.
	otherCA, _, _ := certificates(t)
	for _, tc := range []struct{ scheme, ca, want string }{
		{"grpcs", ca, "default s "},
		{"grpcs", otherCA, "--server-cas"},
		{"grpc", ca, "begins with grpcs://"},
	} {
		pachctl := exec.CommandContext(ctx, filepath.Join(dir, "bin", "pachctl"), "list", "repo")
		pachctl.Env = append(os.Environ(), "PACHD_ADDRESS="+tc.scheme+"://"+p.addr, "SSL_CERT_FILE="+tc.ca, "SSL_CERT_DIR=/dev/null",
			"PACH_CONFIG="+filepath.Join(t.TempDir(), "config.json"))
		if out, _ := pachctl.CombinedOutput(); !strings.Contains(string(out), tc.want) {
			t.Errorf("pachctl list repo at %s://, trusting %s: want %q in\n%s", tc.scheme, tc.ca, tc.want, out)
		}
	}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: trusting(t, ca), ForceAttemptHTTP2: true}}
	defer web.CloseIdleConnections()
	post := func(c *http.Client, scheme string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, scheme+"://"+p.addr+"/api/pfs_v2.API/ListRepo", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	if code, body := post(web, "https"); code != http.StatusOK || !strings.Contains(body, `"name":"s"`) {
		t.Errorf("REST over TLS: %d %s", code, body)
	}
	if code, body := post(http.DefaultClient, "http"); code != http.StatusBadRequest || !strings.Contains(body, "https://") {
		t.Errorf("HTTP without TLS: %d %s; want 400 and what to use", code, body)
	}
	// Without TLS, and with another CA, nobody gets in.
	for name, c := range map[string]pfspb.APIClient{
		"plain text": func() pfspb.APIClient { c, _, _ := dial(t, p.addr); return c }(),
		"other CA": func() pfspb.APIClient {
			return pfspb.NewAPIClient(dialTLS(t, p.addr, trusting(t, otherCA)))
		}(),
	} {
		if err := callOnce(ctx, c); err == nil {
			t.Errorf("%s: served", name)
		}
	}
}

// callOnce makes a call that fails as soon as the connection does.
func callOnce(ctx context.Context, c pfspb.APIClient) error {
	stream, err := c.ListRepo(ctx, &pfspb.ListRepoRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) { // no repo
		return nil
	}
	return err
}

// TestTLS_ClientCertificates asks every client for a certificate, except the
// workers; and takes a new certificate of the server's while it runs.
func TestTLS_ClientCertificates(t *testing.T) {
	t.Parallel() // it waits for looks at the files
	ca, cert, key := certificates(t)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	p := startPachd(t, t.TempDir(), "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", ca)
	ctx := within(t)
	if err := callOnce(ctx, pfspb.NewAPIClient(dialTLS(t, p.addr, trusting(t, ca)))); err == nil {
		t.Error("a client without a certificate is served")
	}
	_, otherCert, otherKey := certificates(t)
	other, err := tls.LoadX509KeyPair(otherCert, otherKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := callOnce(ctx, pfspb.NewAPIClient(dialTLS(t, p.addr, trusting(t, ca, other)))); err == nil {
		t.Error("a client with a certificate of another CA is served")
	}
	conn := dialTLS(t, p.addr, trusting(t, ca, pair))
	pfs, pps := pfspb.NewAPIClient(conn), ppspb.NewAPIClient(conn)
	if err := callOnce(ctx, pfs); err != nil {
		t.Fatalf("with a certificate: %v", err)
	}
	spec := `{"pipeline": {"name": "s"}, "spout": {}, "transform": {"cmd": ["sh"], "stdin": ["echo x | pachctl put file s@master:/a", "sleep 1000"]}}`
	if _, err := pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: spec}); err != nil {
		t.Fatal(err)
	}
	waitForFile(ctx, t, pfs, "s", "/a")

	// New files in the same place: new connections get them, within a second or so.
	newCA, newCert, newKey := certificates(t)
	for from, to := range map[string]string{newCert: cert, newKey: key, newCA: ca} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	if pair, err = tls.LoadX509KeyPair(cert, key); err != nil {
		t.Fatal(err)
	}
	for {
		err := callOnce(ctx, pfspb.NewAPIClient(dialTLS(t, p.addr, trusting(t, ca, pair))))
		if err == nil {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("with the new files: %v\n%s", err, p.log.String())
		case <-time.After(50 * time.Millisecond): // the next try
		}
	}
	if err := callOnce(ctx, pfs); err != nil {
		t.Errorf("the connection of before: %v", err)
	}
}

func TestTLS_FlagsThatDoNotGoTogether(t *testing.T) {
	for want, args := range map[string][]string{
		"give both or none":          {"--tls-cert", "x"},
		"makes a certificate of its": {"--tls-auto", "--tls-cert", "x", "--tls-key", "y"},
		"which needs TLS":            {"--tls-client-ca", "x"},
		"no such file":               {"--tls-cert", "/x", "--tls-key", "/y"},
	} {
		if _, err := tryPachd(t, t.TempDir(), args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want an error with %q", args, err, want)
		}
	}
}

// TestRun_WarnsOfAnOpenPort: who listens to the world without TLS and auth is told.
func TestRun_WarnsOfAnOpenPort(t *testing.T) {
	for _, tc := range []struct {
		args  []string
		warns bool
	}{
		{[]string{"--listen", "127.0.0.1:0"}, false},
		{[]string{"--listen", "0.0.0.0:0"}, true},
		{[]string{"--listen", "0.0.0.0:0", "--tls-auto"}, false},
	} {
		p := startPachd(t, t.TempDir(), tc.args...)
		p.kill() // its log is whole by then
		if got := strings.Contains(p.log.String(), "EVERYBODY"); got != tc.warns {
			t.Errorf("with %q warned: %v, want %v; the log: %s", tc.args, got, tc.warns, p.log.String())
		}
	}
}
