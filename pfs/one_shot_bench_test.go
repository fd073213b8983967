package pfs

import (
	"fmt"
	"testing"

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
