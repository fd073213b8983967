package scheduler

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/minipachd/minipachd/pps/fence"
	"github.com/minipachd/minipachd/pps/logs"
	"github.com/minipachd/minipachd/pps/runtime"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// workerSpec describes one start of the worker in a slot, makes the token that it
// writes with, and opens its log.
func (s *Scheduler) workerSpec(slot int, info *ppspb.PipelineInfo) (runtime.Spec, fence.Claims, *logs.Writer) {
	transform := info.GetDetails().GetTransform()
	spec := runtime.Spec{
		Project:     projectOf(info),
		Pipeline:    info.GetPipeline().GetName(),
		Version:     info.GetVersion(),
		Worker:      slot,
		Incarnation: strings.ToLower(rand.Text()),
		Cmd:         transform.GetCmd(),
		Stdin:       transform.GetStdin(),
		WorkingDir:  transform.GetWorkingDir(),
		User:        transform.GetUser(),
		Umask:       transform.GetUmask(),
	}
	// The dot keeps a-b.c and a.b-c apart: names have none.
	spec.WorkerID = fmt.Sprintf("%s.%s-v%d-%d", spec.Project, spec.Pipeline, spec.Version, slot)
	host, port := dialable(s.cfg.Address)
	token := fence.Incarnation{
		Pipeline: spec.Project + "/" + spec.Pipeline, Slot: slot, Version: spec.Version, ID: spec.Incarnation,
	}.Token()
	claims, _ := fence.Parse(token)
	spec.Env = environment(&spec, info, host, port, token)
	spec.ConfigFile = contextFile(spec.Project, host, port, token)
	log := s.cfg.Logs.Writer(logs.Key{
		Project: spec.Project, Pipeline: spec.Pipeline, Version: spec.Version,
		WorkerID: spec.WorkerID, Incarnation: spec.Incarnation,
	})
	spec.Stdout, spec.Stderr = log.Stdout(), log.Stderr()
	return spec, claims, log
}

func projectOf(info *ppspb.PipelineInfo) string {
	return orElse(info.GetPipeline().GetProject().GetName(), "default")
}

// dialable splits an address; one that stands for all of this host becomes loopback.
func dialable(address string) (host, port string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address, ""
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return host, port
}

// identityVars is how many variables say who a worker is, and come last.
const identityVars = 8

// environment is what a worker is told, by every runtime alike. The spec's own
// variables replace ours, except for the names that say who the worker is.
func environment(spec *runtime.Spec, info *ppspb.PipelineInfo, host, port, token string) []string {
	env := []string{
		"PACH_IN_WORKER=true",
		"PACH_NAMESPACE=default",
		"PACHD_ADDRESS=grpc://" + net.JoinHostPort(host, port),
		"PACHD_SERVICE_HOST=" + host,
		"PACHD_SERVICE_PORT=" + port,
		"PACHD_PEER_SERVICE_HOST=" + host,
		"PACHD_PEER_SERVICE_PORT=" + port,
		"PEER_PORT=" + port,
		"PACH_TOKEN=" + token,
	}
	own := info.GetDetails().GetTransform().GetEnv()
	for _, name := range slices.Sorted(maps.Keys(own)) {
		env = append(env, name+"="+own[name])
	}
	identity := [identityVars]string{
		"PPS_PIPELINE_NAME=" + spec.Pipeline,
		"PPS_PROJECT_NAME=" + spec.Project,
		"PPS_SPEC_COMMIT=" + info.GetSpecCommit().GetId(),
		"PPS_POD_NAME=" + spec.WorkerID,
		"PPS_WORKER_IP=127.0.0.1",
		"PPS_WORKER_ORDINAL=" + strconv.Itoa(spec.Worker),
		// A source is divided by these: another number of workers is another version.
		"PACH_WORKER_INDEX=" + strconv.Itoa(spec.Worker),
		"PACH_WORKER_COUNT=" + strconv.Itoa(targetWorkers(info)),
	}
	return append(env, identity[:]...)
}

// contextFile is a client's config.json with one context, for this daemon and
// the pipeline's project, with the worker's token.
func contextFile(project, host, port, token string) []byte {
	type context struct {
		Address string `json:"pachd_address"`
		Token   string `json:"session_token"`
		Project string `json:"project"`
	}
	type v2 struct {
		Active   string             `json:"active_context"`
		Contexts map[string]context `json:"contexts"`
		Metrics  bool               `json:"metrics"`
	}
	data, err := json.MarshalIndent(struct {
		UserID string `json:"user_id"`
		V2     v2     `json:"v2"`
	}{
		uuid.NewString(),
		v2{"default", map[string]context{"default": {"grpc://" + net.JoinHostPort(host, port), token, project}}, false},
	}, "", "  ")
	if err != nil {
		panic(err) // strings only: cannot be
	}
	return append(data, '\n')
}

// verdict is the log line about an end.
func verdict(end runtime.Exit, info *ppspb.PipelineInfo) string {
	took := rounded(end.Ended.Sub(end.Started))
	accepted := info.GetDetails().GetTransform().GetAcceptReturnCode()
	if end.Err == nil && end.Signal == "" && (end.Code == 0 || slices.Contains(accepted, int64(end.Code))) {
		return fmt.Sprintf("finished running user code after %v", took)
	}
	return fmt.Sprintf("errored running user code after %v: %v", took, end)
}

// wording gives an end as a line for the reason and as a text for recent_error.
func wording(end runtime.Exit) (why, long string) {
	why = fmt.Sprintf("%v after %v", end, rounded(end.Ended.Sub(end.Started)))
	long = why
	tail := strings.TrimSpace(strings.ToValidUTF8(end.StderrTail, "\uFFFD"))
	if tail != "" {
		long += ": " + tail
		why = fmt.Sprintf("%s: %q", why, lastLines(tail))
	}
	return why, long
}

// reasonLines is how many lines of stderr a reason quotes.
const reasonLines = 3

// lastLines are those of a text that are not empty, shortened.
func lastLines(text string) string {
	lines := slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return strings.TrimSpace(line) == "" })
	lines = lines[max(0, len(lines)-reasonLines):]
	for i, line := range lines {
		lines[i] = clip(line, 300)
	}
	return strings.Join(lines, "\n")
}

// clip shortens to n bytes at most, at a character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// rounded drops digits that tell nothing.
func rounded(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(10 * time.Millisecond)
	}
	return max(0, d.Round(time.Millisecond))
}
