package secrets

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/minipachd/minipachd/pps/runtime"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// mountDir is where a mount's files lie, below runtime.Spec's secrets
// directory: the path as it is given, without its first slash.
func mountDir(mountPath string) string { return strings.TrimPrefix(path.Clean("/"+mountPath), "/") }

// CheckForm refuses mounts that cannot be made, whatever secrets there are, with
// InvalidArgument.
func CheckForm(mounts []*ppspb.SecretMount) error {
	dirs := map[string]bool{}
	for _, m := range mounts {
		if name := m.GetEnvVar(); strings.ContainsAny(name, "=\x00") {
			return invalid("transform.secrets: env_var %q of secret %q is no name of an environment variable", name, m.GetName())
		}
		p := m.GetMountPath()
		if p == "" {
			continue
		}
		if slices.Contains(strings.Split(p, "/"), "..") || strings.ContainsRune(p, 0) {
			return invalid("transform.secrets: mount_path %q of secret %q must not have \"..\" or NUL in it", p, m.GetName())
		}
		dir := mountDir(p)
		for other := range dirs {
			if within(dir, other) || within(other, dir) {
				return invalid("transform.secrets: mount_path %q of secret %q and %q are one within the other", p, m.GetName(), "/"+other)
			}
		}
		dirs[dir] = true
	}
	return nil
}

func within(dir, outer string) bool {
	return outer == "" || dir == outer || strings.HasPrefix(dir, outer+"/")
}

// Check refuses mounts of secrets or keys that are not there. Clients match the texts.
func (s *Store) Check(tx *store.Txn, mounts []*ppspb.SecretMount) error {
	for _, m := range mounts {
		if _, err := s.record(tx, m); err != nil {
			return err
		}
	}
	return nil
}

// record finds what a mount needs.
func (s *Store) record(tx *store.Txn, m *ppspb.SecretMount) (*recordpb.SecretRecord, error) {
	rec, ok, err := s.records.Get(tx, m.GetName())
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, fmt.Errorf("missing Kubernetes secret %s", m.GetName())
	case m.GetEnvVar() != "" && m.GetKey() == "":
		return nil, fmt.Errorf("secret %s has env_var set but is missing key", m.GetName())
	}
	if _, ok := rec.GetValues()[m.GetKey()]; !ok && m.GetKey() != "" {
		return nil, fmt.Errorf("Kubernetes secret %s missing key %s", m.GetName(), m.GetKey())
	}
	return rec, nil
}

// Resolve gives what a worker is to see of its mounts: variables as NAME=value,
// and files. A mount with a path has all keys of its secret. The errors are
// those of Check, or *WrongKeyError.
func (s *Store) Resolve(tx *store.Txn, mounts []*ppspb.SecretMount) (env []string, files []runtime.File, err error) {
	for _, m := range mounts {
		rec, err := s.record(tx, m)
		if err != nil {
			return nil, nil, err
		}
		if m.GetEnvVar() != "" {
			v, err := s.value(rec, m.GetKey())
			if err != nil {
				return nil, nil, err
			}
			env = append(env, m.GetEnvVar()+"="+string(v))
		}
		if m.GetMountPath() == "" {
			continue
		}
		for _, k := range slices.Sorted(maps.Keys(rec.GetValues())) {
			v, err := s.value(rec, k)
			if err != nil {
				return nil, nil, err
			}
			files = append(files, runtime.File{Path: path.Join(mountDir(m.GetMountPath()), k), Data: v})
		}
	}
	return env, files, nil
}

func (s *Store) value(rec *recordpb.SecretRecord, key string) ([]byte, error) {
	name := rec.GetInfo().GetSecret().GetName()
	if rec.GetKeyId() != s.key.id {
		return nil, &WrongKeyError{Name: name, Has: rec.GetKeyId(), Want: s.key.id}
	}
	v, err := s.key.open(name, key, rec.GetValues()[key])
	if err != nil {
		return nil, fmt.Errorf("key %s of secret %q: what is stored cannot be decrypted, it was changed", key, name)
	}
	return v, nil
}
