package scheduler

import (
	"cmp"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// assign decides which daemon runs which pipeline. Pipelines stay with the daemon
// that holds them, if it is alive; only what no live daemon holds is given away,
// and only when a daemon has more than 10 % too many or too few do others give up
// what they have beyond their share. All daemons that see the same decide the same.
//
// What is free goes to those with less than their share, and among these to the one
// with the highest hash together with the pipeline's name (rendezvous hashing;
// Thaler and Ravishankar, 1998).
//
// Both slices must be sorted and free of duplicates. Without members nothing is
// assigned.
func assign(members, pipelines []string, held map[string]string) map[string]string {
	if len(members) == 0 {
		return nil
	}
	a := &assignment{hashes: make([]uint64, len(members)), loads: make([]int, len(members)), of: make(map[string]int, len(pipelines))}
	for m, name := range members {
		a.hashes[m] = xxhash.Sum64String(name)
	}
	var free []string
	for _, p := range pipelines {
		if m, ok := slices.BinarySearch(members, held[p]); ok {
			a.give(p, m)
		} else {
			free = append(free, p)
		}
	}
	n := len(pipelines)
	a.low, a.high = n/len(members), (n+len(members)-1)/len(members)
	a.place(free)
	if a.uneven(n) {
		a.place(a.takeBack(pipelines))
	}
	result := make(map[string]string, n)
	for p, m := range a.of {
		result[p] = members[m]
	}
	return result
}

// assignment is one that is being made.
type assignment struct {
	hashes    []uint64 // of the daemons' names
	loads     []int
	of        map[string]int
	low, high int // a daemon's share, rounded down and up
}

// affinity is how well a pipeline, given by the hash of its name, suits a daemon.
func (a *assignment) affinity(member int, pipeline uint64) uint64 {
	// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014).
	x := a.hashes[member] ^ pipeline
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func (a *assignment) give(pipeline string, member int) {
	a.of[pipeline] = member
	a.loads[member]++
}

// place gives pipelines to the daemons that have less than their share.
func (a *assignment) place(free []string) {
	for _, limit := range []int{a.low, a.high} {
		left := free[:0:0]
		for _, p := range free {
			best, score, hash := -1, uint64(0), xxhash.Sum64String(p)
			for m, load := range a.loads {
				if s := a.affinity(m, hash); load < limit && (best < 0 || s > score) {
					best, score = m, s
				}
			}
			if best < 0 {
				left = append(left, p)
				continue
			}
			a.give(p, best)
		}
		free = left
	}
	// More than all shares together there cannot be.
}

// uneven tells whether a daemon is more than a tenth away from its share.
func (a *assignment) uneven(n int) bool {
	tenths := 10 * len(a.loads)
	most, least := max(a.high, n*11/tenths), min(a.low, (n*9+tenths-1)/tenths)
	return slices.ContainsFunc(a.loads, func(load int) bool { return load > most || load < least })
}

// takeBack takes what daemons have beyond their share, what suits them least first,
// and as much more as others lack for theirs.
func (a *assignment) takeBack(pipelines []string) []string {
	lists := make([][]string, len(a.loads))
	for _, p := range pipelines {
		lists[a.of[p]] = append(lists[a.of[p]], p)
	}
	lack := 0
	for m, list := range lists {
		lack += max(0, a.low-len(list))
		slices.SortStableFunc(list, func(x, y string) int {
			return cmp.Compare(a.affinity(m, xxhash.Sum64String(x)), a.affinity(m, xxhash.Sum64String(y)))
		})
	}
	var back []string
	take := func(limit int, enough func() bool) {
		for m := range lists {
			for len(lists[m]) > limit && !enough() {
				back = append(back, lists[m][0])
				delete(a.of, lists[m][0])
				a.loads[m]--
				lists[m] = lists[m][1:]
			}
		}
	}
	take(a.high, func() bool { return false })
	take(a.low, func() bool { return len(back) >= lack })
	slices.Sort(back)
	return back
}
