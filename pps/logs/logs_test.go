package logs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var key = Key{Project: "default", Pipeline: "spout", Version: 1, WorkerID: "default-spout-v1-0", Incarnation: "1"}

func open(t *testing.T, dir string, opt Options) *Store {
	t.Helper()
	s, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func read(t *testing.T, s *Store, q Query) []string {
	t.Helper()
	q.Project, q.Pipeline = key.Project, key.Pipeline
	var got []string
	err := s.Read(t.Context(), q, func(m *ppspb.LogMessage) error {
		got = append(got, m.Message)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestRead_FieldsOfLines(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	s := open(t, t.TempDir(), Options{Now: func() time.Time { return now }})
	w := s.Writer(key)
	fmt.Fprint(w.Stdout(), "one\r\ntw")
	fmt.Fprint(w.Stderr(), "err \xff \"q\" \x01\n")
	fmt.Fprint(w.Stdout(), "o\n\nrest")
	w.System("beginning to run user code")
	w.Close()
	var got []string
	err := s.Read(t.Context(), Query{Project: "default", Pipeline: "spout"}, func(m *ppspb.LogMessage) error {
		// Each line is later than the one before, although the clock stands still.
		if !m.Ts.AsTime().Equal(now.Add(time.Duration(len(got)))) || m.Version != 1 || m.Incarnation != "1" || m.WorkerId != key.WorkerID || m.PipelineName != "spout" || m.ProjectName != "default" || m.Master {
			t.Errorf("wrong fields: %v", m)
		}
		got = append(got, fmt.Sprint(m.User, " ", m.Stream, " ", m.Message))
		return nil
	})
	want := []string{
		"true stdout one", "true stderr err \uFFFD \"q\" \x01", "true stdout two", "true stdout ",
		"false system beginning to run user code", "true stdout rest",
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("err %v, lines (-want +got):\n%s", err, diff)
	}
}

func TestRead_SinceAndTail(t *testing.T) {
	now := time.Unix(1000, 0)
	s := open(t, t.TempDir(), Options{Now: func() time.Time { return now }, SegmentBytes: 400, Segments: 100})
	w := s.Writer(key)
	for i := range 20 {
		fmt.Fprintln(w.Stdout(), i)
		now = now.Add(time.Second)
	}
	if got := read(t, s, Query{Since: time.Unix(1017, 0)}); !slices.Equal(got, []string{"17", "18", "19"}) {
		t.Errorf("since: %q", got)
	}
	if got := read(t, s, Query{Tail: 2}); !slices.Equal(got, []string{"18", "19"}) {
		t.Errorf("tail: %q", got)
	}
	if got := read(t, s, Query{Since: time.Unix(1017, 0), Tail: 10}); len(got) != 3 {
		t.Errorf("since and tail: %q", got)
	}
	if got := read(t, s, Query{}); len(got) != 20 {
		t.Errorf("all: %q", got)
	}
}

func TestRead_WorkerByWorker(t *testing.T) {
	s := open(t, t.TempDir(), Options{SegmentBytes: 500, Segments: 100})
	for i := range 10 {
		for _, worker := range []string{"b", "a"} {
			k := key
			k.WorkerID = worker
			fmt.Fprintf(s.Writer(k).Stdout(), "%s%d\n", worker, i)
		}
	}
	k := key
	k.WorkerID = "c"
	fmt.Fprintln(s.Writer(k).Stdout(), "c0")
	if got := read(t, s, Query{}); strings.Join(got, " ") != "a0 a1 a2 a3 a4 a5 a6 a7 a8 a9 b0 b1 b2 b3 b4 b5 b6 b7 b8 b9 c0" {
		t.Errorf("all: %q", got)
	}
	if got := read(t, s, Query{Tail: 2}); strings.Join(got, " ") != "a8 a9 b8 b9 c0" {
		t.Errorf("tail: %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	err := s.Read(ctx, Query{Project: key.Project, Pipeline: key.Pipeline, Tail: 2, Follow: true}, func(m *ppspb.LogMessage) error {
		if got = append(got, m.Message); m.Message == "c0" {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || strings.Join(got, " ") != "b8 a8 b9 a9 c0" {
		t.Errorf("follow: %q, %v", got, err)
	}
}

// A flood waits at its pipe; other pipelines and the daemon's own lines do not.
func TestWriter_FloodIsSlowedDown(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(dir, Options{BytesPerSecond: 1 << 20, Burst: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		w, began := s.Writer(key), time.Now()
		line := []byte(strings.Repeat("x", 1000) + "\n")
		for range 11 << 10 {
			w.Stdout().Write(line)
		}
		if took := time.Since(began); took < 10*time.Second || took > 14*time.Second {
			t.Errorf("11 MiB at 1 MiB/s took %v", took)
		}
		other := key
		other.Pipeline = "other"
		began = time.Now()
		w.System("of the daemon")
		fmt.Fprintln(s.Writer(other).Stdout(), "quiet")
		if took := time.Since(began); took != 0 {
			t.Errorf("others wait %v", took)
		}
		// Who waits is let go when the store closes.
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 5 << 10 {
				w.Stdout().Write(line)
			}
		}()
		synctest.Wait()
		began = time.Now()
		s.Close()
		<-done
		if took := time.Since(began); took > time.Second {
			t.Errorf("a closed store holds its writer for %v", took)
		}
	})
}

func TestWriter_RotatesWithinBound(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{SegmentBytes: 100 << 10, Segments: 3})
	w := s.Writer(key)
	line := strings.Repeat("x", 99) + "\n"
	for range 20000 {
		fmt.Fprint(w.Stdout(), line)
	}
	fmt.Fprintln(w.Stdout(), "last")
	got := read(t, s, Query{})
	if n := len(got); n < 500 || got[n-1] != "last" {
		t.Fatalf("%d lines, last %q", len(got), got[len(got)-1])
	}
	files, err := filepath.Glob(filepath.Join(dir, "default/spout/*"))
	if err != nil || len(files) != 3 {
		t.Fatalf("files %q, %v", files, err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Size() > 100<<10 {
			t.Errorf("%s: %d bytes, %v", f, info.Size(), err)
		}
	}
}

func TestWriter_EndlessLineIsCut(t *testing.T) {
	s := open(t, t.TempDir(), Options{MaxLine: 1 << 10})
	w := s.Writer(key)
	piece := []byte(strings.Repeat("é", 700))
	for range 1000 {
		w.Stdout().Write(piece)
	}
	if c := cap(w.stdout.part); c > 4<<10 {
		t.Errorf("splitter holds %d bytes", c)
	}
	w.Close()
	lines := read(t, s, Query{})
	var all strings.Builder
	for i, l := range lines {
		cut, marked := strings.CutSuffix(l, CutMarker)
		if marked != (i < len(lines)-1) || len(cut) > 1<<10 || !utf8.ValidString(cut) {
			t.Fatalf("line %d of %d: marked %v, %d bytes", i, len(lines), marked, len(cut))
		}
		all.WriteString(cut)
	}
	if all.String() != strings.Repeat("é", 700*1000) {
		t.Errorf("pieces do not add up: %d bytes", all.Len())
	}
}

func TestSplitter_AnyChunking(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "logs")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		s, err := Open(dir, Options{MaxLine: 8})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		text := rapid.StringMatching(`([a-f\n]{0,12}é?){0,8}`).Draw(t, "text")
		w := s.Writer(key)
		for rest := text; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "n")
			fmt.Fprint(w.Stdout(), rest[:n])
			rest = rest[n:]
		}
		w.Close()
		var got strings.Builder
		q := Query{Project: key.Project, Pipeline: key.Pipeline}
		if err := s.Read(context.Background(), q, func(m *ppspb.LogMessage) error {
			l, cut := strings.CutSuffix(m.Message, CutMarker)
			if len(l) > 8 {
				t.Fatalf("line of %d bytes", len(l))
			}
			got.WriteString(l)
			if !cut {
				got.WriteByte('\n')
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		want := text
		if want != "" && !strings.HasSuffix(want, "\n") {
			want += "\n"
		}
		if g := got.String(); g != want {
			t.Fatalf("got %q, want %q", g, want)
		}
	})
}

func TestRead_FollowAcrossRotationRestartAndDelete(t *testing.T) {
	s := open(t, t.TempDir(), Options{SegmentBytes: 2 << 10, Segments: 4, FlushInterval: time.Hour})
	got := make(chan string)
	done := make(chan error, 1)
	go func() {
		done <- s.Read(t.Context(), Query{Project: "default", Pipeline: "spout", Follow: true}, func(m *ppspb.LogMessage) error {
			got <- m.Message
			return nil
		})
	}()
	for inc := range 3 { // a new Writer for every start of the worker
		k := key
		k.Incarnation = fmt.Sprint(inc)
		w := s.Writer(k)
		for i := range 100 {
			line := fmt.Sprint(inc, "/", i)
			fmt.Fprintln(w.Stdout(), line)
			if g := <-got; g != line {
				t.Fatalf("got %q, want %q", g, line)
			}
		}
	}
	if err := s.Delete("default", "spout"); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("after delete: %v", err)
	}
	if got := read(t, s, Query{}); len(got) != 0 {
		t.Errorf("deleted logs have %d lines", len(got))
	}
}

func TestRead_FollowEndsWithContextAndClose(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	q := Query{Project: "default", Pipeline: "spout", Follow: true}
	ctx, cancel := context.WithCancel(t.Context())
	w := s.Writer(key)
	fmt.Fprintln(w.Stdout(), "x")
	err := s.Read(ctx, q, func(*ppspb.LogMessage) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	err = s.Read(t.Context(), q, func(*ppspb.LogMessage) error { return s.Close() })
	if !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	fmt.Fprintln(w.Stdout(), "dropped")
}

func TestOpen_KeepsLinesAndCutsTornOne(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	w := s.Writer(key)
	fmt.Fprintln(w.Stdout(), "a")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "default", "spout", "0000000001.jsonl")
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "\x00\x00\x00\n{\"ts\":\"2026-01-01T00:0")
	f.Close()
	s = open(t, dir, Options{})
	fmt.Fprintln(s.Writer(key).Stdout(), "b")
	if got := read(t, s, Query{}); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("lines %q", got)
	}
}

func TestWriter_FlushesSoon(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{FlushInterval: time.Millisecond})
	fmt.Fprintln(s.Writer(key).Stdout(), "a")
	file := filepath.Join(dir, "default", "spout", "0000000001.jsonl")
	for t.Context().Err() == nil {
		if b, _ := os.ReadFile(file); len(b) > 0 {
			return
		}
	}
}

func TestCompareWorkers(t *testing.T) {
	sorted := []string{"", "p.x-v2-0", "p.x-v2-1", "p.x-v2-2", "p.x-v2-10", "p.x-v10-0", "p.y"}
	for i, a := range sorted {
		for j, b := range sorted {
			if got := CompareWorkers(a, b); got != min(1, max(-1, i-j)) {
				t.Errorf("CompareWorkers(%q, %q) = %d", a, b, got)
			}
		}
	}
}

func TestRetain(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, Options{})
	all := []Key{{Project: "p", Pipeline: "kept"}, {Project: "p", Pipeline: "gone"}, {Project: ".q", Pipeline: "gone/too"}, {Pipeline: Daemon}}
	for _, k := range all {
		fmt.Fprintln(s.Writer(k).Stdout(), "x")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	if err := s.Retain(func(project, pipeline string) bool { return project == "p" && pipeline == "kept" }); err != nil {
		t.Fatal(err)
	}
	for i, k := range all {
		lines, err := s.Count(t.Context(), Query{Project: k.Project, Pipeline: k.Pipeline})
		if err != nil || len(lines) > 0 != (i == 0 || i == 3) {
			t.Errorf("%v: lines %v, %v", k, lines, err)
		}
	}
}

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{"a-b_C": "a-b_C", "..": "%2E.", ".": "%2E", "": "%2E", "a/b": "a%2Fb"} {
		if got := escape(in); got != want {
			t.Errorf("escape(%q) = %q, want %q", in, got, want)
		}
	}
}

func BenchmarkWriter(b *testing.B) {
	s, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	w := s.Writer(key)
	data := []byte(strings.Repeat(strings.Repeat("x", 99)+"\n", 320))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		w.Stdout().Write(data)
	}
}
