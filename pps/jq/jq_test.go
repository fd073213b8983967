package jq

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) {
	MaybeRun()
	goleak.VerifyTestMain(m)
}

const pipeline = `{"version":"3","state":"PIPELINE_RUNNING","details":{"output_branch":"master"}}`

func TestMatch_FirstResultDecides(t *testing.T) {
	r := NewRunner(Config{})
	for program, want := range map[string]bool{
		"":                             true,
		`.state == "PIPELINE_RUNNING"`: true,
		`.details.output_branch`:       true,
		`.details.outputBranch`:        false,
		`.version == "3"`:              true,
		`false, true`:                  false,
		`empty`:                        false,
		`env | length > 0`:             false,
		`.state == "PIPELINE_PAUSED" or .stopped`:              false,
		`def f: .version; [f, f] | any(. == "3")`:              true,
		`.state as $s | ["PIPELINE_RUNNING"] | index($s) == 0`: true,
	} {
		f, err := r.Compile(program)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // one process for all inputs
			if got, err := f.Match(t.Context(), []byte(pipeline)); got != want || err != nil {
				t.Errorf("%s: %v, %v", program, got, err)
			}
		}
		f.Close()
	}
}

func TestCompile_Refusals(t *testing.T) {
	r := NewRunner(Config{})
	for _, program := range []string{".[", "nofunc", "input", `import "a" as a; .`, strings.Repeat("(", 20_000)} {
		if _, err := r.Compile(program); err == nil || !strings.HasPrefix(status.Convert(err).Message(), "error parsing jq filter: ") {
			t.Errorf("%.20s: %v", program, err)
		}
	}
}

// TestMatch_Bounds runs programs that never end, in steps that can be interrupted
// and in one that cannot, and such as would fill the memory.
func TestMatch_Bounds(t *testing.T) {
	r := NewRunner(Config{Timeout: 300 * time.Millisecond, Most: 1})
	slow := NewRunner(Config{Most: 1})
	for _, c := range []struct {
		runner  *Runner
		program string
		code    codes.Code
		text    string
	}{
		{r, `last(range(infinite))`, codes.DeadlineExceeded, "apply jq filter: it ran for more than 300ms"},
		{r, `def f: f; f`, codes.DeadlineExceeded, "apply jq filter: it ran for more than 300ms"},
		{r, strings.Repeat("[.,.]|", 60) + `. == .`, codes.DeadlineExceeded, "apply jq filter: it ran for more than 300ms"},
		{slow, `null | .[536870911] = 1 | length`, codes.ResourceExhausted, "apply jq filter: it needs more than 512 MiB of memory"},
		{slow, `error("no")`, codes.Unknown, "apply jq filter: error: no"},
	} {
		f, err := c.runner.Compile(c.program)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.Match(t.Context(), []byte(pipeline))
		if s := status.Convert(err); s.Code() != c.code || s.Message() != c.text {
			t.Errorf("%.40s: %v", c.program, err)
		}
		f.Close() // otherwise the next one would wait for ever
	}
}

// TestMatch_CallerGoesAway ends a program with the call it belongs to.
func TestMatch_CallerGoesAway(t *testing.T) {
	r := NewRunner(Config{Most: 1})
	f, err := r.Compile(`def f: f; f`)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.Match(ctx, []byte(pipeline)); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("error %v", err)
	}
	// It still has the only place, so another waits, but not beyond its own call.
	g, err := r.Compile(`.`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Match(ctx, []byte(pipeline)); err == nil {
		t.Error("more processes than allowed")
	}
	f.Close()
	if keep, err := g.Match(t.Context(), []byte(pipeline)); !keep || err != nil {
		t.Errorf("after that: %v, %v", keep, err)
	}
	g.Close()
}
