package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func names(prefix string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("%s%06d", prefix, i)
	}
	return list
}

// balanced fails unless each member's share is within a tenth of the average, or
// one pipeline away from it if a tenth is less than that.
func balanced(t interface{ Fatalf(string, ...any) }, members []string, of map[string]string) {
	loads := map[string]int{}
	for _, m := range of {
		loads[m]++
	}
	ideal := float64(len(of)) / float64(len(members))
	slack := max(1, ideal/10)
	for _, m := range members {
		if l := float64(loads[m]); l < ideal-slack || l > ideal+slack {
			t.Fatalf("%s has %v of %d pipelines, %d members", m, l, len(of), len(members))
		}
	}
}

func moved(before, after map[string]string) (list []string) {
	for p, m := range after {
		if was, ok := before[p]; ok && was != m {
			list = append(list, p)
		}
	}
	return list
}

func TestAssign_ManyDaemons(t *testing.T) {
	members, pipelines := names("d", 100), names("p/s", 100_000)
	first := assign(members, pipelines, nil)
	balanced(t, members, first)
	if again := assign(members, pipelines, first); !maps.Equal(first, again) {
		t.Error("not stable")
	}
	// Ten die: what they had moves, nothing else.
	left := slices.Clone(members[:90])
	second := assign(left, pipelines, first)
	balanced(t, left, second)
	for _, p := range moved(first, second) {
		if slices.Contains(left, first[p]) {
			t.Fatalf("%s moved from %s, which lives", p, first[p])
		}
	}
	// One comes: it gets its share, and nothing moves between the others.
	more := append(slices.Clone(members), "e")
	third := assign(more, pipelines, first)
	balanced(t, more, third)
	for _, p := range moved(first, third) {
		if third[p] != "e" {
			t.Fatalf("%s moved from %s to %s", p, first[p], third[p])
		}
	}
	if n := len(moved(first, third)); n != 100_000/101 {
		t.Errorf("%d pipelines moved for the new member", n)
	}
}

func TestAssign_Properties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := names("d", 8)
		live := func(label string) []string {
			var list []string
			for _, m := range all {
				if rapid.Bool().Draw(t, label+m) {
					list = append(list, m)
				}
			}
			if len(list) == 0 {
				list = all[:1]
			}
			return list
		}
		pipelines := names("p", rapid.IntRange(0, 60).Draw(t, "pipelines"))
		held := map[string]string{}
		for range 6 {
			members := live("alive ")
			next := assign(members, pipelines, held)
			if len(next) != len(pipelines) {
				t.Fatalf("%d of %d pipelines are assigned", len(next), len(pipelines))
			}
			balanced(t, members, next)
			if again := assign(members, pipelines, next); !maps.Equal(next, again) {
				t.Fatalf("not stable:\n%v\n%v", next, again)
			}
			held = next
			if n := rapid.IntRange(0, 60).Draw(t, "now"); n != len(pipelines) {
				pipelines = names("p", n)
				maps.DeleteFunc(held, func(p, _ string) bool { return !slices.Contains(pipelines, p) })
			}
		}
	})
	if assign(nil, []string{"p"}, nil) != nil {
		t.Error("nobody has it")
	}
}
