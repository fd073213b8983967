package scheduler

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// probe finds out once whether a worker lives. The event it returns lacks slot
// and serial. When ctx ends, nothing was found out.
func (s *Scheduler) probe(ctx context.Context, info *ppspb.PipelineInfo, worker attended) probed {
	l := info.GetDetails().GetSpout().GetLiveness()
	timeout := given(l.GetTimeout(), probeTimeout)
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// A worker with a service may have been given another port to serve on.
	actual := func(port int32) int32 {
		if worker.port != 0 && (port == 0 || port == info.GetDetails().GetSpout().GetService().GetInternalPort()) {
			return int32(worker.port)
		}
		return port
	}
	var what string
	var err error
	switch check := l.GetCheck().(type) {
	case *ppspb.Spout_Liveness_Tcp_:
		port := actual(check.Tcp.GetPort())
		what = fmt.Sprintf("TCP :%d", port)
		err = probeTCP(bounded, port)
	case *ppspb.Spout_Liveness_Http_:
		port, path := actual(check.Http.GetPort()), orElse(check.Http.GetPath(), "/")
		what = fmt.Sprintf("GET :%d%s", port, path)
		err = probeHTTP(bounded, port, path)
	case *ppspb.Spout_Liveness_Exec_:
		what = "exec " + clip(strings.Join(check.Exec.GetCommand(), " "), 200)
		err = worker.Exec(bounded, check.Exec.GetCommand())
	default:
		head, err := s.cfg.Output.Head(bounded, info)
		return probed{head: head, unknown: err != nil}
	}
	switch {
	case ctx.Err() != nil:
		return probed{unknown: true}
	case err == nil:
		return probed{}
	case bounded.Err() != nil:
		return probed{why: fmt.Sprintf("%s: nothing within %v", what, timeout)}
	}
	return probed{why: fmt.Sprintf("%s: %v", what, err)}
}

func loopback(port int32) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))) }

// reasonOf leaves out of a network error what the reader knows already.
func reasonOf(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

func probeTCP(ctx context.Context, port int32) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", loopback(port))
	if err != nil {
		return reasonOf(err)
	}
	return conn.Close()
}

func probeHTTP(ctx context.Context, port int32, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(port)+path, nil)
	if err != nil {
		return err
	}
	client := http.Client{
		// A connection of its own each time, and never through a proxy: it is the
		// worker on this machine that has to answer.
		Transport:     &http.Transport{DisableKeepAlives: true, ResponseHeaderTimeout: time.Hour},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return reasonOf(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return errors.New(strconv.Itoa(resp.StatusCode))
	}
	return nil
}
