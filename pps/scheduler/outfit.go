package scheduler

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/minipachd/minipachd/pps/logs"
	"github.com/minipachd/minipachd/pps/resources"
	"github.com/minipachd/minipachd/pps/runtime"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	"github.com/minipachd/minipachd/store"
)

// Secrets knows the values that workers are given.
type Secrets interface {
	// Resolve returns the variables, as NAME=value, and the files that a worker
	// with these mounts is to see, or an error that tells the pipeline's author
	// what is missing. No error has a value in it.
	Resolve(tx *store.Txn, mounts []*ppspb.SecretMount) (env []string, files []runtime.File, err error)
}

// secretTime bounds reading the secrets of one worker.
const secretTime = 15 * time.Second

// start starts a worker with everything that its spec asks for beyond its
// command: secrets as they are now, bounds, and a port to serve on, 0 for none.
// The port is the worker's until it is given back to s.ports.
func (s *Scheduler) start(ctx context.Context, spec runtime.Spec, info *ppspb.PipelineInfo) (w runtime.Worker, port int, err error) {
	details := info.GetDetails()
	if spec.Resources, err = resources.Parse(details.GetResourceRequests(), details.GetResourceLimits()); err != nil {
		return nil, 0, err
	}
	if err := s.reveal(ctx, &spec, details.GetTransform().GetSecrets()); err != nil {
		return nil, 0, err
	}
	if service := details.GetSpout().GetService(); service != nil {
		if port, err = s.ports.claim(int(service.GetInternalPort())); err != nil {
			return nil, 0, err
		}
		spec.Env = append(spec.Env, "PPS_SERVICE_PORT="+strconv.Itoa(port))
	}
	if w, err = s.cfg.Runtime.Start(ctx, spec); err != nil {
		s.ports.release(port)
		return nil, 0, err
	}
	return w, port, nil
}

// reveal adds the secrets to what a worker is given. Those of its variables win
// over the spec's, but not over those that say who it is.
func (s *Scheduler) reveal(ctx context.Context, spec *runtime.Spec, mounts []*ppspb.SecretMount) error {
	if len(mounts) == 0 {
		return nil
	}
	if s.cfg.Secrets == nil {
		return fmt.Errorf("missing Kubernetes secret %s", mounts[0].GetName())
	}
	ctx, cancel := context.WithTimeout(ctx, secretTime)
	defer cancel()
	return s.cfg.Store.View(ctx, func(tx *store.Txn) error {
		env, files, err := s.cfg.Secrets.Resolve(tx, mounts)
		spec.Env = slices.Insert(spec.Env, len(spec.Env)-identityVars, env...)
		spec.SecretFiles = files
		return err
	})
}

// caution says once per version which bounds its workers cannot be held to.
func (p *pipeline) caution() {
	id := fmt.Sprint(p.info.GetVersion(), p.info.GetSpecCommit().GetId())
	if id == p.cautioned {
		return
	}
	p.cautioned, p.warnings = id, nil
	details := p.info.GetDetails()
	want, err := resources.Parse(details.GetResourceRequests(), details.GetResourceLimits())
	if err != nil {
		return // the start will fail and say it
	}
	p.warnings = p.s.cfg.Runtime.Unenforced(want)
	for _, text := range p.warnings {
		p.log.Warn(text)
		p.s.cfg.Logs.Writer(logs.Key{
			Project: projectOf(p.info), Pipeline: p.info.GetPipeline().GetName(), Version: p.info.GetVersion(),
		}).System(text)
	}
}

// ports knows which ports of this machine workers were told to listen on.
type ports struct {
	mu    sync.Mutex
	taken map[int]bool
}

// claim gives the port that is wanted if nobody has it, and a free one otherwise
// or if it is 0. Another program can still be faster than the worker that is to
// listen there: then the worker fails, and its next start gets another port.
func (p *ports) claim(want int) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken == nil {
		p.taken = map[int]bool{}
	}
	if want > 0 && !p.taken[want] {
		if _, err := listenOnce(want); err == nil {
			p.taken[want] = true
			return want, nil
		}
	}
	for range 100 {
		port, err := listenOnce(0)
		if err != nil {
			return 0, fmt.Errorf("a free port for the worker's service: %w", err)
		}
		if !p.taken[port] {
			p.taken[port] = true
			return port, nil
		}
	}
	return 0, fmt.Errorf("there is no free port for the worker's service")
}

// release gives a port back; 0 is none.
func (p *ports) release(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.taken, port)
}

// listenOnce tells whether a port can be listened on now, and which one it is if 0
// is given.
func listenOnce(port int) (int, error) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// route has the proxy forward to the workers that are alive.
func (p *pipeline) route(o occurrence) {
	switch o.event.(type) {
	case started:
		p.ports[o.slot] = o.worker.port
	case exited:
		delete(p.ports, o.slot)
	}
	if p.proxy != nil {
		p.proxy.route(p.ports)
	}
}
