package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/minipachd/minipachd/pps/logs"
	"github.com/minipachd/minipachd/pps/runtime"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// pipeline carries out what next decides for one pipeline. One goroutine, run,
// has all fields; it waits for nothing but its channels.
type pipeline struct {
	s       *Scheduler
	key     string                        // <project>/<name>
	records chan *recordpb.PipelineRecord // nil: deleted
	events  chan occurrence
	quit    chan struct{} // closed: stop everything and end
	done    chan struct{}
	log     *zap.Logger

	info     *ppspb.PipelineInfo // of the wanted version
	state    state
	workers  map[int]runtime.Worker // by slot
	ports    map[int]int            // that live workers serve on, by slot
	tasks    sync.WaitGroup         // around workers; they end when the workers have
	proxy    *proxy
	report   *reporter
	reported *recordpb.PipelineStatus
	remarked string // id of the version whose spec was remarked on

	cautioned string   // id of the version that warnings are about
	warnings  []string // of what its workers cannot be held to
}

// occurrence is an event, with the worker that it brings.
type occurrence struct {
	event  event
	slot   int
	worker runtime.Worker
	port   int // that the worker serves on
}

func newPipeline(s *Scheduler, key string) *pipeline {
	return &pipeline{
		s: s, key: key,
		records: make(chan *recordpb.PipelineRecord),
		events:  make(chan occurrence),
		quit:    make(chan struct{}),
		done:    make(chan struct{}),
		log:     s.log.With(zap.String("pipeline", key)),
		workers: map[int]runtime.Worker{},
		ports:   map[int]int{},
	}
}

// run lives until the pipeline is deleted, or quit, and all its workers are gone.
func (p *pipeline) run(first *recordpb.PipelineRecord) {
	defer close(p.done)
	p.report = newReporter(p.s, p.key)
	defer p.report.close()
	defer p.tasks.Wait()
	p.resume(first)
	p.want(first)
	quit := p.quit
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
		case record := <-p.records:
			p.want(record)
		case o := <-p.events:
			if o.worker != nil {
				p.workers[o.slot] = o.worker
			}
			p.step(o.event)
			p.route(o)
		case <-fires:
			p.step(tick{})
		case <-quit:
			quit = nil
			halted := p.state.target
			halted.halted = true
			p.step(want{halted})
			p.arrangeProxy()
		}
		stop()
	}
}

// resume takes over the counters of an earlier daemon.
func (p *pipeline) resume(record *recordpb.PipelineRecord) {
	if st := p.report.load(); st != nil && st.GetGeneration() == record.GetGeneration() {
		p.state.starts, p.state.recentError = st.GetStarts(), st.GetRecentError()
		p.state.target.id = targetOf(record).id // or they would count as another version's
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
	at := p.state.wake(p.s.policy, p.s.cfg.Clock.Now())
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
		p.remark()
		p.caution()
		p.step(want{targetOf(record)})
	}
	p.arrangeProxy()
}

// targetOf distils a record.
func targetOf(record *recordpb.PipelineRecord) target {
	info := record.GetInfo()
	t := target{
		// The commit tells a pipeline from an earlier one of its name.
		id:         fmt.Sprintf("%d/%s", info.GetVersion(), info.GetSpecCommit().GetId()),
		generation: record.GetGeneration(),
		workers:    max(1, int(info.GetParallelism())),
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

// step lets an event happen and does what follows from it.
func (p *pipeline) step(e event) {
	now := p.s.cfg.Clock.Now()
	var actions []action
	p.state, actions = next(p.s.policy, p.state, e, now)
	for _, a := range actions {
		switch a.kind {
		case startWorker:
			info := p.info
			p.tasks.Go(func() { p.attend(a.slot, info) })
		case stopWorker:
			worker := p.workers[a.slot]
			p.tasks.Go(func() {
				if err := worker.Stop(context.Background(), p.s.cfg.Grace); err != nil {
					p.log.Error("the slot stays closed until the processes end", zap.Error(err))
				}
			})
		}
	}
	if p.state.target.gone {
		return // forget removes the status in the end
	}
	st := p.state.status(p.s.policy, now)
	st.Warnings = p.warnings
	if !proto.Equal(st, p.reported) {
		p.reported = st
		p.report.set(st)
	}
}

// attend starts a worker, tells how that went, and tells when it ends.
func (p *pipeline) attend(slot int, info *ppspb.PipelineInfo) {
	spec, log := p.s.workerSpec(slot, info)
	log.System("beginning to run user code")
	began := p.s.cfg.Clock.Now()
	worker, port, err := p.s.start(context.Background(), spec, info)
	if err != nil {
		log.System(fmt.Sprintf("errored running user code after %v: %v", rounded(p.s.cfg.Clock.Now().Sub(began)), err))
		p.log.Info("worker does not start", zap.Int("worker", slot), zap.Error(err))
		p.events <- occurrence{event: startFailed{slot: slot, why: err.Error(), long: err.Error(), luck: rand.Float64()}}
		return
	}
	p.log.Info("worker started", zap.Int("worker", slot), zap.Int("pid", worker.PID()))
	defer p.s.ports.release(port)
	p.events <- occurrence{event: started{slot}, slot: slot, worker: worker, port: port}
	end := <-worker.Wait()
	if err := log.Close(); err != nil {
		p.log.Warn("log what was printed last", zap.Error(err))
	}
	log.System(verdict(end, info))
	p.log.Info("worker ended", zap.Int("worker", slot), zap.Stringer("exit", end))
	why, long := wording(end)
	p.events <- occurrence{event: exited{slot: slot, why: why, long: long, luck: rand.Float64()}, slot: slot}
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
				}
			})
		p.proxy.route(p.ports)
	}
}
