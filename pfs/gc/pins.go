package gc

import (
	"context"
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/pfs/chunk"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// LostError reports that an object which a writer had pinned was swept while this
// daemon was cut off from etcd: what the writer wrote is incomplete.
type LostError struct{ Key string }

func (e *LostError) Error() string {
	return fmt.Sprintf("the daemon was cut off from etcd while this was written, and %s has been swept since: write it again", e.Key)
}

// GRPCStatus makes it Unavailable: the same request may well succeed.
func (e *LostError) GRPCStatus() *status.Status { return status.New(codes.Unavailable, e.Error()) }

// table is what one daemon's writers rely on, and what a sweep is about to delete.
type table struct {
	mu      sync.Mutex
	session *session             // nil while there is none that vouches for the pins
	changed chan struct{}        // closed, and replaced, when session or condemned change
	pinned  map[chunk.Hash]int32 // how many pins there are on an object
	keys    map[chunk.Hash]string
	holders map[*Pins]struct{}
	// What follows belongs to the sweep under way.
	run       string
	step      uint64
	recent    *filter // what was released since the sweep began; nil outside of one
	kept      []string
	condemned map[chunk.Hash]struct{}
}

// session is one membership: as long as key hangs on lease, sweeps ask this daemon.
type session struct {
	lease   clientv3.LeaseID
	key     string
	trusted bool // guarded by table.mu: transactions may have relied on it
}

// recentObjects is how many objects written during one sweep the filter of
// released pins is made for.
const recentObjects = 512 << 10

func newTable() *table {
	return &table{
		changed: make(chan struct{}),
		pinned:  map[chunk.Hash]int32{}, keys: map[chunk.Hash]string{}, holders: map[*Pins]struct{}{},
	}
}

// name is how the table calls an object: a chunk by its hash, others by that of
// their key, which it then has to remember.
func name(key string) (h chunk.Hash, isChunk bool) {
	if h, ok := chunk.ParseKey(key); ok {
		return h, true
	}
	return chunk.Sum([]byte(key)), false
}

func (t *table) broadcast() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// Pins are those of one writer. They implement fileset.Pins.
type Pins struct {
	t *table
	// Guarded by t.mu.
	names    []chunk.Hash
	err      error
	released bool
}

// Pin implements chunk.Pinner. It also waits while the daemon has no session in
// etcd, since nobody would then respect the pin.
func (p *Pins) Pin(ctx context.Context, key string) error {
	h, isChunk := name(key)
	for {
		p.t.mu.Lock()
		if p.err != nil || p.released {
			err := p.err
			p.t.mu.Unlock()
			if err == nil {
				err = fmt.Errorf("pin %s: the pins were released", key)
			}
			return err
		}
		_, condemned := p.t.condemned[h]
		if p.t.session != nil && !condemned {
			p.t.holders[p] = struct{}{}
			p.t.pinned[h]++
			p.names = append(p.names, h)
			if !isChunk {
				p.t.keys[h] = key
			}
			p.t.mu.Unlock()
			return nil
		}
		changed := p.t.changed
		p.t.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for the sweep of %s: %w", key, context.Cause(ctx))
		}
	}
}

// Err implements fileset.Pins.
func (p *Pins) Err() error {
	p.t.mu.Lock()
	defer p.t.mu.Unlock()
	return p.err
}

// Release implements fileset.Pins. Whether the writer has stored what it wrote makes
// no difference here: a sweep under way may not have seen it.
func (p *Pins) Release() {
	t := p.t
	t.mu.Lock()
	defer t.mu.Unlock()
	p.released = true
	delete(t.holders, p)
	for _, h := range p.names {
		if t.recent != nil {
			t.recent.add(h)
		}
		if t.pinned[h]--; t.pinned[h] == 0 {
			delete(t.pinned, h)
			delete(t.keys, h)
		}
	}
	p.names = nil
}

// holds tells whether a writer here has the object pinned.
func (t *table) holds(h chunk.Hash) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pinned[h] > 0
}

// install takes in the state of the sweep and returns which keys of its batch have
// to be kept. From when it returns until a later call, Pin of any other key of the
// batch waits. It may be called again with the same state.
func (t *table) install(run *recordpb.GarbageRun) (kept []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	defer t.broadcast()
	t.condemned = nil
	if !run.GetOpen() {
		t.run, t.step, t.recent, t.kept = "", 0, nil, nil
		return nil
	}
	if t.run != run.GetId() {
		// What was released before this daemon answers the first step is in the
		// records that the sweep reads after it.
		t.recent = newFilter(recentObjects)
	}
	// The answer to a step is given once: the filter may claim more by now.
	if t.run != run.GetId() || t.step != run.GetStep() {
		t.kept = nil
		for _, key := range run.GetCondemned() {
			if h, _ := name(key); t.pinned[h] > 0 || t.recent.has(h) {
				t.kept = append(t.kept, key)
			}
		}
	}
	t.run, t.step = run.GetId(), run.GetStep()
	t.condemned = make(map[chunk.Hash]struct{}, len(run.GetCondemned()))
	for _, key := range run.GetCondemned() {
		h, _ := name(key)
		t.condemned[h] = struct{}{}
	}
	if !run.GetDeleting() { // when it is, what was kept is left out already
		for _, key := range t.kept {
			h, _ := name(key)
			delete(t.condemned, h)
		}
	}
	return t.kept
}

// sweeping gives the id of the sweep under way, as far as is known here.
func (t *table) sweeping() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.run
}

// drop ends the trust in a session, which may be over already; nil drops any.
func (t *table) drop(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.session != nil && (s == nil || t.session == s) {
		t.session = nil
		t.broadcast()
	}
}

// trust makes a session the one that vouches for the pins.
func (t *table) trust(s *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.session, s.trusted = s, true
	t.broadcast()
}

// over tells whether a session was trusted once and is no longer.
func (t *table) over(s *session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return s.trusted && t.session != s
}

func (t *table) current() (*session, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.session, t.changed
}

// revalidate finds out, after a new session has begun, which of the pins of before
// still hold, and breaks the others. From the beginning of the session on sweeps
// respect them, so what exists now stays.
func (t *table) revalidate(ctx context.Context, exists func(ctx context.Context, key string) (bool, error)) error {
	t.mu.Lock()
	doubtful := make([]chunk.Hash, 0, len(t.pinned))
	for h := range t.pinned {
		doubtful = append(doubtful, h)
	}
	t.mu.Unlock()
	for _, h := range doubtful {
		key, err := t.settled(ctx, h)
		if err != nil {
			return err
		}
		if key == "" {
			continue // released meanwhile
		}
		ok, err := exists(ctx, key)
		if err != nil {
			return err
		}
		if !ok {
			t.breakPins(h, key)
		}
	}
	return nil
}

// settled waits until an object is not being deleted and returns its key, "" if
// nobody holds it any longer.
func (t *table) settled(ctx context.Context, h chunk.Hash) (string, error) {
	for {
		t.mu.Lock()
		_, condemned := t.condemned[h]
		key, held := t.keys[h], t.pinned[h] > 0
		changed := t.changed
		t.mu.Unlock()
		switch {
		case !held:
			return "", nil
		case condemned:
		case key == "":
			return h.Key(), nil
		default:
			return key, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// breakPins fails the writers that hold an object. The object may merely not have
// been written yet; its writer then has to begin anew all the same.
func (t *table) breakPins(h chunk.Hash, key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p := range t.holders {
		for _, n := range p.names {
			if n == h {
				p.err = &LostError{Key: key}
				break
			}
		}
	}
}
