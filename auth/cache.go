package auth

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// State of auth as far as this daemon knows.
const (
	unknown int32 = iota // nothing has been read yet
	off
	on
)

// cache holds every access record, fed by a watch. It is behind etcd by the time
// that an event takes, and empty until the first listing.
type cache struct {
	roles roles
	state atomic.Int32

	mu       sync.RWMutex
	tokens   map[string]*authpb.TokenInfo // by hash
	bindings map[string]*compiled         // by key
	members  map[string][]string          // groups by subject
	rev      int64                        // everything up to it is known
	passed   chan struct{}                // closed when rev grows
	feeding  bool                         // the watch runs
}

// compiled is a binding, with the permissions that each principal has by it.
type compiled struct {
	*authpb.RoleBinding
	grants map[string]*permissions
}

func newCache(r roles) *cache {
	return &cache{
		roles: r, tokens: map[string]*authpb.TokenInfo{}, bindings: map[string]*compiled{},
		members: map[string][]string{}, passed: make(chan struct{}),
	}
}

// apply takes in one event. changed tells which token it was about, all that
// everything is to be looked at again.
func (c *cache) apply(e store.Event[*recordpb.AccessRecord]) (changed string, all bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch name := e.Key; {
	case e.Synced:
		c.feeding = true
		if c.state.CompareAndSwap(unknown, off) {
			all = true
		}
	case name == activationKey:
		state := on
		if e.Deleted {
			state = off
		}
		all = c.state.Swap(state) != state
	case strings.HasPrefix(name, tokenPrefix):
		hash := name[len(tokenPrefix):]
		if e.Deleted {
			delete(c.tokens, hash)
		} else {
			c.tokens[hash] = e.Value.GetToken()
		}
		changed = name
	case strings.HasPrefix(name, bindingPrefix):
		if e.Deleted {
			delete(c.bindings, name)
		} else {
			c.bindings[name] = c.compile(e.Value.GetBinding())
		}
	case strings.HasPrefix(name, groupsPrefix):
		subject := name[len(groupsPrefix):]
		if e.Deleted {
			delete(c.members, subject)
		} else {
			c.members[subject] = membership(e.Value.GetGroups())
		}
	}
	if e.Known > c.rev {
		c.rev = e.Known
		close(c.passed)
		c.passed = make(chan struct{})
	}
	return changed, all
}

func (c *cache) compile(b *authpb.RoleBinding) *compiled {
	grants := make(map[string]*permissions, len(b.GetEntries()))
	for principal, to := range b.GetEntries() {
		g := granted{roles: map[string]bool{}}
		c.roles.grantAll(&g, to)
		grants[principal] = &g.permissions
	}
	return &compiled{RoleBinding: b, grants: grants}
}

// token gives what is known of a token, nil if nothing is.
func (c *cache) token(hash string) *authpb.TokenInfo {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.tokens[hash]
}

// allowed tells whether the subject has all permissions, as far as is known, as
// roles.evaluate would find.
func (c *cache) allowed(subject string, res Resource, perms []authpb.Permission) bool {
	var got permissions
	if res.Type == authpb.ResourceType_SPEC_REPO {
		got = c.roles[RoleRepoReader].grants
		if got.hasAll(perms) {
			return true
		}
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	groups := c.members[subject]
	chain, n := res.chain()
	for _, r := range chain[:n] {
		b := c.bindings[bindingKey(r)]
		if b == nil {
			continue
		}
		if p := b.grants[subject]; p != nil {
			got.addAll(p)
		}
		if p := b.grants[AllClusterUsers]; p != nil {
			got.addAll(p)
		}
		for _, name := range groups {
			if p := b.grants[name]; p != nil {
				got.addAll(p)
			}
		}
		if got.hasAll(perms) {
			return true
		}
	}
	return false
}

// boundTo gives the keys of the bindings in which a principal has roles.
func (c *cache) boundTo(principal string) (keys []string) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for key, b := range c.bindings {
		if b.grants[principal] != nil {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// await returns once everything up to a revision is known here, or cannot be
// expected to be soon.
func (c *cache) await(done <-chan struct{}, rev int64) {
	timeout := time.NewTimer(awaitAtMost)
	defer timeout.Stop()
	for {
		c.mu.RLock()
		known, passed := c.rev >= rev || !c.feeding, c.passed
		c.mu.RUnlock()
		if known {
			return
		}
		select {
		case <-passed:
		case <-done:
			return
		case <-timeout.C:
			return
		}
	}
}

// awaitAtMost bounds how long an answer waits for this daemon's own memory.
const awaitAtMost = 2 * time.Second
