package client_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/minipachd/minipachd/client"
)

// clearEnv takes every variable away that says where pachd is, and makes path
// the configuration.
func clearEnv(t *testing.T, path string) {
	for _, v := range []string{"PACHD_ADDRESS", "PACH_CONTEXT", "PACH_TOKEN", "PACHD_PEER_SERVICE_HOST", "PACHD_PEER_SERVICE_PORT", "PACHD_SERVICE_HOST", "PACHD_SERVICE_PORT"} {
		t.Setenv(v, "")
		os.Unsetenv(v)
	}
	t.Setenv("PACH_CONFIG", path)
}

const someConfig = `{"user_id":"u","future":[1],"v2":{"active_context":"a","active_enterprise_context":"e","max_shell_completions":"64",
 "contexts":{"a":{"source":"IMPORTED","pachd_address":"grpc://h:1","session_token":"","project":"p","port_forwarders":{"pachd":30650},"cluster_deployment_id":"d"},
 "b":{"pachd_address":"grpcs://h:2","session_token":"secret","enterprise_server":true}},"metrics":false}}`

func writeConfig(t *testing.T, text string) string {
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	clearEnv(t, path)
	return path
}

func TestConfig_RewriteKeepsUnknownFields(t *testing.T) {
	path := writeConfig(t, someConfig)
	cfg, err := client.LoadConfig("")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Metrics || cfg.UserID != "u" || cfg.Contexts["a"].Project != "p" || cfg.Contexts["b"].SessionToken == nil || *cfg.Contexts["b"].SessionToken != "secret" {
		t.Errorf("read %+v", cfg)
	}
	if err := cfg.Save(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var want, got any
	if err := json.Unmarshal([]byte(someConfig), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rewritten (-want +got):\n%s", diff)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v: tokens are for the owner only", info.Mode(), err)
	}
}

func TestConfig_Lookup(t *testing.T) {
	clearEnv(t, "")
	home := t.TempDir()
	t.Setenv("HOME", home)
	if p, err := client.ConfigPath(); err != nil || p != filepath.Join(home, ".pachyderm", "config.json") {
		t.Errorf("got %s, %v", p, err)
	}
	t.Setenv("PACH_CONFIG", "/elsewhere")
	if p, err := client.ConfigPath(); err != nil || p != "/elsewhere" {
		t.Errorf("got %s, %v", p, err)
	}
	cfg, err := client.LoadConfig(filepath.Join(home, "none", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Contexts["x"] = &client.Context{PachdAddress: "h"}
	if err := cfg.Save(); err != nil { // makes the directory
		t.Fatal(err)
	}
	if cfg, err = client.LoadConfig(cfg.Path()); err != nil || cfg.Contexts["x"].PachdAddress != "h" || !cfg.Metrics {
		t.Errorf("read back %+v, %v", cfg, err)
	}
}

func TestConfig_Errors(t *testing.T) {
	for text, want := range map[string]string{
		`{"v2":`: "unexpected end",
		`{"v2":{"contexts":{"a":{"session_token":5}}}}`:                              `context "a": session_token`,
		`{"v2":{"active_context":"gone"}}`:                                           `context "gone", which is not there`,
		`{"v2":{"active_context":"a","contexts":{"a":{"pachd_address":"ftp://x"}}}}`: `scheme "ftp"`,
		`{"v2":{"active_context":"a","contexts":{"a":{"server_cas":"***"}}}}`:        "server_cas",
		`{"v2":{"active_context":"a","contexts":{"a":{"server_cas":"eA=="}}}}`:       "no certificate",
	} {
		writeConfig(t, text)
		c, err := client.NewFromEnv()
		if err == nil {
			c.Close()
			t.Errorf("%s: no error", text)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q in it", text, err, want)
		}
	}
}

func TestNewFromEnv_Address(t *testing.T) {
	writeConfig(t, someConfig)
	for _, tc := range []struct {
		name, address, project string
		env                    map[string]string
	}{
		{"active context", "grpc://h:1", "p", nil},
		{"PACH_CONTEXT", "grpcs://h:2", "default", map[string]string{"PACH_CONTEXT": "b"}},
		{"PACHD_ADDRESS wins", "grpc://x:5", "p", map[string]string{"PACHD_ADDRESS": "x:5"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for k, v := range tc.env {
				t.Setenv(k, v)
			}
			c, err := client.NewFromEnv()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if c.Address().String() != tc.address || c.Project() != tc.project {
				t.Errorf("got %s, project %s", c.Address(), c.Project())
			}
		})
	}
	t.Run("in a container", func(t *testing.T) {
		clearEnv(t, filepath.Join(t.TempDir(), "none"))
		check := func(want string) {
			t.Helper()
			c, err := client.NewFromEnv()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if c.Address().String() != want {
				t.Errorf("got %s, want %s", c.Address(), want)
			}
		}
		check(client.DefaultAddress)
		t.Setenv("PACHD_SERVICE_HOST", "svc")
		t.Setenv("PACHD_SERVICE_PORT", "2")
		check("grpc://svc:2")
		t.Setenv("PACHD_PEER_SERVICE_HOST", "peer")
		t.Setenv("PACHD_PEER_SERVICE_PORT", "3")
		check("grpc://peer:3")
	})
}
