// Package specfile reads pipeline specs from files as people write them: JSON
// or YAML, one document or several, objects or arrays of objects, from a path,
// a URL or standard input. It turns each spec into one JSON object and knows
// nothing of what a spec means: unknown fields, key order and the exact digits
// of numbers pass through.
package specfile
