package glob_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/pfs/glob"
)

func compile(t testing.TB, pattern string) *glob.Glob {
	t.Helper()
	g, err := glob.Compile(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestMatch(t *testing.T) {
	for _, tc := range []struct{ pattern, yes, no string }{
		{"/", "/", "/a /a/b"},
		{"", "/", "/a"},
		{"/*", "/a /dir/ /.hidden", "/ /a/b /dir/x"},
		{"*", "/a /dir/", "/ /a/b"},
		{"/**", "/ /a /a/b /dir/", ""},
		{"**", "/ /a /a/b /dir/", ""},
		{"**file1", "/file1 /dir/file1 /a/b/xfile1", "/file12 /file1/x"},
		{"/***", "/ /a/b", ""},
		{"/**/b", "/a/b /a/x/b //b", "/b /a/bb"},
		{"/a/**", "/a/b /a/b/c", "/a /ab"},
		{"/a*", "/a /ab /a-b/", "/a/b /ba"},
		{"/a*c*e", "/ace /abcde /acece", "/ac /ac/e"},
		{"a//b/", "/a/b /a/b/", "/a /a/b/c"},
		{"./a/../b", "/b", "/a/b"},
		{"/?", "/a /?", "/ /ab //"},
		{"/a?c", "/abc", "/a/c /ac"},
		{"/[abc]", "/a /c/", "/d / /ab"},
		{"/[a-c0-9]x", "/bx /7x", "/dx /x"},
		{"/[!a-c]", "/d /!", "/a /b //"},
		{"/[^a-c]", "/d /^", "/a //"},
		{"/[]a]", "/] /a", "/b"},
		{"/[!]a]", "/b", "/] /a"},
		{"/[a-]", "/a /-", "/b"},
		{`/[\]x]`, "/] /x", `/\`},
		{`/[a\-c]`, "/a /- /c", "/b"},
		{"/{a,b}", "/a /b", "/c /ab /{a,b}"},
		{"/{a,b{c,d/e}}*", "/a /bcx /bd/ex", "/b /bd/"},
		{"/{,x}y", "/y /xy", "/xxy"},
		{"/a{b}", "/ab", "/a{b}"},
		{"/a,b|c", "/a,b|c", "/a"},
		{`/\*`, "/*", "/a"},
		{`/\{a\,b\}`, "/{a,b}", "/a"},
		{`/{a\,b,c}`, "/a,b /c", "/a /b"},
		{`/\a\/b`, "/a/b", `/\a`},
		{"/@(a|b)c", "/ac /bc", "/c /abc"},
		{"/(a|b)c", "/ac /bc", "/c /abc"},
		{"/?(a|b)c", "/ac /c", "/abc"},
		{"/*(a|b)c", "/c /abbac", "/adc"},
		{"/+(a|b)c", "/ac /abbac", "/c /adc"},
		{"/*(a*)", "/ /aaa", "/b"},
		{"/+(?(a))b", "/b /aab", "/ba"},
		{"/+(a/)b", "/a/b /a/a/b", "/b"},
		{"/!(a)", "/b /ab /aa", "/a / /b/c"},
		{"/!(a|b*)", "/c /ab", "/a /b /bcd"},
		{"/!(a)b", "/b /bb /aab /xb", "/ab /a"},
		{"/!(!(a))", "/a", "/b /aa"},
		{"/!(*.txt)", "/a.csv /txt", "/a.txt /d/a.csv"},
		{"/x!(a/b)y", "/xy /xay", "/xa/by"},
		{"/**/!(*.tmp)", "/d/a /d/e/a.b", "/d/a.tmp /d/e/x.tmp"},
		{"/**(a)", "/aa /xa /x", "/ /x/a"},
		{"/a@b+c!d", "/a@b+c!d", "/abcd"},
		{"/a^", "/a^", "/a"},
		{"/@(a|@(b|c)d)e", "/ae /bde /cde", "/be /de"},
		{"/a/{b,c}/*.[ch]", "/a/b/x.c /a/c/.h", "/a/b/x.d /a/d/x.c"},
	} {
		g := compile(t, tc.pattern)
		for _, path := range strings.Fields(tc.yes) {
			if !g.Match(path) {
				t.Errorf("%q does not match %q", tc.pattern, path)
			}
			if _, ok := g.Captures(path); !ok {
				t.Errorf("%q gives no captures on %q", tc.pattern, path)
			}
			if !strings.HasPrefix(path, g.Prefix()) {
				t.Errorf("%q has prefix %q but matches %q", tc.pattern, g.Prefix(), path)
			}
		}
		for _, path := range strings.Fields(tc.no) {
			if g.Match(path) {
				t.Errorf("%q matches %q", tc.pattern, path)
			}
		}
	}
}

func TestCaptures(t *testing.T) {
	for _, tc := range []struct {
		pattern, path string
		want          []string
	}{
		{"/*", "/a", nil},
		{"/(*)", "/abc", []string{"abc"}},
		{"/(*)-(*).txt", "/a-b-c.txt", []string{"a-b", "c"}},
		{"/(*)/T(?)", "/dir/T7", []string{"dir", "7"}},
		{"/@(a|ab)@(|b)c", "/abc", []string{"a", "b"}},
		{"/@(a@(b|c)|d)*", "/acx", []string{"ac", "c"}},
		{"/@(a@(b|c)|d)*", "/dx", []string{"d", ""}},
		{"/*(ab)x", "/ababx", []string{"abab"}},
		{"/*(@(a|b))x", "/abx", []string{"ab", "b"}},
		{"/?(a)b", "/b", []string{""}},
		{"/!(a)-+(b)", "/cc-bb", []string{"cc", "bb"}},
		{"/{(x),(y)}(z)", "/yz", []string{"", "y", "z"}},
		{"/(**)/(*)", "/a/b/c/", []string{"a/b", "c"}},
		{"/lit", "/lit", nil},
	} {
		got, ok := compile(t, tc.pattern).Captures(tc.path)
		if !ok || !slices.Equal(got, tc.want) {
			t.Errorf("%q on %q: %q, %v; want %q", tc.pattern, tc.path, got, ok, tc.want)
		}
	}
	if got, ok := compile(t, "/(a)b").Captures("/ac"); ok || got != nil {
		t.Errorf("captures without a match: %q", got)
	}
}

func TestPrefix(t *testing.T) {
	for _, tc := range []struct {
		pattern, want string
		exact         bool
	}{
		{"/a/b*", "/a/b", false},
		{"a/b", "/a/b", true},
		{"/", "/", true},
		{"/*", "/", false},
		{`/a\*b/c?`, "/a*b/c", false},
		{"/a@(b)", "/a", false},
		{"/a@b[c]", "/a@b", false},
	} {
		g := compile(t, tc.pattern)
		if g.Prefix() != tc.want || g.Exact() != tc.exact {
			t.Errorf("%q: prefix %q, exact %v", tc.pattern, g.Prefix(), g.Exact())
		}
	}
}

func TestCompile_RefusesMalformedPatterns(t *testing.T) {
	for pattern, want := range map[string]string{
		"/[ab":                          `glob pattern "/[ab" is malformed: the [ that begins "[ab" is never closed`,
		"/[]":                           `glob pattern "/[]" is malformed: the [ that begins "[]" is never closed`,
		`/[a\`:                          `glob pattern "/[a\\" is malformed: the [ that begins "[a\\" is never closed`,
		"x{a,b":                         `glob pattern "x{a,b" is malformed: the { that begins "{a,b" is never closed`,
		"/@(a|{b)":                      `glob pattern "/@(a|{b)" is malformed: ) closes nothing, write \) for the character itself`,
		"/(aaaaaaaaaaaaaaaaaaaaaaaaaaa": `glob pattern "/(aaaaaaaaaaaaaaaaaaaaaaaaaaa" is malformed: the ( that begins "(aaaaaaaaaaaaaaaaaaa..." is never closed`,
		"/a)":                           `glob pattern "/a)" is malformed: ) closes nothing, write \) for the character itself`,
		"/a}":                           `glob pattern "/a}" is malformed: } closes nothing, write \} for the character itself`,
		"/a]":                           `glob pattern "/a]" is malformed: ] closes nothing, write \] for the character itself`,
		`/a\`:                           `glob pattern "/a\\" is malformed: there is nothing after the final \`,
		"/[z-a]":                        `glob pattern "/[z-a]" is malformed: the range z-a is the wrong way round`,
		strings.Repeat("@(", 65) + strings.Repeat(")", 65): "",
		strings.Repeat("a", 5000):                          "",
	} {
		_, err := glob.Compile(pattern)
		var bad *glob.PatternError
		if !errors.As(err, &bad) || status.Code(err) != codes.InvalidArgument {
			t.Errorf("%q: %v", pattern, err)
		} else if want != "" && err.Error() != want {
			t.Errorf("%q:\n got %s\nwant %s", pattern, err, want)
		}
	}
}

// Patterns that a careless matcher needs years for.
func TestMatch_HostilePatternsAreNoTrouble(t *testing.T) {
	path := "/" + strings.Repeat("a", 500) + "b"
	for _, pattern := range []string{
		"/" + strings.Repeat("*a", 300) + "c",
		"/" + strings.Repeat("**", 100) + strings.Repeat("*a", 100) + "c",
		"/*(*(*(*(*(*(a))))))c",
		"/+(+(+(+(a|aa)|aaa)|a*)|*)c",
		"/" + strings.Repeat("!(", 20) + "a" + strings.Repeat(")", 20) + "c",
		"/" + strings.Repeat("!(a)", 50) + "c",
		"/" + strings.Repeat("?(a)", 400) + "c",
	} {
		if compile(t, pattern).Match(path) {
			t.Errorf("%q matches", pattern)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, pattern := range []string{"/dir*/file[0-9]*.txt", "/**/@(a|file)*.{csv,txt}", "/dir1/*"} {
		b.Run(pattern, func(b *testing.B) {
			g := compile(b, pattern)
			b.ReportAllocs()
			for b.Loop() {
				g.Match("/dir12/file4711.txt")
			}
		})
	}
}
