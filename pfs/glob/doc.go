// Package glob matches file paths against glob patterns.
//
// The language: "*" is any run of bytes without "/", "**" any run at all, "?" one
// byte other than "/", "[a-c]" one byte of a class and "[!a-c]" or "[^a-c]" one that
// is neither in it nor "/", "{a,b}" one of the alternatives, "\x" the byte x itself.
// Groups: "@(p|q)" or plain "(p|q)" matches one of its alternatives, "?(p)" none or one,
// "*(p)" any number, "+(p)" at least one, and "!(p)" any run without "/" that
// p does not match. Everything nests. Each parenthesised group captures
// what it matched.
//
// A pattern is made absolute and clean first, as path.Clean does, and always
// matches a whole path. Matching takes time polynomial in the lengths of pattern
// and path, whatever the pattern.
package glob
