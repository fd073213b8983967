package specfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxSize bounds what Parse reads, in bytes.
const MaxSize = 16 << 20

// Error tells where in the input a spec could not be read.
type Error struct {
	Document int // counted from 1
	Line     int // counted from 1 over the whole input; 0 if unknown
	Err      error
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("document %d: %v", e.Document, e.Err)
	}
	return fmt.Sprintf("document %d, line %d: %v", e.Document, e.Line, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Parse reads every spec of r, in order. Documents are separated by lines of
// "---", JSON documents also by nothing; an array at the top level stands for
// its elements, an empty document for nothing. JSON objects come back as they
// were written, YAML ones as JSON with the same key order. Each result is a
// JSON object. Errors about the content are of type *Error.
func Parse(r io.Reader) ([]json.RawMessage, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("a spec file may have at most %d MiB", MaxSize>>20)
	}
	p := parser{}
	for _, c := range split(data) {
		if err := p.chunk(c); err != nil {
			return nil, err
		}
	}
	return p.specs, nil
}

// chunk is the text between two document markers; line is the number of line
// breaks before it.
type chunk struct {
	text []byte
	line int
}

// split cuts at document markers, which neither a YAML scalar nor a JSON string
// can hold at the start of a line. The marker itself is blanked out, so that
// text after it on the line keeps its place.
func split(data []byte) []chunk {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var chunks []chunk
	line, from, fromLine := 0, 0, 0
	blanked := bytes.Clone(data)
	for i := 0; i < len(data); {
		end := len(data)
		if j := bytes.IndexByte(data[i:], '\n'); j >= 0 {
			end = i + j + 1
		}
		l := data[i:end]
		if bytes.HasPrefix(l, []byte("---")) && (len(l) == 3 || strings.ContainsRune(" \t\r\n", rune(l[3]))) {
			chunks = append(chunks, chunk{blanked[from:i], fromLine})
			copy(blanked[i:], "   ")
			from, fromLine = i, line
		}
		line++
		i = end
	}
	return append(chunks, chunk{blanked[from:], fromLine})
}

type parser struct {
	specs []json.RawMessage
	doc   int
}

func (p *parser) chunk(c chunk) error {
	text := bytes.TrimLeft(c.text, " \t\r\n")
	if len(text) == 0 {
		return nil
	}
	if text[0] != '{' && text[0] != '[' {
		return p.yaml(c)
	}
	before, specs := p.doc, len(p.specs)
	jsonErr := p.json(c)
	if jsonErr == nil {
		return nil
	}
	// It may still be YAML in flow style, or JSON with comments; if it is not,
	// the complaint about JSON is the one that helps.
	failed := p.doc
	p.doc, p.specs = before, p.specs[:specs]
	if err := p.yaml(c); err != nil {
		p.doc = failed
		return jsonErr
	}
	return nil
}

// json reads concatenated JSON values.
func (p *parser) json(c chunk) error {
	dec := json.NewDecoder(bytes.NewReader(c.text))
	for {
		at := dec.InputOffset()
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return nil
		}
		p.doc++
		if err != nil {
			var syntax *json.SyntaxError
			pos := len(c.text)
			if errors.As(err, &syntax) {
				pos = int(syntax.Offset)
			} else if errors.Is(err, io.ErrUnexpectedEOF) {
				err = errors.New("the JSON text ends too early")
			}
			return &Error{p.doc, lineAt(c, pos), err}
		}
		at += int64(bytes.Index(c.text[at:], raw))
		if err := p.add(raw, lineAt(c, int(at)+1)); err != nil {
			return err
		}
	}
}

// lineAt is the line of byte number pos (counted from 1) of c.
func lineAt(c chunk, pos int) int {
	pos = min(max(pos-1, 0), len(c.text))
	return c.line + bytes.Count(c.text[:pos], []byte("\n")) + 1
}

// yaml reads one YAML document. "..." may end it, so there can be several.
func (p *parser) yaml(c chunk) error {
	// Empty lines in front make the parser count as the reader of the file does.
	text := append(bytes.Repeat([]byte("\n"), c.line), c.text...)
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var node yaml.Node
		err := dec.Decode(&node)
		if errors.Is(err, io.EOF) {
			return nil
		}
		p.doc++
		if err != nil {
			line, why := yamlError(err)
			return &Error{p.doc, line, why}
		}
		if node.Kind == 0 || isNull(&node) {
			p.doc-- // nothing but comments
			continue
		}
		conv := converter{}
		if err := conv.value(&node, 0); err != nil {
			return &Error{p.doc, conv.line, err}
		}
		root := &node
		if root.Kind == yaml.DocumentNode {
			root = root.Content[0]
		}
		if err := p.add(conv.out.Bytes(), root.Line); err != nil {
			return err
		}
	}
}

// yamlError takes the line number out of an error of the yaml package.
func yamlError(err error) (line int, why error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if _, scan := fmt.Sscanf(text, "line %d:", &line); scan == nil {
		_, text, _ = strings.Cut(text, ": ")
		if strings.HasPrefix(text, "did not find expected") {
			line++ // of its parser, not its scanner: counted from 0, where the block begins
		}
	}
	return line, errors.New(text)
}

// add takes a JSON value as a spec, or an array as several.
func (p *parser) add(raw json.RawMessage, line int) error {
	switch raw[0] {
	case '{':
		p.specs = append(p.specs, raw)
		return nil
	case '[':
		var elems []json.RawMessage
		if err := json.Unmarshal(raw, &elems); err != nil {
			return &Error{p.doc, line, err}
		}
		for i, e := range elems {
			if e = bytes.TrimSpace(e); e[0] != '{' {
				return &Error{p.doc, line, fmt.Errorf("element %d is %s, not a pipeline spec", i+1, kind(e))}
			}
			p.specs = append(p.specs, e)
		}
		return nil
	}
	return &Error{p.doc, line, fmt.Errorf("a pipeline spec is an object, this is %s", kind(raw))}
}

func kind(raw json.RawMessage) string {
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}
