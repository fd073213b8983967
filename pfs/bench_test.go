package pfs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/minipachd/minipachd/pfs/fileset"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// BenchmarkOneShot makes commits of one small file, one after the other.
func BenchmarkOneShot(b *testing.B) {
	svc, stop := openService(b, b.TempDir())
	defer stop()
	ctx := b.Context()
	if _, err := svc.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repoOf("r")}); err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		i++
		w := svc.files.NewWriter(ctx)
		if err := w.Append(fmt.Sprintf("/%d", i%50), DefaultDatum, []byte("x")); err != nil {
			b.Fatal(err)
		}
		layers, err := w.Finish()
		if err != nil {
			b.Fatal(err)
		}
		if err := svc.commitOneShot(ctx, NormalizeBranch(branchOf("r@master")), layers); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPuts has 64 writers put 100-byte files to one branch, with and without a
// policy of commits.
func BenchmarkPuts(b *testing.B) {
	for name, policy := range map[string]*CommitPolicy{"each a commit": nil, "collected": {Interval: time.Second}} {
		b.Run(name, func(b *testing.B) {
			svc := runService(b)
			ctx := b.Context()
			repo := NormalizeRepo(repoOf("r"))
			if err := svc.Update(ctx, func(tx *Txn) error {
				if err := tx.CreateRepo(repo, "", false); err != nil {
					return err
				}
				return tx.SetCommitPolicy(repo, policy)
			}); err != nil {
				b.Fatal(err)
			}
			data := make([]byte, 100)
			var n atomic.Int64
			b.SetParallelism(32) // for each of two processors
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := put(ctx, svc, commitOf("r@master"), func(w *fileset.Writer) error {
						return w.Append(fmt.Sprintf("/%d", n.Add(1)), DefaultDatum, data)
					}); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
		})
	}
}

// BenchmarkManyFiles makes commits of 20,000 files of 1 KiB.
func BenchmarkManyFiles(b *testing.B) {
	svc := runService(b)
	ctx := b.Context()
	source := rand.NewChaCha8([32]byte{1})
	data := make([]byte, 1024)
	for i := 0; b.Loop(); i++ {
		repo := fmt.Sprint("many", i)
		if _, err := svc.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repoOf(repo)}); err != nil {
			b.Fatal(err)
		}
		if err := put(ctx, svc, commitOf(repo+"@master"), func(w *fileset.Writer) error {
			for k := range 20_000 {
				_, _ = source.Read(data) // never fails
				if err := w.Append(fmt.Sprintf("/dir/%07d", k), DefaultDatum, data); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpenCommit opens a commit, writes to it with ten streams at once, and
// finishes it.
func BenchmarkOpenCommit(b *testing.B) {
	svc := runService(b)
	ctx := b.Context()
	if _, err := svc.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repoOf("r")}); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		c, err := svc.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branchOf("r@master")})
		if err != nil {
			b.Fatal(err)
		}
		var streams errgroup.Group
		for k := range 10 {
			streams.Go(func() error {
				return put(ctx, svc, c, func(w *fileset.Writer) error {
					return w.Append(fmt.Sprintf("/%d/%d", i%100, k), DefaultDatum, []byte("x"))
				})
			})
		}
		err = streams.Wait()
		if err == nil {
			_, err = svc.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: c})
		}
		if err == nil {
			_, err = svc.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: c, Wait: pfspb.CommitState_FINISHED})
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkGetFile reads a file of 64 MiB.
func BenchmarkGetFile(b *testing.B) {
	svc := runService(b)
	ctx := b.Context()
	if _, err := svc.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repoOf("r")}); err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 64<<20)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(data) // never fails
	if err := put(ctx, svc, commitOf("r@master"), func(w *fileset.Writer) error { return w.Append("/big", DefaultDatum, data) }); err != nil {
		b.Fatal(err)
	}
	sn, err := svc.openFile(ctx, fileOf(commitOf("r@master"), "/big"), authpb.Permission_REPO_READ)
	if err != nil {
		b.Fatal(err)
	}
	node, err := sn.one(ctx, fileOf(commitOf("r@master"), "/big"))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := node.File.Stream(ctx, 0, func([]byte) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

// put is a stream that fill writes, to a commit or a branch.
func put(ctx context.Context, svc *Service, c *pfspb.Commit, fill func(*fileset.Writer) error) error {
	w := svc.files.NewWriter(ctx)
	defer w.Abort()
	if err := fill(w); err != nil {
		return err
	}
	layers, err := w.Finish()
	if err != nil {
		return err
	}
	return svc.attach(ctx, c, layers)
}

// runService is openService with its loops running.
func runService(b *testing.B) *Service {
	svc, stop := openService(b, b.TempDir())
	ctx, cancel := context.WithCancel(b.Context())
	ran := make(chan error, 1)
	go func() { ran <- svc.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		<-ran
		stop()
	})
	return svc
}
