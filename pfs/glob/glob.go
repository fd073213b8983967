package glob

import (
	"fmt"
	"strings"
	"sync"
)

// Glob is a compiled pattern. It is safe for concurrent use.
type Glob struct {
	prefix  string
	exact   bool // the pattern is its prefix
	prog    []instr
	groups  int
	machine sync.Pool // of *machine
}

// Compile parses a pattern. A malformed one gives a *PatternError.
func Compile(pattern string) (*Glob, error) {
	if len(pattern) > maxPattern {
		return nil, &PatternError{Pattern: pattern[:32] + "...", Reason: fmt.Sprintf("it is longer than %d bytes", maxPattern)}
	}
	p := &parser{in: clean(pattern)}
	seq, err := p.sequence("")
	if err != nil {
		return nil, &PatternError{Pattern: pattern, Reason: err.Error()}
	}
	g := &Glob{groups: p.groups}
	if seq[0].kind == literal { // always, as a clean pattern begins with a slash
		g.prefix = seq[0].text
		g.exact = len(seq) == 1
	}
	c := &compiler{}
	c.sequence(seq)
	c.emit(instr{op: opMatch})
	g.prog = c.prog
	return g, nil
}

// Prefix is the text that every matching path begins with: a literal pattern as a
// whole, otherwise up to the first special character. A directory counts without its trailing slash.
func (g *Glob) Prefix() string { return g.prefix }

// Exact tells whether Prefix is the only path that matches.
func (g *Glob) Exact() bool { return g.exact }

// Match tells whether the pattern matches the absolute path. The trailing slash of a
// directory does not count. The root "/" is matched by "/" and "/**", but not by
// "/*": a "*" or "!(p)" stands for no empty name.
func (g *Glob) Match(path string) bool {
	path = trim(path)
	if g.exact || !strings.HasPrefix(path, g.prefix) {
		return path == g.prefix
	}
	m := g.get(path)
	defer g.machine.Put(m)
	return m.match()
}

// Captures is Match that also returns what each parenthesised group matched, in
// the order of the opening parentheses: element 0 is what a pipeline calls $1. A
// group under a repetition gives its last round, "*(p)" itself all rounds together,
// and one that took no part the empty string. Where several ways of matching exist,
// earlier parts of the pattern take as much as they can, and earlier alternatives
// come first.
func (g *Glob) Captures(path string) ([]string, bool) {
	path = trim(path)
	m := g.get(path)
	defer g.machine.Put(m)
	m.spans = make([]int, 2*g.groups)
	for i := range m.spans {
		m.spans[i] = -1
	}
	if !m.match() {
		return nil, false
	}
	caps := make([]string, g.groups)
	for i := range caps {
		if from, to := m.spans[2*i], m.spans[2*i+1]; from >= 0 && to >= from {
			caps[i] = path[from:to]
		}
	}
	return caps, true
}

func (g *Glob) get(path string) *machine {
	m, ok := g.machine.Get().(*machine)
	if !ok {
		m = &machine{prog: g.prog}
	}
	m.reset(path)
	return m
}

func trim(path string) string {
	if len(path) > 1 {
		return strings.TrimSuffix(path, "/")
	}
	return path
}
