package pps

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/itchyny/gojq"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// jqTimeout is how long the program may run for one request, all inputs together.
const jqTimeout = 10 * time.Second

// jqFilter is a compiled jq program; nil lets everything through. It sees no
// environment, files or other inputs. Not for concurrent use.
type jqFilter struct {
	code *gojq.Code
	left time.Duration // of jqTimeout
}

func compileJQ(program string) (*jqFilter, error) {
	if program == "" {
		return nil, nil
	}
	query, err := gojq.Parse(program)
	if err != nil {
		return nil, fmt.Errorf("error parsing jq filter: %w", err)
	}
	code, err := gojq.Compile(query)
	if err != nil {
		return nil, fmt.Errorf("error parsing jq filter: %w", err)
	}
	return &jqFilter{code: code, left: jqTimeout}, nil
}

// match tells whether the program's first result for m, as JSON with the names
// of the .proto files, is neither false nor null.
func (f *jqFilter) match(ctx context.Context, m proto.Message) (bool, error) {
	if f == nil {
		return true, nil
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return false, fmt.Errorf("apply jq filter: %w", err)
	}
	var input any
	if err := json.Unmarshal(text, &input); err != nil {
		return false, fmt.Errorf("apply jq filter: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, f.left)
	defer cancel()
	begin := time.Now()
	defer func() { f.left -= time.Since(begin) }()
	first, ok := f.code.RunWithContext(ctx, input).Next()
	if !ok {
		return false, nil
	}
	if err, isErr := first.(error); isErr {
		return false, fmt.Errorf("apply jq filter: %w", err)
	}
	return first != nil && first != false, nil
}
