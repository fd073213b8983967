package server_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// create submits a spec as current clients do.
func (w *wire) create(spec string, flags ...string) answer {
	w.t.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		w.t.Fatal(err)
	}
	request := `{"createPipelineRequestJson":` + string(text)
	for _, f := range flags {
		request += `,"` + f + `":true`
	}
	return w.call(within(w.t), "pps_v2.API/CreatePipelineV2", request+"}")
}

// created is create for what must succeed; it gives the effective spec.
func (w *wire) created(spec string, flags ...string) map[string]any {
	w.t.Helper()
	a := w.create(spec, flags...)
	if a.err != nil {
		w.t.Fatalf("create pipeline %s: %v", spec, a)
	}
	var response struct{ EffectiveCreatePipelineRequestJson string }
	var effective map[string]any
	if err := json.Unmarshal([]byte(a.messages[0]), &response); err != nil {
		w.t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(response.EffectiveCreatePipelineRequestJson), &effective); err != nil {
		w.t.Fatalf("effective spec %q: %v", response.EffectiveCreatePipelineRequestJson, err)
	}
	return effective
}

// inspected gives a pipeline with its details.
func (w *wire) inspected(name string) map[string]any {
	w.t.Helper()
	return w.one("pps_v2.API/InspectPipeline", `{"pipeline":{"name":"`+name+`"},"details":true}`)
}

// sleeper is the spec of a spout that does nothing, with more fields after it.
func sleeper(name string, more ...string) string {
	return `{"pipeline":{"name":"` + name + `"},"spout":{},"transform":{"cmd":["sleep","1000"]}` + strings.Join(append([]string{""}, more...), ",") + `}`
}

// TestWireSpec_Validation goes through the checks of a spec, over the wire, in
// both forms in which clients send one where both can carry it.
func TestWireSpec_Validation(t *testing.T) {
	w := newWire(t)
	w.ok("pfs_v2.API/CreateRepo", `{"repo":{"name":"taken"}}`)
	w.ok("pfs_v2.API/CreateProject", `{"project":{"name":"`+strings.Repeat("p", 30)+`"}}`)
	w.created(sleeper("there"))
	x52, x50 := strings.Repeat("x", 52), strings.Repeat("x", 50)
	const u, i = codes.Unknown, codes.InvalidArgument
	for _, c := range []struct {
		spec string
		code codes.Code
		want string
	}{
		{`{}`, u, "request.Pipeline cannot be nil"},
		{`{"pipeline":null,"spout":{}}`, u, "request.Pipeline cannot be nil"},
		{`{"pipeline":{},"spout":{}}`, u, "invalid pipeline spec: request.Pipeline.Name cannot be empty"},
		{sleeper("a b"), u, "invalid pipeline name: name (a b) invalid: only alphanumeric characters, underscores, and dashes are allowed"},
		{sleeper("a/b"), u, "invalid pipeline name: name (a/b) invalid: only alphanumeric characters, underscores, and dashes are allowed"},
		{sleeper("_a"), u, "...pipeline names must start with an alphanumeric character"},
		{sleeper("-"), u, "...pipeline names must start with an alphanumeric character"},
		{sleeper(x52), u, `pipeline name "` + x52 + `" is 1 characters longer than the 51 max`},
		{
			`{"pipeline":{"name":"` + x50 + `","project":{"name":"` + strings.Repeat("p", 30) + `"}},"spout":{}}`, u,
			`Kubernetes name "` + strings.Repeat("p", 30) + "-" + x50 + `-v99" is 22 characters longer than the 63 max`,
		},
		{sleeper("a", `"tfJob":{"tfJob":"x"}`), u, "embedding TFJobs in pipelines is not supported yet"},
		{`{"pipeline":{"name":"a"},"spout":{},"transform":null}`, u, "pipeline must specify a transform"},
		{`{"pipeline":{"name":"a"},"spout":{},"transform":{"image":""}}`, u, "pipeline transform must contain an image"},
		{sleeper("a", `"s3Out":true`), u, "s3 output is not supported in spouts or services"},
		{sleeper("a", `"autoscaling":true`), u, "autoscaling can't be used with spouts (spouts aren't triggered externally)"},
		{sleeper("a", `"input":{}`), u, "spout pipelines (without a service) must not have an input"},
		{sleeper("a", `"input":{"pfs":{"repo":"taken","glob":"/*"}}`), u, "spout pipelines (without a service) must not have an input"},
		{`{"pipeline":{"name":"a"},"input":{},"transform":{"cmd":["true"]}}`, u, "no input set"},
		{sleeper("a", `"service":{"internalPort":1,"externalPort":2}`), u, "only one of pipeline.service or pipeline.spout can be set"},
		{
			`{"pipeline":{"name":"a"},"service":{"internalPort":1,"externalPort":2},"parallelismSpec":{"constant":"2"},"transform":{"cmd":["true"]}}`, u,
			"services can only be run with a constant parallelism of 1",
		},
		{`{"pipeline":{"name":"a"},"service":{"internalPort":1,"externalPort":2,"type":"Funny"},"transform":{"cmd":["true"]}}`, u, "the following service type Funny is not allowed"},
		{`{"pipeline":{"name":"a"},"spout":{"service":{"internalPort":1,"externalPort":2,"type":"Funny"}},"transform":{"cmd":["true"]}}`, u, "the following service type Funny is not allowed"},
		{sleeper("a", `"reprocessSpec":"sometimes"`), u, `...ReprocessSpec must be one of "until_success" or "every_job"`},
		{sleeper("a", `"podSpec":"not json"`), u, "malformed PodSpec"},
		{sleeper("a", `"podPatch":"[{"`), u, "malformed PodPatch"},
		{sleeper("a", `"tolerations":[{"key":"k","value":"v"}]`), u, "toleration 1/1: cannot omit key/value comparison operator; specify EQUAL or EXISTS"},
		{sleeper("a", `"tolerations":[{"operator":"EXISTS"},{"operator":1},{"key":"k"}]`), u, "toleration 3/3: cannot omit key/value comparison operator; specify EQUAL or EXISTS"},
		{sleeper("a", `"maximumExpectedUptime":"1h"`), i, "could not make effective spec: ..."}, // hours are no protobuf duration
		{sleeper("a", `"maximumExpectedUptime":"3600s"`), u, "autoscaling must be true when max_expected_uptime is non-zero"},
		{sleeper("taken"), u, `pipeline "taken" cannot be created because a repo with the same name already exists`},
		{sleeper("there"), codes.AlreadyExists, `pipeline "default/there" already exists`},
		{`{"pipeline":{"name":"a","project":{"name":"nope"}},"spout":{},"transform":{"cmd":["true"]}}`, codes.NotFound, `project "nope" not found`},
		{`{"pipeline":{"name":"a"},"transform":{"cmd":["true"]},"input":{"pfs":{"repo":"taken","glob":"/*"}}}`, codes.Unimplemented, "...this server runs only spouts"},
		{`{"pipeline":{"name":"a"},"transform":{"cmd":["true"]}}`, codes.Unimplemented, "...this server runs only spouts"},
		{sleeper("a", `"colour":"red"`), i, `could not make effective spec: unexpected field "colour" in pps_v2.CreatePipelineRequest`},
		{`{"pipeline":{"name":"a"},"spout":{"overwrite":true},"transform":{"cmd":["true"]}}`, i, `could not make effective spec: unexpected field "overwrite" in pps_v2.Spout`},
		{`{"pipeline":{"name":"a"},"spout":{},"transform":{"cmd":["true"],"umask":"089"}}`, i, `transform.umask must be an octal number from 000 to 777, such as "027", not "089"`},
		{`{"pipeline":{"name":"a"},"spout":{},"transform":{"cmd":["true"],"env":{"":"x"}}}`, i, `transform.env: "" is no name of an environment variable`},
		{`{"pipeline":{"name":"a"},"spout":{},"transform":{"cmd":["true"],"env":{"A=B":"x"}}}`, i, `transform.env: "A=B" is no name of an environment variable`},
		{`{"pipeline":{"name":"a"},"spout":{},"transform":{"cmd":["true"],"env":{"A":"\u0000"}}}`, i, "transform.env: the value of A must not have NUL in it"},
		{`{"pipeline":{"name":"a"},"spout":{},"transform":{"cmd":["sh","-c","a\u0000b"]}}`, i, "transform.cmd must not have NUL in it"},
		{`{"pipeline":{"name":"a"},"spout":{},"transform":{"cmd":["true"],"umask":22}}`, i, "could not make effective spec: ..."},
		{`{"pipeline":{"name":"a"},"spout":{"liveness":{}},"transform":{"cmd":["true"]}}`, i, "spout.liveness must have one of tcp, http, exec, commit_every"},
		{`{"pipeline":{"name":"a"},"spout":{"liveness":{"commit_every":"5m"}},"transform":{"cmd":["true"]}}`, i, `could not make effective spec: spout.liveness.commit_every must be a duration in seconds such as "300s", not "5m": write "300s"`},
		{`{"pipeline":{"name":"a"},"spout":{"grace_period":"7200s"},"transform":{"cmd":["true"]}}`, i, "spout.grace_period must be between 0s and 1h0m0s, not 2h0m0s"},
		{`{"pipeline":{"name":"a"},"spout":{"restart":{"initial_backoff":"3s","max_backoff":"2s"}},"transform":{"cmd":["true"]}}`, i, "spout.restart.max_backoff (2s) must not be shorter than spout.restart.initial_backoff (3s)"},
		{`{"pipeline":{"name":"a"},"spout":{"retention":{}},"transform":{"cmd":["true"]}}`, i, "spout.retention must have at least one of commits, age"},
		{`{"pipeline":{"name":"a"},"spout":{"retention":{"commits":"-1"}},"transform":{"cmd":["true"]}}`, i, "spout.retention.commits must be 1 or more, or left out, not -1"},
		{`{"pipeline":{"name":"a"},"spout":{"retention":{"commits":"many"}},"transform":{"cmd":["true"]}}`, i, "could not make effective spec: ..."},
		{`{"pipeline":{"name":"a"},"spout":{"retention":{"age":"0.5s"}},"transform":{"cmd":["true"]}}`, i, "spout.retention.age must be between 1s and 876000h0m0s, not 500ms"},
		{`{"pipeline":{"name":"a"},"spout":{"retention":{"commits":5,"age":"-1s"}},"transform":{"cmd":["true"]}}`, i, "spout.retention.age must be between 1s and 876000h0m0s, not -1s"},
		{`{"pipeline":{"name":"a"},"spout":{"retention":{"age":"1d"}},"transform":{"cmd":["true"]}}`, i, "could not make effective spec: ..."},
		{`{"pipeline":{"name":"a"},"spout":{"retention":{"days":3}},"transform":{"cmd":["true"]}}`, i, `could not make effective spec: unexpected field "days" in pps_v2.Spout.Retention`},
		{sleeper("a", `"datumTimeout":"30"`), i, "could not make effective spec: ..."},
		{sleeper("a", `"datumTries":"many"`), i, "could not make effective spec: ..."},
		{sleeper("a", `"tolerations":[{"operator":"MAYBE"}]`), i, "could not make effective spec: ..."},
		{`{"pipeline":"a","spout":{}}`, i, "could not make effective spec: ..."},
		{`{"pipeline":{"name":7},"spout":{}}`, i, "could not make effective spec: ..."},
		{`{"pipeline":{"name":"a"}`, i, "could not make effective spec: ..."},
		{``, i, "could not make effective spec: ..."},
		{`[]`, i, "could not make effective spec: ..."},
		{`pipeline: {name: a}`, i, "could not make effective spec: ..."},
		{sleeper("a") + sleeper("b"), i, "could not make effective spec: ..."},
		{sleeper("\u00fc"), u, "invalid pipeline name: name (\u00fc) invalid: only alphanumeric characters, underscores, and dashes are allowed"},
	} {
		for _, flags := range [][]string{nil, {"dryRun"}} {
			a := w.create(c.spec, flags...)
			if status.Code(a.err) != c.code || !matches(status.Convert(a.err).Message(), c.want) {
				t.Errorf("%s %v:\n got %v\nwant %v %q", c.spec, flags, a, c.code, c.want)
			}
			if strings.HasPrefix(c.want, "could not make effective spec") && len(status.Convert(a.err).Details()) != 1 {
				t.Errorf("%s: no detail says which field is wrong: %v", c.spec, a)
			}
		}
	}
	for _, c := range []struct {
		message string
		code    codes.Code
		want    string
	}{
		{`{}`, u, "request.Pipeline cannot be nil"},
		{`{"pipeline":{},"spout":{}}`, u, "invalid pipeline spec: request.Pipeline.Name cannot be empty"},
		{`{"pipeline":{"name":"a.b"},"spout":{}}`, u, "invalid pipeline name: name (a.b) invalid: ..."},
		{`{"pipeline":{"name":"a"},"spout":{},"autoscaling":true}`, u, "autoscaling can't be used with spouts (spouts aren't triggered externally)"},
		{`{"pipeline":{"name":"there"},"spout":{}}`, codes.AlreadyExists, `pipeline "default/there" already exists`},
	} {
		a := w.call(within(t), "pps_v2.API/CreatePipeline", c.message)
		if status.Code(a.err) != c.code || !matches(status.Convert(a.err).Message(), c.want) {
			t.Errorf("CreatePipeline %s:\n got %v\nwant %v %q", c.message, a, c.code, c.want)
		}
	}
	if a := w.ok("pfs_v2.API/ListRepo", `{}`); len(a.messages) != 3 { // taken, there, there.spec
		t.Errorf("refused specs left repos:\n%v", a)
	}
	if a := w.ok("pps_v2.API/ListPipeline", `{}`); len(a.messages) != 1 {
		t.Errorf("refused specs left pipelines:\n%v", a)
	}
}

// TestWireSpec_Defaults merges layers in either spelling of field names.
func TestWireSpec_Defaults(t *testing.T) {
	w := newWire(t)
	w.exchange([]exchange{
		{"pps_v2.API/GetClusterDefaults", `{}`, codes.OK, `{"clusterDefaultsJson":"{}"}`},
		{"pps_v2.API/GetProjectDefaults", `{"project":{"name":"default"}}`, codes.OK, `"projectDefaultsJson":"{}"`},
		{"pps_v2.API/GetProjectDefaults", `{"project":{"name":"nope"}}`, codes.NotFound, `project "nope" not found`},
		{"pps_v2.API/SetClusterDefaults", `{"clusterDefaultsJson":"nonsense"}`, codes.InvalidArgument, "invalid cluster defaults JSON..."},
		{"pps_v2.API/SetClusterDefaults", `{"clusterDefaultsJson":"{\"colour\":1}"}`, codes.InvalidArgument, "invalid cluster defaults JSON..."},
		{"pps_v2.API/SetClusterDefaults", `{"clusterDefaultsJson":"{\"create_pipeline_request\":{\"colour\":1}}"}`, codes.InvalidArgument, "invalid cluster defaults JSON..."},
		{"pps_v2.API/SetClusterDefaults", `{"clusterDefaultsJson":"{\"create_pipeline_request\":{\"datum_tries\":\"x\"}}"}`, codes.InvalidArgument, "could not merge cluster defaults..."},
		{"pps_v2.API/SetProjectDefaults", `{"project":{"name":"nope"},"projectDefaultsJson":"{}"}`, codes.NotFound, `project "nope" not found`},
		{"pps_v2.API/SetProjectDefaults", `{"projectDefaultsJson":"["}`, codes.InvalidArgument, "invalid project defaults JSON..."},
	})
	effective := w.created(sleeper("builtin"), "dryRun")
	if at(effective, "transform", "image") != "ubuntu:20.04" || at(effective, "outputBranch") != "master" || fmt.Sprint(at(effective, "datumTries")) != "3" ||
		at(effective, "reprocessSpec") != "until_success" || at(effective, "pipeline", "project", "name") != "default" || at(effective, "pipeline", "name") != "builtin" {
		t.Errorf("built-in defaults: %v", effective)
	}
	if a := w.ok("pps_v2.API/ListPipeline", `{}`); len(a.messages) != 0 {
		t.Errorf("a dry run made %v", a)
	}
	w.created(sleeper("before"))
	cluster := `{"create_pipeline_request":{"datum_tries":5,"transform":{"env":{"A":"cluster","B":"cluster"}},"resourceRequests":{"memory":"1G","cpu":2}}}`
	project := `{"createPipelineRequest":{"transform":{"env":{"B":"project","C_D":"project"}},"resource_requests":{"cpu":null},"tolerations":[{"operator":"EXISTS"}]}}`
	quoted := func(s string) string { b, _ := json.Marshal(s); return string(b) } //nolint:errchkjson // a string
	if a := w.ok("pps_v2.API/SetClusterDefaults", `{"clusterDefaultsJson":`+quoted(cluster)+`,"regenerate":true,"dryRun":true}`); !strings.Contains(a.String(), `"name":"before"`) {
		t.Errorf("a dry run says that these change: %v", a)
	}
	w.exchange([]exchange{
		{"pps_v2.API/GetClusterDefaults", `{}`, codes.OK, `{"clusterDefaultsJson":"{}"}`},
		{"pps_v2.API/SetClusterDefaults", `{"clusterDefaultsJson":` + quoted(cluster) + `}`, codes.OK, `{}`},
		{"pps_v2.API/GetClusterDefaults", `{}`, codes.OK, quoted(cluster)},
	})
	if info := w.inspected("before"); fmt.Sprint(at(info, "version")) != "1" {
		t.Errorf("defaults without regenerate changed %v", info)
	}
	w.exchange([]exchange{
		{"pps_v2.API/SetProjectDefaults", `{"project":{},"projectDefaultsJson":` + quoted(project) + `,"regenerate":true}`, codes.OK, `{"affectedPipelines":[{"project":{"name":"default"},"name":"before"}]}`},
		{"pps_v2.API/GetProjectDefaults", `{"project":{"name":"default"}}`, codes.OK, quoted(project)},
		{"pfs_v2.API/InspectProjectV2", `{"project":{"name":"default"}}`, codes.OK, quoted(project)},
	})
	info := w.inspected("before")
	d := at(info, "details")
	if fmt.Sprint(at(info, "version")) != "2" || fmt.Sprint(at(d, "datumTries")) != "5" || at(info, "userSpecJson") != sleeper("before") {
		t.Errorf("regenerated %v", info)
	}
	if got := fmt.Sprint(at(d, "transform", "env"), at(d, "resourceRequests"), at(d, "tolerations")); got != "map[A:cluster B:project C_D:project] map[memory:1G] [map[operator:EXISTS]]" {
		t.Errorf("merged %s", got)
	}
	// The user's spec has the last word: null takes away, arrays replace.
	effective = w.created(`{"pipeline":{"name":"mine"},"spout":{},"datumTries":null,"transform":{"cmd":["true"],"env":{"A":null,"B":"mine"}},"tolerations":[],"resource_requests":null}`, "dryRun")
	if got := fmt.Sprint(at(effective, "transform", "env"), at(effective, "datumTries"), at(effective, "resourceRequests"), at(effective, "tolerations")); got != "map[B:mine C_D:project] <nil> <nil> []" {
		t.Errorf("effective %s", got)
	}
}

// TestWireSpec_Spellings stores numbers and names in every spelling that JSON
// allows for them.
func TestWireSpec_Spellings(t *testing.T) {
	w := newWire(t)
	w.created(`{"pipeline":{"name":"snake"},"spout":{"service":{"internal_port":8000,"external_port":38001}},"parallelism_spec":{"constant":"2"},"datum_tries":"4",
	  "output_branch":"out","datum_timeout":"1.5s","tolerations":[{"key":"k","operator":2,"value":"v","toleration_seconds":"7"}],"metadata":{"labels":{"a_b":"c"}},
	  "scheduling_spec":{"node_selector":{"x_y":"z"},"priority_class_name":"p"},"transform":{"cmd":["sleep","1"],"accept_return_code":[3],"working_dir":"/tmp","stdin":["a"]}}`)
	w.created(`{"pipeline":{"name":"camel"},"spout":{"service":{"internalPort":8000,"externalPort":38002}},"parallelismSpec":{"constant":2},"datumTries":4,
	  "outputBranch":"out","datumTimeout":"1.500s","tolerations":[{"key":"k","operator":"EQUAL","value":"v","tolerationSeconds":7}],"metadata":{"labels":{"a_b":"c"}},
	  "schedulingSpec":{"nodeSelector":{"x_y":"z"},"priorityClassName":"p"},"transform":{"cmd":["sleep","1"],"acceptReturnCode":["3"],"workingDir":"/tmp","stdin":["a"]}}`)
	var details [2]string
	for i, name := range []string{"snake", "camel"} {
		d := w.inspected(name)["details"].(map[string]any)
		if at(d, "spout", "service", "type") != "NodePort" {
			t.Errorf("%s: service %v", name, at(d, "spout"))
		}
		service := at(d, "spout", "service").(map[string]any)
		service["externalPort"] = "-"
		delete(service, "ip") // there once a daemon runs it
		for _, own := range []string{"salt", "createdAt", "updatedAt", "workersAvailable", "workersStartedAt", "reason", "recentError"} {
			delete(d, own)
		}
		b, err := json.MarshalIndent(d, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		details[i] = string(b)
	}
	if details[0] != details[1] || !strings.Contains(details[0], `"tolerationSeconds": "7"`) {
		t.Errorf("snake_case gives\n%s\nand camelCase\n%s", details[0], details[1])
	}
}
