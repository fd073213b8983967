package pfs

import (
	"slices"

	"pgregory.net/rapid"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// retain lets a Retainer of a branch, which lives as long as the run, do what there is
// to do. What is gone was finished, not among the newest, and such that it could be
// squashed; what is left holds what it held. When all is looked at again, nothing is
// left that could go.
func (r *modelRun) retain(t *rapid.T) {
	repo, branch := r.repo(t), modelBranches.Draw(t, "branch")
	name := repo.name + "@" + branch
	again := rapid.Bool().Draw(t, "again")
	ret := r.retainers[name]
	if ret == nil {
		ret = r.m.small(name, Retention{Commits: rapid.Int64Range(1, 4).Draw(t, "keep")})
		r.retainers[name] = ret
	}
	if again {
		r.clock.Advance(relookEvery)
	}
	for more := true; more; {
		_, err := ret.Step(r.ctx, agree)
		r.do(nil, err)
		more = ret.pass != nil
	}
	infos, err := all(r.m.ListCommit(r.ctx, &pfspb.ListCommitRequest{Repo: repoOf(repo.name), All: true}))
	r.do(infos, err)
	there := ids(infos)
	finished := int64(0)
	for c := repo.branches[branch]; c != nil; c = c.parent {
		if c.open {
			continue
		}
		finished++
		switch gone := !slices.Contains(there, c.id); {
		case gone && finished <= ret.keep.Commits:
			r.Fatalf("%s is gone, number %d from the top of %s, which keeps %d", c.id, finished, name, ret.keep.Commits)
		case gone && !repo.canSquash(c):
			r.Fatalf("%s of %s is gone, which could not be squashed", c.id, name)
		case !gone && again && finished > ret.keep.Commits && repo.canSquash(c):
			r.Fatalf("%s is there, number %d from the top of %s, which keeps %d", c.id, finished, name, ret.keep.Commits)
		case gone:
			repo.remove(c)
		}
	}
	r.checkRepo(repo)
}
