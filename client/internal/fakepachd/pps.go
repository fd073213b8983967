package fakepachd

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

type ppsServer struct {
	ppspb.UnimplementedAPIServer
	s *Server
}

func (p ppsServer) CreatePipelineV2(_ context.Context, req *ppspb.CreatePipelineV2Request) (*ppspb.CreatePipelineV2Response, error) {
	var spec struct {
		Pipeline struct {
			Name    string
			Project struct{ Name string }
		}
	}
	if err := json.Unmarshal([]byte(req.GetCreatePipelineRequestJson()), &spec); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "could not make effective spec: %v", err)
	}
	project := spec.Pipeline.Project.Name
	if project == "" {
		project = "default"
	}
	name := project + "/" + spec.Pipeline.Name
	resp := &ppspb.CreatePipelineV2Response{EffectiveCreatePipelineRequestJson: req.GetCreatePipelineRequestJson()}
	if req.GetDryRun() {
		return resp, nil
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	old := p.s.pipelines[name]
	if old != nil && !req.GetUpdate() {
		return nil, status.Errorf(codes.AlreadyExists, "pipeline %q already exists", name)
	}
	p.s.pipelines[name] = &ppspb.PipelineInfo{
		Pipeline: &ppspb.Pipeline{Project: &pfspb.Project{Name: project}, Name: spec.Pipeline.Name},
		Version:  old.GetVersion() + 1, State: ppspb.PipelineState_PIPELINE_RUNNING, Type: ppspb.PipelineInfo_PIPELINE_TYPE_SPOUT,
		UserSpecJson: req.GetCreatePipelineRequestJson(), EffectiveSpecJson: req.GetCreatePipelineRequestJson(),
		Details: &ppspb.PipelineInfo_Details{CreatedAt: timestamppb.Now(), WorkersRequested: 1, WorkersAvailable: 1, Spout: &ppspb.Spout{}},
	}
	return resp, nil
}

func (p ppsServer) pipeline(q *ppspb.Pipeline) (*ppspb.PipelineInfo, error) {
	name := q.GetProject().GetName() + "/" + q.GetName()
	if info := p.s.pipelines[name]; info != nil {
		return info, nil
	}
	return nil, status.Errorf(codes.NotFound, "pipeline %q not found", name)
}

func (p ppsServer) InspectPipeline(_ context.Context, req *ppspb.InspectPipelineRequest) (*ppspb.PipelineInfo, error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	return p.pipeline(req.GetPipeline())
}

func (p ppsServer) ListPipeline(_ *ppspb.ListPipelineRequest, out grpc.ServerStreamingServer[ppspb.PipelineInfo]) error {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(p.s.pipelines)) {
		if err := out.Send(p.s.pipelines[name]); err != nil {
			return err
		}
	}
	return nil
}

func (p ppsServer) StopPipeline(_ context.Context, req *ppspb.StopPipelineRequest) (*emptypb.Empty, error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	_, err := p.pipeline(req.GetPipeline())
	return &emptypb.Empty{}, err
}

// GetLogs gives Logs, and with follow waits for the client to go.
func (p ppsServer) GetLogs(req *ppspb.GetLogsRequest, out grpc.ServerStreamingServer[ppspb.LogMessage]) error {
	if p.s.OnLogs != nil {
		return p.s.OnLogs(req, out)
	}
	for _, m := range p.s.Logs {
		if err := out.Send(m); err != nil {
			return err
		}
	}
	if !req.GetFollow() {
		return nil
	}
	<-out.Context().Done()
	return out.Context().Err()
}

func (p ppsServer) ListJob(*ppspb.ListJobRequest, grpc.ServerStreamingServer[ppspb.JobInfo]) error {
	return nil
}

func (p ppsServer) DeleteAll(context.Context, *emptypb.Empty) (*emptypb.Empty, error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	clear(p.s.pipelines)
	return &emptypb.Empty{}, nil
}
