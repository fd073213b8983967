//go:build unix

package process

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/minipachd/minipachd/pps/runtime"
)

// The marks by which Sweep finds a worker's processes. A worker's program
// cannot have its own values for these.
const (
	ownerEnv       = "PACHD_WORKER_OWNER"
	incarnationEnv = "PACHD_WORKER_INCARNATION"
)

// secretsEnv tells a worker where its secret files are.
const secretsEnv = "PPS_SECRETS_DIR"

// inherited are the variables of the daemon that a worker sees, if the daemon has
// them. All others stay with the daemon.
var inherited = []string{
	"LANG", "TZ",
	// What the Go toolchain needs for `go run`: with these a worker shares
	// the daemon's module and build caches.
	"GOROOT", "GOFLAGS", "GOPROXY", "GONOPROXY", "GOPRIVATE", "GOSUMDB", "GONOSUMDB", "GOINSECURE",
	"GOTOOLCHAIN", "GOWORK", "GOEXPERIMENT", "GO111MODULE", "CGO_ENABLED",
}

// inheritedPaths are passed on only to a worker that runs as the daemon's
// own user: another could not write there.
var inheritedPaths = []string{"GOPATH", "GOCACHE", "GOMODCACHE", "GOENV"}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environ is a process's environment, entry by entry.
type environ [][]byte

func (e environ) has(entry string) bool {
	return slices.ContainsFunc(e, func(b []byte) bool { return bytes.Equal(b, []byte(entry)) })
}

// environment is the complete environment of a worker's program: our own
// defaults, then what the spec says, then the marks. Of each name the last
// entry counts.
func (r *Runtime) environment(spec *runtime.Spec, as *account) ([]string, error) {
	daemon := lookup(r.cfg.Environ)
	path := daemon["PATH"]
	if path == "" {
		path = defaultPath
	}
	home := daemon["HOME"]
	if as != nil {
		home = as.home
	}
	if home == "" {
		home = spec.Dir
	}
	list := []string{
		"PATH=" + r.binDir + string(filepath.ListSeparator) + path,
		"HOME=" + home,
		"TMPDIR=" + filepath.Join(spec.Dir, "tmp"),
	}
	names := inherited
	if as == nil {
		names = append(slices.Clip(names), inheritedPaths...)
	}
	for _, name := range names {
		if value, ok := daemon[name]; ok {
			list = append(list, name+"="+value)
		}
	}
	if spec.ConfigFile != nil {
		list = append(list, "PACH_CONFIG="+filepath.Join(spec.Dir, configName))
	}
	for _, entry := range spec.Env {
		name, _, ok := strings.Cut(entry, "=")
		if !ok || name == "" || strings.ContainsRune(entry, 0) {
			return nil, fmt.Errorf("environment variable %q: the name is empty or there is a NUL byte", name)
		}
		list = append(list, entry)
	}
	if len(spec.SecretFiles) > 0 {
		list = append(list, secretsEnv+"="+filepath.Join(spec.Dir, secretsName))
	}
	list = append(list, ownerEnv+"="+r.owner, incarnationEnv+"="+spec.Incarnation)
	return lastOfEach(list), nil
}

// lastOfEach drops entries that a later one of the same name replaces.
func lastOfEach(list []string) []string {
	seen := map[string]bool{}
	var kept []string
	for _, entry := range slices.Backward(list) {
		name, _, _ := strings.Cut(entry, "=")
		if !seen[name] {
			seen[name] = true
			kept = append(kept, entry)
		}
	}
	slices.Reverse(kept)
	return kept
}

func lookup(env []string) map[string]string {
	m := make(map[string]string, len(env))
	for _, entry := range env {
		if name, value, ok := strings.Cut(entry, "="); ok {
			m[name] = value
		}
	}
	return m
}

// findProgram resolves the program's name as a shell in dir would.
func findProgram(name, path, dir string) (string, error) {
	if strings.ContainsRune(name, filepath.Separator) {
		full := name
		if !filepath.IsAbs(full) {
			full = filepath.Join(dir, full)
		}
		if err := runnable(full); err != nil {
			return "", fmt.Errorf("command %q: %w", name, err)
		}
		return full, nil
	}
	for _, part := range filepath.SplitList(path) {
		if !filepath.IsAbs(part) {
			part = filepath.Join(dir, part)
		}
		if full := filepath.Join(part, name); runnable(full) == nil {
			return full, nil
		}
	}
	return "", fmt.Errorf("command %q not found on PATH %s", name, path)
}

func runnable(file string) error {
	info, err := os.Stat(file)
	switch {
	case os.IsNotExist(err):
		return fmt.Errorf("%s does not exist", file)
	case err != nil:
		return err
	case info.IsDir():
		return fmt.Errorf("%s is a directory", file)
	case info.Mode()&0o111 == 0:
		return fmt.Errorf("%s is not executable", file)
	}
	return nil
}
