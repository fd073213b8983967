package pps

import (
	"context"
	"errors"

	"google.golang.org/protobuf/types/known/emptypb"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	taskpb "github.com/minipachd/minipachd/proto/taskapi"
)

var errNoCron = errors.New("pipeline doesn't have a cron input")

// RunLoadTest implements pps_v2.API.
func (s *Service) RunLoadTest(context.Context, *ppspb.RunLoadTestRequest) (*ppspb.RunLoadTestResponse, error) {
	return nil, unimplemented("load tests are not part of this server")
}

// RunLoadTestDefault implements pps_v2.API.
func (s *Service) RunLoadTestDefault(context.Context, *emptypb.Empty) (*ppspb.RunLoadTestResponse, error) {
	return nil, unimplemented("load tests are not part of this server")
}

// RenderTemplate implements pps_v2.API.
func (s *Service) RenderTemplate(context.Context, *ppspb.RenderTemplateRequest) (*ppspb.RenderTemplateResponse, error) {
	return nil, unimplemented("this server does not render jsonnet templates; submit the pipeline spec as JSON or YAML")
}

// ListTask implements pps_v2.API.
func (s *Service) ListTask(*taskpb.ListTaskRequest, ppspb.API_ListTaskServer) error {
	return unimplemented("this server has no task queue to list")
}

// GetKubeEvents implements pps_v2.API.
func (s *Service) GetKubeEvents(*ppspb.LokiRequest, ppspb.API_GetKubeEventsServer) error {
	return unimplemented("this server does not run on Kubernetes and has no events of it")
}

// QueryLoki implements pps_v2.API.
func (s *Service) QueryLoki(*ppspb.LokiRequest, ppspb.API_QueryLokiServer) error {
	return unimplemented("this server keeps logs itself, without Loki; use GetLogs")
}
