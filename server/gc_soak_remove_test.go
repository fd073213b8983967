package server_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// squash takes a commit out of a writer's line; the head, and with it what must be
// readable, stays as it is. One that cannot go just then is no failure.
func (s *soak) squash(ctx context.Context, pfs pfspb.APIClient, r *rand.Rand) error {
	name := fmt.Sprintf("writer%d", r.IntN(3))
	info, err := pfs.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: &pfspb.Commit{Repo: repo(name), Id: fmt.Sprintf("master~%d", 1+r.IntN(5))}})
	if err != nil {
		return expected(err, "not found", "invalid offset for ancestor")
	}
	_, err = pfs.SquashCommit(ctx, &pfspb.SquashCommitRequest{Commit: info.Commit})
	return expected(err, "cannot squash", "not found")
}

// drop makes commits and drops the newest: its data goes, that of its parent
// comes back.
func (s *soak) drop(ctx context.Context, pfs pfspb.APIClient, r *rand.Rand) error {
	const name = "dropped"
	if err := ensureRepo(ctx, pfs, name); err != nil {
		return err
	}
	if err := put(ctx, pfs, name, fmt.Sprintf("/%d", r.IntN(3)), s.pool[r.IntN(len(s.pool))]); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if r.IntN(3) == 0 {
		return nil
	}
	_, err := pfs.DropCommit(ctx, &pfspb.DropCommitRequest{Commit: head(name)})
	return err
}

// expected passes on an error unless it says one of the texts.
func expected(err error, texts ...string) error {
	if err == nil || status.Code(err) == codes.Unavailable {
		return err
	}
	for _, text := range texts {
		if strings.Contains(status.Convert(err).Message(), text) {
			return nil
		}
	}
	return err
}
