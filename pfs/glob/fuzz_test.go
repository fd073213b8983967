package glob

import "testing"

// naive tells whether seq matches a run of path from pos after which then says yes.
// It tries everything, in exponential time, and shares only the parser with Glob.
func naive(seq []node, path string, pos int, then func(pos int) bool) bool {
	if len(seq) == 0 {
		return then(pos)
	}
	n, rest := seq[0], seq[1:]
	next := func(pos int) bool { return naive(rest, path, pos, then) }
	anyOf := func(pos int, then func(int) bool) bool {
		for _, alt := range n.alts {
			if naive(alt, path, pos, then) {
				return true
			}
		}
		return false
	}
	// run tries every run from pos of which ok approves.
	run := func(slash bool, ok func(end int) bool) bool {
		for end := pos; ; end++ {
			if ok(end) && next(end) {
				return true
			}
			if end == len(path) || (!slash && path[end] == '/') {
				return false
			}
		}
	}
	named := func(end int) bool { return path != "/" || end > pos || pos > 1 }
	switch n.kind {
	case literal:
		end := pos + len(n.text)
		return end <= len(path) && path[pos:end] == n.text && next(end)
	case one:
		return pos < len(path) && n.set.has(path[pos]) && next(pos+1)
	case star:
		return run(false, named)
	case globstar:
		return run(true, func(int) bool { return true })
	case negation:
		return run(false, func(end int) bool {
			return named(end) && !anyOf(pos, func(e int) bool { return e == end })
		})
	}
	switch n.repeat {
	case '@':
		return anyOf(pos, next)
	case '?':
		return next(pos) || anyOf(pos, next)
	}
	// More rounds, each of which has to get on.
	var rounds func(pos int) bool
	rounds = func(pos int) bool {
		return next(pos) || anyOf(pos, func(end int) bool { return end > pos && rounds(end) })
	}
	if n.repeat == '*' {
		return rounds(pos)
	}
	return anyOf(pos, rounds)
}

func FuzzMatch(f *testing.F) {
	for _, seed := range [][2]string{
		{"/*", "/"},
		{"/**", "/"},
		{"**b", "/a/b"},
		{"/+(a|!(b)c)*", "/acbc"},
		{"/{a,b}[!a-c]", "/ad"},
		{"/*(?(a)b|@(*))x", "/abx"},
		{`/\*?`, "/*a"},
		{"/!(!(a)*(b))", "/ab"},
		{"/?(*|/)a", "//a"},
		{"/+(*(a))", "/"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, path string) {
		if len(pattern) > 24 || len(path) > 8 {
			return
		}
		g, err := Compile(pattern)
		if err != nil {
			return
		}
		p := &parser{in: clean(pattern)}
		seq, err := p.sequence("")
		if err != nil {
			t.Fatalf("%q compiles but does not parse: %v", pattern, err)
		}
		path = "/" + path
		text := trim(path)
		want := naive(seq, text, 0, func(pos int) bool { return pos == len(text) })
		if got := g.Match(path); got != want {
			t.Errorf("%q on %q: %v, the naive matcher says %v", pattern, path, got, want)
		}
		if _, got := g.Captures(path); got != want {
			t.Errorf("%q on %q: captures %v, want %v", pattern, path, got, want)
		}
	})
}
