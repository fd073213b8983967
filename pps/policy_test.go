package pps_test

import (
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// putFile is one ModifyFile on the pipeline's output branch.
func (e *env) putFile(name, path string) {
	e.t.Helper()
	stream, err := e.pfs.ModifyFile(e.t.Context())
	e.ok(err)
	add := &pfspb.AddFile{Path: path, Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes([]byte("x"))}}
	for _, req := range []*pfspb.ModifyFileRequest{
		{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: &pfspb.Commit{Branch: branch(name, "master")}}},
		{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: add}},
	} {
		if stream.Send(req) != nil {
			break // the answer says why
		}
	}
	_, err = stream.CloseAndRecv()
	e.ok(err)
}

// TestCommitPolicy_FollowsThePipeline: what was put is finished, whole, when the
// pipeline is stopped, updated or deleted, and the policy is that of the newest version.
func TestCommitPolicy_FollowsThePipeline(t *testing.T) {
	e := newEnv(t)
	spec := func(spout string) string {
		return `{"pipeline":{"name":"p"},"spout":` + spout + `,"transform":{"cmd":["sh"]}}`
	}
	_, err := e.create(spec(`{"commit":{"files":100}}`))
	e.ok(err)
	if c := e.inspect("p").Details.Spout.Commit; c.GetFiles() != 100 {
		t.Errorf("the policy shown is %v", c)
	}
	opened := func() *pfspb.Commit {
		t.Helper()
		e.putFile("p", "/a")
		c, _ := e.head("p")
		e.putFile("p", "/b")
		if now, _ := e.head("p"); now.Commit.Id != c.Commit.Id || now.Finished != nil {
			t.Fatalf("two puts led to %v and %v", c, now)
		}
		return c.Commit
	}
	finished := func(c *pfspb.Commit) {
		t.Helper()
		info, err := e.pfs.InspectCommit(t.Context(), &pfspb.InspectCommitRequest{Commit: c})
		e.ok(err)
		if info.Finished == nil || info.Error != "" || info.Details.GetSizeBytes() == 0 {
			t.Errorf("the commit is %v", info)
		}
	}
	c := opened()
	if provenance := func() []*pfspb.Commit { c, _ := e.head("p"); return c.DirectProvenance }(); len(provenance) != 1 || provenance[0].Repo.Type != "spec" {
		t.Errorf("its provenance is %v", provenance)
	}
	_, err = e.pps.StopPipeline(t.Context(), &ppspb.StopPipelineRequest{Pipeline: pipeline("p")})
	e.ok(err)
	finished(c)
	e.putFile("p", "/stopped") // has no policy
	if c, _ := e.head("p"); c.Finished == nil {
		t.Errorf("of a stopped pipeline: %v", c)
	}
	_, err = e.pps.StartPipeline(t.Context(), &ppspb.StartPipelineRequest{Pipeline: pipeline("p")})
	e.ok(err)
	c = opened()
	_, err = e.create(spec(`{"commit":{"interval":"3600s"}}`), update)
	e.ok(err)
	finished(c)
	c = opened()
	_, err = e.pps.RerunPipeline(t.Context(), &ppspb.RerunPipelineRequest{Pipeline: pipeline("p")})
	e.ok(err)
	finished(c)
	c = opened()
	_, err = e.create(spec(`{}`), update)
	e.ok(err)
	finished(c)
	e.putFile("p", "/single")
	if c, _ := e.head("p"); c.Finished == nil {
		t.Errorf("without a policy: %v", c)
	}
	_, err = e.create(spec(`{"commit":{"bytes":1000000}}`), update)
	e.ok(err)
	c = opened()
	_, err = e.pps.DeletePipeline(t.Context(), &ppspb.DeletePipelineRequest{Pipeline: pipeline("p"), KeepRepo: true})
	e.ok(err)
	finished(c)
	for key := range e.dump() {
		if len(key) > 11 && key[:11] == "pfs/policy/" {
			t.Errorf("%s is left", key)
		}
	}
}
