package store

import (
	"testing"
	"time"
)

// TestSpace_ARemoteEtcdIsAskedAgainAfterManyBytes: not only when the interval is over.
func TestSpace_ARemoteEtcdIsAskedAgainAfterManyBytes(t *testing.T) {
	own, err := Open(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	s, err := Open(t.Context(), Config{Endpoints: []string{own.etcd.Config().ListenClientUrls[0].String()}, SpaceInterval: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	was := s.seenSpace.Load()
	asked := func() bool {
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) { // paces the looks only
			if now := s.seenSpace.Load(); now != was {
				was = now
				return true
			}
		}
		return false
	}
	if !asked() || was.Bytes == 0 {
		t.Fatalf("at the start its size is not known: %+v", was)
	}
	put := func(n int) {
		t.Helper()
		if _, err := s.Update(t.Context(), func(tx *Txn) error {
			tx.Put("key", make([]byte, n))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	put(growth / 16)
	if now := s.seenSpace.Load(); now != was {
		t.Error("it was asked again after few bytes")
	}
	put(growth / 16)
	put(1)
	if !asked() {
		t.Error("it was not asked again after many bytes")
	}
}
