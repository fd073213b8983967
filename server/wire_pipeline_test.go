package server_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// decoded gives the messages of an answer.
func (a answer) decoded(t *testing.T) []any {
	t.Helper()
	var all []any
	for _, m := range a.messages {
		var v any
		if err := json.Unmarshal([]byte(m), &v); err != nil {
			t.Fatal(err)
		}
		all = append(all, v)
	}
	return all
}

// waitFor asks again until good says that the pipeline is in the condition
// that it should come to by itself.
func (w *wire) waitFor(name string, good func(info map[string]any) bool) map[string]any {
	w.t.Helper()
	ctx := within(w.t)
	for {
		info := w.inspected(name)
		if good(info) {
			return info
		}
		select {
		case <-ctx.Done():
			w.t.Fatalf("pipeline %s stays %v", name, info)
		case <-time.After(20 * time.Millisecond): // there is no call that waits for a state
		}
	}
}

func inState(state string) func(map[string]any) bool {
	return func(info map[string]any) bool { return at(info, "state") == state }
}

// headOf gives the newest commit of a branch.
func (w *wire) headOf(repo, kind, branch string) map[string]any {
	w.t.Helper()
	return w.one("pfs_v2.API/InspectCommit", fmt.Sprintf(`{"commit":{"branch":{"name":%q,"repo":{"name":%q,"type":%q}}},"wait":"FINISHED"}`, branch, repo, kind))
}

// TestWirePipeline_Creation looks at everything that one creation makes.
func TestWirePipeline_Creation(t *testing.T) {
	w := newWire(t)
	spec := sleeper("s", `"description":"d"`, `"parallelismSpec":{"constant":2}`)
	w.created(spec)
	info := w.waitFor("s", func(info map[string]any) bool { return fmt.Sprint(at(info, "details", "workersAvailable")) == "2" })
	specID := at(info, "specCommit", "id")
	for _, c := range []struct {
		path []any
		want string
	}{
		{[]any{"pipeline"}, "map[name:s project:map[name:default]]"},
		{[]any{"version"}, "1"},
		{[]any{"state"}, "PIPELINE_RUNNING"},
		{[]any{"reason"}, "<nil>"},
		{[]any{"stopped"}, "<nil>"},
		{[]any{"type"}, "PIPELINE_TYPE_SPOUT"},
		{[]any{"parallelism"}, "2"},
		{[]any{"lastJobState"}, "<nil>"},
		{[]any{"authToken"}, "<nil>"},
		{[]any{"userSpecJson"}, spec},
		{[]any{"specCommit", "repo"}, "map[name:s project:map[name:default] type:spec]"},
		{[]any{"details", "description"}, "d"},
		{[]any{"details", "workersRequested"}, "2"},
		{[]any{"details", "createdBy"}, "<nil>"},
		{[]any{"details", "recentError"}, "<nil>"},
		{[]any{"details", "unclaimedTasks"}, "<nil>"},
		{[]any{"details", "outputBranch"}, "master"},
		{[]any{"details", "transform", "image"}, "ubuntu:20.04"},
	} {
		if got := fmt.Sprint(at(info, c.path...)); got != c.want {
			t.Errorf("%v is %s, want %s", c.path, got, c.want)
		}
	}
	for _, name := range []string{"createdAt", "updatedAt", "workersStartedAt", "salt"} {
		if at(info, "details", name) == nil {
			t.Errorf("details.%s is not set", name)
		}
	}
	if brief := w.one("pps_v2.API/InspectPipeline", `{"pipeline":{"name":"s","project":{}}}`); at(brief, "details") != nil || at(brief, "effectiveSpecJson") == nil {
		t.Errorf("without details: %v", brief)
	}
	w.exchange([]exchange{
		{"pfs_v2.API/InspectRepo", `{"repo":{"name":"s"}}`, codes.OK, `"description":"Output repo for pipeline default/s."`},
		{"pfs_v2.API/InspectRepo", `{"repo":{"name":"s","type":"spec"}}`, codes.OK, `"type":"spec"`},
		{"pfs_v2.API/InspectRepo", `{"repo":{"name":"s","type":"meta"}}`, codes.NotFound, "repo default/s.meta not found"},
		{"pfs_v2.API/DeleteRepo", `{"repo":{"name":"s"}}`, codes.Unknown, "cannot delete a repo associated with a pipeline - delete the pipeline instead"},
		{"pfs_v2.API/InspectBranch", `{"branch":{"name":"master","repo":{"name":"s"}}}`, codes.OK, `"directProvenance":[{"repo":{"name":"s","type":"spec","project":{"name":"default"}},"name":"master"}]`},
	})
	first, specHead := w.headOf("s", "user", "master"), w.headOf("s", "spec", "master")
	if at(first, "description") != "close spout commit" || at(first, "origin", "kind") != "AUTO" || at(first, "parentCommit") != nil || at(first, "error") != nil {
		t.Errorf("first commit %v", first)
	}
	if at(first, "commit", "id") != specID || at(specHead, "commit", "id") != specID {
		t.Errorf("spec commit %v, head of the spec repo %v, first output commit %v: want one id", specID, specHead, first)
	}
	if a := w.ok("pfs_v2.API/ListFile", `{"file":{"commit":{"branch":{"name":"master","repo":{"name":"s"}}},"path":"/"}}`); len(a.messages) != 0 {
		t.Errorf("the first commit holds %v", a)
	}
	// What a spout puts is a commit of its own, made from the spec commit.
	if a := w.putAs(`{"branch":{"name":"master","repo":{"name":"s"}}}`, "/x", "x"); a.err != nil {
		t.Fatal(a)
	}
	second := w.headOf("s", "user", "master")
	if at(second, "origin", "kind") != "USER" || at(second, "parentCommit", "id") != specID ||
		at(second, "directProvenance", 0, "id") != specID || at(second, "directProvenance", 0, "repo", "type") != "spec" || at(second, "directProvenance", 1) != nil {
		t.Errorf("a commit of the spout: %v", second)
	}
	set := w.ok("pfs_v2.API/InspectCommitSet", fmt.Sprintf(`{"commitSet":{"id":%q},"wait":true}`, at(second, "commit", "id"))).decoded(t)
	if len(set) != 2 || at(set[0], "commit", "repo", "type") != "spec" || at(set[1], "commit", "id") != at(second, "commit", "id") {
		t.Errorf("the commit set of it: %v", set)
	}
	w.exchange([]exchange{{"pfs_v2.API/Fsck", `{}`, codes.OK, ""}})
}

// TestWirePipeline_Versions updates, stops, starts and reruns.
func TestWirePipeline_Versions(t *testing.T) {
	w := newWire(t)
	w.created(sleeper("s"), "update") // creates it
	one := w.inspected("s")
	w.created(sleeper("s", `"description":"two"`), "update")
	two := w.inspected("s")
	w.created(sleeper("s", `"description":"three"`, `"update":true`, `"reprocess":true`))
	three := w.inspected("s")
	for _, c := range []struct {
		what string
		ok   bool
	}{
		{"version counts up", at(two, "version") == "2" && at(three, "version") == "3"},
		{"spec commits differ", at(one, "specCommit", "id") != at(two, "specCommit", "id")},
		{"created_at stays", at(two, "details", "createdAt") == at(one, "details", "createdAt")},
		{"updated_at moves", at(two, "details", "updatedAt") != at(one, "details", "updatedAt")},
		{"salt stays", at(two, "details", "salt") == at(one, "details", "salt")},
		{"salt changes with reprocess", at(three, "details", "salt") != at(two, "details", "salt")},
		{"flags are no part of the spec", !strings.Contains(at(three, "effectiveSpecJson").(string), "reprocess\"")},
	} {
		if !c.ok {
			t.Errorf("%s: not so\n%v\n%v\n%v", c.what, one, two, three)
		}
	}
	for name, want := range map[string]string{"s^": "two", "s~1": "two", "s^2": "<nil>", "s^^": "<nil>", "s~0": "three"} {
		if info := w.inspected(name); fmt.Sprint(at(info, "details", "description")) != want {
			t.Errorf("%s is %v, want the one described %q", name, info, want)
		}
	}
	outputs := len(w.ok("pfs_v2.API/ListCommit", `{"repo":{"name":"s"}}`).messages)
	w.exchange([]exchange{
		{"pps_v2.API/InspectPipeline", `{"pipeline":{"name":"s^3"}}`, codes.Unknown, `pipeline "s" has only 3 versions, not enough to find ancestor 3`},
		{"pps_v2.API/InspectPipeline", `{"pipeline":{"name":"s^^^^^^^"}}`, codes.Unknown, `pipeline "s" has only 3 versions, not enough to find ancestor 7`},
		{"pps_v2.API/InspectPipeline", `{"pipeline":{"name":"nope"}}`, codes.NotFound, `...pipeline "default/nope" not found`},
		{"pps_v2.API/InspectPipeline", `{"pipeline":{"name":"s","project":{"name":"nope"}}}`, codes.NotFound, `...pipeline "nope/s" not found`},
		{"pps_v2.API/StopPipeline", `{"pipeline":{"name":"nope"}}`, codes.OK, `{}`},
		{"pps_v2.API/StopPipeline", `{"pipeline":{"name":"nope"},"mustExist":true}`, codes.NotFound, `...pipeline "default/nope" not found`},
		{"pps_v2.API/StartPipeline", `{"pipeline":{"name":"nope"}}`, codes.NotFound, `...pipeline "default/nope" not found`},
		{"pps_v2.API/RerunPipeline", `{"pipeline":{"name":"nope"}}`, codes.NotFound, `...pipeline "default/nope" not found`},
		{"pps_v2.API/StopPipeline", `{"pipeline":{"name":"s"},"mustExist":true}`, codes.OK, `{}`},
		{"pps_v2.API/StopPipeline", `{"pipeline":{"name":"s"}}`, codes.OK, `{}`}, // twice is no error
	})
	stopped := w.waitFor("s", func(info map[string]any) bool { return at(info, "details", "workersAvailable") == nil })
	if at(stopped, "state") != "PIPELINE_PAUSED" || at(stopped, "stopped") != true {
		t.Errorf("stopped %v", stopped)
	}
	if b := w.one("pfs_v2.API/InspectBranch", `{"branch":{"name":"master","repo":{"name":"s"}}}`); at(b, "provenance") != nil {
		t.Errorf("the output branch of a stopped pipeline still has provenance: %v", b)
	}
	w.created(sleeper("s", `"description":"four"`), "update")
	if info := w.inspected("s"); at(info, "stopped") != true || at(info, "state") != "PIPELINE_PAUSED" || fmt.Sprint(at(info, "version")) != "4" {
		t.Errorf("an update starts a stopped pipeline: %v", info)
	}
	w.ok("pps_v2.API/StartPipeline", `{"pipeline":{"name":"s"}}`)
	w.waitFor("s", inState("PIPELINE_RUNNING"))
	if info := w.headOf("s", "user", "master"); at(info, "finished") == nil {
		t.Errorf("starting left an open commit: %v", info)
	}
	if got := w.one("pfs_v2.API/InspectBranch", `{"branch":{"name":"master","repo":{"name":"s"}}}`); at(got, "directProvenance", 0, "repo", "type") != "spec" {
		t.Errorf("the output branch of a started pipeline: %v", got)
	}
	w.ok("pps_v2.API/RerunPipeline", `{"pipeline":{"name":"s"},"reprocess":true}`)
	if info := w.inspected("s"); fmt.Sprint(at(info, "version")) != "5" || at(info, "details", "description") != "four" {
		t.Errorf("rerun %v", info)
	}
	if got := len(w.ok("pfs_v2.API/ListCommit", `{"repo":{"name":"s","type":"spec"}}`).messages); got != 5 {
		t.Errorf("%d commits in the spec repo of version 5", got)
	}
	if outputs != 1 {
		t.Errorf("updates of a running spout made %d commits in its repo, want only the first", outputs)
	}
}

// TestWirePipeline_List filters, pages and goes back in history.
func TestWirePipeline_List(t *testing.T) {
	w := newWire(t)
	w.ok("pfs_v2.API/CreateProject", `{"project":{"name":"q"}}`)
	for _, name := range []string{"a", "b", "c"} {
		w.created(sleeper(name))
	}
	w.created(`{"pipeline":{"name":"d","project":{"name":"q"}},"spout":{},"transform":{"cmd":["sleep","1000"]}}`)
	w.created(sleeper("b", `"description":"new"`), "update")
	w.ok("pps_v2.API/StopPipeline", `{"pipeline":{"name":"c"}}`)
	oldSpec, newSpec := w.inspected("b^"), w.inspected("b")
	for _, c := range []struct{ request, want string }{
		{`{}`, "d1 c1 b2 a1"},
		{`{"commitSet":{},"details":true}`, "d1 c1 b2 a1"},
		{`{"projects":[{"name":"default"}]}`, "c1 b2 a1"},
		{`{"projects":[{"name":"q"},{"name":"nope"}]}`, "d1"},
		{`{"pipeline":{"name":"b"}}`, "b2"},
		{`{"pipeline":{"name":"b"},"history":"1"}`, "b2 b1"},
		{`{"pipeline":{"name":"b"},"history":"-1"}`, "b2 b1"},
		{`{"history":"-1"}`, "d1 c1 b2 b1 a1"},
		{`{"page":{"pageSize":"2"}}`, "d1 c1"},
		{`{"page":{"pageSize":"2","pageIndex":"1"}}`, "b2 a1"},
		{`{"page":{"pageSize":"2","pageIndex":"7"}}`, ""},
		{`{"jqFilter":".state == \"PIPELINE_PAUSED\""}`, "c1"},
		{`{"jqFilter":".state == \"PIPELINE_PAUSED\" or .pipeline.name == \"a\""}`, "c1 a1"},
		{`{"jqFilter":".details.output_branch == \"master\"","page":{"pageSize":"1","pageIndex":"2"}}`, "b2"},
		{`{"jqFilter":".details.description"}`, "b2"},
		{`{"jqFilter":"false"}`, ""},
		{`{"jqFilter":"empty"}`, ""},
		{`{"jqFilter":"1, false"}`, "d1 c1 b2 a1"},
		{fmt.Sprintf(`{"commitSet":{"id":%q}}`, at(oldSpec, "specCommit", "id")), "b1"},
		{fmt.Sprintf(`{"commitSet":{"id":%q}}`, at(newSpec, "specCommit", "id")), "b2"},
	} {
		var got []string
		for _, info := range w.ok("pps_v2.API/ListPipeline", c.request).decoded(t) {
			if at(info, "details") == nil {
				t.Errorf("%s: %v has no details", c.request, info)
			}
			got = append(got, fmt.Sprint(at(info, "pipeline", "name"), at(info, "version")))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v, want %s", c.request, got, c.want)
		}
	}
	w.exchange([]exchange{
		{"pps_v2.API/ListPipeline", `{"jqFilter":".state =="}`, codes.Unknown, "error parsing jq filter: ..."},
		{"pps_v2.API/ListPipeline", `{"jqFilter":"nosuchfunction"}`, codes.Unknown, "error parsing jq filter: ..."},
		{"pps_v2.API/ListPipeline", `{"jqFilter":"null | .[536870911] = 1"}`, codes.ResourceExhausted, "apply jq filter: it needs more than 512 MiB of memory"},
		{"pps_v2.API/ListPipeline", `{"jqFilter":"error(.pipeline.name)"}`, codes.Unknown, "apply jq filter: error: d"},
		{"pps_v2.API/ListJob", `{"jqFilter":"("}`, codes.Unknown, "error parsing jq filter: ..."},
		{"pps_v2.API/PipelinesSummary", `{"projects":[{"name":"default"}]}`, codes.OK, `"activePipelines":"2","pausedPipelines":"1"`},
		{"pps_v2.API/CheckStatus", `{"all":true}`, codes.OK, ""},
		{"pps_v2.API/CheckStatus", `{"project":{"name":"q"}}`, codes.OK, ""},
	})
}

// TestWirePipeline_Delete deletes in every way that the protocol has.
func TestWirePipeline_Delete(t *testing.T) {
	w := newWire(t)
	for _, name := range []string{"plain", "kept", "up", "e", "f"} {
		w.created(sleeper(name))
	}
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"down"}}`)
	w.ok("pfs_v2.API/CreateBranch", `{"branch":{"name":"master","repo":{"name":"down"}},"provenance":[{"name":"master","repo":{"name":"up"}}]}`)
	if a := w.putAs(`{"branch":{"name":"master","repo":{"name":"kept"}}}`, "/x", "x"); a.err != nil {
		t.Fatal(a)
	}
	w.exchange([]exchange{
		{"pps_v2.API/DeletePipeline", `{"pipeline":{"name":"nope"}}`, codes.OK, `{}`},
		{"pps_v2.API/DeletePipeline", `{"pipeline":{"name":"nope"},"mustExist":true}`, codes.NotFound, `...pipeline "default/nope" not found`},
		{"pps_v2.API/DeletePipeline", `{"pipeline":{"name":"plain"},"mustExist":true}`, codes.OK, `{}`},
		{"pfs_v2.API/InspectRepo", `{"repo":{"name":"plain"}}`, codes.NotFound, "repo default/plain not found"},
		{"pfs_v2.API/InspectRepo", `{"repo":{"name":"plain","type":"spec"}}`, codes.NotFound, "repo default/plain.spec not found"},
		{"pps_v2.API/GetLogs", `{"pipeline":{"name":"plain"}}`, codes.NotFound, "could not get pipeline information for default/plain: ...not found"},
		{"pps_v2.API/DeletePipeline", `{"pipeline":{"name":"kept"},"keepRepo":true}`, codes.OK, `{}`},
		{"pfs_v2.API/InspectRepo", `{"repo":{"name":"kept","type":"spec"}}`, codes.NotFound, "repo default/kept.spec not found"},
		{"pfs_v2.API/GetFile", `{"file":{"path":"/x","commit":{"branch":{"name":"master","repo":{"name":"kept"}}}}}`, codes.OK, `"eA=="`},
		{"pps_v2.API/DeletePipeline", `{"pipeline":{"name":"up"}}`, codes.Unknown, `branch "default/up@master" cannot be deleted because it's in the direct provenance of [default/down@master]`},
		{"pps_v2.API/InspectPipeline", `{"pipeline":{"name":"up"}}`, codes.OK, `"up"`},
		{"pps_v2.API/DeletePipeline", `{"pipeline":{"name":"up"},"force":true}`, codes.OK, `{}`},
		{"pps_v2.API/DeletePipelines", `{"projects":[{"name":"nope"}]}`, codes.OK, `{}`},
		{"pps_v2.API/DeletePipelines", `{"projects":[{"name":"default"}]}`, codes.OK, `{"pipelines":[{"project":{"name":"default"},"name":"f"},{"project":{"name":"default"},"name":"e"}]}`},
		{"pps_v2.API/ListPipeline", `{}`, codes.OK, ""},
	})
	if b := w.one("pfs_v2.API/InspectBranch", `{"branch":{"name":"master","repo":{"name":"kept"}}}`); at(b, "provenance") != nil {
		t.Errorf("a kept repo is not an ordinary one: %v", b)
	}
	// The name is free again, and the new pipeline begins at version 1.
	w.created(sleeper("plain"))
	if info := w.inspected("plain"); fmt.Sprint(at(info, "version")) != "1" {
		t.Errorf("made again: %v", info)
	}
	if a := w.create(sleeper("kept")); !matches(a.String(), "...because a repo with the same name already exists...") {
		t.Errorf("a pipeline over a kept repo: %v", a)
	}
	w.ok("pps_v2.API/DeleteAll", `{}`)
	if left := w.ok("pps_v2.API/ListPipeline", `{}`).messages; len(left) != 0 {
		t.Errorf("DeleteAll left %v", left)
	}
	names := []string{}
	for _, r := range w.ok("pfs_v2.API/ListRepo", `{}`).decoded(t) {
		names = append(names, at(r, "repo", "name").(string))
	}
	if !slices.Equal(names, []string{"down", "kept"}) {
		t.Errorf("repos left: %v", names)
	}
}

// TestWirePipeline_JobsAndOthers holds what is said about jobs, which no spout
// has, and about what the daemon does not do.
func TestWirePipeline_JobsAndOthers(t *testing.T) {
	w := newWire(t)
	w.created(sleeper("s"))
	id := fmt.Sprint(at(w.headOf("s", "user", "master"), "commit", "id"))
	job := `{"job":{"pipeline":{"name":"s"},"id":"` + id + `"}`
	w.exchange([]exchange{
		{"pps_v2.API/ListJob", `{"pipeline":{"name":"s"}}`, codes.OK, ""},
		{"pps_v2.API/ListJobSet", `{}`, codes.OK, ""},
		{"pps_v2.API/InspectJobSet", `{"jobSet":{"id":"` + id + `"}}`, codes.OK, ""},
		{"pps_v2.API/InspectJob", job + `}`, codes.NotFound, "...not found..."},
		{"pps_v2.API/InspectJob", job + `,"wait":true,"details":true}`, codes.NotFound, "...not found..."},
		{"pps_v2.API/StopJob", job + `,"reason":"x"}`, codes.NotFound, "...not found..."},
		{"pps_v2.API/DeleteJob", job + `}`, codes.NotFound, "...not found..."},
		{"pps_v2.API/ListDatum", job + `}`, codes.NotFound, "...not found..."},
		{"pps_v2.API/RestartDatum", job + `}`, codes.NotFound, "...not found..."},
		{"pps_v2.API/ListJob", `{"pipeline":{"name":"nope"}}`, codes.NotFound, `...pipeline "default/nope" not found`},
		{"pps_v2.API/RunCron", `{"pipeline":{"name":"s"}}`, codes.Unknown, "pipeline doesn't have a cron input"},
		{"pps_v2.API/RunPipeline", `{"pipeline":{"name":"s"}}`, codes.Unimplemented, "unimplemented..."},
		{"pps_v2.API/RunLoadTest", `{}`, codes.Unimplemented, "load tests are not part of this server"},
		{"pps_v2.API/GetKubeEvents", `{}`, codes.Unimplemented, "this server does not run on Kubernetes..."},
		{"pps_v2.API/QueryLoki", `{"query":"x"}`, codes.Unimplemented, "this server keeps logs itself, without Loki..."},
		{"pps_v2.API/ListTask", `{}`, codes.Unimplemented, "this server has no task queue..."},
		{"admin_v2.API/RestartPachyderm", `{}`, codes.Unimplemented, "restarting the daemon over the API is not supported..."},
	})
}
