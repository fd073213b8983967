package pachctl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func (a *app) checkOutput() error {
	switch a.output {
	case "", "json", "yaml":
		return nil
	}
	return fmt.Errorf("output format %q is neither json nor yaml", a.output)
}

// whole tells whether answers are printed as they came.
func (a *app) whole() bool { return a.raw || a.output != "" }

// encode writes a message as indented JSON with the field names of the protocol,
// or as a YAML document; first is whether it is the first of the output.
func (a *app) encode(w io.Writer, m proto.Message, first bool) error {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return err
	}
	return a.encodeJSON(w, raw, first)
}

func (a *app) encodeJSON(w io.Writer, raw []byte, first bool) error {
	if a.output == "yaml" {
		text, err := toYAML(raw)
		if err != nil {
			return err
		}
		if !first {
			text = append([]byte("---\n"), text...)
		}
		_, err = w.Write(text)
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}

// toYAML rewrites JSON as YAML in block style, keys in their order.
func toYAML(raw []byte) ([]byte, error) {
	var node yaml.Node
	if err := yaml.Unmarshal(raw, &node); err != nil { // JSON is YAML
		return nil, err
	}
	var plain func(n *yaml.Node)
	plain = func(n *yaml.Node) {
		n.Style = 0
		for _, c := range n.Content {
			plain(c)
		}
	}
	plain(&node)
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&node); err != nil {
		return nil, err
	}
	err := enc.Close()
	return b.Bytes(), err
}

// flushEvery bounds how long a table is held back to align its columns.
const flushEvery = 1000

// list prints the elements of seq as a table under header, or whole. row gives
// the cells of an element.
func list[T proto.Message](s *session, seq iter.Seq2[T, error], header string, row func(T) []string) error {
	t := newTable(s.out, header)
	n := 0
	for v, err := range seq {
		if err != nil {
			if n > 0 && !s.whole() {
				err = errors.Join(t.flush(), err)
			}
			return err
		}
		if s.whole() {
			if err := s.encode(s.out, v, n == 0); err != nil {
				return err
			}
			n++
			continue
		}
		t.row(row(v)...)
		if n++; n%flushEvery == 0 {
			if err := t.flush(); err != nil {
				return err
			}
		}
	}
	if s.whole() {
		return nil
	}
	return t.flush()
}

// show prints one message: whole, or by f as "Name: value" lines.
func show(s *session, m proto.Message, f func(t *table)) error {
	if s.whole() {
		return s.encode(s.out, m, true)
	}
	t := newTable(s.out, "")
	f(t)
	return t.flush()
}

// table aligns columns.
type table struct {
	w      *tabwriter.Writer
	header string
}

// newTable has a header of tab-separated titles, printed with the first rows.
func newTable(w io.Writer, header string) *table {
	return &table{w: tabwriter.NewWriter(w, 0, 1, 1, ' ', 0), header: header}
}

func (t *table) row(cells ...string) {
	t.head()
	for i, c := range cells {
		if i > 0 {
			io.WriteString(t.w, "\t") //nolint:errcheck // flush reports it
		}
		io.WriteString(t.w, oneLine(c)) //nolint:errcheck // flush reports it
	}
	io.WriteString(t.w, "\n") //nolint:errcheck // flush reports it
}

func (t *table) head() {
	if t.header != "" {
		io.WriteString(t.w, t.header+"\n") //nolint:errcheck // flush reports it
		t.header = ""
	}
}

// field adds a "Name: value" line, unless the value is empty.
func (t *table) field(name, value string) {
	if value != "" {
		t.row(name+":", value)
	}
}

func (t *table) flush() error {
	t.head()
	return t.w.Flush()
}

// oneLine keeps a cell from breaking the table or the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// when prints a time as how long ago, or in full; "-" if there is none.
func (a *app) when(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	if a.full {
		return t.AsTime().Format(time.RFC3339Nano)
	}
	return humanize.Time(t.AsTime())
}

// size prints bytes as people read them.
func size(n int64) string {
	if n < 0 {
		n = 0
	}
	return humanize.IBytes(uint64(n))
}
