package glob

type op uint8

const (
	opMatch op = iota // the end
	opText            // the bytes of text
	opOne             // one byte of set
	opStar            // any run without "/"
	opAny             // any run
	opSplit           // go on at to[0], or else at to[1], and so on
	opJump            // go on at to[0]
	opSave            // note the position in slot
	opNot             // a run without "/" that the program at to[0] does not match; go on at to[1]
)

// instr is one step of the program that a pattern becomes.
type instr struct {
	op   op
	text string
	set  *set
	to   []int
	slot int
}

type compiler struct{ prog []instr }

func (c *compiler) emit(i instr) int {
	c.prog = append(c.prog, i)
	return len(c.prog) - 1
}

func (c *compiler) here() int { return len(c.prog) }

func (c *compiler) sequence(seq []node) {
	for _, n := range seq {
		c.node(n)
	}
}

func (c *compiler) node(n node) {
	switch n.kind {
	case literal:
		c.emit(instr{op: opText, text: n.text})
	case one:
		c.emit(instr{op: opOne, set: n.set})
	case star:
		c.emit(instr{op: opStar})
	case globstar:
		c.emit(instr{op: opAny})
	case choice:
		c.save(n, 0)
		c.repeated(n)
		c.save(n, 1)
	case negation:
		c.save(n, 0)
		not := c.emit(instr{op: opNot})
		from := c.here()
		c.choice(n.alts)
		c.emit(instr{op: opMatch})
		c.prog[not].to = []int{from, c.here()}
		c.save(n, 1)
	}
}

func (c *compiler) save(n node, end int) {
	if n.group >= 0 {
		c.emit(instr{op: opSave, slot: 2*n.group + end})
	}
}

// repeated emits the choice and the loop around it.
func (c *compiler) repeated(n node) {
	switch n.repeat {
	case '@':
		c.choice(n.alts)
	case '?':
		skip := c.emit(instr{op: opSplit})
		c.choice(n.alts)
		c.prog[skip].to = []int{skip + 1, c.here()}
	case '*':
		loop := c.emit(instr{op: opSplit})
		c.choice(n.alts)
		c.emit(instr{op: opJump, to: []int{loop}})
		c.prog[loop].to = []int{loop + 1, c.here()}
	case '+':
		loop := c.here()
		c.choice(n.alts)
		again := c.emit(instr{op: opSplit})
		c.prog[again].to = []int{loop, again + 1}
	}
}

func (c *compiler) choice(alts [][]node) {
	if len(alts) == 1 {
		c.sequence(alts[0])
		return
	}
	split := c.emit(instr{op: opSplit})
	var to, exits []int
	for _, alt := range alts {
		to = append(to, c.here())
		c.sequence(alt)
		exits = append(exits, c.emit(instr{op: opJump}))
	}
	c.prog[split].to = to
	for _, e := range exits {
		c.prog[e].to = []int{c.here()}
	}
}
