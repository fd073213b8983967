package glob

import (
	"fmt"
	"path"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// maxPattern bounds the length of a pattern, and with it the cost of a match.
	maxPattern = 4096
	// maxDepth bounds the nesting of groups and alternatives.
	maxDepth = 64
)

// PatternError reports a malformed pattern.
type PatternError struct {
	Pattern string // as given
	Reason  string
}

func (e *PatternError) Error() string {
	return fmt.Sprintf("glob pattern %q is malformed: %s", e.Pattern, e.Reason)
}

// GRPCStatus maps the error to InvalidArgument.
func (e *PatternError) GRPCStatus() *status.Status {
	return status.New(codes.InvalidArgument, e.Error())
}

type kind uint8

const (
	literal  kind = iota // the bytes of text
	one                  // one byte of set
	star                 // a run without "/"
	globstar             // any run
	choice               // one of alts, between min and max times; captures if group >= 0
	negation             // a run without "/" that none of alts matches; captures
)

// node is a part of a parsed pattern.
type node struct {
	kind   kind
	text   string
	set    *set
	alts   [][]node
	repeat byte // of a choice: '@', '?', '*' or '+'
	group  int  // number of the capture group from 0, -1 for none
}

// set is a set of bytes.
type set [4]uint64

func (s *set) add(b byte)      { s[b>>6] |= 1 << (b & 63) }
func (s *set) has(b byte) bool { return s[b>>6]&(1<<(b&63)) != 0 }
func (s *set) remove(b byte)   { s[b>>6] &^= 1 << (b & 63) }

// clean makes a pattern absolute, without empty, "." and ".." elements.
func clean(pattern string) string { return path.Clean("/" + pattern) }

// parser is a recursive-descent parser over the cleaned pattern.
type parser struct {
	in     string
	pos    int
	depth  int
	groups int
}

func (p *parser) fail(format string, args ...any) error {
	return fmt.Errorf(format, args...)
}

// unclosed reports the bracket at a position. Positions of the cleaned pattern
// mean little to the caller, so it quotes what follows.
func (p *parser) unclosed(at int) error {
	rest := p.in[at:]
	if len(rest) > 20 {
		rest = rest[:20] + "..."
	}
	return p.fail("the %c that begins %q is never closed", p.in[at], rest)
}

func (p *parser) more() bool { return p.pos < len(p.in) }

// sequence parses until one of the bytes in until, which it leaves, or the end.
func (p *parser) sequence(until string) ([]node, error) {
	var seq []node
	var text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			seq = append(seq, node{kind: literal, text: text.String(), group: -1})
			text.Reset()
		}
	}
	for p.more() {
		c := p.in[p.pos]
		if strings.IndexByte(until, c) >= 0 {
			break
		}
		group := p.pos+1 < len(p.in) && p.in[p.pos+1] == '('
		var n node
		var err error
		switch {
		case c == '\\':
			if p.pos++; !p.more() {
				return nil, p.fail(`there is nothing after the final \`)
			}
			text.WriteByte(p.in[p.pos])
			p.pos++
			continue
		case group && strings.IndexByte("@?*+!", c) >= 0:
			p.pos++
			n, err = p.group(c)
		case c == '(':
			n, err = p.group('@')
		case c == '{':
			n, err = p.alternatives('}', ",", node{kind: choice, repeat: '@', group: -1})
		case c == '[':
			n, err = p.class()
		case c == '?':
			n = node{kind: one, set: anyButSlash(), group: -1}
			p.pos++
		case c == '*':
			n = p.stars()
		case c == ')' || c == '}' || c == ']':
			return nil, p.fail("%c closes nothing, write \\%c for the character itself", c, c)
		default:
			text.WriteByte(c)
			p.pos++
			continue
		}
		if err != nil {
			return nil, err
		}
		flush()
		seq = append(seq, n)
	}
	flush()
	return seq, nil
}

// stars parses a run of stars; one that is followed by "(" begins a group.
func (p *parser) stars() node {
	n := node{kind: star, group: -1}
	for p.pos++; p.more() && p.in[p.pos] == '*' && (p.pos+1 == len(p.in) || p.in[p.pos+1] != '('); p.pos++ {
		n.kind = globstar
	}
	return n
}

// group parses "(a|b)", before which stood the operator.
func (p *parser) group(op byte) (node, error) {
	n := node{kind: choice, repeat: op, group: p.groups}
	if op == '!' {
		n.kind = negation
	}
	p.groups++
	return p.alternatives(')', "|", n)
}

// alternatives parses the bracketed list at the current position into n.
func (p *parser) alternatives(end byte, separator string, n node) (node, error) {
	at := p.pos
	if p.depth++; p.depth > maxDepth {
		return n, p.fail("it nests deeper than %d levels", maxDepth)
	}
	defer func() { p.depth-- }()
	for {
		p.pos++
		alt, err := p.sequence(separator + string(end))
		if err != nil {
			return n, err
		}
		n.alts = append(n.alts, alt)
		if !p.more() {
			return n, p.unclosed(at)
		}
		if p.in[p.pos] == end {
			p.pos++
			return n, nil
		}
	}
}

// class parses "[...]".
func (p *parser) class() (node, error) {
	at := p.pos
	n := node{kind: one, set: new(set), group: -1}
	p.pos++
	negated := p.more() && (p.in[p.pos] == '!' || p.in[p.pos] == '^')
	if negated {
		p.pos++
	}
	// next reads one byte of the class.
	next := func() (byte, error) {
		if p.more() && p.in[p.pos] == '\\' {
			p.pos++
		}
		if !p.more() {
			return 0, p.unclosed(at)
		}
		p.pos++
		return p.in[p.pos-1], nil
	}
	for first := true; ; first = false {
		if !p.more() {
			return n, p.unclosed(at)
		}
		if p.in[p.pos] == ']' && !first {
			p.pos++
			break
		}
		lo, err := next()
		if err != nil {
			return n, err
		}
		hi := lo
		if p.pos+1 < len(p.in) && p.in[p.pos] == '-' && p.in[p.pos+1] != ']' {
			p.pos++
			if hi, err = next(); err != nil {
				return n, err
			}
			if hi < lo {
				return n, p.fail("the range %c-%c is the wrong way round", lo, hi)
			}
		}
		for b := int(lo); b <= int(hi); b++ {
			n.set.add(byte(b))
		}
	}
	if negated {
		for i := range n.set {
			n.set[i] = ^n.set[i]
		}
	}
	n.set.remove('/')
	return n, nil
}

func anyButSlash() *set {
	s := &set{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}
	s.remove('/')
	return s
}
