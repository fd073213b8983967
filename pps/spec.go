package pps

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// maxSpecBytes bounds a spec: it is stored several times in one etcd transaction.
const maxSpecBytes = 128 << 10

// builtinDefaults is the lowest layer of every effective spec.
const builtinDefaults = `{"datumTries":3,"outputBranch":"master","reprocessSpec":"until_success","transform":{"image":"ubuntu:20.04"}}`

// userSpec is a spec as submitted.
type userSpec struct {
	json      string // verbatim
	canonical []byte // with lowerCamelCase names, a merge patch
	project   string // that the pipeline belongs to
	update    bool   // flags in the spec itself
	reprocess bool
	dryRun    bool
}

// effectiveSpec is a spec with all defaults merged in.
type effectiveSpec struct {
	user    userSpec
	json    string
	request *ppspb.CreatePipelineRequest
}

func parseUserSpec(text string) (userSpec, error) {
	if len(text) > maxSpecBytes {
		return userSpec{}, &SpecError{Err: fmt.Errorf("the spec has %d bytes, more than %d", len(text), maxSpecBytes)}
	}
	canonical, err := canonicalJSON([]byte(text), (&ppspb.CreatePipelineRequest{}).ProtoReflect().Descriptor())
	if err != nil {
		return userSpec{}, asSpecError(err)
	}
	// Only for what decides how to go on; merging may still change the rest.
	var head struct {
		Pipeline *struct {
			Project *struct {
				Name string `json:"name"`
			} `json:"project"`
		} `json:"pipeline"`
		Update    bool `json:"update"`
		Reprocess bool `json:"reprocess"`
		DryRun    bool `json:"dryRun"`
	}
	if err := json.Unmarshal(canonical, &head); err != nil {
		return userSpec{}, &SpecError{Err: err}
	}
	spec := userSpec{json: text, canonical: canonical, project: "default", update: head.Update, reprocess: head.Reprocess, dryRun: head.DryRun}
	if head.Pipeline != nil && head.Pipeline.Project != nil && head.Pipeline.Project.Name != "" {
		spec.project = head.Pipeline.Project.Name
	}
	return spec, nil
}

// effective merges the layers, lowest first, and then the user's spec (RFC 7396).
func (u userSpec) effective(layers ...[]byte) (*effectiveSpec, error) {
	merged := []byte(builtinDefaults)
	for _, layer := range append(slices.Clone(layers), u.canonical) {
		if len(layer) == 0 {
			continue
		}
		var err error
		if merged, err = jsonpatch.MergePatch(merged, layer); err != nil {
			return nil, &SpecError{Err: err}
		}
	}
	req := &ppspb.CreatePipelineRequest{}
	if err := protojson.Unmarshal(merged, req); err != nil {
		return nil, &SpecError{Err: withoutPosition(err)}
	}
	// What one call asked for is no part of the pipeline.
	flags := `{"update":null,"reprocess":null,"dryRun":null,"specCommit":null}`
	req.Update, req.Reprocess, req.DryRun, req.SpecCommit = false, false, false, nil
	if req.Pipeline != nil && req.Pipeline.GetProject().GetName() == "" {
		req.Pipeline.Project = &pfspb.Project{Name: "default"}
		flags = flags[:len(flags)-1] + `,"pipeline":{"project":{"name":"default"}}}`
	}
	merged, err := jsonpatch.MergePatch(merged, []byte(flags))
	if err != nil {
		return nil, &SpecError{Err: err}
	}
	// Marshalling again gives one order of keys, whatever the layers were.
	var tree any
	if err := decodeJSON(merged, &tree); err != nil {
		return nil, &SpecError{Err: err}
	}
	if merged, err = encodeJSON(tree); err != nil {
		return nil, &SpecError{Err: err}
	}
	return &effectiveSpec{user: u, json: string(merged), request: req}, nil
}

// position is where protojson saw an error: in the merged text, which nobody wrote.
var position = regexp.MustCompile(`^proto:[ \x{a0}]*(\(line \d+:\d+\): )?`)

func withoutPosition(err error) error {
	return errors.New(position.ReplaceAllString(err.Error(), ""))
}

// sameSpec tells whether two effective specs mean the same.
func sameSpec(a, b string) bool {
	x, y := &ppspb.CreatePipelineRequest{}, &ppspb.CreatePipelineRequest{}
	if protojson.Unmarshal([]byte(a), x) != nil || protojson.Unmarshal([]byte(b), y) != nil {
		return a == b
	}
	return proto.Equal(x, y)
}

// fieldError reports a field that a message does not have, or has twice.
type fieldError struct{ name, text string }

func (e *fieldError) Error() string { return e.text }

func asSpecError(err error) error {
	var fe *fieldError
	if errors.As(err, &fe) {
		return &SpecError{Field: fe.name, Err: err}
	}
	return &SpecError{Err: err}
}

// canonicalJSON rewrites a JSON object that stands for a message of type desc so
// that all field names are the lowerCamelCase ones. Values stay as they are,
// nulls included.
func canonicalJSON(data []byte, desc protoreflect.MessageDescriptor) ([]byte, error) {
	var tree any
	if err := decodeJSON(data, &tree); err != nil {
		return nil, err
	}
	if _, ok := tree.(map[string]any); !ok {
		return nil, fmt.Errorf("a JSON object is expected, not %s", kindOf(tree))
	}
	tree, err := canonicalMessage(tree, desc, "")
	if err != nil {
		return nil, err
	}
	return encodeJSON(tree)
}

// canonicalMessage rewrites the value of a message. path names it in errors, as
// the user wrote it; it is empty for the whole text.
func canonicalMessage(v any, desc protoreflect.MessageDescriptor, path string) (any, error) {
	switch {
	case v == nil:
		return nil, nil
	case desc.FullName() == "google.protobuf.Duration":
		return v, checkDuration(v, path)
	case desc.FullName().Parent() == "google.protobuf":
		return v, nil // what is wrong with it, protojson reports
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, wrongKind(path, "an object", v)
	}
	out := make(map[string]any, len(object))
	chosen := map[protoreflect.FullName]string{} // by oneof
	for _, name := range slices.Sorted(maps.Keys(object)) {
		value := object[name]
		fd := desc.Fields().ByJSONName(name)
		if fd == nil {
			fd = desc.Fields().ByTextName(name)
		}
		if fd == nil {
			return nil, &fieldError{name: name, text: fmt.Sprintf("unexpected field %q in %s", name, desc.FullName())}
		}
		if _, twice := out[fd.JSONName()]; twice {
			return nil, &fieldError{name: name, text: fmt.Sprintf("field %q given twice in %s", fd.JSONName(), desc.FullName())}
		}
		value, err := canonicalField(value, fd, strings.TrimPrefix(path+"."+name, "."))
		if err != nil {
			return nil, err
		}
		out[fd.JSONName()] = value
		if one := fd.ContainingOneof(); one != nil && !one.IsSynthetic() && value != nil {
			if other, twice := chosen[one.FullName()]; twice {
				return nil, &fieldError{name: path, text: fmt.Sprintf("%s must have only one of %s and %s", path, other, name)}
			}
			chosen[one.FullName()] = name
		}
	}
	return out, nil
}

// checkDuration refuses what protojson takes for no duration, and says how this one
// is written.
func checkDuration(v any, path string) error {
	const want = `a duration in seconds such as "300s"`
	text, ok := v.(string)
	if !ok {
		return wrongKind(path, want, v)
	}
	quoted, err := encodeJSON(text)
	if err != nil {
		return err
	}
	if protojson.Unmarshal(quoted, &durationpb.Duration{}) == nil {
		return nil
	}
	message := fmt.Sprintf("%s must be %s, not %q", path, want, text)
	if d, err := time.ParseDuration(text); err == nil {
		message += fmt.Sprintf(": write %q", strconv.FormatFloat(d.Seconds(), 'f', -1, 64)+"s")
	}
	return &fieldError{name: path, text: message}
}

// checkNumber refuses a text that is no number, and says how one of Kubernetes' is
// written.
func checkNumber(v any, path string) error {
	text, ok := v.(string)
	if !ok {
		return nil
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return nil
	}
	message := fmt.Sprintf("%s must be a number such as 0.5, not %q", path, text)
	if milli, ok := strings.CutSuffix(text, "m"); ok {
		if n, err := strconv.ParseUint(milli, 10, 32); err == nil {
			message += fmt.Sprintf(": write %v", float64(n)/1000)
		}
	}
	return &fieldError{name: path, text: message}
}

// canonicalField rewrites the value of a field: an object for a map, an array for
// a list, else one value. null stands for none of them.
func canonicalField(v any, fd protoreflect.FieldDescriptor, path string) (any, error) {
	switch {
	case v == nil:
		return nil, nil
	case fd.IsMap():
		object, ok := v.(map[string]any)
		if !ok {
			return nil, wrongKind(path, "an object", v)
		}
		for k, e := range object {
			var err error
			if object[k], err = canonicalValue(e, fd.MapValue(), path+"."+k); err != nil {
				return nil, err
			}
		}
		return object, nil
	case fd.IsList():
		list, ok := v.([]any)
		if !ok {
			return nil, wrongKind(path, "an array", v)
		}
		for i, e := range list {
			var err error
			if list[i], err = canonicalValue(e, fd, fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	return canonicalValue(v, fd, path)
}

// canonicalValue rewrites one value of a field's type. It refuses what YAML makes
// of a word without quotes where a text is wanted, and the like; most numbers, and
// enums, which have several spellings, are left to protojson.
func canonicalValue(v any, fd protoreflect.FieldDescriptor, path string) (any, error) {
	switch _, isText := v.(string); {
	case fd.Message() != nil:
		return canonicalMessage(v, fd.Message(), path)
	case v == nil:
		return nil, nil
	case fd.Kind() == protoreflect.StringKind && !isText:
		return nil, wrongKind(path, "a string", v)
	case fd.Kind() == protoreflect.FloatKind, fd.Kind() == protoreflect.DoubleKind:
		return v, checkNumber(v, path)
	case fd.Kind() == protoreflect.BoolKind:
		if _, ok := v.(bool); !ok {
			return nil, wrongKind(path, "true or false", v)
		}
	}
	return v, nil
}

func wrongKind(path, want string, v any) error {
	text := fmt.Sprintf("%s must be %s, not %s", path, want, kindOf(v))
	switch v := v.(type) {
	case json.Number, bool:
		text += fmt.Sprintf(" (%v)", v)
		if want == "a string" {
			text += ": put it in quotes"
		}
	}
	return &fieldError{name: path, text: text}
}

// decodeJSON reads exactly one JSON value and keeps numbers as they are written.
func decodeJSON(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("the JSON text is empty")
		}
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one JSON value")
	}
	return nil
}

func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case []any:
		return "an array"
	case string:
		return "a string"
	case bool:
		return "a boolean"
	case map[string]any:
		return "an object"
	default:
		return "a number"
	}
}
