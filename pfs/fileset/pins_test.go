package fileset

import (
	"context"
	"testing"
	"testing/synctest"
)

// nothingPinned implements Pins.
type nothingPinned struct{}

func (nothingPinned) Pin(context.Context, string) error { return nil }
func (nothingPinned) Err() error                        { return nil }
func (nothingPinned) Release()                          {}

// TestWriter_LayerHasPinsOfChunksThatCameLate has a chunk pinned after the layer
// that refers to it was put together.
func TestWriter_LayerHasPinsOfChunksThatCameLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pin := make(chan struct{})
		s, _ := newStorage(t, Options{NewPins: func() Pins {
			<-pin
			return nothingPinned{}
		}})
		w := s.NewWriter(t.Context())
		defer w.Abort()
		if err := w.Append("/f", "default", make([]byte, 2*maxInlineData)); err != nil {
			t.Fatal(err)
		}
		finished := make(chan []*Layer, 1)
		go func() {
			layers, err := w.Finish()
			if err != nil {
				t.Error(err)
			}
			finished <- layers
		}()
		synctest.Wait()
		close(pin)
		if layers := <-finished; len(layers) != 1 || layers[0].Pins == nil {
			t.Errorf("%+v", layers)
		}
	})
}
