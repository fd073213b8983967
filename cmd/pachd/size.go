package main

import (
	"fmt"

	"github.com/dustin/go-humanize"
)

// byteSize is a flag that takes "256MiB", "1GB" or a number of bytes. 0 sets -1,
// since a zero in the configuration means its default.
type byteSize struct{ bytes *int64 }

// Set implements pflag.Value.
func (b *byteSize) Set(text string) error {
	n, err := humanize.ParseBytes(text)
	if err != nil || n > 1<<60 {
		return fmt.Errorf("%q is not a size: want a number of bytes, or one with a unit, as 256MiB", text)
	}
	*b.bytes = int64(n)
	if n == 0 {
		*b.bytes = -1
	}
	return nil
}

// String implements pflag.Value.
func (b *byteSize) String() string {
	if b.bytes == nil || *b.bytes < 0 {
		return "0"
	}
	return humanize.IBytes(uint64(*b.bytes))
}

// Type implements pflag.Value.
func (b *byteSize) Type() string { return "size" }
