package pfs

import (
	"fmt"
	"path"
	"strings"
)

// DefaultDatum is the datum of ordinary writes.
const DefaultDatum = "default"

// globRunes are the bytes that a glob gives a meaning to: no path has them, so
// every path is a pattern that matches itself alone.
const globRunes = "*?[]{}!()@+^"

// BadPathError reports a path that no file can have.
type BadPathError struct {
	Path string
	Why  string
}

func (e *BadPathError) Error() string { return fmt.Sprintf("path (%s) invalid: %s", e.Path, e.Why) }

// checkPath accepts paths that a file or directory can have, in any form.
func checkPath(p string) error {
	if p == "" {
		return &BadPathError{Path: p, Why: "only printable ASCII characters allowed"}
	}
	for i := range len(p) {
		if p[i] < 0x20 || p[i] > 0x7e {
			return &BadPathError{Path: p, Why: "only printable ASCII characters allowed"}
		}
	}
	if i := strings.IndexAny(p, globRunes); i >= 0 {
		return &BadPathError{Path: p, Why: fmt.Sprintf("globbing character (%c) not allowed in path", p[i])}
	}
	for elem := range strings.SplitSeq(p, "/") {
		if elem == "." || elem == ".." {
			return &BadPathError{Path: p, Why: "relative file paths are not allowed"}
		}
	}
	return nil
}

// cleanFile is the canonical path of a file: a slash in front, none at the end,
// none twice.
func cleanFile(p string) string { return path.Clean("/" + p) }

// cleanDir is the canonical path of a directory, with a slash at its end.
func cleanDir(p string) string {
	c := cleanFile(p)
	if c == "/" {
		return c
	}
	return c + "/"
}

// writePath validates the path of a file to be written.
func writePath(p string) (string, error) {
	if err := checkPath(p); err != nil {
		return "", err
	}
	c := cleanFile(p)
	if c == "/" {
		return "", &BadPathError{Path: p, Why: "the root is a directory, not a file"}
	}
	return c, nil
}

func datumOf(d string) string {
	if d == "" {
		return DefaultDatum
	}
	return d
}
