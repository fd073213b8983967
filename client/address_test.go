package client_test

import (
	"strings"
	"testing"

	"github.com/minipachd/minipachd/client"
)

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]string{
		"localhost":                 "grpc://localhost:30650",
		"localhost:1653":            "grpc://localhost:1653",
		"grpc://10.0.0.1":           "grpc://10.0.0.1:30650",
		"http://pach.example.com":   "grpc://pach.example.com:30650",
		"http://localhost:80":       "grpc://localhost:80",
		"grpcs://pach.example.com":  "grpcs://pach.example.com:30650",
		"https://h:443":             "grpcs://h:443",
		"[::1]:30650":               "grpc://[::1]:30650",
		"[::1]":                     "grpc://[::1]:30650",
		"::1":                       "grpc://[::1]:30650",
		"grpc://[fe80::1]:9":        "grpc://[fe80::1]:9",
		"unix:/run/pachd.sock":      "unix:///run/pachd.sock",
		"unix:///run/pachd.sock":    "unix:///run/pachd.sock",
		"unix://relative/path.sock": "unix://relative/path.sock",
	} {
		a, err := client.ParseAddress(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if a.String() != want {
			t.Errorf("%q: got %s, want %s", in, a, want)
		}
		if again, err := client.ParseAddress(a.String()); err != nil || again != a {
			t.Errorf("%q: %s reads back as %+v, %v", in, a, again, err)
		}
	}
}

func TestParseAddress_Errors(t *testing.T) {
	for in, want := range map[string]string{
		"":                    "the host is missing",
		"ftp://host":          `scheme "ftp"`,
		"grpc://":             "the host is missing",
		":30650":              "the host is missing",
		"host:":               `port ""`,
		"host:0":              `port "0"`,
		"host:70000":          `port "70000"`,
		"host:a":              `port "a"`,
		"grpc://host:1/path":  "no path or query",
		"grpc://host?x=1":     "no path or query",
		"grpc://user@host:1":  "a user cannot be given",
		"fe80::1::2:30650":    "brackets",
		"host name":           "white space",
		"unix:":               "path of the socket is missing",
		"grpc://[::1]:x":      `port "x"`,
		"grpcs://host#frag":   "no path or query",
		"dns:///host:30650":   `scheme "dns"`,
		"http://host:30650/":  "no path or query",
		"https://host:-1":     `port "-1"`,
		"grpc://a:1,grpc://b": "no path or query",
	} {
		_, err := client.ParseAddress(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got error %v, want one with %q", in, err, want)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"localhost", "grpcs://[::1]:30650", "unix:/x", "a:b:c", "[::1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := client.ParseAddress(s)
		if err != nil {
			return
		}
		if again, err := client.ParseAddress(a.String()); err != nil || again != a {
			t.Fatalf("%q: %s reads back as %+v, %v", s, a, again, err)
		}
	})
}
