package pps_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/minipachd/minipachd/pps/logs"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

func (e *env) getLogs(req *ppspb.GetLogsRequest) ([]*ppspb.LogMessage, error) {
	stream, err := e.pps.GetLogs(e.t.Context(), req)
	e.ok(err)
	return drain(stream)
}

func TestGetLogs(t *testing.T) {
	e := newEnv(t)
	_, err := e.create(spout("s"))
	e.ok(err)
	w := e.logs.Writer(logs.Key{Project: "default", Pipeline: "s", Version: 1, WorkerID: "default-s-v1-0"})
	w.System("beginning to run user code")
	fmt.Fprint(w.Stdout(), "one\ntwo\n")
	for _, master := range []bool{false, true} {
		got, err := e.getLogs(&ppspb.GetLogsRequest{Pipeline: pipeline("s"), Master: master, Job: &ppspb.Job{}})
		e.ok(err)
		if len(got) != 3 || got[0].User || !got[1].User || got[1].Message != "one" || got[1].Master != master || got[1].WorkerId != "default-s-v1-0" || got[1].JobId != "" {
			t.Errorf("master %v: %v", master, got)
		}
	}
	if got, err := e.getLogs(&ppspb.GetLogsRequest{Pipeline: pipeline("s"), Tail: 1}); err != nil || len(got) != 1 || got[0].Message != "two" {
		t.Errorf("tail: %v, %v", got, err)
	}
	if got, err := e.getLogs(&ppspb.GetLogsRequest{Pipeline: pipeline("s"), Since: durationpb.New(time.Nanosecond)}); err != nil || len(got) != 0 {
		t.Errorf("since: %v, %v", got, err)
	}
	if got, err := e.getLogs(&ppspb.GetLogsRequest{Pipeline: pipeline("s"), DataFilters: []string{"/a"}}); err != nil || len(got) != 0 {
		t.Errorf("data filter: %v, %v", got, err)
	}
	for _, c := range []struct {
		req  *ppspb.GetLogsRequest
		code codes.Code
		text string
	}{
		{&ppspb.GetLogsRequest{}, codes.OK, ""},
		{&ppspb.GetLogsRequest{DataFilters: []string{"/a"}}, codes.Unknown, "must specify the Job or Pipeline that the datum is from to get logs for it"},
		{&ppspb.GetLogsRequest{Job: &ppspb.Job{Id: "x"}}, codes.Unknown, "pipeline must be specified for the given job"},
		{&ppspb.GetLogsRequest{Pipeline: pipeline("s"), Job: &ppspb.Job{Id: "x", Pipeline: pipeline("t")}}, codes.Unknown, "job is from the wrong pipeline"},
		{&ppspb.GetLogsRequest{Job: &ppspb.Job{Id: "x", Pipeline: pipeline("s")}}, codes.NotFound, "job default/s@x not found"},
		{&ppspb.GetLogsRequest{Pipeline: pipeline("x")}, codes.NotFound, `could not get pipeline information for default/x: pipeline "default/x" not found`},
	} {
		_, err := e.getLogs(c.req)
		e.fails(err, c.code, c.text)
	}
}

func TestGetLogs_Follow(t *testing.T) {
	e := newEnv(t)
	_, err := e.create(spout("s"))
	e.ok(err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := e.pps.GetLogs(ctx, &ppspb.GetLogsRequest{Pipeline: pipeline("s"), Follow: true})
	e.ok(err)
	for inc := range 3 {
		w := e.logs.Writer(logs.Key{Project: "default", Pipeline: "s", WorkerID: "w", Incarnation: fmt.Sprint(inc)})
		fmt.Fprintln(w.Stdout(), inc)
		msg, err := stream.Recv()
		e.ok(err)
		if msg.Message != fmt.Sprint(inc) {
			t.Errorf("line %q, want %d", msg.Message, inc)
		}
	}
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("after cancel: %v", err)
	}
	// Deleting the pipeline ends the stream.
	stream, err = e.pps.GetLogs(t.Context(), &ppspb.GetLogsRequest{Pipeline: pipeline("s"), Follow: true, Tail: 1})
	e.ok(err)
	_, err = stream.Recv()
	e.ok(err)
	_, err = e.pps.DeletePipeline(t.Context(), &ppspb.DeletePipelineRequest{Pipeline: pipeline("s")})
	e.ok(err)
	if rest, err := drain(stream); err != nil || len(rest) != 0 {
		t.Errorf("after delete: %v, %v", rest, err)
	}
}

func TestJobs(t *testing.T) {
	e := newEnv(t)
	_, err := e.create(spout("s"))
	e.ok(err)
	ctx := t.Context()
	list, err := e.pps.ListJob(ctx, &ppspb.ListJobRequest{Pipeline: pipeline("s"), Details: true})
	e.ok(err)
	if jobs, err := drain(list); err != nil || len(jobs) != 0 {
		t.Errorf("jobs %v, %v", jobs, err)
	}
	sets, err := e.pps.ListJobSet(ctx, &ppspb.ListJobSetRequest{})
	e.ok(err)
	if jobs, err := drain(sets); err != nil || len(jobs) != 0 {
		t.Errorf("job sets %v, %v", jobs, err)
	}
	set, err := e.pps.InspectJobSet(ctx, &ppspb.InspectJobSetRequest{JobSet: &ppspb.JobSet{Id: e.inspect("s").SpecCommit.Id}})
	e.ok(err)
	if jobs, err := drain(set); err != nil || len(jobs) != 0 {
		t.Errorf("job set %v, %v", jobs, err)
	}
	_, err = e.pps.InspectJob(ctx, &ppspb.InspectJobRequest{Job: &ppspb.Job{Pipeline: pipeline("s"), Id: "abc"}})
	e.fails(err, codes.NotFound, "job default/s@abc not found")
	_, err = e.pps.InspectJob(ctx, &ppspb.InspectJobRequest{})
	e.fails(err, codes.InvalidArgument, "validate request: ...")
	_, err = e.pps.RunCron(ctx, &ppspb.RunCronRequest{Pipeline: pipeline("s")})
	e.fails(err, codes.Unknown, "pipeline doesn't have a cron input")

	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	sub, err := e.pps.SubscribeJob(short, &ppspb.SubscribeJobRequest{Pipeline: pipeline("s")})
	e.ok(err)
	if _, err := sub.Recv(); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("subscribe: %v", err)
	}
	sub, err = e.pps.SubscribeJob(ctx, &ppspb.SubscribeJobRequest{Pipeline: pipeline("x")})
	e.ok(err)
	_, err = sub.Recv()
	e.fails(err, codes.NotFound, `pipeline "default/x" not found`)
}

func TestUnimplemented(t *testing.T) {
	e := newEnv(t)
	ctx := t.Context()
	var errs []error
	add := func(_ any, err error) { errs = append(errs, err) }
	add(e.pps.RunPipeline(ctx, &ppspb.RunPipelineRequest{}))
	add(e.pps.RenderTemplate(ctx, &ppspb.RenderTemplateRequest{}))
	add(e.pps.ActivateAuth(ctx, &ppspb.ActivateAuthRequest{}))
	for _, err := range errs {
		if st := status.Convert(err); st.Code() != codes.Unimplemented || len(st.Message()) < 20 {
			t.Errorf("error %v", err)
		}
	}
}
