// Bench measures pachd on this machine and prints each figure beside a floor
// taken in the same run: raw etcd transactions, raw gRPC streams, raw disk. A
// ratio survives a noisy machine better than a number of seconds does.
//
//	go run ./bench [-rounds 5] [-size 512] [-keep] [-json out.json]
//	go run ./bench -grow commits|files|repos|spouts [-up-to 10000]
//
// The daemon under test runs in a process of its own, on loopback, with its data
// in a temporary directory on the disk of -dir; clients reach it over real gRPC.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/minipachd/minipachd/pps/runtime/process"
)

// result is one line of the table.
type result struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"` // median over the rounds
	Unit  string  `json:"unit"`
	Floor string  `json:"floor,omitempty"` // name of the line it is compared with
	Ratio float64 `json:"ratio,omitempty"` // Value / the floor's value
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
	CPU   float64 `json:"cpu_ms"` // processor time of the daemon for one, median
}

// config is what the flags say.
type config struct {
	rounds int
	keep   bool  // one daemon for all rounds
	bulk   int64 // bytes of the big file
	files  int
	short  time.Duration
	dir    string
	// only names the measurements to take beside the floors; nil for all.
	only    *regexp.Regexp
	profile string // directory for CPU profiles of the daemon; empty for none
}

func main() {
	process.MaybeInit()
	log.SetFlags(0)
	if dir := os.Getenv(childEnv); dir != "" {
		if err := runChild(dir); err != nil {
			log.Fatal(err)
		}
		return
	}
	var cfg config
	mib := flag.Int64("size", 512, "size of the big file in MiB")
	flag.IntVar(&cfg.rounds, "rounds", 5, "rounds; the median counts")
	flag.BoolVar(&cfg.keep, "keep", false, "take all rounds with one daemon and its growing history, instead of a new one for each")
	flag.IntVar(&cfg.files, "files", 20000, "files of 1 KiB in one commit")
	flag.DurationVar(&cfg.short, "time", 2*time.Second, "time for each measurement that counts operations")
	flag.StringVar(&cfg.dir, "dir", os.TempDir(), "where the data goes")
	flag.StringVar(&cfg.profile, "profile", "", "write CPU profiles of the daemon, one for each measurement of the last round, to this directory")
	only := flag.String("only", "", "take only measurements whose name matches this regular expression")
	growWhat := flag.String("grow", "", "instead take the curve of how cost grows with the number of: commits, files, repos, spouts")
	upTo := flag.Int("up-to", 0, "with -grow: the last size, 0 for all of them")
	plots := flag.String("plots", filepath.Join("docs", "performance"), "with -grow: directory for the curve as JSON and SVG")
	out := flag.String("json", "", "also write the results as JSON to this file")
	flag.Parse()
	cfg.bulk = *mib << 20
	if *only != "" {
		var err error
		if cfg.only, err = regexp.Compile(*only); err != nil {
			log.Fatalf("-only: %v", err)
		}
	}

	if cfg.profile != "" {
		if err := os.MkdirAll(cfg.profile, 0o755); err != nil {
			log.Fatalf("-profile: %v", err)
		}
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if *growWhat != "" {
		if err := grow(ctx, cfg, *growWhat, *upTo, *plots); err != nil {
			log.Fatal(err)
		}
		return
	}
	results, err := measure(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	printTable(results)
	if *out != "" {
		b, err := json.MarshalIndent(results, "", "  ")
		if err == nil {
			err = os.WriteFile(*out, append(b, '\n'), 0o644)
		}
		if err != nil {
			log.Fatal(err)
		}
	}
}

// measurement takes one figure, in its unit.
type measurement struct {
	name, unit, floor string
	run               func(ctx context.Context) (float64, error)
}

// bed is what a round is taken with.
type bed struct {
	floors *floors
	daemon *daemon
}

// makeBed starts everything anew, with its data below dir.
func makeBed(ctx context.Context, dir string, cfg config) (*bed, error) {
	f, err := startFloors(ctx, filepath.Join(dir, "floor"), cfg)
	if err != nil {
		return nil, err
	}
	d, err := startDaemon(ctx, filepath.Join(dir, "pachd"), cfg)
	if err != nil {
		f.close()
		return nil, err
	}
	return &bed{floors: f, daemon: d}, nil
}

// close ends everything; nil has nothing.
func (b *bed) close() {
	if b != nil {
		b.daemon.close()
		b.floors.close()
	}
}

// measurements are those of the floors, then those of the daemon that are wanted.
func (b *bed) measurements() []measurement {
	ms := b.floors.measurements()
	for _, m := range b.daemon.measurements() {
		if only := b.daemon.cfg.only; only == nil || only.MatchString(m.name) {
			ms = append(ms, m)
		}
	}
	return ms
}

// measure runs every measurement once a round, so that a slow minute of the
// machine touches a figure and its floor alike. The rounds are equal: each has a daemon and floors
// of its own, unless they are to be kept.
func measure(ctx context.Context, cfg config) ([]result, error) {
	dir, err := os.MkdirTemp(cfg.dir, "pachd-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var b *bed
	defer func() { b.close() }()
	var ms []measurement
	var values, spent [][]float64
	for round := range cfg.rounds {
		if b == nil || !cfg.keep {
			b.close()
			if b, err = makeBed(ctx, filepath.Join(dir, fmt.Sprint(round+1)), cfg); err != nil {
				return nil, err
			}
			ms = b.measurements()
		}
		if values == nil {
			values, spent = make([][]float64, len(ms)), make([][]float64, len(ms))
		}
		b.daemon.round = round + 1
		for i, m := range ms {
			runtime.GC()
			v, cpu, err := b.daemon.take(ctx, m, round == cfg.rounds-1)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", m.name, err)
			}
			values[i], spent[i] = append(values[i], v), append(spent[i], cpu)
		}
		log.Printf("round %d of %d done", round+1, cfg.rounds)
	}
	medians := map[string]float64{}
	var results []result
	for i, m := range ms {
		slices.Sort(values[i])
		slices.Sort(spent[i])
		r := result{
			Name: m.name, Unit: m.unit, Floor: m.floor,
			CPU:   spent[i][len(spent[i])/2],
			Value: values[i][len(values[i])/2], Low: values[i][0], High: values[i][len(values[i])-1],
		}
		medians[m.name] = r.Value
		if f := medians[m.floor]; f > 0 {
			r.Ratio = r.Value / f
		}
		results = append(results, r)
	}
	return results, nil
}

// take runs a measurement and also tells how many ms of processor time the daemon
// used meanwhile, its threads' own work and that of others alike.
func (d *daemon) take(ctx context.Context, m measurement, profile bool) (v, cpu float64, err error) {
	if profile && d.cfg.profile != "" {
		name := strings.Map(func(r rune) rune {
			if unicode.IsLetter(r) || unicode.IsDigit(r) {
				return r
			}
			return '-'
		}, m.name)
		stop, err := d.proc.profile(filepath.Join(d.cfg.profile, name+".pprof"))
		if err != nil {
			return 0, 0, err
		}
		defer stop()
	}
	before, err := d.proc.cpu()
	if err != nil {
		return 0, 0, err
	}
	if v, err = m.run(ctx); err != nil {
		return 0, 0, err
	}
	after, err := d.proc.cpu()
	return v, float64((after - before).Milliseconds()), err
}

func printTable(results []result) {
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "measurement\tmedian\tlow\thigh\tunit\tCPU ms\tratio\tfloor\t")
	for _, r := range results {
		ratio := ""
		if r.Ratio > 0 {
			ratio = fmt.Sprintf("%.2f", r.Ratio)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%.0f\t%s\t%s\t\n", r.Name, number(r.Value), number(r.Low), number(r.High), r.Unit, r.CPU, ratio, r.Floor)
	}
	w.Flush()
}

// number prints small values with the digits that matter.
func number(v float64) string {
	if v < 10 {
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// milliseconds since start.
func milliseconds(start time.Time) float64 { return float64(time.Since(start).Microseconds()) / 1000 }

// perSecond runs op in n goroutines for about d and gives operations a second.
func perSecond(ctx context.Context, n int, d time.Duration, op func(ctx context.Context, worker, i int) error) (float64, error) {
	type outcome struct {
		ops int
		err error
	}
	done := make(chan outcome, n)
	start := time.Now()
	for worker := range n {
		go func() {
			var o outcome
			for o.err == nil && time.Since(start) < d {
				if o.err = op(ctx, worker, o.ops); o.err == nil {
					o.ops++
				}
			}
			done <- o
		}()
	}
	total := 0
	var err error
	for range n {
		o := <-done
		total += o.ops
		if err == nil {
			err = o.err
		}
	}
	return float64(total) / time.Since(start).Seconds(), err
}

// megabytes gives MB/s for n bytes since start.
func megabytes(n int64, start time.Time) float64 {
	return float64(n) / 1e6 / time.Since(start).Seconds()
}
