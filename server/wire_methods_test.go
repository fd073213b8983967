package server_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

// reflected asks a daemon for all its services, as a client does that has no
// stubs.
func reflected(ctx context.Context, t *testing.T, conn *grpc.ClientConn) []protoreflect.ServiceDescriptor {
	t.Helper()
	stream, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(req *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(req); err != nil {
			t.Fatal(err)
		}
		res, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e := res.GetErrorResponse(); e != nil {
			t.Fatalf("%v: %s", req, e.ErrorMessage)
		}
		return res
	}
	names := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}).GetListServicesResponse()
	set := &descriptorpb.FileDescriptorSet{}
	seen := map[string]bool{}
	for _, s := range names.GetService() {
		res := ask(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: s.GetName()}})
		for _, raw := range res.GetFileDescriptorResponse().GetFileDescriptorProto() {
			file := &descriptorpb.FileDescriptorProto{}
			if err := proto.Unmarshal(raw, file); err != nil {
				t.Fatal(err)
			}
			if !seen[file.GetName()] {
				seen[file.GetName()] = true
				set.File = append(set.File, file)
			}
		}
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		t.Fatal(err)
	}
	var services []protoreflect.ServiceDescriptor
	for _, s := range names.GetService() {
		services = append(services, serviceNamed(t, files, s.GetName()))
	}
	return services
}

func serviceNamed(t *testing.T, files *protoregistry.Files, name string) protoreflect.ServiceDescriptor {
	t.Helper()
	d, err := files.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		t.Fatal(err)
	}
	return d.(protoreflect.ServiceDescriptor)
}

// TestEveryMethod_EmptyRequestGetsAnAnswer calls every method that the daemon
// says it has with a message without fields: each must answer, never by a crash,
// and say in a sentence what it does not do.
func TestEveryMethod_EmptyRequestGetsAnAnswer(t *testing.T) {
	p := startPachd(t, t.TempDir())
	ctx := within(t)
	_, _, conn := dial(t, p.addr)
	// These wait for what is yet to come, and end with their caller.
	endless := []protoreflect.FullName{"grpc.health.v1.Health.Watch"}
	methods := 0
	for _, service := range reflected(ctx, t, conn) {
		if strings.HasPrefix(string(service.FullName()), "grpc.reflection.") {
			continue
		}
		for i := range service.Methods().Len() {
			m := service.Methods().Get(i)
			methods++
			err := callEmpty(ctx, conn, m)
			s := status.Convert(err)
			switch {
			case slices.Contains(endless, m.FullName()):
				if s.Code() != codes.DeadlineExceeded {
					t.Errorf("%s: %v, want it to go on", m.FullName(), err)
				}
			case s.Code() == codes.Internal, s.Code() == codes.DataLoss, s.Code() == codes.Unavailable, s.Code() == codes.DeadlineExceeded, s.Code() == codes.ResourceExhausted:
				t.Errorf("%s: %v", m.FullName(), err)
			case s.Code() != codes.OK && !isSentence(s.Message()):
				t.Errorf("%s: %v: %q says too little", m.FullName(), s.Code(), s.Message())
			}
		}
	}
	if methods < 140 {
		t.Errorf("reflection lists only %d methods", methods)
	}
	if strings.Contains(p.log.String(), "panic") {
		t.Errorf("the log has a panic:\n%s", p.log.String())
	}
}

// isSentence tells a text for people from a code or a word; what the generated
// code says of a method that nobody wrote does not count.
func isSentence(text string) bool {
	return len(strings.Fields(text)) >= 3 && !strings.HasPrefix(text, "method ") && !strings.Contains(text, "not implemented")
}

// callEmpty sends one empty message and reads to the end.
func callEmpty(ctx context.Context, conn *grpc.ClientConn, m protoreflect.MethodDescriptor) error {
	limit := 10 * time.Second
	if m.FullName() == "grpc.health.v1.Health.Watch" {
		limit = 100 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	name := "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, name)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(dynamicpb.NewMessage(m.Input())); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		err := stream.RecvMsg(dynamicpb.NewMessage(m.Output()))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
