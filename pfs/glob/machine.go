package glob

// machine runs a program over one path by backtracking. It never enters the same
// instruction at the same position twice, as the second time would fail as well:
// what the captures are has no say in whether the rest matches. (Russ Cox, "Regular
// Expression Matching: the Virtual Machine Approach", calls it the bit-state
// backtracker.)
type machine struct {
	prog    []instr
	base    int // where the program begins
	path    string
	visited bitset // of (instruction - base) * (len(path)+1) + position
	stack   []job
	spans   []int // captures, nil if they are not asked for
	ends    map[place]bitset
}

// place is an instruction at a position.
type place struct{ pc, pos int }

// job is a place yet to be tried, or, if undo is true, the old value pos of
// the capture slot pc.
type job struct {
	place
	undo bool
}

type bitset []uint64

func (b bitset) has(i int) bool { return b[i>>6]&(1<<(i&63)) != 0 }
func (b bitset) add(i int)      { b[i>>6] |= 1 << (i & 63) }

// grow gives an empty set for the numbers below n, in the memory of b if it fits.
func (b bitset) grow(n int) bitset {
	words := (n + 63) >> 6
	if words > cap(b) {
		return make(bitset, words)
	}
	b = b[:words]
	clear(b)
	return b
}

func (m *machine) reset(path string) {
	m.path, m.spans = path, nil
	m.stack = m.stack[:0]
	m.visited = m.visited.grow(len(m.prog) * (len(path) + 1))
	clear(m.ends)
}

// match tells whether the whole program matches the whole path.
func (m *machine) match() bool {
	return m.run(0, 0, func(pos int) bool { return pos == len(m.path) })
}

// endsOf is the set of positions where a match of the program of the instructions
// from up to to can end if it begins at pos.
func (m *machine) endsOf(from, to, pos int) bitset {
	at := place{from, pos}
	if m.ends == nil {
		m.ends = map[place]bitset{}
	}
	if ends, ok := m.ends[at]; ok {
		return ends
	}
	ends := bitset(nil).grow(len(m.path) + 1)
	sub := &machine{prog: m.prog, base: from, path: m.path, ends: m.ends}
	sub.visited = sub.visited.grow((to - from) * (len(m.path) + 1))
	sub.run(from, pos, func(end int) bool { ends.add(end); return false })
	m.ends[at] = ends
	return ends
}

// run tries all ways from a place, preferred ones first, until accept says yes to
// the position of an opMatch.
func (m *machine) run(pc, pos int, accept func(pos int) bool) bool {
	m.push(pc, pos)
	for len(m.stack) > 0 {
		j := m.stack[len(m.stack)-1]
		m.stack = m.stack[:len(m.stack)-1]
		if j.undo {
			m.spans[j.pc] = j.pos
			continue
		}
		if m.follow(j.pc, j.pos, accept) {
			return true
		}
	}
	return false
}

func (m *machine) push(pc, pos int) {
	m.stack = append(m.stack, job{place: place{pc, pos}})
}

// follow goes one way until it fails or ends, and leaves the others on the stack.
func (m *machine) follow(pc, pos int, accept func(pos int) bool) bool {
	width := len(m.path) + 1
	// An empty run would make a name of the root.
	nonEmpty := len(m.path) == 1 && pos <= 1
	for {
		at := (pc-m.base)*width + pos
		if m.visited.has(at) {
			return false
		}
		m.visited.add(at)
		switch in := &m.prog[pc]; in.op {
		case opMatch:
			return accept(pos)
		case opText:
			if len(m.path)-pos < len(in.text) || m.path[pos:pos+len(in.text)] != in.text {
				return false
			}
			pos += len(in.text)
			pc++
		case opOne:
			if pos == len(m.path) || !in.set.has(m.path[pos]) {
				return false
			}
			pos++
			pc++
		case opStar, opAny:
			// One byte more, or else on.
			more := pos < len(m.path) && (in.op == opAny || m.path[pos] != '/')
			if !more {
				if in.op == opStar && nonEmpty {
					return false
				}
				pc++
				continue
			}
			m.push(pc+1, pos)
			pos++
		case opSplit:
			for i := len(in.to) - 1; i > 0; i-- {
				m.push(in.to[i], pos)
			}
			pc = in.to[0]
		case opJump:
			pc = in.to[0]
		case opSave:
			if m.spans != nil {
				m.stack = append(m.stack, job{place: place{in.slot, m.spans[in.slot]}, undo: true})
				m.spans[in.slot] = pos
			}
			pc++
		case opNot:
			not := m.endsOf(in.to[0], in.to[1], pos)
			for end := pos; ; end++ { // the longest is pushed last and tried first
				if !not.has(end) && !(nonEmpty && end == pos) {
					m.push(in.to[1], end)
				}
				if end == len(m.path) || m.path[end] == '/' {
					return false
				}
			}
		}
	}
}
