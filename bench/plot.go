package main

import (
	"bytes"
	"fmt"
	"html"
	"maps"
	"math"
	"slices"
)

// Places on the plot, in pixels.
const (
	plotWidth, plotHeight = 900, 420
	plotLeft, plotRight   = 60, 560
	plotTop, plotBottom   = 30, 370
)

var plotColors = []string{"#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#17becf", "#7f7f7f"}

// plot draws the curve as SVG: both axes logarithmic, a line for the p50 of each
// figure, a thin one for its p99, dashes for the floors.
func (c *curve) plot() []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&out, `<rect width="%d" height="%d" fill="white"/>`+"\n", plotWidth, plotHeight)
	low, high := math.Inf(1), math.Inf(-1)
	for _, p := range c.Points {
		for _, f := range p.Figures {
			low, high = min(low, f.P50, f.FloorP50), max(high, f.P99)
		}
	}
	low, high = math.Floor(math.Log10(low)), math.Ceil(math.Log10(high))
	left, right := math.Log10(float64(c.Points[0].At)), math.Log10(float64(c.Points[len(c.Points)-1].At))
	x := func(at int) float64 {
		return plotLeft + (math.Log10(float64(at))-left)/max(right-left, 1e-9)*(plotRight-plotLeft)
	}
	y := func(ms float64) float64 {
		return plotBottom - (math.Log10(ms)-low)/max(high-low, 1e-9)*(plotBottom-plotTop)
	}
	for e := low; e <= high; e++ {
		at := y(math.Pow(10, e))
		fmt.Fprintf(&out, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%g ms</text>`+"\n", plotLeft, at, plotRight, plotLeft-6, at+4, math.Pow(10, e))
	}
	for _, p := range c.Points {
		fmt.Fprintf(&out, `<path d="M%.1f %dV%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle">%d</text>`+"\n", x(p.At), plotTop, plotBottom, x(p.At), plotBottom+16, p.At)
	}
	fmt.Fprintf(&out, `<text x="%d" y="%d" text-anchor="middle">%s</text>`+"\n", (plotLeft+plotRight)/2, plotBottom+36, html.EscapeString(c.What))
	row := plotTop
	line := func(name, color, style string, value func(p point) float64) {
		fmt.Fprintf(&out, `<polyline fill="none" stroke="%s" %s points="`, color, style)
		for _, p := range c.Points {
			fmt.Fprintf(&out, "%.1f,%.1f ", x(p.At), y(value(p)))
		}
		fmt.Fprint(&out, `"/>`+"\n")
		if name == "" {
			return
		}
		fmt.Fprintf(&out, `<path d="M%d %dh20" stroke="%s" %s/><text x="%d" y="%d">%s</text>`+"\n", plotRight+20, row, color, style, plotRight+46, row+4, html.EscapeString(name))
		row += 20
	}
	floors := map[string]int{}
	for i, f := range c.Points[0].Figures {
		color := plotColors[i%len(plotColors)]
		line(f.Name, color, `stroke-width="2"`, func(p point) float64 { return p.Figures[i].P50 })
		line("", color, `stroke-width="0.5"`, func(p point) float64 { return p.Figures[i].P99 })
		floors[f.Floor] = i
	}
	for _, name := range slices.Sorted(maps.Keys(floors)) {
		line("floor: "+name, "#000", `stroke-dasharray="4 3"`, func(p point) float64 { return p.Figures[floors[name]].FloorP50 })
	}
	fmt.Fprintf(&out, `<text x="%d" y="%d" fill="#555">thick: p50, thin: p99</text>`+"\n", plotRight+20, plotBottom)
	fmt.Fprint(&out, "</svg>\n")
	return out.Bytes()
}
