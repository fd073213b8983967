package server

// AccessNeeds gives the names of the permissions that the table of accesses has for
// each method.
func AccessNeeds() map[string][]string {
	needs := map[string][]string{}
	for method, a := range accessTable {
		needs[method] = []string{}
		for _, perm := range append(a.asks[:len(a.asks):len(a.asks)], a.perm) {
			if perm != 0 {
				needs[method] = append(needs[method], perm.String())
			}
		}
	}
	return needs
}
