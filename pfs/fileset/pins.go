package fileset

import (
	"context"
	"sync"

	"github.com/minipachd/minipachd/pfs/chunk"
)

// Pins keep objects in the bucket from being swept for the writer of a layer.
type Pins interface {
	chunk.Pinner
	// Err tells why something that was pinned may be gone; nil while all is safe.
	Err() error
	// Release lets go of everything; later calls do nothing.
	Release()
}

// held are the pins of one writer, made when the first is needed: most layers need
// nothing in the bucket.
type held struct {
	make func() Pins
	once sync.Once

	mu   sync.Mutex
	pins Pins
}

// Pin implements chunk.Pinner.
func (h *held) Pin(ctx context.Context, key string) error {
	if h.make == nil {
		return nil
	}
	h.once.Do(func() {
		p := h.make()
		h.mu.Lock()
		defer h.mu.Unlock()
		h.pins = p
	})
	return h.used().Pin(ctx, key)
}

// used gives the pins, nil if none was needed so far.
func (h *held) used() Pins {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.pins
}

func (h *held) release() {
	if p := h.used(); p != nil {
		p.Release()
	}
}
