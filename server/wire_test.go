package server_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
)

// wire speaks to a real daemon as any client of the protocol: requests and
// answers are messages written as JSON, sent over plain gRPC.
type wire struct {
	t    *testing.T
	proc *proc
	conn *grpc.ClientConn
}

// newWire starts a daemon of its own.
func newWire(t *testing.T, args ...string) *wire {
	t.Helper()
	p := startPachd(t, t.TempDir(), args...)
	_, _, conn := dial(t, p.addr)
	return &wire{t: t, proc: p, conn: conn}
}

// answer is what came back from one call.
type answer struct {
	messages []string // as compact JSON with camelCase names, zero values left out
	header   metadata.MD
	err      error
}

func (a answer) String() string {
	if a.err != nil {
		s := status.Convert(a.err)
		return fmt.Sprintf("%v %q after %d messages", s.Code(), s.Message(), len(a.messages))
	}
	return strings.Join(a.messages, "\n")
}

// methodNamed finds a method by its name on the wire, as "pfs_v2.API/ListRepo".
func methodNamed(t *testing.T, name string) protoreflect.MethodDescriptor {
	t.Helper()
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(name, "/", ".")))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return d.(protoreflect.MethodDescriptor)
}

// call sends requests, each one JSON object, and reads every answer. Pairs of
// metadata follow the context.
func (w *wire) call(ctx context.Context, method string, requests ...string) answer {
	w.t.Helper()
	return w.callUntil(ctx, method, false, requests...)
}

// callUntil is call that, if first is set, ends with the first answer.
func (w *wire) callUntil(ctx context.Context, method string, first bool, requests ...string) answer {
	w.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all []json.RawMessage
	for _, r := range requests {
		dec := json.NewDecoder(strings.NewReader(r))
		for {
			var m json.RawMessage
			if err := dec.Decode(&m); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				w.t.Fatalf("%s %s: %v", method, r, err)
			}
			all = append(all, m)
		}
	}
	d := methodNamed(w.t, method)
	var a answer
	stream, err := w.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/"+method, grpc.Header(&a.header))
	if err != nil {
		a.err = err
		return a
	}
	for _, m := range all {
		in := dynamicpb.NewMessage(d.Input())
		if err := protojson.Unmarshal(m, in); err != nil {
			w.t.Fatalf("%s %s: %v", method, m, err)
		}
		if err := stream.SendMsg(in); err != nil {
			break // the answer says why
		}
	}
	_ = stream.CloseSend()
	for {
		out := dynamicpb.NewMessage(d.Output())
		if err := stream.RecvMsg(out); errors.Is(err, io.EOF) {
			return a
		} else if err != nil {
			a.err = err
			return a
		}
		text, err := protojson.Marshal(out)
		if err != nil {
			w.t.Fatal(err)
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, text); err != nil {
			w.t.Fatal(err)
		}
		a.messages = append(a.messages, compact.String())
		if first {
			return a
		}
	}
}

// ok is call for what must succeed.
func (w *wire) ok(method string, requests ...string) answer {
	w.t.Helper()
	a := w.call(within(w.t), method, requests...)
	if a.err != nil {
		w.t.Fatalf("%s %s: %v", method, requests, a.err)
	}
	return a
}

// one is ok for a call with exactly one answer, which it decodes.
func (w *wire) one(method, request string) map[string]any {
	w.t.Helper()
	a := w.ok(method, request)
	if len(a.messages) != 1 {
		w.t.Fatalf("%s %s: %d answers, want 1:\n%v", method, request, len(a.messages), a)
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(a.messages[0]), &m); err != nil {
		w.t.Fatal(err)
	}
	return m
}

// at goes down a decoded answer by names, and by numbers in lists; what is not
// there is nil.
func at(v any, path ...any) any {
	for _, p := range path {
		switch key := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[key]
		case int:
			l, _ := v.([]any)
			if key >= len(l) {
				return nil
			}
			v = l[key]
		}
	}
	return v
}

// exchange is one row of a table of requests: with code OK want is in
// the answers; otherwise it is the text of the error, with "..." for parts that
// may be anything.
type exchange struct {
	method, request string
	code            codes.Code
	want            string
}

func (w *wire) exchange(rows []exchange) {
	w.t.Helper()
	for _, row := range rows {
		a := w.call(within(w.t), row.method, row.request)
		if row.code == codes.OK {
			if a.err != nil || !strings.Contains(a.String(), row.want) {
				w.t.Errorf("%s %s: %v; want %q", row.method, row.request, a, row.want)
			}
			continue
		}
		if status.Code(a.err) != row.code || !matches(status.Convert(a.err).Message(), row.want) {
			w.t.Errorf("%s %s:\n got %v\nwant %v %q", row.method, row.request, a, row.code, row.want)
		}
	}
}

// matches compares a text with a pattern in which "..." stands for any text.
func matches(text, want string) bool {
	parts := strings.Split(want, "...")
	text, ok := strings.CutPrefix(text, parts[0])
	if !ok || len(parts) == 1 {
		return ok && text == ""
	}
	last := len(parts) - 1
	for _, p := range parts[1:last] {
		if _, text, ok = strings.Cut(text, p); !ok {
			return false
		}
	}
	return strings.HasSuffix(text, parts[last])
}
