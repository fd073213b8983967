package server

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// maxErrorText bounds the message of an error, in bytes. It travels in a header,
// for which some clients have room for 8 KiB in all, and it may be there twice
// and escaped.
const maxErrorText = 2 << 10

// toStatus keeps the status that err carries. Ends of a context become their
// codes; anything else has code Unknown and its text, which clients match.
func toStatus(err error) error {
	if s, ok := status.FromError(err); ok {
		return fitting(s).Err()
	}
	code := codes.Unknown
	switch {
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	}
	return fitting(status.New(code, err.Error())).Err()
}

// fitting cuts out the middle of a message that is too long, as one is that quotes
// a name of a megabyte, and leaves out details that are.
func fitting(s *status.Status) *status.Status {
	p := s.Proto()
	if len(p.GetMessage()) <= maxErrorText && proto.Size(p) <= 2*maxErrorText {
		return s
	}
	p = proto.CloneOf(p)
	if text := p.GetMessage(); len(text) > maxErrorText {
		const half = maxErrorText/2 - len(" ... ")
		p.Message = strings.ToValidUTF8(text[:half], "") + " ... " + strings.ToValidUTF8(text[len(text)-half:], "")
	}
	if proto.Size(p) > 2*maxErrorText {
		p.Details = nil
	}
	return status.FromProto(p)
}
