package secrets

import (
	"bytes"
	"encoding/hex"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/pps/runtime"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	"github.com/minipachd/minipachd/store"
)

func open(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func keyIn(t *testing.T, dir string) *Key {
	t.Helper()
	k, err := LoadOrCreateKey(filepath.Join(dir, "secret.key"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func create(t *testing.T, etcd *store.Store, s *Store, file string) error {
	t.Helper()
	secret, err := Parse([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	rec := s.Seal(secret)
	_, err = etcd.Update(t.Context(), func(tx *store.Txn) error { return s.Create(tx, rec) })
	return err
}

func resolve(t *testing.T, etcd *store.Store, s *Store, mounts ...*ppspb.SecretMount) (env []string, files []runtime.File, err error) {
	t.Helper()
	err = etcd.View(t.Context(), func(tx *store.Txn) error {
		env, files, err = s.Resolve(tx, mounts)
		return err
	})
	return env, files, err
}

const file = `{"metadata":{"name":"db"},"data":{"password":"czNjcmV0"},"stringData":{"user":"me"}}`

var asEnv = &ppspb.SecretMount{Name: "db", Key: "password", EnvVar: "PW"}

func TestResolve_GivesWhatWasCreated(t *testing.T) {
	etcd, s := open(t), New(keyIn(t, t.TempDir()))
	if err := create(t, etcd, s, file); err != nil {
		t.Fatal(err)
	}
	env, files, err := resolve(t, etcd, s, asEnv, &ppspb.SecretMount{Name: "db", MountPath: "/etc//db/"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"PW=s3cret"}, env); diff != "" {
		t.Error(diff)
	}
	want := []runtime.File{{Path: "etc/db/password", Data: []byte("s3cret")}, {Path: "etc/db/user", Data: []byte("me")}}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Error(diff)
	}
}

func TestCreate_NothingInTheClearIsStored(t *testing.T) {
	etcd, s := open(t), New(keyIn(t, t.TempDir()))
	if err := create(t, etcd, s, file); err != nil {
		t.Fatal(err)
	}
	err := etcd.View(t.Context(), func(tx *store.Txn) error {
		for kv, err := range tx.Scan("", store.ScanOptions{}) {
			if err != nil {
				return err
			}
			if bytes.Contains(kv.Value, []byte("s3cret")) || bytes.Contains(kv.Value, []byte("czNjcmV0")) {
				t.Errorf("the value is in %s", kv.Key)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Two equal values do not look equal.
	secret, err := Parse([]byte(file))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(s.Seal(secret).Values["user"], s.Seal(secret).Values["user"]) {
		t.Error("two encryptions of one value are equal")
	}
	if text := secret.String(); strings.Contains(text, "s3cret") {
		t.Error(text)
	}
}

func TestResolve_WrongKeyAndChangedValues(t *testing.T) {
	etcd, s := open(t), New(keyIn(t, t.TempDir()))
	if err := create(t, etcd, s, file); err != nil {
		t.Fatal(err)
	}
	other := New(keyIn(t, t.TempDir()))
	_, _, err := resolve(t, etcd, other, asEnv)
	var wrong *WrongKeyError
	if !errors.As(err, &wrong) || wrong.Has != s.key.ID() || wrong.Want != other.key.ID() {
		t.Errorf("%v", err)
	}
	// A value moved to another key or secret, or changed, or cut.
	for name, change := range map[string]func(values map[string][]byte, rec *ppspb.SecretInfo){
		"moved":   func(v map[string][]byte, _ *ppspb.SecretInfo) { v["password"] = v["user"] },
		"renamed": func(_ map[string][]byte, i *ppspb.SecretInfo) { i.Secret.Name = "db2" },
		"changed": func(v map[string][]byte, _ *ppspb.SecretInfo) { v["password"][20] ^= 1 },
		"cut":     func(v map[string][]byte, _ *ppspb.SecretInfo) { v["password"] = v["password"][:5] },
	} {
		secret, err := Parse([]byte(file))
		if err != nil {
			t.Fatal(err)
		}
		rec := s.Seal(secret)
		rec.Values = maps.Clone(rec.Values)
		change(rec.Values, rec.Info)
		if v, err := s.value(rec, "password"); err == nil || v != nil || !strings.Contains(err.Error(), "cannot be decrypted") {
			t.Errorf("%s: %q, %v", name, v, err)
		}
	}
}

func TestCheck_Texts(t *testing.T) {
	etcd, s := open(t), New(keyIn(t, t.TempDir()))
	if err := create(t, etcd, s, file); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mount *ppspb.SecretMount
		want  string
	}{
		{&ppspb.SecretMount{Name: "S", Key: "k", EnvVar: "X"}, "missing Kubernetes secret S"},
		{&ppspb.SecretMount{Name: "db", Key: "k", EnvVar: "X"}, "Kubernetes secret db missing key k"},
		{&ppspb.SecretMount{Name: "db", EnvVar: "X"}, "secret db has env_var set but is missing key"},
		{asEnv, "<nil>"},
		{&ppspb.SecretMount{Name: "db", MountPath: "/x"}, "<nil>"},
	} {
		err := etcd.View(t.Context(), func(tx *store.Txn) error { return s.Check(tx, []*ppspb.SecretMount{c.mount}) })
		if text := "<nil>"; err != nil && err.Error() != c.want || err == nil && text != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

func TestCheckForm_RefusesWhatCannotBeMounted(t *testing.T) {
	mount := func(paths ...string) (list []*ppspb.SecretMount) {
		for _, p := range paths {
			list = append(list, &ppspb.SecretMount{Name: "s", MountPath: p})
		}
		return list
	}
	for _, ok := range [][]*ppspb.SecretMount{nil, mount("/a", "/b", "/ab"), mount("rel/dir"), mount("/"), mount("", "")} {
		if err := CheckForm(ok); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range [][]*ppspb.SecretMount{
		mount("/a", "a/"), mount("/a", "/a/b"), mount("/a/b", "/a"), mount("/", "/x"), mount("/a/../../b"), mount("a\x00"),
		{{Name: "s", Key: "k", EnvVar: "A=B"}},
	} {
		if err := CheckForm(bad); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestParse_BadInput(t *testing.T) {
	big := strings.Repeat("x", maxBytes)
	for in, want := range map[string]string{
		``:                             `failed to unmarshal secret: unexpected end of JSON input`,
		"apiVersion: v1\nkind: Secret": `failed to unmarshal secret: invalid character 'a' looking for beginning of value`,
		`{"metadata":{"name":"s"},"data":{"k":"s3cret!"}}`: `failed to unmarshal secret: illegal base64 data at input byte 6`,
		`{"kind":"ConfigMap","metadata":{"name":"s"}}`:     `failed to create secret: kind is "ConfigMap", not "Secret"`,
		`{"metadata":{"name":"s","labels":{"suite":"x"}}}`: `invalid suite label set on secret: suite=x`,
		`{"data":{}}`:                `failed to create secret: metadata.name must be given`,
		`{"metadata":{"name":"S_"}}`: `failed to create secret: metadata.name "S_": at most 253 lower case letters, digits, '-' and '.' are allowed, with a letter or digit first and last`,
		`{"metadata":{"name":"s"},"stringData":{"../x":""}}`:          `failed to create secret: key "../x" of secret "s": at most 253 letters, digits, '-', '_' and '.' are allowed, and no ".." in front`,
		`{"metadata":{"name":"s"},"stringData":{"k":"` + big + `"}}`:  `failed to create secret: the values of secret "s" have 1048577 bytes, more than 1048576`,
		`{"metadata":{"name":"s"},"stringData":{"k":["s3cret"]}}`:     `failed to unmarshal secret: json: cannot unmarshal array into Go struct field .stringData of type string`,
		`{"metadata":{"name":"s"},"stringData":{"k":"s3cret"},"x":1`:  `failed to unmarshal secret: unexpected end of JSON input`,
		`{"metadata":{"name":"s"},"stringData":{"k":"s3cret"}}{"a":1`: `failed to unmarshal secret: invalid character '{' after top-level value`,
	} {
		_, err := Parse([]byte(in))
		if status.Code(err) != codes.InvalidArgument || status.Convert(err).Message() != want {
			t.Errorf("%.60s:\ngot  %v\nwant %s", in, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Error("the error has the value:", err)
		}
	}
	s, err := Parse([]byte(`{"metadata":{"name":"s","labels":null,"annotations":null},"data":{"a":"eA==","b":null},"stringData":{"a":"y"},"immutable":true}`))
	if err != nil || s.Type != "Opaque" || string(s.values["a"]) != "y" || len(s.values) != 2 {
		t.Error(s, err)
	}
}

func TestCreate_LargestSecret(t *testing.T) {
	etcd, s := open(t), New(keyIn(t, t.TempDir()))
	if err := create(t, etcd, s, `{"metadata":{"name":"db"},"stringData":{"k":"`+strings.Repeat("x", maxBytes-1)+`"}}`); err != nil {
		t.Fatal(err)
	}
	env, _, err := resolve(t, etcd, s, &ppspb.SecretMount{Name: "db", Key: "k", EnvVar: "E"})
	if err != nil || len(env) != 1 || len(env[0]) != 2+maxBytes-1 {
		t.Error(err)
	}
}

func TestKey_FileIsMadeOnceAndKept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "secret.key")
	a, b := keyIn(t, dir), keyIn(t, dir)
	if a.ID() != b.ID() {
		t.Error("two keys from one file")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Error(info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Error("left beside the key:", entries)
	}
	if keyIn(t, t.TempDir()).ID() == a.ID() {
		t.Error("two files have one key")
	}
	text, _ := os.ReadFile(path)
	if secret, err := hex.DecodeString(strings.TrimSpace(string(text))); err != nil || len(secret) != keyBytes || strings.Contains(string(text), a.ID()) {
		t.Error("the file is not 64 hexadecimal digits, or the id is a part of it")
	}
	// A damaged file is reported, never replaced: it may be repaired.
	for _, damaged := range []string{"", "abc", strings.Repeat("g", 64)} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadOrCreateKey(path); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Error(err)
		}
		if text, _ := os.ReadFile(path); string(text) != damaged {
			t.Error("a damaged key file was replaced")
		}
	}
	if _, err := LoadKey(filepath.Join(dir, "no")); err == nil || !strings.Contains(err.Error(), "openssl rand -hex 32") {
		t.Error(err)
	}
}

func TestKey_SealsTexts(t *testing.T) {
	key, other := keyIn(t, t.TempDir()), keyIn(t, t.TempDir())
	for _, text := range []string{"s3cret", "", "sealed:" + key.ID() + ":AAAA", "\x00\xff"} {
		sealed := key.SealText("a", text)
		if sealed == key.SealText("a", text) || strings.Contains(sealed, "s3cret") {
			t.Errorf("%q is sealed as %q", text, sealed)
		}
		if got, ok, err := key.OpenText("a", sealed); got != text || !ok || err != nil {
			t.Errorf("%q comes back as %q, %v, %v", text, got, ok, err)
		}
		for name, open := range map[string]func() (string, bool, error){
			"for something else": func() (string, bool, error) { return key.OpenText("b", sealed) },
			"with another key":   func() (string, bool, error) { return other.OpenText("a", sealed) },
			"cut":                func() (string, bool, error) { return key.OpenText("a", sealed[:len(sealed)-4]) },
		} {
			if got, ok, err := open(); got != "" || !ok || err == nil {
				t.Errorf("%s: %q, %v, %v", name, got, ok, err)
			}
		}
	}
	for _, plain := range []string{"s3cret", "", "sealed:", "sealed:x:y", "sealed:" + key.ID() + ":not base64!"} {
		if got, ok, err := key.OpenText("a", plain); got != plain || ok || err != nil {
			t.Errorf("%q, which is not sealed: %q, %v, %v", plain, got, ok, err)
		}
	}
}
