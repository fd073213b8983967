package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/minipachd/minipachd/pps/fence"
	"github.com/minipachd/minipachd/pps/logs"
	"github.com/minipachd/minipachd/pps/runtime"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// pipeline carries out what next decides for one pipeline. One goroutine, run,
// has all fields below log; it waits for nothing but its channels.
type pipeline struct {
	s       *Scheduler
	key     string        // <project>/<name>
	inbox   chan delivery // holds the newest
	events  chan occurrence
	renewed chan struct{}   // the lease is another one; holds one
	ctx     context.Context // of what is done for workers; ends with quit
	halt    context.CancelFunc
	hurry   chan struct{} // closed by cut: stop without grace
	cut     func()
	ended   chan struct{} // closed: run takes no events any more
	done    chan struct{}
	grace   atomic.Int64 // the longest one of its versions, nanoseconds
	log     *zap.Logger

	info     *ppspb.PipelineInfo // of the wanted version
	revision int64               // at which the newest record was seen
	policy   policy
	state    state
	workers  map[int]attended // by slot
	ports    map[int]int      // that live workers serve on, by slot
	tasks    sync.WaitGroup   // around workers; they end when the workers have
	proxy    *proxy
	report   *reporter
	reported *recordpb.PipelineStatus
	remarked string // id of the version whose spec was remarked on

	cautioned string   // id of the version that warnings are about
	warnings  []string // of what its workers cannot be held to
	retention retention
}

// delivery is a changed record; nil if the pipeline was deleted.
type delivery struct {
	record   *recordpb.PipelineRecord
	revision int64
}

// attended is a worker that was started, with the port that it serves on, 0 if none,
// and the grace period of its version.
type attended struct {
	runtime.Worker
	port  int
	grace time.Duration
}

// occurrence is an event, with the worker that it brings.
type occurrence struct {
	event  event
	slot   int
	worker attended
}

func newPipeline(s *Scheduler, key string) *pipeline {
	ctx, halt := context.WithCancel(context.Background())
	p := &pipeline{
		s: s, key: key, ctx: ctx, halt: halt,
		inbox:   make(chan delivery, 1),
		events:  make(chan occurrence),
		renewed: make(chan struct{}, 1),
		hurry:   make(chan struct{}),
		ended:   make(chan struct{}),
		done:    make(chan struct{}),
		log:     s.log.With(zap.String("pipeline", key)),
		workers: map[int]attended{},
		ports:   map[int]int{},
	}
	p.cut = sync.OnceFunc(func() { close(p.hurry) })
	return p
}

// deliver hands over a changed record, never waiting. One goroutine may call it.
func (p *pipeline) deliver(d delivery) {
	for {
		select {
		case p.inbox <- d:
			return
		default:
		}
		select {
		case <-p.inbox:
		default:
		}
	}
}

// renew tells that the lease is another one.
func (p *pipeline) renew() {
	select {
	case p.renewed <- struct{}{}:
	default:
	}
}

// run takes the pipeline, if it is free, and lives until it is deleted, halted or
// taken away, and all its workers are gone.
func (p *pipeline) run() {
	defer close(p.done)
	defer p.halt()
	defer p.release() // also what take may have done before it was halted
	taken := p.take()
	if taken == nil {
		return
	}
	p.report = newReporter(p.s, p.key)
	defer p.report.close()
	defer p.tasks.Wait()
	defer close(p.ended)
	defer p.halt()
	p.resume(taken)
	p.want(taken.record)
	halted, hurry := p.ctx.Done(), p.hurry
	for {
		if p.state.drained() {
			if p.proxy != nil && p.service() == nil {
				p.proxy.close()
				p.proxy = nil
			}
			if p.state.target.gone {
				p.forget()
				return
			}
			if p.state.target.halted {
				return
			}
		}
		fires, stop := p.timer()
		select {
		case d := <-p.inbox:
			if d.revision > p.revision && !p.state.target.halted {
				p.revision = d.revision
				p.want(d.record)
			}
		case o := <-p.events:
			if o.worker.Worker != nil {
				p.workers[o.slot] = o.worker
			}
			p.step(o.event)
			p.route(o)
		case <-p.renewed:
			p.tasks.Go(p.keep)
		case <-fires:
			p.step(tick{})
		case <-halted:
			halted = nil
			p.end(false)
		case <-hurry:
			hurry = nil
			p.end(true)
		}
		stop()
	}
}

// end orders all workers to stop; nothing is started any more.
func (p *pipeline) end(cut bool) {
	p.halt()
	halted := p.state.target
	halted.halted, halted.cut = true, halted.cut || cut
	p.step(want{halted})
	p.arrangeProxy()
}

// tell hands an event to run, unless that has ended.
func (p *pipeline) tell(o occurrence) {
	select {
	case p.events <- o:
	case <-p.ended:
	}
}

// resume takes over the counters of an earlier daemon.
func (p *pipeline) resume(t *taken) {
	p.revision = t.revision
	if st := t.status; st != nil && st.GetGeneration() == t.record.GetGeneration() {
		p.state.starts, p.state.restarts, p.state.recentError = st.GetStarts(), st.GetRestarts(), st.GetRecentError()
		if e := st.GetLastExit(); e != nil {
			p.state.lastExit = &exit{
				slot: int(e.GetWorker()), code: int(e.GetCode()), signal: e.GetSignal(), why: e.GetReason(),
				ended: e.GetEnded().AsTime(), ran: e.GetRanFor().AsDuration(),
			}
		}
		p.state.target.id = targetOf(t.record).id // or they would count as another version's
	}
}

// forget removes the traces of a deleted pipeline.
func (p *pipeline) forget() {
	p.report.set(nil)
	project, name, _ := strings.Cut(p.key, "/")
	if err := p.s.cfg.Logs.Delete(project, name); err != nil {
		p.log.Warn("delete logs", zap.Error(err))
	}
}

// timer fires when time alone changes something.
func (p *pipeline) timer() (fires <-chan time.Time, stop func()) {
	at := p.state.wake(p.policy, p.s.cfg.Clock.Now())
	if at.IsZero() {
		return nil, func() {}
	}
	return p.s.cfg.Clock.Timer(at)
}

// want follows a changed record; nil if the pipeline was deleted.
func (p *pipeline) want(record *recordpb.PipelineRecord) {
	if record == nil {
		gone := p.state.target
		gone.gone = true
		p.step(want{gone})
	} else {
		p.info = record.GetInfo()
		p.grace.Store(max(p.grace.Load(), int64(p.s.graceOf(p.info))))
		p.policy = p.s.policy.with(p.info.GetDetails().GetSpout())
		p.remark()
		p.caution()
		p.step(want{targetOf(record)})
	}
	p.arrangeRetention(record)
	p.arrangeProxy()
}

// targetOf distils a record.
func targetOf(record *recordpb.PipelineRecord) target {
	info := record.GetInfo()
	t := target{
		// The commit tells a pipeline from an earlier one of its name.
		id:         fmt.Sprintf("%d/%s", info.GetVersion(), info.GetSpecCommit().GetId()),
		generation: record.GetGeneration(),
		workers:    targetWorkers(info),
		paused:     info.GetStopped(),
	}
	switch details := info.GetDetails(); {
	case details.GetSpout() == nil && info.GetType() != ppspb.PipelineInfo_PIPELINE_TYPE_SPOUT:
		t.failure = "only spouts are run here, and this pipeline is none"
	case len(details.GetTransform().GetCmd()) == 0 || details.GetTransform().GetCmd()[0] == "":
		t.failure = "nothing to run: no transform.cmd"
	}
	return t
}

// targetWorkers is how many workers a version has.
func targetWorkers(info *ppspb.PipelineInfo) int { return max(1, int(info.GetParallelism())) }

// step lets an event happen and does what follows from it.
func (p *pipeline) step(e event) {
	now := p.s.cfg.Clock.Now()
	var actions []action
	p.state, actions = next(p.policy, p.state, e, now)
	for _, a := range actions {
		p.act(a)
	}
	if p.state.target.gone {
		return // forget removes the status in the end
	}
	st := p.state.status(p.policy, now)
	st.Warnings = p.warnings
	if p.state.target.wanted() > 0 {
		st.Reason = strings.Join(slices.DeleteFunc(append([]string{st.Reason}, p.warnings...), func(s string) bool { return s == "" }), "; ")
	}
	if !proto.Equal(st, p.reported) {
		p.reported = st
		p.report.set(st)
	}
}

func (p *pipeline) act(a action) {
	info, worker := p.info, p.workers[a.slot]
	stop := func(grace time.Duration) {
		if err := worker.Stop(context.Background(), grace); err != nil {
			p.log.Error("the slot stays closed until the processes end", zap.Error(err))
		}
	}
	switch a.kind {
	case startWorker:
		p.tasks.Go(func() { p.attend(a.slot, info) })
	case stopWorker:
		p.tasks.Go(func() { stop(worker.grace) })
	case killWorker:
		p.tasks.Go(func() { stop(0) })
	case probeWorker:
		serial := p.state.slots[a.slot].serial
		p.tasks.Go(func() {
			outcome := p.s.probe(p.ctx, info, worker)
			outcome.slot, outcome.serial = a.slot, serial
			p.tell(occurrence{event: outcome})
		})
	}
}

// graceOf is the time between SIGTERM and SIGKILL for the workers of a version.
func (s *Scheduler) graceOf(info *ppspb.PipelineInfo) time.Duration {
	return given(info.GetDetails().GetSpout().GetGracePeriod(), s.cfg.Grace)
}

// attend starts a worker, tells how that went, and tells when it ends. Before it
// starts, its token is the only one of its slot that counts; after it has ended,
// none does.
func (p *pipeline) attend(slot int, info *ppspb.PipelineInfo) {
	spec, claims, log := p.s.workerSpec(slot, info)
	log.System("beginning to run user code")
	began := p.s.cfg.Clock.Now()
	worker, port, err := p.start(spec, claims, info)
	if err != nil {
		log.System(fmt.Sprintf("errored running user code after %v: %v", rounded(p.s.cfg.Clock.Now().Sub(began)), err))
		p.log.Info("worker does not start", zap.Int("worker", slot), zap.Error(err))
		p.expel(claims)
		p.tell(occurrence{event: startFailed{exit{slot: slot, code: -1, why: err.Error(), long: err.Error()}, rand.Float64()}})
		return
	}
	p.log.Info("worker started", zap.Int("worker", slot), zap.Int("pid", worker.PID()))
	defer p.s.ports.release(port)
	p.tell(occurrence{event: started{slot}, slot: slot, worker: attended{worker, port, p.s.graceOf(info)}})
	end := <-worker.Wait()
	if err := log.Close(); err != nil {
		p.log.Warn("log what was printed last", zap.Error(err))
	}
	log.System(verdict(end, info))
	p.log.Info("worker ended", zap.Int("worker", slot), zap.Stringer("exit", end))
	p.expel(claims)
	why, long := wording(end)
	p.tell(occurrence{event: exited{exit{slot: slot, code: end.Code, signal: end.Signal, why: why, long: long, ran: end.Ended.Sub(end.Started)}, rand.Float64()}, slot: slot})
}

// start admits and starts a worker. Only so many starts are under way at a time: each
// costs a process or two and a directory, and all at once would be slower.
func (p *pipeline) start(spec runtime.Spec, claims fence.Claims, info *ppspb.PipelineInfo) (w runtime.Worker, port int, err error) {
	select {
	case p.s.starts <- struct{}{}:
		defer func() { <-p.s.starts }()
	case <-p.ctx.Done():
		return nil, 0, errHalted
	}
	if err := p.admit(claims); err != nil {
		return nil, 0, err
	}
	return p.s.start(context.Background(), spec, info)
}

// remark says once per version what of its spec means nothing here.
func (p *pipeline) remark() {
	id := fmt.Sprint(p.info.GetVersion(), p.info.GetSpecCommit().GetId())
	image := namedImage(p.info)
	if id == p.remarked || image == "" || p.s.cfg.Runtime.Name() != "process" {
		return
	}
	p.remarked = id
	text := fmt.Sprintf("transform.image %q means nothing to the process runtime: the command runs on this machine as it is", image)
	p.log.Info(text)
	project, name, _ := strings.Cut(p.key, "/")
	p.s.cfg.Logs.Writer(logs.Key{Project: project, Pipeline: name, Version: p.info.GetVersion()}).System(text)
}

// namedImage is the image that the user asked for; the default one, which
// every spec gets, does not count.
func namedImage(info *ppspb.PipelineInfo) string {
	text := info.GetUserSpecJson()
	if text == "" {
		return info.GetDetails().GetTransform().GetImage()
	}
	var spec struct {
		Transform struct {
			Image string `json:"image"`
		} `json:"transform"`
	}
	if json.Unmarshal([]byte(text), &spec) != nil {
		return ""
	}
	return spec.Transform.Image
}

// service is the port pair to forward now; nil if none. A program that listens on
// the external port itself needs no help.
func (p *pipeline) service() *ppspb.Service {
	service := p.info.GetDetails().GetSpout().GetService()
	if p.state.target.wanted() == 0 || service.GetExternalPort() <= 0 ||
		service.GetExternalPort() == service.GetInternalPort() {
		return nil
	}
	return service
}

// arrangeProxy makes the proxy fit the spec. A proxy that is wanted no more closes
// its port now and its connections when the workers are gone (run).
func (p *pipeline) arrangeProxy() {
	service := p.service()
	if p.proxy != nil {
		switch {
		case service == nil:
			p.proxy.stopAccepting()
			return
		case p.proxy.serves(int(service.GetExternalPort())):
			return
		}
		p.proxy.close()
		p.proxy = nil
		p.step(noticed{})
	}
	if service != nil {
		p.proxy = newProxy(p.s.cfg.ServiceHost, int(service.GetExternalPort()), proxyHold,
			func(ctx context.Context, text string) {
				select {
				case p.events <- occurrence{event: noticed{text}}:
				case <-ctx.Done():
				case <-p.ended:
				}
			})
		p.proxy.route(p.ports)
	}
}
