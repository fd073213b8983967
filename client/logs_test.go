package client_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minipachd/minipachd/client"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// Each answer repeats the end of the one before, as a server does that looks back
// a little further than it has to.
func TestFollowLogs_GoesOnBehindTheLastLine(t *testing.T) {
	s, c := start(t)
	began := time.Now().Add(-time.Hour)
	line := func(i int) *ppspb.LogMessage {
		return &ppspb.LogMessage{Message: fmt.Sprint(i), Ts: timestamppb.New(began.Add(time.Duration(i) * time.Second))}
	}
	answers := []struct {
		from, to int
		end      error
	}{
		{1, 0, status.Error(codes.Unavailable, "stopping")},
		{1, 3, status.Error(codes.Unavailable, "stopping")},
		{2, 5, status.Error(codes.Unavailable, "stopping again")},
		{3, 6, status.Error(codes.Unknown, "could not get pipeline information for p/s: not found")},
	}
	var requests []*ppspb.GetLogsRequest
	s.OnLogs = func(req *ppspb.GetLogsRequest, out grpc.ServerStreamingServer[ppspb.LogMessage]) error {
		a := answers[len(requests)]
		requests = append(requests, req)
		for i := a.from; i <= a.to; i++ {
			if err := out.Send(line(i)); err != nil {
				return err
			}
		}
		return a.end
	}
	var got, lost []string
	var last error
	req := &ppspb.GetLogsRequest{Pipeline: c.Pipeline("s"), Since: durationpb.New(2 * time.Hour), Tail: 7}
	for m, err := range c.FollowLogs(deadline(t), req, func(err error) { lost = append(lost, err.Error()) }) {
		if err != nil {
			last = err
			break
		}
		got = append(got, m.Message)
	}
	if fmt.Sprint(got) != "[1 2 3 4 5 6]" || !errors.Is(last, client.ErrNotFound) {
		t.Errorf("lines %v, error %v", got, last)
	}
	if fmt.Sprint(lost) != "[stopping stopping stopping again]" && fmt.Sprint(lost) != "[stopping stopping again]" {
		t.Errorf("lost: %q", lost)
	}
	for i, r := range requests {
		since := r.Since.AsDuration()
		switch {
		case !r.Follow:
			t.Error("a request without follow")
		case i < 2 && (r.Tail != 7 || since < 2*time.Hour || since > 2*time.Hour+time.Minute):
			t.Errorf("request %d: %v", i, r)
		case i >= 2 && (r.Tail != 0 || since < time.Hour || since > time.Hour+11*time.Minute):
			t.Errorf("request %d: %v", i, r)
		}
	}
	if req.Follow || req.Tail != 7 {
		t.Error("the caller's request was changed")
	}
}

func TestFollowLogs_NoServerIsAnErrorAtOnce(t *testing.T) {
	c := connect(t, "127.0.0.1:1")
	for _, err := range c.FollowLogs(deadline(t), &ppspb.GetLogsRequest{}, nil) {
		if !errors.Is(err, client.ErrNotConnected) {
			t.Error(err)
		}
	}
}
