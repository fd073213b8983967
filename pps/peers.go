package pps

import (
	"cmp"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/pfs"
	"github.com/minipachd/minipachd/pps/logs"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// Peers reaches the other daemons on the same etcd.
type Peers interface {
	// Self is the id of this daemon, empty as long as it has none.
	Self() string
	// Connect returns a connection to another daemon, which need not be established
	// yet and stays the Peers' own.
	Connect(daemon *recordpb.DaemonRecord) (grpc.ClientConnInterface, error)
}

// How one daemon asks another for its lines: GetLogs, with the id of the one that is
// meant and the exact time of the first line. The answer is what that one has itself,
// whoever else has run the pipeline, so questions never go round. Between its lines it
// has messages without a time: with a worker, how many lines that one will have; with
// none, that all lines that there were have been given.
const (
	peerKey       = "pachd-peer"
	peerSinceKey  = "pachd-peer-since"
	peerAnswer    = 5 * time.Second // in which the answer must begin
	peerRetryMin  = 250 * time.Millisecond
	peerRetryMax  = 5 * time.Second
	tokenMetadata = "authn-token"
)

// errGone is why a daemon is not asked that is not alive.
var errGone = errors.New("it is gone, or has no lease at the moment")

// ask emits what another daemon has. Its address is returned for texts.
func (s *Service) ask(ctx context.Context, id string, p *ppspb.Pipeline, q logs.Query, emit func(piece) error) (address string, err error) {
	var daemon *recordpb.DaemonRecord
	err = s.pfs.View(ctx, func(tx *pfs.Txn) error {
		member, ok, err := s.members.Get(tx.Txn, id)
		if err != nil {
			return err
		}
		daemon, address = member, at(member)
		if ok {
			return nil
		}
		ran, _, err := s.runners.Get(tx.Txn, key(p))
		for _, r := range ran.GetRunners() {
			if r.GetDaemon().GetId() == id {
				address = at(r.GetDaemon())
			}
		}
		return cmp.Or(err, errGone)
	})
	if err != nil {
		return cmp.Or(address, id), err
	}
	if daemon.GetAddress() == "" {
		return address, errors.New("it has not said at which address")
	}
	conn, err := s.peers.Connect(daemon)
	if err != nil {
		return address, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, peerKey, id, peerSinceKey, q.Since.UTC().Format(time.RFC3339Nano))
	for _, token := range metadata.ValueFromIncomingContext(ctx, tokenMetadata) {
		ctx = metadata.AppendToOutgoingContext(ctx, tokenMetadata, token)
	}
	silent := time.AfterFunc(peerAnswer, cancel)
	stream, err := ppspb.NewAPIClient(conn).GetLogs(ctx, &ppspb.GetLogsRequest{Pipeline: p, Follow: q.Follow, Tail: q.Tail})
	if err == nil {
		_, err = stream.Header()
	}
	if !silent.Stop() && err != nil {
		return address, errors.New("it does not answer")
	}
	if err != nil {
		return address, plain(err)
	}
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return address, nil
		}
		if err != nil {
			return address, plain(err)
		}
		part := piece{line: msg}
		if msg.GetTs() == nil {
			n, _ := strconv.ParseInt(msg.GetMessage(), 10, 64)
			part = piece{worker: msg.GetWorkerId(), lines: n, caughtUp: msg.GetWorkerId() == "" && msg.GetMessage() == ""}
		}
		if err := emit(part); err != nil {
			return address, err
		}
	}
}

// at says where a daemon is.
func at(d *recordpb.DaemonRecord) string {
	return strings.TrimSpace(d.GetAddress() + " (" + d.GetHost() + ")")
}

// plain is an error of gRPC without its code, which says little to people.
func plain(err error) error { return errors.New(status.Convert(err).Message()) }

// askedByPeer tells whether another daemon asks, and from which time on.
func askedByPeer(ctx context.Context) (since time.Time, target string, ok bool) {
	ids, times := metadata.ValueFromIncomingContext(ctx, peerKey), metadata.ValueFromIncomingContext(ctx, peerSinceKey)
	if len(ids) == 0 {
		return since, "", false
	}
	if len(times) > 0 {
		since, _ = time.Parse(time.RFC3339Nano, times[0]) // or all lines
	}
	return since, ids[0], true
}

// serveLogs answers another daemon.
func (s *Service) serveLogs(id string, q logs.Query, stream ppspb.API_GetLogsServer) error {
	if s.peers == nil || s.peers.Self() != id {
		return status.Errorf(codes.FailedPrecondition, "this pachd is not the one that is meant: each one needs an address of its own that the others reach (--advertise)")
	}
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	return s.say(stream.Context(), q, func(p piece) error {
		msg := p.line
		if msg == nil {
			msg = &ppspb.LogMessage{WorkerId: p.worker}
			if !p.caughtUp {
				msg.Message = strconv.FormatInt(p.lines, 10)
			}
		}
		return stream.Send(msg)
	})
}
