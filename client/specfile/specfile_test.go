package specfile_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/minipachd/minipachd/client/specfile"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     []string
	}{
		{"nothing", "", nil},
		{"white space and comments", " \n# only a comment\n---\n\n", nil},
		{"json as it is", `{ "b":1,  "a": 1.0 }`, []string{`{ "b":1,  "a": 1.0 }`}},
		{"concatenated json", `{"a":1}{"a":2}` + "\n" + `{"a":3}`, []string{`{"a":1}`, `{"a":2}`, `{"a":3}`}},
		{"json array", `[{"a":1}, {"a":2}] {"a":3}`, []string{`{"a":1}`, `{"a":2}`, `{"a":3}`}},
		{"empty array", `[]`, nil},
		{"json between markers", "{\"a\":1}\n---\n{\"a\":2}\n", []string{`{"a":1}`, `{"a":2}`}},
		{"json and yaml", "{\"a\":1}\n---\na: 2\n", []string{`{"a":1}`, `{"a":2}`}},
		{"byte order mark", "\xef\xbb\xbf{\"a\":1}", []string{`{"a":1}`}},
		{"windows line ends", "a: 1\r\n---\r\na: 2\r\n", []string{`{"a":1}`, `{"a":2}`}},
		{"yaml keeps the order of keys", "b: 1\na:\n  d: x\n  c: y\n", []string{`{"b":1,"a":{"d":"x","c":"y"}}`}},
		{"yaml documents", "---\na: 1\n---\n# nothing\n---\na: 2\n...\n", []string{`{"a":1}`, `{"a":2}`}},
		{"text on the marker line", "--- {a: 1}\n--- \na: 2\n", []string{`{"a":1}`, `{"a":2}`}},
		{"a marker in a block scalar ends it", "a: |\n  x\n  ---\n  y\n", []string{`{"a":"x\n---\ny\n"}`}},
		{"yaml list", "- a: 1\n- a: 2\n", []string{`{"a":1}`, `{"a":2}`}},
		{"flow style", "{a: [1, two, 'three']}", []string{`{"a":[1,"two","three"]}`}},
		{"json with comments", "{\"a\": 1 # one\n}", []string{`{"a":1}`}},
		{"numbers keep their digits", "a: 12345678901234567890123\nb: 1.10\nc: 1e400\nd: -0.5\n", []string{`{"a":12345678901234567890123,"b":1.10,"c":1e400,"d":-0.5}`}},
		{"numbers that JSON does not know", "a: 0x1F\nb: 0o17\nc: +5\nd: 1_000\ne: .5\nf: 5.\n", []string{`{"a":31,"b":15,"c":5,"d":1000,"e":0.5,"f":5}`}},
		{"other scalars", "a: true\nb: null\nc: ~\nd: yes\ne: 2024-01-02\nf: '5'\ng: \"\\u00e9<\"\nh:\n", []string{`{"a":true,"b":null,"c":null,"d":"yes","e":"2024-01-02","f":"5","g":"é<","h":null}`}},
		{"anchors and merges", "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: *x\n", []string{`{"x":{"a":1,"b":2},"y":{"b":3,"a":1},"z":{"a":1,"b":2}}`}},
		{"folded text", "a: >-\n  one\n  two\n", []string{`{"a":"one two"}`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			specs, err := specfile.Parse(strings.NewReader(tc.in))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range specs {
				got = append(got, string(s))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParse_Errors(t *testing.T) {
	for _, tc := range []struct {
		name, in, text string
		document, line int
	}{
		{"json syntax", "{\"a\": 1}\n{\"b\": ,}", "invalid character", 2, 2},
		{"json cut off", "{\"a\":\n {\"b\": 1}\n", "ends too early", 1, 2},
		{"json in a later document", "a: 1\n---\n\n{\"a\": 1\n \"b\": 2}\n", "invalid character", 2, 5},
		{"yaml indentation", "a: 1\n---\nb:\n  c: 1\n d: 2\n", "did not find", 2, 3},
		{"yaml unclosed", "a: [1\nb: 2\n", "", 1, 0},
		{"a string", "hello\n", "is an object, this is a string", 1, 1},
		{"a number", "{\"a\":1} 5", "this is a number", 2, 1},
		{"elements", "[{\"a\":1},\n 7]", "element 2 is a number", 1, 1},
		{"duplicate key", "a: 1\nb: 2\na: 3\n", `"a"`, 1, 0},
		{"duplicate nested key", "x:\n  a: 1\n  a: 3\n", `"a"`, 1, 0},
		{"key of several values", "? [a, b]\n: 1\n", "a key must be a plain value", 1, 1},
		{"infinity", "a: .inf\n", "cannot be written in JSON", 1, 1},
		{"unknown alias", "a: *x\n", "anchor", 1, 0},
		{"alias bomb", bomb(), "too large", 1, -1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			specs, err := specfile.Parse(strings.NewReader(tc.in))
			var e *specfile.Error
			if !errors.As(err, &e) {
				t.Fatalf("got %s, %v", specs, err)
			}
			if e.Document != tc.document || tc.line > 0 && e.Line != tc.line || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got document %d, line %d: %v", e.Document, e.Line, err)
			}
		})
	}
	if _, err := specfile.Parse(io.MultiReader(strings.NewReader("a: 1\n"), &zeros{})); err == nil || !strings.Contains(err.Error(), "16 MiB") {
		t.Errorf("endless input: %v", err)
	}
}

// zeros never ends.
type zeros struct{}

func (*zeros) Read(p []byte) (int, error) { return len(p), nil }

// bomb is a document whose aliases stand for 10^9 values.
func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n")
	for i := 1; i < 9; i++ {
		p := string(rune('0' + i - 1))
		b.WriteString("a" + string(rune('0'+i)) + ": &a" + string(rune('0'+i)) + " [" + strings.TrimSuffix(strings.Repeat("*a"+p+",", 10), ",") + "]\n")
	}
	return b.String()
}

func TestOpen(t *testing.T) {
	ctx := context.Background()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/spec" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, "from the net")
	}))
	defer srv.Close()
	path := filepath.Join(t.TempDir(), "spec")
	if err := os.WriteFile(path, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]string{path: "from a file", srv.URL + "/spec": "from the net", "-": "from stdin"} {
		r, err := specfile.Open(ctx, source, strings.NewReader("from stdin"))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", source, got, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := specfile.Open(ctx, srv.URL+"/gone", nil); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("missing URL: %v", err)
	}
	if _, err := specfile.Open(ctx, path+".gone", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"{}", "[{}]", "a: 1", "--- {a: 1}\n---\nb: *x", "{\"a\":1}{\"a\"", "a: &a [*a]", "<<: {a: 1}", "? x\n: y", "a: .nan", "\xef\xbb\xbf---", "{a: 0x, b: 08}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		specs, err := specfile.Parse(bytes.NewReader(in))
		if err != nil {
			return
		}
		for _, s := range specs {
			var m map[string]json.RawMessage
			if err := json.Unmarshal(s, &m); err != nil {
				t.Fatalf("%q gave %q: %v", in, s, err)
			}
		}
	})
}
