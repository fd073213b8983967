package pps_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/emptypb"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

func (e *env) createSecret(name, value string) error {
	file := fmt.Sprintf(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":%q},"type":"Opaque","stringData":{"k":%q}}`, name, value)
	_, err := e.pps.CreateSecret(e.t.Context(), &ppspb.CreateSecretRequest{File: []byte(file)})
	return err
}

func (e *env) secrets() []string {
	e.t.Helper()
	res, err := e.pps.ListSecret(e.t.Context(), &emptypb.Empty{})
	e.ok(err)
	var names []string
	for _, info := range res.SecretInfo {
		names = append(names, info.Secret.Name)
	}
	return names
}

func TestSecret_LifeAndErrors(t *testing.T) {
	e := newEnv(t)
	ctx := t.Context()
	if got := e.secrets(); len(got) != 0 {
		t.Error(got)
	}
	e.ok(e.createSecret("b", "v"))
	e.ok(e.createSecret("a", "v"))
	e.fails(e.createSecret("a", "w"), codes.AlreadyExists, `failed to create secret: secrets "a" already exists`)
	if got := e.secrets(); fmt.Sprint(got) != "[a b]" {
		t.Error(got)
	}
	info, err := e.pps.InspectSecret(ctx, &ppspb.InspectSecretRequest{Secret: &ppspb.Secret{Name: "a"}})
	e.ok(err)
	if info.Secret.Name != "a" || info.Type != "Opaque" || time.Since(info.CreationTimestamp.AsTime()) > time.Minute {
		t.Error(info)
	}
	_, err = e.pps.InspectSecret(ctx, &ppspb.InspectSecretRequest{Secret: &ppspb.Secret{Name: "x"}})
	e.fails(err, codes.NotFound, `failed to get secret: secrets "x" not found`)
	_, err = e.pps.DeleteSecret(ctx, &ppspb.DeleteSecretRequest{Secret: &ppspb.Secret{Name: "x"}})
	e.fails(err, codes.NotFound, `failed to delete secret: secrets "x" not found`)
	_, err = e.pps.DeleteSecret(ctx, &ppspb.DeleteSecretRequest{})
	e.fails(err, codes.InvalidArgument, `validate request: the secret must have a name`)
	_, err = e.pps.InspectSecret(ctx, &ppspb.InspectSecretRequest{})
	e.fails(err, codes.InvalidArgument, `validate request: the secret must have a name`)
	_, err = e.pps.CreateSecret(ctx, &ppspb.CreateSecretRequest{File: []byte("kind: Secret")})
	e.fails(err, codes.InvalidArgument, `failed to unmarshal secret: ...`)
	_, err = e.pps.DeleteSecret(ctx, &ppspb.DeleteSecretRequest{Secret: &ppspb.Secret{Name: "a"}})
	e.ok(err)
	if got := e.secrets(); fmt.Sprint(got) != "[b]" {
		t.Error(got)
	}
}

func TestCreatePipeline_SecretsMustBeThere(t *testing.T) {
	e := newEnv(t)
	e.ok(e.createSecret("s", "s3cret"))
	with := func(mounts string) string {
		return `{"pipeline":{"name":"p"},"spout":{},"transform":{"cmd":["sh"],"secrets":[` + mounts + `]}}`
	}
	before := e.snapshot()
	for mounts, want := range map[string]string{
		`{"name":"x","env_var":"V","key":"k"}`: `missing Kubernetes secret x`,
		`{"name":"s","env_var":"V","key":"x"}`: `Kubernetes secret s missing key x`,
		`{"name":"s","env_var":"V"}`:           `secret s has env_var set but is missing key`,
	} {
		_, err := e.create(with(mounts))
		e.fails(err, codes.Unknown, want)
	}
	_, err := e.create(with(`{"name":"s","mount_path":"/a/../b"}`))
	e.fails(err, codes.InvalidArgument, `transform.secrets: mount_path "/a/../b" of secret "s" must not have ".." or NUL in it`)
	if after := e.snapshot(); len(after) != len(before) {
		t.Errorf("a refused pipeline left %d keys", len(after)-len(before))
	}
	_, err = e.create(with(`{"name":"s","env_var":"V","key":"k"},{"name":"s","mount_path":"/etc/s"}`))
	e.ok(err)
	if text := e.inspect("p").String(); strings.Contains(text, "s3cret") {
		t.Error("the value is shown:", text)
	}
	for k, v := range e.snapshot() {
		if strings.Contains(v, "s3cret") {
			t.Error("the value is in", k)
		}
	}
	// In use, it may go all the same: that is how one is changed.
	_, err = e.pps.DeleteSecret(t.Context(), &ppspb.DeleteSecretRequest{Secret: &ppspb.Secret{Name: "s"}})
	e.ok(err)
}

func TestDeleteAll_TakesSecretsToo(t *testing.T) {
	e := newEnv(t)
	e.ok(e.createSecret("s", "v"))
	_, err := e.create(spout("p"))
	e.ok(err)
	_, err = e.pps.DeleteAll(t.Context(), &emptypb.Empty{})
	e.ok(err)
	if got := e.secrets(); len(got) != 0 {
		t.Error(got)
	}
}
