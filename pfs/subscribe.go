package pfs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// subscription is a SubscribeCommit under way. Commits that exist when it begins
// come by their start; after them come new ones by the etcd revision that
// created them. The revision of creation tells new commits from changed ones
// without remembering any, and misses none whose transaction was slow.
type subscription struct {
	s      *Service
	repo   *pfspb.Repo
	branch string // "" means any
	state  pfspb.CommitState
	filter commitFilter
	send   func(*pfspb.CommitInfo) error

	prefix string // of the commits' keys in etcd
	rev    int64  // all commits created up to this revision are dealt with
}

// SubscribeCommit implements pfs_v2.API.
func (s *Service) SubscribeCommit(req *pfspb.SubscribeCommitRequest, stream grpc.ServerStreamingServer[pfspb.CommitInfo]) error {
	repo := NormalizeRepo(req.GetRepo())
	if repo == nil {
		return invalidRequest("a repo must be given")
	}
	if err := checkState("state", req.GetState()); err != nil {
		return err
	}
	sub := &subscription{
		s: s, repo: repo, branch: req.GetBranch(), state: req.GetState(),
		filter: commitFilter{all: req.GetAll(), origin: req.GetOriginKind()},
		send:   stream.Send,
		prefix: s.store.Prefix() + commitPrefix + repoKey(repo) + "/",
	}
	from := ""
	err := s.View(stream.Context(), func(tx *Txn) error {
		if err := tx.permitted(repo, authpb.Permission_REPO_LIST_COMMIT); err != nil {
			return err
		}
		if err := tx.repoExists(repo); err != nil {
			return err
		}
		sub.rev = tx.Revision()
		if req.GetFrom() == nil {
			return nil
		}
		c := req.GetFrom()
		if commitRepo(c) == nil {
			c = &pfspb.Commit{Repo: repo, Id: c.GetId(), Branch: c.GetBranch()}
		}
		if repoKey(NormalizeRepo(commitRepo(c))) != repoKey(repo) {
			return fmt.Errorf("the `from` commit needs to be from repo %s", RepoName(repo))
		}
		rec, err := tx.resolve(c)
		from = rec.GetOrder() + "\x00"
		return err
	})
	if err != nil {
		return err
	}
	return sub.run(stream.Context(), from)
}

// run delivers until ctx ends or something fails.
func (sub *subscription) run(ctx context.Context, from string) error {
	begin := sub.rev
	err := sub.list(ctx, from, func(kv *mvccpb.KeyValue) bool { return kv.CreateRevision <= begin })
	if err != nil {
		return err
	}
	for {
		if err := sub.watch(ctx); err != nil {
			return err
		}
		// Interrupted. What was compacted away meanwhile can only be found by a look
		// at all commits.
		since := sub.rev
		now, err := sub.revision(ctx)
		if err != nil {
			return err
		}
		err = sub.list(ctx, "", func(kv *mvccpb.KeyValue) bool {
			return kv.CreateRevision > since && kv.CreateRevision <= now
		})
		if err != nil {
			return err
		}
		sub.rev = now
	}
}

// revision returns the present one of etcd, after a check that the repo is there.
func (sub *subscription) revision(ctx context.Context) (rev int64, err error) {
	err = sub.s.View(ctx, func(tx *Txn) error {
		err := tx.repoExists(sub.repo)
		rev = tx.Revision()
		return err
	})
	return rev, err
}

// list delivers the commits with an order from some bound on that want accepts.
func (sub *subscription) list(ctx context.Context, from string, want func(*mvccpb.KeyValue) bool) error {
	key, end := sub.prefix+from, clientv3.GetPrefixRangeEnd(sub.prefix)
	for {
		page, err := sub.s.store.Page(ctx, key, end, cursorPage)
		if err != nil {
			return fmt.Errorf("subscribe to repo %s: %w", RepoName(sub.repo), err)
		}
		sub.s.store.CatchUp(page.Revision)
		for _, kv := range page.KVs {
			key = string(kv.Key) + "\x00"
			if want(kv) {
				if err := sub.deliver(ctx, kv); err != nil {
					return err
				}
			}
		}
		if !page.More {
			return nil
		}
	}
}

// rewatch is how long a watch that failed rests before the next.
const rewatch = 100 * time.Millisecond

// watch delivers new commits until the watch is interrupted, which is no error.
// No watch is open while a delivery waits for a commit: etcd would pile up for it
// what happens meanwhile.
func (sub *subscription) watch(ctx context.Context) error {
	for {
		created, err := sub.await(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, rpctypes.ErrCompacted) {
			return nil
		}
		var gone *RepoNotFoundError
		if errors.As(err, &gone) {
			return err
		}
		if err != nil {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(rewatch):
			}
			continue
		}
		for _, kv := range created {
			if err := sub.deliver(ctx, kv); err != nil {
				return err
			}
		}
	}
}

// await returns commits created after sub.rev, as soon as there are some, and
// moves sub.rev on.
func (sub *subscription) await(ctx context.Context) ([]*mvccpb.KeyValue, error) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	client, next := sub.s.store.Client(), clientv3.WithRev(sub.rev+1)
	commits := client.Watch(ctx, sub.prefix, clientv3.WithPrefix(), clientv3.WithFilterDelete(), next)
	repo := client.Watch(ctx, sub.s.store.Prefix()+repoPrefix+repoKey(sub.repo), clientv3.WithFilterPut(), next)
	for {
		var resp clientv3.WatchResponse
		var ok bool
		select {
		case resp, ok = <-commits:
		case resp, ok = <-repo:
			if ok && resp.Err() == nil && len(resp.Events) > 0 {
				return nil, &RepoNotFoundError{Repo: sub.repo}
			}
		}
		if err := resp.Err(); err != nil {
			return nil, err
		}
		if !ok {
			return nil, errors.New("the watch ended")
		}
		sub.s.store.CatchUp(resp.Header.Revision)
		var created []*mvccpb.KeyValue
		for _, e := range resp.Events {
			if e.IsCreate() {
				created = append(created, e.Kv)
			}
			sub.rev = max(sub.rev, e.Kv.ModRevision)
		}
		if len(created) > 0 {
			return created, nil
		}
	}
}

// deliver sends one commit once it is in the wanted state.
func (sub *subscription) deliver(ctx context.Context, kv *mvccpb.KeyValue) error {
	rec := &recordpb.CommitRecord{}
	if err := proto.Unmarshal(kv.Value, rec); err != nil {
		return fmt.Errorf("stored commit %s: %w", kv.Key, err)
	}
	if sub.branch != "" && rec.Branch != sub.branch || !sub.filter.matches(rec) {
		return nil
	}
	if sub.state > max(state(rec.Info), pfspb.CommitState_STARTED) {
		var err error
		c := rec.Info.Commit
		rec, err = sub.s.waitCommit(ctx, sub.repo, c.Id, sub.state)
		var nf *CommitNotFoundError
		if errors.As(err, &nf) {
			return nil // removed before it was its turn: nobody waits for it
		}
		if err != nil {
			return err
		}
	}
	// Every time: the permission may have been taken away meanwhile.
	if err := sub.s.permitRepo(ctx, nil, sub.repo, authpb.Permission_REPO_LIST_COMMIT); err != nil {
		return err
	}
	info, err := sub.s.inspectRecord(ctx, rec)
	if err != nil {
		return err
	}
	return sub.send(info)
}
