package specfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Bounds on what aliases may blow up to.
const (
	maxNodes = 1 << 20
	maxDepth = 1000
)

// converter writes a YAML node as JSON.
type converter struct {
	out   bytes.Buffer
	nodes int
	line  int // where an error happened
}

func isNull(n *yaml.Node) bool {
	if n.Kind == yaml.DocumentNode {
		return len(n.Content) == 0 || isNull(n.Content[0])
	}
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

func (c *converter) value(n *yaml.Node, depth int) error {
	c.line = n.Line
	if c.nodes++; c.nodes > maxNodes || c.out.Len() > MaxSize {
		return errors.New("too large: do aliases multiply?")
	}
	if depth > maxDepth {
		return errors.New("nested too deeply")
	}
	switch n.Kind {
	case yaml.DocumentNode:
		return c.value(n.Content[0], depth)
	case yaml.AliasNode:
		return c.value(n.Alias, depth+1)
	case yaml.SequenceNode:
		c.out.WriteByte('[')
		for i, e := range n.Content {
			if i > 0 {
				c.out.WriteByte(',')
			}
			if err := c.value(e, depth+1); err != nil {
				return err
			}
		}
		c.out.WriteByte(']')
		return nil
	case yaml.MappingNode:
		return c.mapping(n, depth)
	}
	text, err := scalar(n)
	if err != nil {
		return err
	}
	c.out.WriteString(text)
	return nil
}

func (c *converter) mapping(n *yaml.Node, depth int) error {
	pairs, err := c.pairs(n, depth)
	if err != nil {
		return err
	}
	c.out.WriteByte('{')
	for i, p := range pairs {
		if i > 0 {
			c.out.WriteByte(',')
		}
		c.out.WriteString(quote(p.key))
		c.out.WriteByte(':')
		if err := c.value(p.value, depth+1); err != nil {
			return err
		}
	}
	c.out.WriteByte('}')
	return nil
}

type pair struct {
	key   string
	value *yaml.Node
}

// pairs lists the entries of a mapping; those that "<<" brings in come last and
// never replace others.
func (c *converter) pairs(n *yaml.Node, depth int) ([]pair, error) {
	if depth > maxDepth {
		return nil, errors.New("nested too deeply")
	}
	var pairs, merged []pair
	have := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		c.line = k.Line
		if c.nodes++; c.nodes > maxNodes {
			return nil, errors.New("too large: do aliases multiply?")
		}
		if k.ShortTag() == "!!merge" {
			m, err := c.merge(v, depth)
			if err != nil {
				return nil, err
			}
			merged = append(merged, m...)
			continue
		}
		if k.Kind != yaml.ScalarNode {
			return nil, errors.New("a key must be a plain value")
		}
		if have[k.Value] {
			return nil, fmt.Errorf("key %q is there twice", k.Value)
		}
		have[k.Value] = true
		pairs = append(pairs, pair{k.Value, v})
	}
	for _, m := range merged {
		if !have[m.key] {
			have[m.key] = true
			pairs = append(pairs, m)
		}
	}
	return pairs, nil
}

// merge resolves the value of "<<": a mapping or a list of mappings.
func (c *converter) merge(v *yaml.Node, depth int) ([]pair, error) {
	if v.Kind == yaml.AliasNode {
		v = v.Alias
	}
	switch v.Kind {
	case yaml.MappingNode:
		return c.pairs(v, depth+1)
	case yaml.SequenceNode:
		var all []pair
		for _, e := range v.Content {
			if e.Kind == yaml.AliasNode {
				e = e.Alias
			}
			if e.Kind != yaml.MappingNode {
				return nil, errors.New("<< takes mappings only")
			}
			pairs, err := c.pairs(e, depth+1)
			if err != nil {
				return nil, err
			}
			all = append(all, pairs...)
		}
		return all, nil
	}
	return nil, errors.New("<< takes mappings only")
}

// scalar is the JSON text of a YAML scalar. Numbers keep their digits.
func scalar(n *yaml.Node) (string, error) {
	if n.Style == 0 && isJSONNumber(n.Value) { // also what is too large for YAML's own types
		return n.Value, nil
	}
	switch n.ShortTag() {
	case "!!null":
		return "null", nil
	case "!!bool":
		var b bool
		if err := n.Decode(&b); err != nil {
			return "", fmt.Errorf("%q is not a boolean", n.Value)
		}
		return strconv.FormatBool(b), nil
	case "!!int":
		if isJSONNumber(n.Value) {
			return n.Value, nil
		}
		text := strings.TrimPrefix(strings.ReplaceAll(n.Value, "_", ""), "+")
		i, ok := new(big.Int).SetString(text, 0)
		if !ok {
			return "", fmt.Errorf("%q is not an integer", n.Value)
		}
		return i.String(), nil
	case "!!float":
		if isJSONNumber(n.Value) {
			return n.Value, nil
		}
		f, err := strconv.ParseFloat(strings.ReplaceAll(n.Value, "_", ""), 64)
		if err != nil {
			return "", fmt.Errorf("%s cannot be written in JSON", n.Value)
		}
		text, err := json.Marshal(f)
		if err != nil {
			return "", fmt.Errorf("%s cannot be written in JSON", n.Value)
		}
		return string(text), nil
	}
	return quote(n.Value), nil // strings; dates and binary data as they are written
}

func isJSONNumber(s string) bool {
	return s != "" && (s[0] == '-' || s[0] >= '0' && s[0] <= '9') && json.Valid([]byte(s))
}

// quote writes a JSON string, without the escapes that only HTML needs.
func quote(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil { // strings always encode
		panic(err)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
