package pps_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/minipachd/minipachd/pps"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

func TestCreatePipeline_Validation(t *testing.T) {
	e := newEnv(t)
	_, err := e.pfs.CreateRepo(t.Context(), &pfspb.CreateRepoRequest{Repo: branch("taken", "").Repo})
	e.ok(err)
	_, err = e.create(spout("holder", `"spout":{"service":{"internal_port":80,"external_port":30080}}`))
	e.ok(err)
	before := e.snapshot()
	long := strings.Repeat("x", 52)
	const u, i = codes.Unknown, codes.InvalidArgument
	for _, c := range []struct {
		spec string
		code codes.Code
		text string
	}{
		{`{"spout":{}}`, u, `request.Pipeline cannot be nil`},
		{spout(""), u, `invalid pipeline spec: request.Pipeline.Name cannot be empty`},
		{spout("a.b"), u, `invalid pipeline name: name (a.b) invalid: only alphanumeric characters, underscores, and dashes are allowed`},
		{spout("-a"), u, `pipeline names must start with an alphanumeric character`},
		{spout(long), u, `pipeline name "` + long + `" is 1 characters longer than the 51 max`},
		{fmt.Sprintf(`{"pipeline":{"name":%q,"project":{"name":"pppppppppp"}},"spout":{}}`, long[:50]), u, `Kubernetes name "pppppppppp-` + long[:50] + `-v99" is 2 characters longer than the 63 max`},
		{spout("a", `"tf_job":{"tf_job":"x"}`), u, `embedding TFJobs in pipelines is not supported yet`},
		{`{"pipeline":{"name":"a"},"spout":{},"transform":null}`, u, `pipeline must specify a transform`},
		{`{"pipeline":{"name":"a"},"spout":{},"transform":{"image":null}}`, u, `pipeline transform must contain an image`},
		{spout("a", `"s3_out":true`), u, `s3 output is not supported in spouts or services`},
		{spout("a", `"autoscaling":true`), u, `autoscaling can't be used with spouts (spouts aren't triggered externally)`},
		{spout("a", `"input":{"pfs":{"repo":"r","glob":"/"}}`), u, `spout pipelines (without a service) must not have an input`},
		{`{"pipeline":{"name":"a"},"input":{}}`, u, `no input set`},
		{`{"pipeline":{"name":"a"},"input":{"cross":[{"pfs":{"repo":"r"}},{}]}}`, u, `no input set`},
		{`{"pipeline":{"name":"a"},"input":{"cron":{},"pfs":{}}}`, u, `multiple input types set`},
		{spout("a", `"service":{}`), u, `only one of pipeline.service or pipeline.spout can be set`},
		{`{"pipeline":{"name":"a"},"service":{},"parallelism_spec":{"constant":2}}`, u, `services can only be run with a constant parallelism of 1`},
		{`{"pipeline":{"name":"a"},"service":{"type":"X"}}`, u, `the following service type X is not allowed`},
		{spout("a", `"spout":{"service":{"type":"X"}}`), u, `the following service type X is not allowed`},
		{spout("a", `"spout":{"service":{"internal_port":-1,"external_port":1}}`), i, `spout.service.internal_port must be between 0 and 65535, not -1`},
		{spout("a", `"spout":{"service":{"external_port":30650}}`), codes.FailedPrecondition, `pipeline "default/a": spout.service.external_port 30650 is the port of pachd itself`},
		{spout("a", `"spout":{"service":{"internal_port":1,"external_port":65536}}`), i, `spout.service.external_port must be between 1 and 65535, not 65536`},
		{spout("a", `"spout":{"service":{"internal_port":1,"external_port":30080}}`), codes.FailedPrecondition, `pipeline "default/a": spout.service.external_port 30080 is already used by pipeline "default/holder"`},
		{spout("a", `"reprocess_spec":"x"`), u, `invalid pipeline spec: ReprocessSpec must be one of "until_success" or "every_job"`},
		{spout("a", `"pod_spec":"{"`), u, `malformed PodSpec`},
		{spout("a", `"pod_patch":"{"`), u, `malformed PodPatch`},
		{spout("a", `"tolerations":[{"operator":"EXISTS"},{"key":"a"}]`), u, `toleration 2/2: cannot omit key/value comparison operator; specify EQUAL or EXISTS`},
		{`{"pipeline":{"name":"a"},"spout":{},"transform":{"secrets":[{"name":"S","env_var":"X","key":"k"}]}}`, u, `missing Kubernetes secret S`},
		{spout("a", `"resource_limits":{"memory":"64Q"}`), i, `resource_limits.memory: "64Q" is no quantity: write a number with a suffix such as 64Mi, 1Gi or 500M`},
		{spout("a", `"resource_limits":{"memory":"64m"}`), i, `resource_limits.memory: "64m" is less than 1 MiB, in which nothing runs: is it meant to be, say, 64Mi?`},
		{spout("a", `"resource_requests":{"memory":"2Gi"},"resource_limits":{"memory":"1Gi"}`), i, `resource_requests.memory: "2Gi" is more than resource_limits.memory, "1Gi"`},
		{spout("a", `"resource_limits":{"cpu":"NaN"}`), i, `resource_limits.cpu: NaN is no number of processors: write a number from 0 to 65536, such as 0.5`},
		{spout("a", `"resource_limits":{"cpu":-1}`), i, `resource_limits.cpu: -1 is no number of processors: ...`},
		{spout("a", `"sidecar_resource_limits":{"disk":"x"}`), i, `sidecar_resource_limits.disk: "x" is no quantity: ...`},
		{spout("a", `"maximum_expected_uptime":"60s"`), u, `autoscaling must be true when max_expected_uptime is non-zero`},
		{spout("a", `"parallelism_spec":{"constant":5000}`), i, `parallelism_spec.constant is 5000, more than 1024`},
		{spout("taken"), u, `pipeline "taken" cannot be created because a repo with the same name already exists`},
		{`{"pipeline":{"name":"taken"},"input":{"pfs":{"repo":"r","glob":"/"}}}`, u, `pipeline "taken" cannot be created because a repo with the same name already exists`},
		{spout("holder"), codes.AlreadyExists, `pipeline "default/holder" already exists`},
		{`{"pipeline":{"name":"a","project":{"name":"nope"}},"spout":{}}`, codes.NotFound, `project "nope" not found`},
		{`{"pipeline":{"name":"a"},"input":{"pfs":{"repo":"r","glob":"/"}}}`, codes.Unimplemented, `pipeline "default/a" is a transform pipeline...`},
		{`{"pipeline":{"name":"a"},"service":{}}`, codes.Unimplemented, `pipeline "default/a" is a service...`},
		{spout("a", `"spout":{"service":{"internal_port":1,"external_port":2}},"input":{"pfs":{"repo":"r","glob":"/"}}`), codes.Unimplemented, `pipeline "default/a" is a spout with an input...`},
		{spout("a", `"x":1`), i, `could not make effective spec: unexpected field "x" in pps_v2.CreatePipelineRequest`},
		{spout("a", `"datum_timeout":"soon"`), i, `could not make effective spec: ...`},
		{`nonsense`, i, `could not make effective spec: ...`},
	} {
		_, err := e.create(c.spec)
		e.fails(err, c.code, c.text)
		_, err = e.create(c.spec, dryRun)
		e.fails(err, c.code, c.text)
	}
	if diff := cmp.Diff(before, e.snapshot()); diff != "" {
		t.Errorf("refused specs left something (-before +after):\n%s", diff)
	}
}

func TestCreatePipeline_Transaction(t *testing.T) {
	e := newEnv(t)
	before := e.snapshot()
	effective, err := e.create(spout("s"), dryRun)
	e.ok(err)
	if !strings.Contains(effective, `"image":"ubuntu:20.04"`) || !strings.Contains(effective, `"project":{"name":"default"}`) {
		t.Errorf("effective spec %s", effective)
	}
	if diff := cmp.Diff(before, e.snapshot()); diff != "" {
		t.Fatalf("dry run left something:\n%s", diff)
	}
	_, err = e.create(spout("s", `"parallelism_spec":{"constant":2}`))
	e.ok(err)
	info := e.inspect("s")
	commit, b := e.head("s")
	d := info.Details
	if info.Version != 1 || info.State != ppspb.PipelineState_PIPELINE_STARTING || info.Type != ppspb.PipelineInfo_PIPELINE_TYPE_SPOUT || info.Parallelism != 2 ||
		d.WorkersRequested != 2 || d.WorkersAvailable != 0 || d.CreatedAt == nil || d.UpdatedAt == nil || d.Salt == "" || d.OutputBranch != "master" || d.DatumTries != 3 ||
		info.UserSpecJson != spout("s", `"parallelism_spec":{"constant":2}`) || !strings.Contains(info.EffectiveSpecJson, "until_success") {
		t.Errorf("pipeline %v", info)
	}
	if commit.Description != "close spout commit" || commit.Finished == nil || commit.Origin.Kind != pfspb.OriginKind_AUTO || commit.Commit.Id != info.SpecCommit.Id {
		t.Errorf("first output commit %v, spec commit %v", commit, info.SpecCommit)
	}
	if len(b.DirectProvenance) != 1 || b.DirectProvenance[0].Repo.Type != "spec" || b.DirectProvenance[0].Name != "master" {
		t.Errorf("output branch %v", b)
	}
	repo, err := e.pfs.InspectRepo(t.Context(), &pfspb.InspectRepoRequest{Repo: b.Branch.Repo})
	e.ok(err)
	if repo.Description != "Output repo for pipeline default/s." {
		t.Errorf("description %q", repo.Description)
	}
	brief, err := e.pps.InspectPipeline(t.Context(), &ppspb.InspectPipelineRequest{Pipeline: pipeline("s")})
	e.ok(err)
	if brief.Details != nil {
		t.Error("details were not asked for")
	}
}

func TestCreatePipeline_MessageForm(t *testing.T) {
	e := newEnv(t)
	_, err := e.pps.CreatePipeline(t.Context(), &ppspb.CreatePipelineRequest{
		Pipeline: pipeline("s"), Spout: &ppspb.Spout{}, Transform: &ppspb.Transform{Cmd: []string{"a"}, Env: map[string]string{"k_1": "v"}},
	})
	e.ok(err)
	if tr := e.inspect("s").Details.Transform; tr.Image != "ubuntu:20.04" || tr.Env["k_1"] != "v" {
		t.Errorf("transform %v", tr)
	}
	_, err = e.pps.CreatePipeline(t.Context(), &ppspb.CreatePipelineRequest{})
	e.fails(err, codes.Unknown, "request.Pipeline cannot be nil")
}

func TestUpdatePipeline_Versions(t *testing.T) {
	e := newEnv(t)
	_, err := e.create(spout("s", `"description":"one"`), update) // creates it
	e.ok(err)
	first := e.inspect("s")
	head, _ := e.head("s")
	_, err = e.pps.StopPipeline(t.Context(), &ppspb.StopPipelineRequest{Pipeline: pipeline("s")})
	e.ok(err)
	_, err = e.create(spout("s", `"description":"two","update":true`))
	e.ok(err)
	if info := e.inspect("s"); !info.Stopped || info.State != ppspb.PipelineState_PIPELINE_PAUSED {
		t.Errorf("the update started it: %v", info)
	}
	_, err = e.pps.StartPipeline(t.Context(), &ppspb.StartPipelineRequest{Pipeline: pipeline("s")})
	e.ok(err)
	started, _ := e.head("s")
	_, err = e.create(spout("s", `"description":"three"`), update, reprocess)
	e.ok(err)
	third := e.inspect("s")
	second := e.inspect("s^")
	if second.Version != 2 || second.Details.Description != "two" || second.Details.Salt != first.Details.Salt {
		t.Errorf("second version %v", second)
	}
	if third.Version != 3 || third.Stopped || third.Details.Salt == first.Details.Salt || third.SpecCommit.Id == second.SpecCommit.Id {
		t.Errorf("third version %v", third)
	}
	if !third.Details.CreatedAt.AsTime().Equal(first.Details.CreatedAt.AsTime()) || !third.Details.UpdatedAt.AsTime().After(first.Details.CreatedAt.AsTime()) {
		t.Errorf("times %v %v, created %v", third.Details.CreatedAt, third.Details.UpdatedAt, first.Details.CreatedAt)
	}
	if got := e.inspect("s~2"); got.Version != 1 || got.SpecCommit.Id != first.SpecCommit.Id {
		t.Errorf("s~2 is %v", got)
	}
	_, err = e.pps.InspectPipeline(t.Context(), &ppspb.InspectPipelineRequest{Pipeline: pipeline("s~3")})
	e.fails(err, codes.Unknown, `pipeline "s" has only 3 versions, not enough to find ancestor 3`)
	if now, _ := e.head("s"); now.Commit.Id != started.Commit.Id || started.Commit.Id == head.Commit.Id {
		t.Errorf("heads: created %v, started %v, after the update %v", head.Commit, started.Commit, now.Commit)
	}
	_, err = e.pps.RerunPipeline(t.Context(), &ppspb.RerunPipelineRequest{Pipeline: pipeline("s")})
	e.ok(err)
	if rerun := e.inspect("s"); rerun.Version != 4 || rerun.EffectiveSpecJson != third.EffectiveSpecJson || rerun.UserSpecJson != third.UserSpecJson || rerun.Details.Salt != third.Details.Salt {
		t.Errorf("rerun %v", rerun)
	}
}

func TestUpdatePipeline_MovesOutputBranch(t *testing.T) {
	e := newEnv(t)
	_, err := e.create(spout("s"))
	e.ok(err)
	_, err = e.create(spout("s", `"output_branch":"out"`), update)
	e.ok(err)
	_, old := e.head("s")
	if len(old.DirectProvenance) != 0 {
		t.Errorf("old output branch %v", old)
	}
	b, err := e.pfs.InspectBranch(t.Context(), &pfspb.InspectBranchRequest{Branch: branch("s", "out")})
	e.ok(err)
	c, err := e.pfs.InspectCommit(t.Context(), &pfspb.InspectCommitRequest{Commit: b.Head})
	e.ok(err)
	if len(b.DirectProvenance) != 1 || c.Finished == nil {
		t.Errorf("new output branch %v, head %v", b, c)
	}
}

func TestCreatePipeline_Concurrently(t *testing.T) {
	e := newEnv(t)
	const n = 8
	results := make(chan error, n)
	for i := range n {
		name := fmt.Sprint("p", i/2) // two of each name, all with one port
		go func() {
			_, err := e.create(spout(name, `"spout":{"service":{"internal_port":80,"external_port":30080}}`))
			results <- err
		}()
	}
	created := 0
	for range n {
		switch err := <-results; status.Code(err) {
		case codes.OK:
			created++
		case codes.AlreadyExists, codes.FailedPrecondition:
		default:
			t.Error(err)
		}
	}
	names, err := e.list(&ppspb.ListPipelineRequest{})
	if err != nil || created != 1 || len(names) != 1 {
		t.Errorf("%d created, pipelines %v, %v", created, names, err)
	}
}

func TestStopStart(t *testing.T) {
	e := newEnv(t)
	_, err := e.create(spout("s"))
	e.ok(err)
	for range 2 { // stopping twice is as good as once
		_, err = e.pps.StopPipeline(t.Context(), &ppspb.StopPipelineRequest{Pipeline: pipeline("s"), MustExist: true})
		e.ok(err)
		if info := e.inspect("s"); !info.Stopped || info.State != ppspb.PipelineState_PIPELINE_PAUSED {
			t.Errorf("stopped pipeline %v", info)
		}
		if _, b := e.head("s"); len(b.DirectProvenance) != 0 {
			t.Errorf("branch of stopped pipeline %v", b)
		}
	}
	for range 2 {
		_, err = e.pps.StartPipeline(t.Context(), &ppspb.StartPipelineRequest{Pipeline: pipeline("s")})
		e.ok(err)
		if info := e.inspect("s"); info.Stopped || info.State != ppspb.PipelineState_PIPELINE_STARTING {
			t.Errorf("started pipeline %v", info)
		}
		if c, b := e.head("s"); len(b.DirectProvenance) != 1 || c.Finished == nil || c.Description != "close spout commit" || c.Origin.Kind != pfspb.OriginKind_AUTO {
			t.Errorf("branch of started pipeline %v, head %v", b, c)
		}
	}
	_, err = e.pps.StopPipeline(t.Context(), &ppspb.StopPipelineRequest{Pipeline: pipeline("x")})
	e.ok(err)
	_, err = e.pps.StopPipeline(t.Context(), &ppspb.StopPipelineRequest{Pipeline: pipeline("x"), MustExist: true})
	e.fails(err, codes.NotFound, `pipeline "default/x" not found`)
	_, err = e.pps.StartPipeline(t.Context(), &ppspb.StartPipelineRequest{Pipeline: pipeline("x")})
	e.fails(err, codes.NotFound, `pipeline "default/x" not found`)
	_, err = e.pps.StartPipeline(t.Context(), &ppspb.StartPipelineRequest{})
	e.fails(err, codes.InvalidArgument, `validate request: ...`)
}

func TestStartPipeline_ClosesWhatAWorkerLeftOpen(t *testing.T) {
	e := newEnv(t)
	_, err := e.create(spout("s"))
	e.ok(err)
	open, err := e.pfs.StartCommit(t.Context(), &pfspb.StartCommitRequest{Branch: branch("s", "master")})
	e.ok(err)
	_, err = e.pps.StopPipeline(t.Context(), &ppspb.StopPipelineRequest{Pipeline: pipeline("s")})
	e.ok(err)
	_, err = e.pps.StartPipeline(t.Context(), &ppspb.StartPipelineRequest{Pipeline: pipeline("s")})
	e.ok(err)
	left, err := e.pfs.InspectCommit(t.Context(), &pfspb.InspectCommitRequest{Commit: open})
	e.ok(err)
	if left.Error != "left open when pipeline default/s was stopped" || left.Finished == nil {
		t.Errorf("commit left open %v", left)
	}
	if c, _ := e.head("s"); c.Finished == nil || c.ParentCommit.Id != open.Id {
		t.Errorf("head %v", c)
	}
}

func TestDeletePipeline(t *testing.T) {
	e := newEnv(t)
	before := e.snapshot()
	service := `"spout":{"service":{"internal_port":80,"external_port":30080}}`
	_, err := e.create(spout("s", service))
	e.ok(err)
	_, err = e.create(spout("s"), update)
	e.ok(err)
	_, err = e.create(spout("s", service), update)
	e.ok(err)
	_, err = e.pfs.DeleteRepo(t.Context(), &pfspb.DeleteRepoRequest{Repo: branch("s", "").Repo, Force: true})
	e.fails(err, codes.Unknown, `cannot delete a repo associated with a pipeline - delete the pipeline instead...`)
	_, err = e.pps.DeletePipeline(t.Context(), &ppspb.DeletePipelineRequest{Pipeline: pipeline("s"), MustExist: true})
	e.ok(err)
	if diff := cmp.Diff(before, e.snapshot()); diff != "" {
		t.Errorf("deleted pipeline left something:\n%s", diff)
	}
	_, err = e.pps.DeletePipeline(t.Context(), &ppspb.DeletePipelineRequest{Pipeline: pipeline("s")})
	e.ok(err)
	_, err = e.pps.DeletePipeline(t.Context(), &ppspb.DeletePipelineRequest{Pipeline: pipeline("s"), MustExist: true})
	e.fails(err, codes.NotFound, `pipeline "default/s" not found`)

	_, err = e.create(spout("s", service)) // the port is free again
	e.ok(err)
	_, err = e.pps.DeletePipeline(t.Context(), &ppspb.DeletePipelineRequest{Pipeline: pipeline("s"), KeepRepo: true})
	e.ok(err)
	if c, b := e.head("s"); c.Finished == nil || len(b.DirectProvenance) != 0 {
		t.Errorf("kept branch %v, head %v", b, c)
	}
	_, err = e.create(spout("s"))
	e.fails(err, codes.Unknown, `pipeline "s" cannot be created because a repo with the same name already exists`)
	_, err = e.pfs.DeleteRepo(t.Context(), &pfspb.DeleteRepoRequest{Repo: branch("s", "").Repo})
	e.ok(err)
	if diff := cmp.Diff(before, e.snapshot()); diff != "" {
		t.Errorf("deleted repo left something:\n%s", diff)
	}
}

func TestDeletePipeline_Downstream(t *testing.T) {
	e := newEnv(t)
	_, err := e.create(spout("s"))
	e.ok(err)
	_, err = e.pfs.CreateRepo(t.Context(), &pfspb.CreateRepoRequest{Repo: branch("d", "").Repo})
	e.ok(err)
	_, err = e.pfs.CreateBranch(t.Context(), &pfspb.CreateBranchRequest{Branch: branch("d", "m"), Provenance: []*pfspb.Branch{branch("s", "master")}})
	e.ok(err)
	before := e.snapshot()
	_, err = e.pps.DeletePipeline(t.Context(), &ppspb.DeletePipelineRequest{Pipeline: pipeline("s")})
	if err == nil || !strings.Contains(err.Error(), "cannot be deleted because it's in the direct provenance of") {
		t.Errorf("delete with downstream branch: %v", err)
	}
	if diff := cmp.Diff(before, e.snapshot()); diff != "" {
		t.Errorf("refused delete changed something:\n%s", diff)
	}
	_, err = e.pps.DeleteAll(t.Context(), &emptypb.Empty{})
	e.ok(err)
	if names, err := e.list(&ppspb.ListPipelineRequest{}); err != nil || len(names) != 0 {
		t.Errorf("after DeleteAll: %v %v", names, err)
	}
}

func TestListPipeline(t *testing.T) {
	e := newEnv(t)
	_, err := e.pfs.CreateProject(t.Context(), &pfspb.CreateProjectRequest{Project: &pfspb.Project{Name: "other"}})
	e.ok(err)
	for _, spec := range []string{spout("a"), spout("b"), `{"pipeline":{"name":"c","project":{"name":"other"}},"spout":{}}`} {
		_, err := e.create(spec)
		e.ok(err)
	}
	firstB := e.inspect("b").SpecCommit.Id
	for range 2 {
		_, err = e.create(spout("b"), update)
		e.ok(err)
	}
	_, err = e.pps.StopPipeline(t.Context(), &ppspb.StopPipelineRequest{Pipeline: pipeline("a")})
	e.ok(err)
	for _, c := range []struct {
		req  *ppspb.ListPipelineRequest
		want []string
	}{
		{&ppspb.ListPipelineRequest{CommitSet: &pfspb.CommitSet{}}, []string{"other/c v1", "default/b v3", "default/a v1"}},
		{&ppspb.ListPipelineRequest{Projects: []*pfspb.Project{{Name: "default"}}}, []string{"default/b v3", "default/a v1"}},
		{&ppspb.ListPipelineRequest{Pipeline: pipeline("a")}, []string{"default/a v1"}},
		{&ppspb.ListPipelineRequest{Pipeline: pipeline("nope")}, nil},
		{&ppspb.ListPipelineRequest{History: 1}, []string{"other/c v1", "default/b v3", "default/b v2", "default/a v1"}},
		{&ppspb.ListPipelineRequest{Pipeline: pipeline("b"), History: -1}, []string{"default/b v3", "default/b v2", "default/b v1"}},
		{&ppspb.ListPipelineRequest{JqFilter: `.state == "PIPELINE_PAUSED"`}, []string{"default/a v1"}},
		{&ppspb.ListPipelineRequest{JqFilter: `.pipeline.name < "c" and .details.output_branch == "master"`, Page: &ppspb.PipelinePage{PageSize: 1, PageIndex: 1}}, []string{"default/a v1"}},
		{&ppspb.ListPipelineRequest{CommitSet: &pfspb.CommitSet{Id: firstB}}, []string{"default/b v1"}},
	} {
		if got, err := e.list(c.req); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%v: got %q, %v, want %q", c.req, got, err, c.want)
		}
	}
	_, err = e.list(&ppspb.ListPipelineRequest{JqFilter: ".["})
	e.fails(err, codes.Unknown, "error parsing jq filter: ...")

	rec := &recordpb.PipelineStatus{State: ppspb.PipelineState_PIPELINE_CRASHING, Reason: "exit 1", RecentError: "boom", WorkersAvailable: 0}
	rec.Generation = e.generation("b")
	e.put("pps/status/", "default/b", rec)
	e.put("pps/scheduler/claim/", "default/b", &recordpb.DaemonRecord{Id: "d"})
	if info := e.inspect("b"); info.State != ppspb.PipelineState_PIPELINE_CRASHING || info.Reason != "exit 1" || info.Details.RecentError != "boom" {
		t.Errorf("status was not merged: %v", info)
	}
	sum, err := e.pps.PipelinesSummary(t.Context(), &ppspb.PipelinesSummaryRequest{Projects: []*pfspb.ProjectPicker{{Picker: &pfspb.ProjectPicker_Name{Name: "default"}}}})
	e.ok(err)
	if len(sum.Summaries) != 1 || sum.Summaries[0].FailedPipelines != 1 || sum.Summaries[0].PausedPipelines != 1 || sum.Summaries[0].ActivePipelines != 0 {
		t.Errorf("summary %v", sum)
	}
	deleted, err := e.pps.DeletePipelines(t.Context(), &ppspb.DeletePipelinesRequest{Projects: []*pfspb.Project{{Name: "default"}}})
	e.ok(err)
	if len(deleted.Pipelines) != 2 || deleted.Pipelines[0].Name != "b" {
		t.Errorf("deleted %v", deleted)
	}
	if got, err := e.list(&ppspb.ListPipelineRequest{}); err != nil || len(got) != 1 {
		t.Errorf("left: %v %v", got, err)
	}
}

// The claim of the daemon that runs a pipeline ends with its lease. From then on nobody
// is told any more that its workers run.
func TestInspectAndList_OnceTheDaemonIsGone(t *testing.T) {
	e := newEnv(t)
	_, err := e.create(spout("a"))
	e.ok(err)
	lease, err := e.store.NewLease(t.Context(), time.Hour)
	e.ok(err)
	_, err = e.store.Update(t.Context(), func(tx *store.Txn) error {
		tx.PutLease("pps/scheduler/claim/default/a", nil, lease.ID())
		return nil
	})
	e.ok(err)
	e.put("pps/status/", "default/a", &recordpb.PipelineStatus{
		State: ppspb.PipelineState_PIPELINE_RUNNING, WorkersAvailable: 1, Generation: e.generation("a"), RecentError: "boom",
	})
	check := func(state ppspb.PipelineState, workers int64, reason string) {
		t.Helper()
		stream, err := e.pps.ListPipeline(t.Context(), &ppspb.ListPipelineRequest{})
		e.ok(err)
		listed, err := drain(stream)
		e.ok(err)
		for _, p := range append(listed, e.inspect("a")) {
			if p.State != state || p.Details.WorkersAvailable != workers || p.Reason != reason || p.Details.RecentError != "boom" {
				t.Errorf("%v", p)
			}
		}
	}
	check(ppspb.PipelineState_PIPELINE_RUNNING, 1, "")
	e.ok(lease.Close())
	check(ppspb.PipelineState_PIPELINE_STARTING, 0, "the pachd that ran it is gone; waiting for one that takes over")
}

func (e *env) generation(name string) uint64 {
	e.t.Helper()
	var g uint64
	e.ok(e.store.View(e.t.Context(), func(tx *store.Txn) error {
		rec, _, err := store.NewCollection[*recordpb.PipelineRecord]("pps/pipeline/").Get(tx, "default/"+name)
		g = rec.GetGeneration()
		return err
	}))
	return g
}

func TestApply(t *testing.T) {
	e := newEnv(t)
	apply := func(spec string, action pps.Action, version uint64) {
		t.Helper()
		got, err := e.service.Apply(t.Context(), spec)
		if err != nil || got.Action != action || got.Version != version || got.Pipeline.GetName() != "s" {
			t.Errorf("apply: %+v, %v; want %s, version %d", got, err, action, version)
		}
	}
	apply(spout("s"), pps.Created, 1)
	apply(spout("s"), pps.Unchanged, 1)
	apply(spout("s", `"datum_tries":3,"output_branch":"master"`), pps.Unchanged, 1)
	apply(spout("s", `"description":"x"`), pps.Updated, 2)
	if _, err := e.service.Apply(t.Context(), `{}`); err == nil {
		t.Error("an empty spec was applied")
	}
}

func TestDefaults(t *testing.T) {
	e := newEnv(t)
	got, err := e.pps.GetClusterDefaults(t.Context(), &ppspb.GetClusterDefaultsRequest{})
	e.ok(err)
	if got.ClusterDefaultsJson != "{}" {
		t.Errorf("unset defaults %q", got.ClusterDefaultsJson)
	}
	for _, name := range []string{"a", "b"} {
		_, err = e.create(spout(name, fmt.Sprintf(`"description":%q`, name)))
		e.ok(err)
	}
	text := `{"create_pipeline_request": {"transform": {"user": "u"}}}`
	for _, dry := range []bool{true, false} {
		set, err := e.pps.SetClusterDefaults(t.Context(), &ppspb.SetClusterDefaultsRequest{ClusterDefaultsJson: text, Regenerate: true, DryRun: dry})
		e.ok(err)
		if len(set.AffectedPipelines) != 2 {
			t.Errorf("dry run %v: affected %v", dry, set)
		}
	}
	if info := e.inspect("a"); info.Version != 2 || info.Details.Transform.User != "u" || info.Details.Description != "a" {
		t.Errorf("regenerated %v", info)
	}
	project := `{"createPipelineRequest": {"transform": {"user": null, "workingDir": "/w"}}}`
	_, err = e.pps.SetProjectDefaults(t.Context(), &ppspb.SetProjectDefaultsRequest{ProjectDefaultsJson: project})
	e.ok(err)
	back, err := e.pps.GetProjectDefaults(t.Context(), &ppspb.GetProjectDefaultsRequest{})
	e.ok(err)
	if back.ProjectDefaultsJson != project || back.CreatedAt == nil {
		t.Errorf("project defaults %v", back)
	}
	_, err = e.create(spout("c"))
	e.ok(err)
	if tr := e.inspect("c").Details.Transform; tr.User != "" || tr.WorkingDir != "/w" {
		t.Errorf("transform %v", tr)
	}
	if e.inspect("a").Version != 2 {
		t.Error("defaults changed a pipeline without regenerate")
	}
	for text, want := range map[string]string{
		`{`: "invalid cluster defaults JSON...", `{"x":1}`: "invalid cluster defaults JSON...", `{"create_pipeline_request":{"datum_tries":"x"}}`: "could not merge cluster defaults...",
	} {
		_, err := e.pps.SetClusterDefaults(t.Context(), &ppspb.SetClusterDefaultsRequest{ClusterDefaultsJson: text})
		e.fails(err, codes.InvalidArgument, want)
	}
	_, err = e.pps.GetProjectDefaults(t.Context(), &ppspb.GetProjectDefaultsRequest{Project: &pfspb.Project{Name: "nope"}})
	e.fails(err, codes.NotFound, `project "nope" not found`)
}
