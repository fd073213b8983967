//go:build unix

package process

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"

	"go.uber.org/zap"

	"github.com/minipachd/minipachd/pps/runtime"
	"github.com/minipachd/minipachd/pps/runtime/cgroup"
)

// Config says how workers run.
type Config struct {
	// DataDir is the daemon's data directory, required. Below it bin/ holds
	// pachctl for the workers and workers/ their scratch directories. For a
	// worker with transform.user the directory must be open to that user (mode 0711).
	DataDir string
	// WorkingDir is where a program starts whose pipeline has no
	// transform.working_dir, and what a relative one is relative to. Default: the
	// daemon's working directory when New is called, so that
	// `go run ./main.go` means the same as in the shell that started pachd.
	WorkingDir string
	// Environ is the daemon's environment, from which a few variables reach
	// workers; default os.Environ().
	Environ []string
	// Logger tells of lost keepers and the like; default none.
	Logger *zap.Logger
}

// Runtime is the process runtime.
type Runtime struct {
	cfg    Config
	owner  string // mark of the data directory
	binDir string
	forker *forker
	groups *cgroup.Tree

	mu     sync.Mutex
	closed bool
	alive  map[string]*worker // by WorkerID; nil while it starts
	closer sync.Once
}

var _ runtime.Runtime = (*Runtime)(nil)

// What is in a scratch directory beside tmp.
const (
	configName  = "config.json"
	secretsName = "secrets"
)

// New makes the runtime: it fills <DataDir>/bin and starts the thread that forks.
// Close frees it. It is an error if main has not called MaybeInit.
func New(cfg Config) (*Runtime, error) {
	if !initCalled.Load() {
		return nil, errors.New("process runtime: main has not called process.MaybeInit")
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Environ == nil {
		cfg.Environ = os.Environ()
	}
	dir, err := realDir(cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("process runtime: data directory: %w", err)
	}
	cfg.DataDir = dir
	if cfg.WorkingDir == "" {
		cfg.WorkingDir = "."
	}
	if cfg.WorkingDir, err = filepath.Abs(cfg.WorkingDir); err != nil {
		return nil, fmt.Errorf("process runtime: working directory: %w", err)
	}
	r := &Runtime{
		cfg:    cfg,
		owner:  ownerOf(dir),
		binDir: filepath.Join(dir, "bin"),
		alive:  map[string]*worker{},
	}
	if err := r.linkPachctl(); err != nil {
		return nil, fmt.Errorf("process runtime: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "workers"), 0o711); err != nil {
		return nil, fmt.Errorf("process runtime: %w", err)
	}
	r.groups = cgroup.Open(r.owner)
	r.forker = newForker()
	return r, nil
}

// ownerOf gives the mark of a data directory.
func ownerOf(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:12])
}

// realDir makes the directory and resolves it, so that one directory has one mark
// whatever way it was named.
func realDir(dir string) (string, error) {
	if dir == "" {
		return "", errors.New("not given")
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(abs)
}

// linkPachctl points <data>/bin/pachctl to the running executable.
func (r *Runtime) linkPachctl() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.binDir, 0o755); err != nil {
		return err
	}
	link := filepath.Join(r.binDir, "pachctl")
	if at, err := os.Readlink(link); err == nil && at == exe {
		return nil
	}
	// Made aside and renamed, so that a worker never finds it missing.
	aside := link + ".new"
	if err := os.Remove(aside); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Symlink(exe, aside); err != nil {
		return err
	}
	return os.Rename(aside, link)
}

// Name implements runtime.Runtime.
func (r *Runtime) Name() string { return "process" }

// Sweep implements runtime.Runtime.
func (r *Runtime) Sweep(ctx context.Context) error {
	r.mu.Lock()
	var spared []string
	for _, w := range r.alive {
		if w != nil {
			spared = append(spared, incarnationEnv+"="+w.incarnation)
		}
	}
	r.mu.Unlock()
	err := killMarked(ctx, func(env environ) bool {
		if !env.has(ownerEnv + "=" + r.owner) {
			return false
		}
		for _, entry := range spared {
			if env.has(entry) {
				return false
			}
		}
		return true
	})
	if err == nil {
		err = r.groups.Sweep(ctx, r.known)
	}
	if err != nil {
		return fmt.Errorf("sweep workers of an earlier pachd: %w", err)
	}
	if err := r.sweepScratch(); err != nil {
		return fmt.Errorf("sweep scratch directories of an earlier pachd: %w", err)
	}
	return nil
}

// known tells whether a worker of that id is alive or starts.
func (r *Runtime) known(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.alive[id]
	return ok
}

// sweepScratch removes the scratch directories that no worker has any more.
func (r *Runtime) sweepScratch() error {
	dir := filepath.Join(r.cfg.DataDir, "workers")
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		// Reserved for the time, lest a worker of that name starts meanwhile.
		if r.reserve(e.Name()) == nil {
			err = errors.Join(err, removeAll(filepath.Join(dir, e.Name())))
			r.release(e.Name())
		}
	}
	return err
}

// Close implements runtime.Runtime.
func (r *Runtime) Close() error {
	r.mu.Lock()
	r.closed = true
	workers := make([]*worker, 0, len(r.alive))
	for _, w := range r.alive {
		if w != nil {
			workers = append(workers, w)
		}
	}
	r.mu.Unlock()
	errs := make([]error, len(workers))
	var wait sync.WaitGroup
	for i, w := range workers {
		wait.Go(func() { errs[i] = w.Stop(context.Background(), 0) })
	}
	wait.Wait()
	r.closer.Do(r.forker.stop)
	return errors.Join(errs...)
}

var plainID = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// Start implements runtime.Runtime.
func (r *Runtime) Start(ctx context.Context, spec runtime.Spec) (runtime.Worker, error) {
	if !plainID.MatchString(spec.WorkerID) {
		return nil, fmt.Errorf("start worker %q: not a worker id", spec.WorkerID)
	}
	if err := r.reserve(spec.WorkerID); err != nil {
		return nil, fmt.Errorf("start worker %s: %w", spec.WorkerID, err)
	}
	w, err := r.start(ctx, &spec)
	if err != nil {
		r.release(spec.WorkerID)
		return nil, fmt.Errorf("start worker %s: %w", spec.WorkerID, err)
	}
	return w, nil
}

func (r *Runtime) reserve(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errClosed
	}
	if _, taken := r.alive[id]; taken {
		return errors.New("it is still alive")
	}
	r.alive[id] = nil
	return nil
}

func (r *Runtime) release(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.alive, id)
}

// prepare makes the scratch directory and everything that is to be started.
func (r *Runtime) prepare(spec *runtime.Spec) (*launch, error) {
	if len(spec.Cmd) == 0 || spec.Cmd[0] == "" {
		return nil, errors.New("there is no command")
	}
	as, err := findAccount(spec.User)
	if err != nil {
		return nil, err
	}
	umask, err := runtime.ParseUmask(spec.Umask)
	if err != nil {
		return nil, err
	}
	dir := spec.WorkingDir
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(r.cfg.WorkingDir, dir)
	}
	if info, err := os.Stat(dir); os.IsNotExist(err) {
		return nil, fmt.Errorf("working directory %s does not exist", dir)
	} else if err != nil {
		return nil, fmt.Errorf("working directory: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("working directory %s is not a directory", dir)
	}
	if err := r.makeScratch(spec, as); err != nil {
		return nil, err
	}
	if as != nil {
		for _, needed := range []string{dir, spec.Dir} {
			if err := as.mayEnter(needed); err != nil {
				return nil, err
			}
		}
	}
	env, err := r.environment(spec, as)
	if err != nil {
		return nil, err
	}
	path, err := findProgram(spec.Cmd[0], lookup(env)["PATH"], dir)
	if err != nil {
		return nil, err
	}
	return &launch{Path: path, Args: spec.Cmd, Env: env, Dir: dir, As: as, Umask: umask, Daemon: os.Getpid()}, nil
}

// makeScratch makes an empty scratch directory with the context file in it. What
// an earlier start left there, `go run`'s builds for instance, goes.
func (r *Runtime) makeScratch(spec *runtime.Spec, as *account) error {
	if spec.Dir == "" {
		spec.Dir = filepath.Join(r.cfg.DataDir, "workers", spec.WorkerID)
	}
	if err := removeAll(spec.Dir); err != nil {
		return fmt.Errorf("scratch directory: %w", err)
	}
	tmp := filepath.Join(spec.Dir, "tmp")
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return fmt.Errorf("scratch directory: %w", err)
	}
	config := filepath.Join(spec.Dir, configName)
	made := []string{spec.Dir, tmp}
	secrets, err := makeSecrets(spec)
	if err != nil {
		return err
	}
	made = append(made, secrets...)
	if spec.ConfigFile != nil {
		if err := os.WriteFile(config, spec.ConfigFile, 0o600); err != nil {
			return fmt.Errorf("context file: %w", err)
		}
		made = append(made, config)
	}
	if as != nil {
		for _, name := range made {
			if err := os.Chown(name, int(as.UID), int(as.GID)); err != nil {
				return fmt.Errorf("scratch directory: %w", err)
			}
		}
	}
	return nil
}

// makeSecrets writes the secret files and lists what it made, directories included.
func makeSecrets(spec *runtime.Spec) (made []string, err error) {
	if len(spec.SecretFiles) == 0 {
		return nil, nil
	}
	root := filepath.Join(spec.Dir, secretsName)
	dirs := map[string]bool{}
	for _, f := range spec.SecretFiles {
		if !filepath.IsLocal(filepath.FromSlash(f.Path)) {
			return nil, fmt.Errorf("secret file %q: not a path below the directory of secrets", f.Path)
		}
		name := filepath.Join(root, filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return nil, fmt.Errorf("secret file %q: %w", f.Path, err)
		}
		file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
		if err != nil {
			return nil, fmt.Errorf("secret file %q: %w", f.Path, err)
		}
		_, err = file.Write(f.Data)
		if err = errors.Join(err, file.Close()); err != nil {
			return nil, fmt.Errorf("secret file %q: %w", f.Path, err)
		}
		made = append(made, name)
		for dir := filepath.Dir(name); !dirs[dir]; dir = filepath.Dir(dir) {
			dirs[dir] = true
			made = append(made, dir)
			if dir == root {
				break
			}
		}
	}
	return made, nil
}

// removeAll also removes directories that their owner may not write, such as a
// Go module cache.
func removeAll(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
