package client

import (
	"context"
	"errors"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

const (
	logsSince     = 24 * time.Hour   // what the server takes for a missing Since
	logsSlack     = 10 * time.Minute // by which the clocks of server and client may differ
	logsRetryMin  = 100 * time.Millisecond
	logsRetryMost = 5 * time.Second
)

// GetLogs gives the log lines that a request asks for. Since unset is 24 hours;
// with Follow it has no end.
func (c *Client) GetLogs(ctx context.Context, req *ppspb.GetLogsRequest) iter.Seq2[*ppspb.LogMessage, error] {
	return each(ctx, func(ctx context.Context) (grpc.ServerStreamingClient[ppspb.LogMessage], error) {
		return c.PPS.GetLogs(ctx, req)
	})
}

// FollowLogs is GetLogs with Follow that survives restarts of pachd: when the
// connection breaks it waits, connects again and goes on behind the last line. It
// ends with ctx, with the logs, or with an error that waiting does not help
// against; a pachd that cannot be reached in the first place is one. lost, if not
// nil, is called with the error once for every time that pachd goes away.
func (c *Client) FollowLogs(ctx context.Context, req *ppspb.GetLogsRequest, lost func(error)) iter.Seq2[*ppspb.LogMessage, error] {
	return func(yield func(*ppspb.LogMessage, error) bool) {
		f := follower{began: time.Now(), since: logsSince}
		if d := req.GetSince().AsDuration(); d > 0 {
			f.since = d
		}
		next := proto.CloneOf(req)
		next.Follow = true
		pause, away := logsRetryMin, false
		for first := true; ; first = false {
			var broken error
			for m, err := range c.GetLogs(ctx, next) {
				if err != nil {
					broken = err
					break
				}
				pause, away = logsRetryMin, false
				if f.fresh(m) && !yield(m, nil) {
					return
				}
			}
			if broken == nil {
				return
			}
			if ctx.Err() != nil || !errors.Is(broken, ErrUnavailable) || first && errors.Is(broken, ErrNotConnected) {
				yield(nil, broken)
				return
			}
			if !away && lost != nil {
				lost(broken)
			}
			away = true
			if err := sleep(ctx, pause); err != nil {
				yield(nil, err)
				return
			}
			pause = min(2*pause, logsRetryMost)
			c.conn.ResetConnectBackoff() // the pauses are ours
			f.resume(next)
		}
	}
}

// follower knows up to where a log has been read.
type follower struct {
	began time.Time
	since time.Duration // as it was asked for
	last  time.Time     // of the newest line, by the server's clock
}

// fresh tells whether a line has not been there before. Lines of one pipeline
// come in the order of their times.
func (f *follower) fresh(m *ppspb.LogMessage) bool {
	if m.GetTs() == nil {
		return true
	}
	at := m.GetTs().AsTime()
	if !at.After(f.last) {
		return false
	}
	f.last = at
	return true
}

// resume changes a request so that it begins no later than behind the last line.
func (f *follower) resume(req *ppspb.GetLogsRequest) {
	since := f.since + time.Since(f.began)
	if !f.last.IsZero() {
		since = min(since, max(0, time.Since(f.last))+logsSlack)
		req.Tail = 0 // what is new must not be cut
	}
	req.Since = durationpb.New(since)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
