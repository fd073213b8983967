package pps

import (
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// PipelineNotFoundError reports a pipeline that does not exist.
type PipelineNotFoundError struct{ Pipeline *ppspb.Pipeline }

func (e *PipelineNotFoundError) Error() string {
	return fmt.Sprintf("pipeline %q not found", key(e.Pipeline))
}

// GRPCStatus makes it NotFound.
func (e *PipelineNotFoundError) GRPCStatus() *status.Status {
	return status.New(codes.NotFound, e.Error())
}

// PipelineExistsError reports that a pipeline to be created is there already.
type PipelineExistsError struct{ Pipeline *ppspb.Pipeline }

func (e *PipelineExistsError) Error() string {
	return fmt.Sprintf("pipeline %q already exists", key(e.Pipeline))
}

// GRPCStatus makes it AlreadyExists.
func (e *PipelineExistsError) GRPCStatus() *status.Status {
	return status.New(codes.AlreadyExists, e.Error())
}

// JobNotFoundError reports a job that does not exist; spouts have none.
type JobNotFoundError struct{ Job *ppspb.Job }

func (e *JobNotFoundError) Error() string {
	return fmt.Sprintf("job %s@%s not found", key(e.Job.GetPipeline()), e.Job.GetId())
}

// GRPCStatus makes it NotFound.
func (e *JobNotFoundError) GRPCStatus() *status.Status {
	return status.New(codes.NotFound, e.Error())
}

// PortInUseError reports that another pipeline has the external port already, or
// the daemon if there is no Holder.
type PortInUseError struct {
	Pipeline, Holder string // "project/name"
	Port             int32
}

func (e *PortInUseError) Error() string {
	if e.Holder == "" {
		return fmt.Sprintf("pipeline %q: spout.service.external_port %d is the port of pachd itself", e.Pipeline, e.Port)
	}
	return fmt.Sprintf("pipeline %q: spout.service.external_port %d is already used by pipeline %q", e.Pipeline, e.Port, e.Holder)
}

// GRPCStatus makes it FailedPrecondition.
func (e *PortInUseError) GRPCStatus() *status.Status {
	return status.New(codes.FailedPrecondition, e.Error())
}

// SpecError reports a pipeline spec that cannot be read.
type SpecError struct {
	Field string // the offending field, if one is known
	Err   error
}

func (e *SpecError) Error() string { return "could not make effective spec: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *SpecError) Unwrap() error { return e.Err }

// GRPCStatus makes it InvalidArgument, with a BadRequest detail.
func (e *SpecError) GRPCStatus() *status.Status {
	field := e.Field
	if field == "" {
		field = "create_pipeline_request_json"
	}
	st := status.New(codes.InvalidArgument, e.Error())
	detailed, err := st.WithDetails(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
		{Field: field, Description: e.Err.Error()},
	}})
	if err != nil {
		return st
	}
	return detailed
}

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// unimplemented makes a sentence that tells users what this server cannot do.
func unimplemented(format string, args ...any) error {
	return status.Errorf(codes.Unimplemented, format, args...)
}
