package remote

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func newClient(t *testing.T, p Policy) *Client {
	t.Helper()
	if p.Schemes == nil {
		p.Schemes = Schemes()
	}
	c, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// fetch gives what a URL brings: "name=content" of every object.
func fetch(t *testing.T, c *Client, src Source) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var got strings.Builder
	last := "?"
	err := c.Fetch(ctx, src, func(rel string, data []byte) error {
		if rel != last {
			if last != "?" {
				got.WriteByte(' ')
			}
			got.WriteString(rel + "=")
			last = rel
		}
		got.Write(data)
		return nil
	})
	return got.String(), err
}

func wantError(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("got %v; want %v with %q", err, code, text)
	}
}

func TestPublic(t *testing.T) {
	for addr, want := range map[string]bool{
		"8.8.8.8": true, "1.1.1.1": true, "2606:4700:4700::1111": true, "64:ff9b::808:808": true,
		"127.0.0.1": false, "127.1.2.3": false, "0.0.0.0": false, "10.0.0.1": false, "172.16.0.1": false,
		"192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false, "192.0.0.8": false,
		"198.18.0.1": false, "224.0.0.1": false, "240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "fe80::1": false, "fe80::1%eth0": false, "fc00::1": false, "fd00:ec2::254": false, "fec0::1": false,
		"ff02::1": false, "::ffff:127.0.0.1": false, "::ffff:8.8.8.8": true, "::127.0.0.1": false,
		"64:ff9b::7f00:1": false, "64:ff9b::a9fe:a9fe": false, "64:ff9b:1::1": false, "2002:7f00:1::": false, "2001::1": false, "2001:db8::1": false,
	} {
		if got := public(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}

// site answers what the tests ask for.
func site(t *testing.T) *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/text", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	mux.HandleFunc("/empty", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/big", func(w http.ResponseWriter, _ *http.Request) {
		for range 10 {
			io.WriteString(w, strings.Repeat("0123456789", 10_000))
		}
	})
	mux.HandleFunc("/hop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/text", http.StatusFound) })
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	mux.HandleFunc("/to", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Query().Get("url"), http.StatusFound)
	})
	mux.HandleFunc("/fail", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "broken", http.StatusBadGateway) })
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "part")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/cut-chunk", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "part")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/hang", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "part")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc("/gzip", func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			defer z.Close()
			io.WriteString(z, "packed")
			return
		}
		io.WriteString(w, "plain")
	})
	mux.HandleFunc("/secret", func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != "pw" {
			http.Error(w, "", http.StatusUnauthorized)
		}
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func TestFetch_HTTP(t *testing.T) {
	s := site(t)
	c := newClient(t, Policy{AllowPrivate: true, MaxBytes: 2_000_000})
	big := strings.Repeat("0123456789", 100_000)
	for path, want := range map[string]string{
		"/text": "=hello", "/empty": "=", "/big": "=" + big, "/hop": "=hello", "/gzip": "=plain", "/to?url=/text": "=hello",
	} {
		got, err := fetch(t, c, Source{URL: s.URL + path, Recursive: true})
		if err != nil || got != want {
			t.Errorf("%s: %d bytes, %v; want %d", path, len(got), err, len(want))
		}
	}
	if got, err := fetch(t, c, Source{URL: strings.Replace(s.URL, "http://", "http://u:pw@", 1) + "/secret"}); err != nil || got != "=" {
		t.Errorf("with a password: %q, %v", got, err)
	}
	_, err := fetch(t, c, Source{URL: strings.Replace(s.URL, "http://", "http://u:wrong@", 1) + "/secret"})
	wantError(t, err, codes.Unknown, "401 Unauthorized")
	if strings.Contains(err.Error(), "wrong") {
		t.Errorf("the error shows the password: %v", err)
	}
}

func TestFetch_HTTPFailures(t *testing.T) {
	s := site(t)
	c := newClient(t, Policy{AllowPrivate: true, MaxBytes: 500_000, Stall: 100 * time.Millisecond})
	for _, tc := range []struct {
		url  string
		code codes.Code
		text string
	}{
		{s.URL + "/missing", codes.Unknown, fmt.Sprintf(`error retrieving content from "%s/missing": 404 Not Found`, s.URL)},
		{s.URL + "/fail", codes.Unknown, fmt.Sprintf(`error retrieving content from "%s/fail": 502 Bad Gateway`, s.URL)},
		{s.URL + "/loop", codes.FailedPrecondition, "stopped after 10 redirects"},
		{s.URL + "/to?url=file:///etc/passwd", codes.PermissionDenied, "file URLs are not allowed on this server"},
		{s.URL + "/to?url=gopher://x/", codes.InvalidArgument, `scheme "gopher" is not supported`},
		{s.URL + "/cut", codes.Unknown, "unexpected EOF"},
		{s.URL + "/cut-chunk", codes.Unknown, "unexpected EOF"},
		{s.URL + "/hang", codes.DeadlineExceeded, "nothing was received for 100ms"},
		{s.URL + "/big", codes.ResourceExhausted, "it has more than the 500000 bytes"},
		{"", codes.InvalidArgument, "it is not a URL of the form scheme://host/path"},
		{"no url", codes.InvalidArgument, "it is not a URL of the form scheme://host/path"},
		{"http:x", codes.InvalidArgument, "it is not a URL of the form scheme://host/path"},
		{"http://%zz", codes.InvalidArgument, "it is not a URL: "},
		{"http:///x", codes.InvalidArgument, "it has no host or bucket"},
		{"ftp://host/x", codes.InvalidArgument, `scheme "ftp" is not supported, only http, https, s3, gs, azblob are`},
	} {
		_, err := fetch(t, c, Source{URL: tc.url})
		wantError(t, err, tc.code, tc.text)
	}
	closed := httptest.NewServer(nil)
	closed.Close()
	_, err := fetch(t, c, Source{URL: closed.URL})
	wantError(t, err, codes.Unknown, "connection refused")
}

func TestFetch_TimeIsBounded(t *testing.T) {
	s := site(t)
	c := newClient(t, Policy{AllowPrivate: true, Timeout: 100 * time.Millisecond})
	_, err := fetch(t, c, Source{URL: s.URL + "/hang"})
	wantError(t, err, codes.DeadlineExceeded, "it took longer than 100ms")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err = newClient(t, Policy{AllowPrivate: true}).Fetch(ctx, Source{URL: s.URL + "/hang"}, func(string, []byte) error { return nil })
	wantError(t, err, codes.DeadlineExceeded, "context deadline exceeded")
}

func TestFetch_SchemesAreThoseOfThePolicy(t *testing.T) {
	s := site(t)
	_, err := fetch(t, newClient(t, Policy{AllowPrivate: true, Schemes: []string{"https", "s3"}}), Source{URL: s.URL + "/text"})
	wantError(t, err, codes.PermissionDenied, "scheme http is not allowed on this server (allowed: https, s3)")
	_, err = fetch(t, newClient(t, Policy{AllowPrivate: true, Schemes: []string{}}), Source{URL: s.URL + "/text"})
	wantError(t, err, codes.PermissionDenied, "scheme http is not allowed on this server (none is)")
	// A redirect does not lead to another scheme either.
	c := newClient(t, Policy{AllowPrivate: true, Schemes: []string{"http"}})
	_, err = fetch(t, c, Source{URL: s.URL + "/to?url=https://localhost/"})
	wantError(t, err, codes.PermissionDenied, "scheme https is not allowed on this server (allowed: http)")
}

func TestFetch_PrivateAddressesAreRefused(t *testing.T) {
	s := site(t)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, Policy{})
	for _, host := range []string{"127.0.0.1", "localhost", "127.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]"} {
		_, err := fetch(t, c, Source{URL: "http://" + host + ":" + port + "/text"})
		if host == "127.1" && status.Code(err) == codes.Unknown {
			continue // a resolver need not know this form
		}
		wantError(t, err, codes.PermissionDenied, "is not allowed on this server: it is not public")
	}
	_, err = fetch(t, c, Source{URL: "http://169.254.169.254/latest/meta-data/"})
	wantError(t, err, codes.PermissionDenied, `error retrieving content from "http://169.254.169.254/latest/meta-data/": address 169.254.169.254 is not allowed on this server: it is not public`)
}

// TestFetch_RedirectsAreChecked admits one loopback address and not the other.
func TestFetch_RedirectsAreChecked(t *testing.T) {
	s := site(t)
	c := newClient(t, Policy{})
	c.admit = func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.1") }
	if got, err := fetch(t, c, Source{URL: s.URL + "/hop"}); err != nil || got != "=hello" {
		t.Fatalf("%q, %v", got, err)
	}
	_, err := fetch(t, c, Source{URL: s.URL + "/to?url=http://127.0.0.2:1/text"})
	wantError(t, err, codes.PermissionDenied, "address 127.0.0.2 is not allowed on this server: it is not public")
}

func TestFetch_AnErrorOfTheSinkIsReturned(t *testing.T) {
	s := site(t)
	own := errors.New("full")
	err := newClient(t, Policy{AllowPrivate: true}).Fetch(t.Context(), Source{URL: s.URL + "/big"}, func(string, []byte) error { return own })
	if !errors.Is(err, own) || err.Error() != "full" {
		t.Errorf("got %v", err)
	}
}
