package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"
)

// growth says how one curve is taken: what grows, and through which sizes.
type growth struct {
	what  string // on the plot's axis
	sizes []int
	load  func(*daemon) load
}

// load makes a daemon's state grow, and says what to measure in it.
type load interface {
	// growTo adds until there are n.
	growTo(ctx context.Context, n int) error
	// subject names what the i-th sample of a measure is taken of.
	subject(i int) subject
}

// subject is a file on the branch master of a repo, and its directory.
type subject struct{ repo, dir, path string }

// The curves that -grow takes.
func growths() map[string]growth {
	return map[string]growth{
		"commits": {"commits in the repo", []int{100, 1000, 10_000, 100_000, 300_000, 1_000_000}, func(d *daemon) load { return &manyCommits{d: d} }},
		"files":   {"files in the commit", []int{1000, 100_000, 5_000_000}, func(d *daemon) load { return &manyFiles{d: d} }},
		"repos":   {"repos", []int{1, 100, 1000, 10_000}, func(d *daemon) load { return &manyRepos{d: d} }},
		"spouts":  {"spouts that commit, each once in 10 s", []int{1, 100, 1000}, func(d *daemon) load { return &manySpouts{d: d} }},
	}
}

// figure is what one measure gave at one size; times are in ms.
type figure struct {
	Name string  `json:"name"`
	P50  float64 `json:"p50_ms"`
	P99  float64 `json:"p99_ms"`
	// SmallP50 is that of a second daemon, which stays at the first size, in the same moments.
	SmallP50 float64 `json:"small_p50_ms"`
	Growth   float64 `json:"growth"` // P50 / SmallP50
	Floor    string  `json:"floor"`
	FloorP50 float64 `json:"floor_p50_ms"`
	Ratio    float64 `json:"ratio"` // P50 / FloorP50
}

// point is one size of a curve.
type point struct {
	At       int      `json:"at"`
	Fill     float64  `json:"fill_s"` // time it took to come here from the point before
	Figures  []figure `json:"figures"`
	Etcd     int64    `json:"etcd_file_bytes"`
	Resident float64  `json:"resident_mb"`
	// Anonymous is the part of Resident that is no page of a file, such as etcd's.
	Anonymous float64 `json:"resident_anonymous_mb"`
}

// curve is what a run with -grow writes.
type curve struct {
	Name   string  `json:"name"`
	What   string  `json:"what"`
	Points []point `json:"points"`
	// Etcd is what etcd holds in the end, its old revisions dropped.
	Etcd *contents `json:"etcd,omitempty"`
}

// grower takes one curve.
type grower struct {
	cfg    config
	floors *floors
	large  subjects // of the daemon that grows
	small  subjects // of one that stays at the first size: the machine is the same for both
}

// subjects are a daemon and what it was filled with.
type subjects struct {
	*daemon
	load
}

// grow takes the curve of a name up to a size and writes it, and its plot, to a
// directory after each size, so that an interrupted run leaves what it has.
func grow(ctx context.Context, cfg config, name string, upTo int, out string) (err error) {
	how, ok := growths()[name]
	if !ok {
		return fmt.Errorf("-grow %q; want commits, files, repos or spouts", name)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(cfg.dir, "pachd-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	g := &grower{cfg: cfg}
	if g.floors, err = startFloors(ctx, filepath.Join(dir, "floor"), cfg); err != nil {
		return err
	}
	defer g.floors.close()
	data := filepath.Join(dir, "pachd")
	var daemons []*daemon
	stop := func() {
		for _, d := range daemons {
			d.close()
		}
		daemons = nil
	}
	defer func() { stop() }()
	for i, s := range []*subjects{&g.large, &g.small} {
		if s.daemon, err = startDaemon(ctx, []string{data, filepath.Join(dir, "small")}[i], cfg); err != nil {
			return err
		}
		daemons = append(daemons, s.daemon)
		s.load = how.load(s.daemon)
	}
	if err := g.small.growTo(ctx, how.sizes[0]); err != nil {
		return err
	}
	c := curve{Name: name, What: how.what}
	for _, n := range how.sizes {
		if upTo > 0 && n > upTo {
			break
		}
		p, err := g.point(ctx, n, data)
		if err != nil {
			return fmt.Errorf("%d %s: %w", n, how.what, err)
		}
		c.Points = append(c.Points, p)
		log.Printf("%d %s: filled in %.0f s, etcd %d MB, resident %.0f MB", n, how.what, p.Fill, p.Etcd/1e6, p.Resident)
		if err := c.write(out); err != nil {
			return err
		}
	}
	stop()
	if c.Etcd, err = weigh(ctx, filepath.Join(data, "etcd")); err != nil {
		return err
	}
	if err := c.write(out); err != nil {
		return err
	}
	c.print()
	return nil
}

// point grows to n and measures there.
func (g *grower) point(ctx context.Context, n int, data string) (point, error) {
	p := point{At: n}
	start := time.Now()
	if err := g.large.growTo(ctx, n); err != nil {
		return p, err
	}
	p.Fill = time.Since(start).Seconds()
	if err := g.settle(ctx); err != nil {
		return p, err
	}
	if g.cfg.profile != "" {
		stop, err := g.large.proc.profile(filepath.Join(g.cfg.profile, fmt.Sprintf("grow-%d.pprof", n)))
		if err != nil {
			return p, err
		}
		defer stop()
	}
	var err error
	if p.Figures, err = g.measure(ctx); err != nil {
		return p, err
	}
	if p.Resident, err = g.large.proc.memory("VmRSS"); err != nil {
		return p, err
	}
	if p.Anonymous, err = g.large.proc.memory("RssAnon"); err != nil {
		return p, err
	}
	db, err := os.Stat(filepath.Join(data, "etcd", "member", "snap", "db"))
	if err == nil {
		p.Etcd = db.Size()
	}
	return p, err
}

// settle waits until the daemon has done what the growth left to do in the
// background: it uses less than a tenth of a processor, or a minute has passed.
func (g *grower) settle(ctx context.Context) error {
	const look = time.Second
	before, err := g.large.proc.cpu()
	for range 60 {
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(look):
		}
		var now time.Duration
		if now, err = g.large.proc.cpu(); err == nil && now-before < look/10 {
			return nil
		}
		before = now
	}
	return nil
}

// write puts the curve and its plot into a directory.
func (c *curve) write(dir string) error {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	base := filepath.Join(dir, "grow-"+c.Name)
	if err := os.WriteFile(base+".json", append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(base+".svg", c.plot(), 0o644)
}

// print shows the curve as a table: the p50 at each size; the last one by that of the
// first, and by that of the small daemon in the same moments.
func (c *curve) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "p50 in ms, %s\t", c.What)
	for _, p := range c.Points {
		fmt.Fprintf(w, "%d\t", p.At)
	}
	fmt.Fprint(w, "by the first\tby the small one\tby the floor\tlast p99\t\n")
	first, last := c.Points[0], c.Points[len(c.Points)-1]
	for i, f := range first.Figures {
		fmt.Fprintf(w, "%s\t", f.Name)
		for _, p := range c.Points {
			fmt.Fprintf(w, "%.2f\t", p.Figures[i].P50)
		}
		l := last.Figures[i]
		fmt.Fprintf(w, "%.2f\t%.2f\t%.2f\t%.2f\t\n", l.P50/f.P50, l.Growth, l.Ratio, l.P99)
	}
	for _, row := range []struct {
		name  string
		value func(point) float64
	}{
		{"etcd file, MB", func(p point) float64 { return float64(p.Etcd) / 1e6 }},
		{"resident, MB", func(p point) float64 { return p.Resident }},
		{"of it anonymous, MB", func(p point) float64 { return p.Anonymous }},
	} {
		fmt.Fprintf(w, "%s\t", row.name)
		for _, p := range c.Points {
			fmt.Fprintf(w, "%.0f\t", row.value(p))
		}
		fmt.Fprint(w, "\t\t\t\t\n")
	}
	w.Flush()
	if c.Etcd == nil {
		return
	}
	fmt.Printf("\netcd in the end, old revisions dropped: %.1f MB in use\n", float64(c.Etcd.InUse)/1e6)
	kinds := slices.Clone(c.Etcd.Kinds)
	slices.SortFunc(kinds, func(a, b kind) int { return cmp.Compare(b.Bytes, a.Bytes) })
	for _, k := range kinds {
		fmt.Printf("  %-24s %9d keys %8.1f MB\n", k.Prefix, k.Keys, float64(k.Bytes)/1e6)
	}
}
