//go:build !race

package pfs

const raceFactor = 0
