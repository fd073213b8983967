package server_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

var gcSoak = flag.Duration("gc.soak", 3*time.Second, "how long the garbage collection soak runs")

// soakRound is the longest time between two kills.
const soakRound = 8 * time.Second

// soak is what survives the daemon: what its clients know.
type soak struct {
	t     *testing.T
	pool  [][]byte // contents: few, so that garbage is used again all the time
	files map[string]map[string]soakFile
	ops   atomic.Int64
}

// soakFile is what a file must be: the content that was acknowledged last, or the
// one that a broken call may have left.
type soakFile struct{ acked, doubtful int }

const absent = -1

// TestGCSoak_NothingIsLost lets writers, readers and deleters share few contents
// while garbage is collected all the time with hardly any grace, and kills the
// daemon in between. After each restart everything acknowledged reads back and a
// deep fsck is clean; at the end nothing is left in the bucket but what is in use.
func TestGCSoak_NothingIsLost(t *testing.T) {
	dir := t.TempDir()
	s := &soak{t: t, files: map[string]map[string]soakFile{}}
	for i := range 12 {
		data := make([]byte, 30<<10<<(i%6)) // 30 KiB to 960 KiB
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(data)
		s.pool = append(s.pool, data)
	}
	pachdBinary(t) // builds it, before the time begins to count
	end := time.Now().Add(*gcSoak)
	args := []string{"--gc-interval", "50ms", "--gc-grace", "20ms", "--log-level", "info"}
	removed, rounds := 0, 0
	for ; rounds == 0 || time.Now().Before(end); rounds++ {
		p := startPachd(t, dir, args...)
		pfs, _, _ := dial(t, p.addr)
		if rounds > 0 {
			s.check(pfs)
		}
		length := time.Duration(0.5 * float64(min(soakRound, *gcSoak)) * (0.5 + rand.Float64()))
		s.round(pfs, length, p.kill)
		removed += bytes.Count([]byte(p.log.String()), []byte(`"msg":"garbage collected"`))
		if t.Failed() {
			t.Fatalf("round %d:\n%s", rounds, p.log.String())
		}
	}
	p := startPachd(t, dir, args...)
	pfs, _, _ := dial(t, p.addr)
	s.check(pfs)
	ctx := within(t)
	if _, err := pfs.DeleteAll(ctx, &emptypb.Empty{}); err != nil {
		t.Fatal(err)
	}
	for n := -1; n != 0; time.Sleep(10 * time.Millisecond) { // until the collections of 50 ms are done
		if n = objectsIn(t, dir); n != 0 && ctx.Err() != nil {
			t.Fatalf("%d objects are never collected\n%s", n, p.log.String())
		}
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if removed == 0 {
		t.Error("no collection was finished")
	}
	t.Logf("%d rounds, %d operations, %d collections", rounds, s.ops.Load(), removed)
}

// objectsIn counts the chunks and layers in a data directory.
func objectsIn(t *testing.T, dir string) (n int) {
	t.Helper()
	for _, pattern := range []string{"chunk/*/*", "layer/*/*"} {
		found, err := filepath.Glob(filepath.Join(dir, "objects", pattern))
		if err != nil {
			t.Fatal(err)
		}
		n += len(found)
	}
	return n
}

// round lets everybody work for a while and kills the daemon in the midst of it.
func (s *soak) round(pfs pfspb.APIClient, length time.Duration, kill func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	var wg sync.WaitGroup
	work := func(one func(ctx context.Context, r *rand.Rand) error) {
		r := rand.New(rand.NewPCG(rand.Uint64(), 0))
		wg.Go(func() {
			for ctx.Err() == nil {
				err := one(ctx, r)
				if dead := status.Code(err); err != nil && (dead == codes.Unavailable || dead == codes.Canceled) && (ctx.Err() != nil || !s.answers(ctx, pfs)) {
					return
				}
				if err != nil {
					s.t.Errorf("%v (code %v)", err, status.Code(err))
					return
				}
				s.ops.Add(1)
			}
		})
	}
	for i := range 3 {
		repo := fmt.Sprintf("writer%d", i)
		if s.files[repo] == nil {
			s.files[repo] = map[string]soakFile{}
		}
		files := s.files[repo]
		work(func(ctx context.Context, r *rand.Rand) error { return s.write(ctx, pfs, r, repo, files, i == 2) })
	}
	work(func(ctx context.Context, r *rand.Rand) error { return s.comeAndGo(ctx, pfs, r) })
	for _, one := range []func(context.Context, pfspb.APIClient, *rand.Rand) error{s.clear, s.squash, s.drop} {
		work(func(ctx context.Context, r *rand.Rand) error { return one(ctx, pfs, r) })
	}
	timer := time.NewTimer(length)
	<-timer.C
	kill()
	cancel()
	wg.Wait()
}

// answers tells whether the daemon is alive.
func (s *soak) answers(ctx context.Context, pfs pfspb.APIClient) bool {
	_, err := pfs.InspectProject(ctx, &pfspb.InspectProjectRequest{Project: &pfspb.Project{Name: "default"}})
	return err == nil
}

func ensureRepo(ctx context.Context, pfs pfspb.APIClient, name string) error {
	_, err := pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo(name)})
	if status.Code(err) == codes.AlreadyExists {
		return nil
	}
	return err
}

// write replaces, deletes or copies one file of its own repo, and reads another.
// A slow one takes its time in the middle of the stream.
func (s *soak) write(ctx context.Context, pfs pfspb.APIClient, r *rand.Rand, name string, files map[string]soakFile, slow bool) error {
	if err := ensureRepo(ctx, pfs, name); err != nil {
		return err
	}
	path := fmt.Sprintf("/f%d", r.IntN(6))
	was := files[path]
	if _, ok := files[path]; !ok {
		was = soakFile{absent, absent}
	}
	next := r.IntN(len(s.pool)+1) - 1
	msgs := []*pfspb.ModifyFileRequest{{Body: &pfspb.ModifyFileRequest_DeleteFile{DeleteFile: &pfspb.DeleteFile{Path: path}}}}
	from := fmt.Sprintf("/f%d", r.IntN(6))
	if src, ok := files[from]; ok && src.acked != absent && src.acked == src.doubtful && from != path && r.IntN(4) == 0 {
		next = src.acked
		msgs = append(msgs, &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_CopyFile{CopyFile: &pfspb.CopyFile{
			Dst: path, Src: &pfspb.File{Commit: head(name), Path: from},
		}}})
	} else if next != absent {
		data := s.pool[next]
		for half := range 2 {
			piece := data[half*len(data)/2 : (half+1)*len(data)/2]
			msgs = append(msgs, &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{
				Path: path, Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes(piece)},
			}}})
		}
	}
	files[path] = soakFile{was.acked, next}
	if err := s.modify(ctx, pfs, name, msgs, slow); err != nil {
		return fmt.Errorf("write %s:%s: %w", name, path, err)
	}
	files[path] = soakFile{next, next}
	return s.read(ctx, pfs, name, path, files[path])
}

func (s *soak) modify(ctx context.Context, pfs pfspb.APIClient, name string, msgs []*pfspb.ModifyFileRequest, slow bool) error {
	stream, err := pfs.ModifyFile(ctx)
	if err != nil {
		return err
	}
	first := &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: head(name)}}
	for i, m := range append([]*pfspb.ModifyFileRequest{first}, msgs...) {
		if slow && i > 1 {
			select {
			case <-time.After(150 * time.Millisecond): // several collections
			case <-ctx.Done():
			}
		}
		if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	_, err = stream.CloseAndRecv()
	return err
}

// read compares a file with what it must be.
func (s *soak) read(ctx context.Context, pfs pfspb.APIClient, name, path string, want soakFile) error {
	got, err := get(ctx, pfs, name, path)
	absentNow := status.Code(err) == codes.NotFound
	if err != nil && !absentNow {
		return fmt.Errorf("read %s:%s: %w", name, path, err)
	}
	for _, k := range []int{want.acked, want.doubtful} {
		if k == absent && absentNow || k != absent && !absentNow && bytes.Equal(got, s.pool[k]) {
			return nil
		}
	}
	s.t.Errorf("%s:%s has %d bytes (absent: %t), want content %d or %d", name, path, len(got), absentNow, want.acked, want.doubtful)
	return nil
}

// comeAndGo makes a repo of a few contents and deletes it.
func (s *soak) comeAndGo(ctx context.Context, pfs pfspb.APIClient, r *rand.Rand) error {
	name := fmt.Sprintf("guest%d", r.IntN(3))
	if err := ensureRepo(ctx, pfs, name); err != nil {
		return err
	}
	for range 1 + r.IntN(4) {
		if err := put(ctx, pfs, name, fmt.Sprintf("/%d", r.IntN(100)), s.pool[r.IntN(len(s.pool))]); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	_, err := pfs.DeleteRepo(ctx, &pfspb.DeleteRepoRequest{Repo: repo(name)})
	return err
}

// clear opens a commit, writes to it, and throws the data away or keeps it.
func (s *soak) clear(ctx context.Context, pfs pfspb.APIClient, r *rand.Rand) error {
	const name = "drafts"
	if err := ensureRepo(ctx, pfs, name); err != nil {
		return err
	}
	c, err := pfs.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branch(name)})
	if err != nil && ctx.Err() == nil && s.answers(ctx, pfs) {
		c, err = head(name), nil // open since before the last kill
	}
	if err != nil {
		return err
	}
	if err := put(ctx, pfs, name, fmt.Sprintf("/%d", r.IntN(3)), s.pool[r.IntN(len(s.pool))]); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if r.IntN(2) == 0 {
		if _, err := pfs.ClearCommit(ctx, &pfspb.ClearCommitRequest{Commit: c}); err != nil {
			return err
		}
	}
	_, err = pfs.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: c})
	return err
}

// check reads everything back and runs a deep fsck.
func (s *soak) check(pfs pfspb.APIClient) {
	s.t.Helper()
	ctx := within(s.t)
	for name, files := range s.files {
		for path, want := range files {
			if err := s.read(ctx, pfs, name, path, want); err != nil {
				s.t.Error(err)
			}
			if want.acked == want.doubtful {
				continue
			}
			// The kill is over: from now on it is one or the other.
			got, err := get(ctx, pfs, name, path)
			k := want.acked
			if d := want.doubtful; d == absent && err != nil || d != absent && bytes.Equal(got, s.pool[d]) {
				k = d
			}
			files[path] = soakFile{k, k}
		}
	}
	faults, err := collect(pfs.Fsck(ctx, &pfspb.FsckRequest{Deep: true}))
	if err != nil {
		s.t.Fatalf("fsck: %v", err)
	}
	for _, f := range faults {
		s.t.Errorf("fsck: %s", f.GetError())
	}
}
