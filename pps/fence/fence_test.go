package fence

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestToken_SaysWhoseItIs(t *testing.T) {
	in := Incarnation{Pipeline: "p/my-spout", Slot: 3, Version: 7, ID: "abc"}
	token := in.Token()
	c, ok := Parse(token)
	if !ok || c.Incarnation != in {
		t.Errorf("%+v, %v", c, ok)
	}
	if token == in.Token() {
		t.Error("not random")
	}
	if c.Key() != "pps/fence/p/my-spout/3" || strings.Contains(c.Value(), token[len(token)-64:]) || !strings.HasPrefix(c.Value(), "7 abc ") {
		t.Errorf("%s = %s", c.Key(), c.Value())
	}
	if !WriterOf(in.Writer(), "p/my-spout") || WriterOf(in.Writer(), "p/my") || !in.SameSlot(in.Writer()) {
		t.Errorf("writer %s", in.Writer())
	}
	if other := (Incarnation{Pipeline: "p/my-spout", Slot: 30}); other.SameSlot(in.Writer()) {
		t.Error("another slot")
	}
}

func TestParse_ForeignTokens(t *testing.T) {
	good := Incarnation{Pipeline: "p/s", Version: 1, ID: "x"}.Token()
	parts := strings.Split(good, ".")
	with := func(i int, part string) string {
		changed := append([]string{}, parts...)
		changed[i] = part
		return strings.Join(changed, ".")
	}
	for _, token := range []string{"", "v2/abc", "a.b.c.d.e", good + ".x", with(1, "!"), with(1, "cA"), with(1, "cC94"), with(2, "one")} {
		if c, ok := Parse(token); ok {
			t.Errorf("%q is taken for %+v", token, c)
		}
	}
}

func TestEnded_SaysWhichIncarnationIsCurrent(t *testing.T) {
	c, _ := Parse(Incarnation{Pipeline: "p/s", Slot: 1, Version: 2, ID: "old"}.Token())
	for current, want := range map[string]string{
		"":            `worker 1 of pipeline "p/s", incarnation old, may no longer write: it was given up, and no incarnation is current`,
		"3 new abcd":  `worker 1 of pipeline "p/s", incarnation old, may no longer write: it was given up; incarnation new of version 3 is current`,
		"2 old other": `worker 1 of pipeline "p/s": the token is not that of incarnation old`,
	} {
		st := status.Convert(c.Ended([]byte(current)))
		if st.Code() != codes.PermissionDenied || st.Message() != want {
			t.Errorf("%q: %v\nwant %s", current, st, want)
		}
	}
}
