//go:build race

package pfs

const raceFactor = 1
