package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/minipachd/minipachd/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func update(t *testing.T, s *store.Store, fn func(tx *store.Txn)) {
	t.Helper()
	if _, err := s.Update(t.Context(), func(tx *store.Txn) error { fn(tx); return nil }); err != nil {
		t.Fatal(err)
	}
}

func keys(t *testing.T, tx *store.Txn, prefix string, opt store.ScanOptions) []string {
	t.Helper()
	var all []string
	for kv, err := range tx.Scan(prefix, opt) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, kv.Key)
	}
	return all
}

// TestOpen_SaysNothingWhenNothingIsWrong: a first start, a stop and a second
// start are no occasion for errors of etcd in the log.
func TestOpen_SaysNothingWhenNothingIsWrong(t *testing.T) {
	core, logged := observer.New(zap.DebugLevel)
	dir := t.TempDir()
	for range 2 {
		s, err := store.Open(t.Context(), store.Config{Dir: dir, Logger: zap.New(core)})
		if err != nil {
			t.Fatal(err)
		}
		update(t, s, func(tx *store.Txn) { tx.Put("n", []byte("0")) })
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range logged.All() {
		t.Errorf("logged %s: %s %v", e.Level, e.Message, e.ContextMap())
	}
}

func TestTxn_RetriesOnConflictWithSameDecisions(t *testing.T) {
	s := open(t, t.TempDir())
	update(t, s, func(tx *store.Txn) { tx.Put("n", []byte("0")) })
	var ids []string
	var times []time.Time
	deferred := 0
	_, err := s.Update(t.Context(), func(tx *store.Txn) error {
		ids = append(ids, tx.NewID()+tx.NewID())
		times = append(times, tx.Now())
		tx.Defer(func() { deferred++ })
		if _, _, err := tx.Get("n"); err != nil {
			return err
		}
		if len(ids) < 3 { // somebody else is faster, twice
			update(t, s, func(other *store.Txn) { other.Put("n", fmt.Append(nil, len(ids))) })
		}
		tx.Put("copy", []byte("x"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(ids) != 3 || ids[0] != ids[1] || ids[1] != ids[2] || len(ids[0]) != 64 || ids[0][12] != '4' {
		t.Errorf("ids of the attempts: %q", ids)
	}
	if !times[0].Equal(times[2]) || deferred != 1 {
		t.Errorf("times %v, deferred %d times", times, deferred)
	}
}

func TestTxn_SnapshotAndOwnWrites(t *testing.T) {
	s := open(t, t.TempDir())
	update(t, s, func(tx *store.Txn) {
		for i := range 1200 { // several pages
			tx.Put(fmt.Sprintf("a/%04d", i), []byte("v"))
		}
		tx.Put("b/1", nil)
	})
	if err := s.View(t.Context(), func(tx *store.Txn) error {
		if v, ok, err := tx.Get("b/1"); !ok || len(v) != 0 || err != nil {
			t.Errorf("empty value: %q %v %v", v, ok, err)
		}
		update(t, s, func(other *store.Txn) { other.Delete("a/0001"); other.Put("a/9999", nil) })
		if n := len(keys(t, tx, "a/", store.ScanOptions{})); n != 1200 {
			t.Errorf("the snapshot has %d keys", n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *store.Txn) {
		tx.DeletePrefix("a/0")
		tx.Put("a/0500", []byte("again"))
		tx.Put("a/5", nil)
		tx.Delete("a/1199")
		if v, ok, _ := tx.Get("a/0500"); !ok || string(v) != "again" {
			t.Errorf("own write: %q %v", v, ok)
		}
		if _, ok, _ := tx.Get("a/0400"); ok {
			t.Error("a deleted prefix is still there")
		}
		got := keys(t, tx, "a/", store.ScanOptions{Reverse: true, Limit: 3})
		if want := []string{"a/9999", "a/5", "a/1198"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		got = keys(t, tx, "a/", store.ScanOptions{From: "a/0100", To: "a/1001"})
		if want := []string{"a/0500", "a/1000"}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
	if err := s.View(t.Context(), func(tx *store.Txn) error {
		if n := len(keys(t, tx, "a/", store.ScanOptions{})); n != 1+1+199+1 {
			t.Errorf("%d keys are left", n)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// A scan with Check is a promise about the range: additions and removals by
// others make the transaction run again.
func TestTxn_CheckedScanSeesPhantoms(t *testing.T) {
	for name, change := range map[string]func(*store.Txn){
		"added":   func(tx *store.Txn) { tx.Put("r/2", nil) },
		"removed": func(tx *store.Txn) { tx.Delete("r/1") },
		"changed": func(tx *store.Txn) { tx.Put("r/1", []byte("new")) },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			update(t, s, func(tx *store.Txn) { tx.Put("r/1", nil) })
			attempts := 0
			update(t, s, func(tx *store.Txn) {
				attempts++
				keys(t, tx, "r/", store.ScanOptions{Check: true})
				if attempts == 1 {
					update(t, s, change)
				}
				tx.Put("done", nil)
			})
			if attempts != 2 {
				t.Errorf("%d attempts, want 2", attempts)
			}
		})
	}
}

func TestOpen_RestartKeepsDataAndDirectoryIsExclusive(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(t.Context(), store.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *store.Txn) { tx.Put("k", []byte("v")) })
	var inUse *store.InUseError
	if _, err := store.Open(t.Context(), store.Config{Dir: dir}); !errors.As(err, &inUse) {
		t.Errorf("second open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if err := s.View(t.Context(), func(tx *store.Txn) error {
		v, ok, err := tx.Get("k")
		if string(v) != "v" || !ok {
			t.Errorf("after the restart: %q %v", v, ok)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestTxn_LeaseFencesAndLimits(t *testing.T) {
	s := open(t, t.TempDir())
	lease, err := s.NewLease(t.Context(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx *store.Txn) { tx.PutLease("owner", []byte("me"), lease.ID()) })
	write := func() error {
		_, err := s.Update(t.Context(), func(tx *store.Txn) error {
			tx.CompareLease(lease.ID(), "owner")
			tx.Put("decision", nil)
			return nil
		})
		return err
	}
	if err := write(); err != nil {
		t.Fatal(err)
	}
	if err := lease.Close(); err != nil {
		t.Fatal(err)
	}
	<-lease.Done()
	if err := write(); !errors.Is(err, store.ErrLeaseLost) {
		t.Errorf("write after the lease ended: %v", err)
	}
	var tooLarge *store.TooLargeError
	if _, err := s.Update(t.Context(), func(tx *store.Txn) error {
		tx.Put("big", make([]byte, 5<<20))
		return nil
	}); !errors.As(err, &tooLarge) {
		t.Errorf("5 MiB: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Update(gone, func(tx *store.Txn) error { _, _, err := tx.Get("k"); return err }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A watch that falls behind a compaction lists anew and reports what it missed,
// deletions too.
func TestWatch_SurvivesCompaction(t *testing.T) {
	s := open(t, t.TempDir())
	c := store.NewCollection[*wrapperspb.StringValue]("w/")
	put := func(key, value string) {
		if _, err := s.Update(t.Context(), func(tx *store.Txn) error { return c.Put(tx, key, wrapperspb.String(value)) }); err != nil {
			t.Fatal(err)
		}
	}
	put("a", "1")
	put("b", "1")
	events := make(chan store.Event[*wrapperspb.StringValue])
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- c.Watch(ctx, s, "", func(e store.Event[*wrapperspb.StringValue]) error {
			select {
			case events <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			select {
			case e := <-events:
				got := e.Key + "=" + e.Value.GetValue()
				if e.Deleted {
					got = e.Key + " deleted"
				}
				if e.Synced {
					got = "synced"
				}
				if got != w {
					t.Fatalf("got %s, want %s", got, w)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("no event, want %s", w)
			}
		}
	}
	expect("a=1", "b=1", "synced")
	put("a", "2")
	expect("a=2")
	if _, err := s.Update(t.Context(), func(tx *store.Txn) error {
		c.Delete(tx, "b")
		return c.Put(tx, "c", wrapperspb.String("1"))
	}); err != nil {
		t.Fatal(err)
	}
	expect("b deleted", "c=1")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v", err)
	}

	// The list that a watch starts from is compacted away before it follows on.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	first := true
	go func() {
		done <- c.Watch(ctx, s, "", func(e store.Event[*wrapperspb.StringValue]) error {
			if e.Synced && first {
				first = false
				put("d", "1")
				update(t, s, func(tx *store.Txn) { c.Delete(tx, "a") })
				put("e", "1")
				resp, err := s.Client().Get(ctx, "x")
				if err != nil {
					return err
				}
				if _, err := s.Client().Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
					return err
				}
			}
			events <- e
			return nil
		})
	}()
	expect("a=2", "c=1", "synced", "d=1", "e=1", "a deleted", "synced")
	cancel()
	<-done
}

func BenchmarkTxn(b *testing.B) {
	s, err := store.Open(b.Context(), store.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	value := make([]byte, 500)
	b.Run("raw two puts", func(b *testing.B) {
		for i := range b.N {
			if _, err := s.Client().Txn(b.Context()).Then(
				clientv3.OpPut(fmt.Sprint("raw/", i), string(value)), clientv3.OpPut("raw", string(value))).Commit(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Update two gets three puts", func(b *testing.B) {
		for i := range b.N {
			if _, err := s.Update(b.Context(), func(tx *store.Txn) error {
				if _, err := tx.GetMulti([]string{"head", "parent"}, false); err != nil {
					return err
				}
				tx.Put("head", value)
				tx.Put(fmt.Sprint("commit/", i), value)
				tx.Put(fmt.Sprint("id/", i), nil)
				return nil
			}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestQuota_RefusesDataAndRecoversByItself fills the embedded database, once up
// to the point where data is refused and once to etcd's own alarm: deleting goes
// on in both, and afterwards there is room again without a restart.
func TestQuota_RefusesDataAndRecoversByItself(t *testing.T) {
	s, err := store.Open(t.Context(), store.Config{Dir: t.TempDir(), QuotaBytes: 100 << 20, ReliefPause: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	value := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
	// A slow machine may make etcd give up on a write: it is tried again.
	write := func(fn func(tx *store.Txn)) error {
		for {
			if _, err := s.Update(t.Context(), func(tx *store.Txn) error { fn(tx); return nil }); status.Code(err) != codes.Unavailable {
				return err
			}
		}
	}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	fill := func(heedRoom bool) error {
		for i := 0; ; i++ {
			if err := s.Room(); heedRoom && err != nil {
				return err
			}
			if err := write(func(tx *store.Txn) { tx.Put(fmt.Sprintf("data/%06d", i), value) }); err != nil {
				return err
			}
		}
	}
	for _, heedRoom := range []bool{true, false} {
		err := fill(heedRoom)
		var full *store.FullError
		if !errors.As(err, &full) || status.Code(err) != codes.ResourceExhausted {
			t.Fatalf("full with heed %v: %v", heedRoom, err)
		}
		if alarmed := errors.Is(err, rpctypes.ErrNoSpace); alarmed == heedRoom {
			t.Errorf("etcd's own alarm: %v, with heed %v", alarmed, heedRoom)
		}
		if heedRoom {
			must(write(func(tx *store.Txn) { tx.Put("mark", []byte("a deletion may write a little")) }))
		}
		must(write(func(tx *store.Txn) { tx.DeletePrefix("data/") }))
		for s.Room() != nil { // each try asks for room; it is made in the background
			if t.Context().Err() != nil {
				t.Fatal("no room was made")
			}
			time.Sleep(10 * time.Millisecond)
		}
		for {
			if err = write(func(tx *store.Txn) { tx.Put("again", value) }); !errors.As(err, &full) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		must(err)
	}
}
