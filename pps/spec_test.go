package pps

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

func TestEffective_MergesLayers(t *testing.T) {
	user, err := parseUserSpec(`{
		"pipeline": {"name": "p"},
		"output_branch": "out",
		"datumTries": null,
		"transform": {"cmd": ["a"], "env": {"some_key": "v", "otherKey": "w"}, "working_dir": null},
		"parallelism_spec": {"constant": "2"},
		"datum_timeout": "30s",
		"tolerations": [{"operator": "EXISTS", "toleration_seconds": 5}, {"operator": 2}],
		"update": true, "dry_run": false
	}`)
	if err != nil {
		t.Fatal(err)
	}
	if !user.update || user.dryRun || user.project != "default" {
		t.Errorf("flags: %+v", user)
	}
	spec, err := user.effective([]byte(`{"transform":{"user":"root","workingDir":"/x"},"description":"d"}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"description":"d","outputBranch":"out","reprocessSpec":"until_success",` +
		`"transform":{"image":"ubuntu:20.04","cmd":["a"],"env":{"some_key":"v","otherKey":"w"},"user":"root"},` +
		`"pipeline":{"name":"p","project":{"name":"default"}},"parallelismSpec":{"constant":"2"},"datumTimeout":"30s",` +
		`"tolerations":[{"operator":"EXISTS","tolerationSeconds":5},{"operator":2}]}`
	var a, b any
	if json.Unmarshal([]byte(want), &a) != nil || json.Unmarshal([]byte(spec.json), &b) != nil {
		t.Fatalf("no JSON: %s", spec.json)
	}
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("effective spec (-want +got):\n%s", diff)
	}
	if got := spec.request.Tolerations[0].GetTolerationSeconds().GetValue(); got != 5 {
		t.Errorf("toleration seconds %d", got)
	}
}

func TestParseUserSpec_Errors(t *testing.T) {
	for text, want := range map[string]string{
		`{"x": 1}`:                                    `unexpected field "x" in pps_v2.CreatePipelineRequest`,
		`{"transform": {"comand": []}}`:               `unexpected field "comand" in pps_v2.Transform`,
		`{"tolerations": [{"y": 1}]}`:                 `unexpected field "y" in pps_v2.Toleration`,
		`{"output_branch": "a", "outputBranch": "b"}`: `field "outputBranch" given twice in pps_v2.CreatePipelineRequest`,
		`[]`:                                     `a JSON object is expected, not an array`,
		``:                                       `the JSON text is empty`,
		`{} {}`:                                  `there is more than one JSON value`,
		`{"pipeline": {"name": "p"}`:             `unexpected EOF`,
		`{"update": 3}`:                          `update must be true or false, not a number (3)`,
		`{"pipeline": "p"}`:                      `pipeline must be an object, not a string`,
		`{"pipeline": {"name": 7}}`:              `pipeline.name must be a string, not a number (7): put it in quotes`,
		`{"transform": {"env": {"PORT": 9092}}}`: `transform.env.PORT must be a string, not a number (9092): put it in quotes`,
		`{"transform": {"env": {"ON": true}}}`:   `transform.env.ON must be a string, not a boolean (true): put it in quotes`,
		`{"transform": {"env": ["A=b"]}}`:        `transform.env must be an object, not an array`,
		`{"transform": {"cmd": "go run ."}}`:     `transform.cmd must be an array, not a string`,
		`{"transform": {"cmd": ["sleep", 5]}}`:   `transform.cmd[1] must be a string, not a number (5): put it in quotes`,
		`{"spout": {"grace_period": 30}}`:        `spout.grace_period must be a duration in seconds such as "300s", not a number (30)`,
		`{"spout": {"liveness": {"commit_every": "5m"}}}`:           `spout.liveness.commit_every must be a duration in seconds such as "300s", not "5m": write "300s"`,
		`{"spout": {"retention": {"age": "1d"}}}`:                   `spout.retention.age must be a duration in seconds such as "300s", not "1d"`,
		`{"resource_limits": {"cpu": "500m"}}`:                      `resource_limits.cpu must be a number such as 0.5, not "500m": write 0.5`,
		`{"spout": {"restart": {"factor": "two"}}}`:                 `spout.restart.factor must be a number such as 0.5, not "two"`,
		`{"spout": {"liveness": {"tcp": {}, "http": {"port": 2}}}}`: `spout.liveness must have only one of http and tcp`,
		`{"tolerations": [3]}`:                                      `tolerations[0] must be an object, not a number (3)`,
		`{"output_branch": {"name": "master"}}`:                     `output_branch must be a string, not an object`,
		`{"schedulingSpec":{"node_selector":{"a":[]}}}`:             `schedulingSpec.node_selector.a must be a string, not an array`,
		`{"description":"` + strings.Repeat("x", 200_000):           `more than 131072`,
	} {
		_, err := parseUserSpec(text)
		if err == nil || !strings.HasPrefix(err.Error(), "could not make effective spec: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: error %v, want %q", text, err, want)
		}
		if st := status.Convert(err); st.Code() != codes.InvalidArgument || len(st.Details()) != 1 {
			t.Errorf("%.60s: status %v with %d details", text, st.Code(), len(st.Details()))
		}
	}
}

func FuzzEffective(f *testing.F) {
	for _, seed := range []string{`{}`, `{"pipeline":null}`, `{"pipeline":{"name":"a","project":{"name":"p"}},"spout":{}}`, `{"transform":{"cmd":[null]}}`, `{"metadata":{"labels":{"a":null}}}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		user, err := parseUserSpec(text)
		if err != nil {
			return
		}
		spec, err := user.effective()
		if err != nil {
			return
		}
		_ = validate(spec.request)
		// What was stored can be read back and means the same.
		again, err := parseUserSpec(spec.json)
		if err != nil {
			t.Fatalf("effective spec %s: %v", spec.json, err)
		}
		second, err := again.effective()
		if err != nil {
			t.Fatalf("effective spec %s: %v", spec.json, err)
		}
		if user.canonical != nil && !strings.Contains(string(user.canonical), "null") && !sameSpec(spec.json, second.json) {
			t.Fatalf("%s became %s", spec.json, second.json)
		}
	})
}

func TestParseAncestry(t *testing.T) {
	for in, want := range map[string]struct {
		name string
		back uint64
	}{"a": {"a", 0}, "a^": {"a", 1}, "a^^": {"a", 2}, "a~2": {"a", 2}, "a^10": {"a", 10}, "a~": {"a", 1}, "a~0": {"a", 0}} {
		name, back, err := parseAncestry(in)
		if err != nil || name != want.name || back != want.back {
			t.Errorf("%s: %q %d %v", in, name, back, err)
		}
	}
	for _, in := range []string{"^", "a^~", "a^2^", "a~99999999999999999999"} {
		if _, _, err := parseAncestry(in); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: error %v", in, err)
		}
	}
}

// Of another generation only the workers count: those still live.
func TestMergeStatus_OnlyOfTheSameGeneration(t *testing.T) {
	rec := &recordpb.PipelineRecord{Generation: 7, Info: &ppspb.PipelineInfo{Parallelism: 2, State: ppspb.PipelineState_PIPELINE_STARTING}}
	st := &recordpb.PipelineStatus{Generation: 6, State: ppspb.PipelineState_PIPELINE_CRASHING, Reason: "r", RecentError: "e", WorkersAvailable: 1}
	mergeStatus(rec, st)
	if rec.Info.State != ppspb.PipelineState_PIPELINE_STARTING || rec.Info.Details.RecentError != "" ||
		rec.Info.Details.WorkersAvailable != 1 || rec.Info.Details.WorkersRequested != 2 {
		t.Errorf("old status was taken: %v", rec.Info)
	}
	st.Generation = 7
	mergeStatus(rec, st)
	if d := rec.Info.Details; rec.Info.State != ppspb.PipelineState_PIPELINE_CRASHING || rec.Info.Reason != "r" || d.RecentError != "e" || d.WorkersAvailable != 1 {
		t.Errorf("status was not taken: %v", rec.Info)
	}
}

func TestUnattended_SaysThatNothingRuns(t *testing.T) {
	const (
		starting, running, crashing = ppspb.PipelineState_PIPELINE_STARTING, ppspb.PipelineState_PIPELINE_RUNNING, ppspb.PipelineState_PIPELINE_CRASHING
		paused, failure             = ppspb.PipelineState_PIPELINE_PAUSED, ppspb.PipelineState_PIPELINE_FAILURE
		gone                        = "the pachd that ran it is gone; waiting for one that takes over"
	)
	soon := timestamppb.Now()
	for _, c := range []struct {
		st     *recordpb.PipelineStatus
		state  ppspb.PipelineState
		reason string
	}{
		{&recordpb.PipelineStatus{State: running, WorkersAvailable: 2, WorkersStartedAt: soon}, starting, gone},
		{&recordpb.PipelineStatus{State: running, Reason: "service port 1: taken", WorkersAvailable: 2}, starting, gone},
		{&recordpb.PipelineStatus{State: crashing, Reason: "exit status 1", NextStart: soon}, starting, gone},
		{&recordpb.PipelineStatus{State: starting, Reason: "exit status 1; next start", NextStart: soon}, starting, gone},
		{&recordpb.PipelineStatus{State: starting}, starting, gone},
		{&recordpb.PipelineStatus{State: starting, Reason: "pachd has shut down"}, starting, "pachd has shut down"},
		{&recordpb.PipelineStatus{State: paused, WorkersAvailable: 1}, paused, ""},
		{&recordpb.PipelineStatus{State: failure, Reason: "nothing to run"}, failure, "nothing to run"},
	} {
		before := proto.CloneOf(c.st)
		got := unattended(c.st)
		if got.State != c.state || got.Reason != c.reason || got.WorkersAvailable != 0 || got.WorkersStartedAt != nil || got.NextStart != nil {
			t.Errorf("%v: %v", c.st, got)
		}
		if !proto.Equal(before, c.st) {
			t.Errorf("changed what it was given: %v", c.st)
		}
	}
	if unattended(nil) != nil {
		t.Error("nobody had it")
	}
}

func TestPager(t *testing.T) {
	for _, c := range []struct {
		page *ppspb.PipelinePage
		want []int
	}{
		{nil, []int{0, 1, 2, 3, 4}},
		{&ppspb.PipelinePage{}, []int{0, 1, 2, 3, 4}},
		{&ppspb.PipelinePage{PageSize: 2}, []int{0, 1}},
		{&ppspb.PipelinePage{PageSize: 2, PageIndex: 2}, []int{4}},
		{&ppspb.PipelinePage{PageSize: 2, PageIndex: 9}, nil},
		{&ppspb.PipelinePage{PageSize: 1 << 62, PageIndex: 1 << 62}, nil},
	} {
		p := newPager(c.page)
		var got []int
		for i := range 5 {
			if p.next() {
				got = append(got, i)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%v: %s", c.page, diff)
		}
	}
}

func TestNewInfo_KeepsEverySpecField(t *testing.T) {
	// Fields of the request that are not in the details under the same name.
	elsewhere := map[string]bool{
		"pipeline": true, "update": true, "input": true, "service": true, "dry_run": true,
		"reprocess": true, "spec_commit": true, "tf_job": true,
	}
	details := (&ppspb.PipelineInfo_Details{}).ProtoReflect().Descriptor().Fields()
	fields := (&ppspb.CreatePipelineRequest{}).ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		name := fields.Get(i).Name()
		if !elsewhere[string(name)] && details.ByName(name) == nil {
			t.Errorf("details have no %s", name)
		}
	}
	req := &ppspb.CreatePipelineRequest{
		Pipeline: &ppspb.Pipeline{Name: "p"}, Spout: &ppspb.Spout{Service: &ppspb.Service{InternalPort: 1}},
		Description: "d", Autoscaling: true, Metadata: &ppspb.Metadata{Labels: map[string]string{"a": "b"}},
	}
	before := proto.CloneOf(req)
	info := newInfo(&effectiveSpec{request: req})
	if info.Details.Spout.Service.Type != "NodePort" || info.Parallelism != 1 || info.Details.OutputBranch != "master" || info.Details.Metadata.Labels["a"] != "b" {
		t.Errorf("info %v", info)
	}
	if !proto.Equal(before, req) {
		t.Error("newInfo changed the request")
	}
}
