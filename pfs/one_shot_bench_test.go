package pfs

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

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
			svc, stop := openService(b, b.TempDir())
			defer stop()
			ctx, cancel := context.WithCancel(b.Context())
			ran := make(chan error, 1)
			go func() { ran <- svc.Run(ctx) }()
			defer func() { cancel(); <-ran }()
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
					w := svc.files.NewWriter(ctx)
					defer w.Abort()
					if err := w.Append(fmt.Sprintf("/%d", n.Add(1)), DefaultDatum, data); err != nil {
						b.Error(err)
						return
					}
					layers, err := w.Finish()
					if err == nil {
						err = svc.attach(ctx, commitOf("r@master"), layers)
					}
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
		})
	}
}
