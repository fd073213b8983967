package pfs

import (
	"cmp"
	"time"

	"github.com/minipachd/minipachd/pfs/fileset"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// policy returns the policy of a branch's repo; nil if there is none.
func (tx *Txn) policy(branch *pfspb.Branch) (*recordpb.CommitPolicy, error) {
	// One round trip for all that a group needs in any case.
	keys := []string{policyPrefix + repoKey(branch.Repo), repoPrefix + repoKey(branch.Repo), branchPrefix + branchKey(branch)}
	if _, err := tx.GetMulti(keys, false); err != nil {
		return nil, err
	}
	p, _, err := tx.s.policies.Get(tx.Txn, repoKey(branch.Repo))
	return p, err
}

// full tells whether puts of so many bytes and files are enough for a commit.
func full(policy *recordpb.CommitPolicy, bytes, files int64) bool {
	return policy.Bytes > 0 && bytes >= policy.Bytes || policy.Files > 0 && files >= policy.Files
}

// measure gives what a put counts for: its bytes and the files that it writes. One
// that writes none counts as one file.
func measure(layers []*fileset.Layer) (bytes, files int64) {
	for _, l := range layers {
		bytes += l.Content
		files += int64(l.Ref.GetEntries())
	}
	return bytes, max(1, files)
}

// joining is a group of puts on their way into the policy commit of a branch.
type joining struct {
	tx     *Txn
	branch *pfspb.Branch
	policy *recordpb.CommitPolicy
	now    time.Time // by which commits are due
	group  *group

	looked bool                   // open is up to date
	open   *recordpb.CommitRecord // that the next put goes into; nil if it has to be started
	known  []*fileset.Layer       // written before in the transaction
	stack  []*recordpb.LayerRef   // of the newest commit
}

// all puts the members of the group into the policy commit, in order, and into further
// ones as the policy says. After an error nothing may be kept of the transaction.
func (j *joining) all() error {
	var run []int // members to be written next, together
	var bytes, files int64
	keys := map[string]bool{}
	flush := func() error {
		err := j.join(run)
		run = nil
		clear(keys)
		return err
	}
	for i, o := range j.group.members {
		if j.group.skips(i) {
			continue
		}
		if o.once != nil {
			if keys[o.once.record()] { // its twin has to be there first
				if err := flush(); err != nil {
					return err
				}
			}
			var done bool
			if done, j.group.errs[i] = j.tx.repeats(o.once); done || j.group.errs[i] != nil {
				continue
			}
			keys[o.once.record()] = true
		}
		if len(run) == 0 {
			j.tx.author = j.tx.s.auth.Subject(o.ctx)
			if err := j.look(); err != nil {
				if err := j.group.fails(j.tx, err, i); err != nil {
					return err
				}
				continue
			}
			bytes, files = j.open.GetPolicy().GetBytes(), j.open.GetPolicy().GetFiles()
		}
		b, f := measure(o.layers)
		bytes, files = bytes+b, files+f
		run = append(run, i)
		if full(j.policy, bytes, files) {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// look finds the open policy commit. One that is due, or was made on another branch
// that this one began with, is finished.
func (j *joining) look() error {
	if j.looked {
		return nil
	}
	j.open = nil
	brec, err := j.tx.openBranch(j.branch)
	if err != nil {
		return err
	}
	if brec.Info.Head != nil {
		head, err := j.tx.commit(j.branch.Repo, brec.Info.Head.Id)
		if err != nil {
			return err
		}
		switch s := state(head.Info); {
		case s == pfspb.CommitState_FINISHING:
			return &headFinishingError{head: head.Info.Commit}
		case s == pfspb.CommitState_STARTED && head.Policy == nil:
			return &ParentOpenError{Parent: head.Info.Commit}
		case s == pfspb.CommitState_STARTED:
			j.open = head
		}
		if due := j.open.GetPolicy().GetDue(); j.open != nil && (head.Branch != j.branch.Name || due != nil && !due.AsTime().After(j.now)) {
			return j.close()
		}
	}
	j.looked = true
	return nil
}

// close finishes the open policy commit.
func (j *joining) close() error {
	err := j.tx.finish(j.open, "", "")
	if err == nil {
		err = j.tx.endSet()
	}
	if err != nil {
		return &halfDoneError{err}
	}
	j.open = nil
	return nil
}

// join puts some members, given by their numbers, into one policy commit. Files that
// cannot stand together would give the commit an error, which takes the puts of
// others with it: a put that brings such gets a commit of its own.
func (j *joining) join(members []int) error {
	if len(members) == 0 {
		return nil
	}
	j.tx.author = j.tx.s.auth.Subject(j.group.members[members[0]].ctx)
	var layers []*fileset.Layer
	for _, i := range members {
		layers = append(layers, j.group.members[i].layers...)
	}
	rec, err := j.write(layers)
	if err == nil && rec == nil && len(members) > 1 {
		for _, i := range members {
			if err := j.join([]int{i}); err != nil {
				return err
			}
		}
		return nil
	}
	if err == nil && rec == nil {
		rec, err = j.apart(layers)
	}
	if err != nil {
		j.looked = false
		return j.group.fails(j.tx, err, members...)
	}
	j.stack = rec.Layers
	for _, i := range members {
		guard(j.tx.Txn, writerOf(j.group.members[i].ctx))
		if err := j.tx.rememberPut(j.group.members[i].once, rec); err != nil {
			return err
		}
	}
	if rec.Policy != nil && full(j.policy, rec.Policy.Bytes, rec.Policy.Files) {
		j.looked = false
		return j.close()
	}
	return nil
}

// apart makes a commit of its own of layers, after what came before.
func (j *joining) apart(layers []*fileset.Layer) (*recordpb.CommitRecord, error) {
	if j.open != nil {
		if err := j.close(); err != nil {
			return nil, err
		}
	}
	j.looked = false
	rec, made, err := j.tx.oneShot(j.branch, layers, j.known)
	j.known = append(j.known, made...)
	return rec, err
}

// write puts layers into the policy commit, which it starts if there is none. It
// changes nothing and returns nil if files could not stand together then.
func (j *joining) write(layers []*fileset.Layer) (*recordpb.CommitRecord, error) {
	if err := j.look(); err != nil {
		return nil, err
	}
	if err := j.tx.rely(layers); err != nil {
		return nil, err
	}
	if j.open == nil {
		return j.start(layers)
	}
	made, invalid, err := j.tx.putInto(j.open, layers, j.known)
	if err != nil || invalid != nil {
		return nil, err
	}
	j.known = append(j.known, made...)
	return j.open, nil
}

// start is write without a policy commit.
func (j *joining) start(layers []*fileset.Layer) (*recordpb.CommitRecord, error) {
	tx := j.tx
	brec, err := tx.openBranch(j.branch)
	if err != nil {
		return nil, err
	}
	var parent *recordpb.CommitRecord
	if c := brec.Info.Head; c != nil {
		if parent, err = tx.commit(j.branch.Repo, c.Id); err != nil {
			return nil, err
		}
	}
	base, err := tx.base(&recordpb.CommitRecord{Info: &pfspb.CommitInfo{}}, parent)
	if err != nil {
		return nil, err
	}
	applied, err := tx.s.files.Apply(tx.Context(), base.GetLayers(), base.GetInfo().GetDetails().GetSizeBytes(), layers, j.known...)
	if err != nil || applied.Invalid != nil {
		return nil, err
	}
	rec, err := tx.startCommit(j.branch, parent, "")
	if err != nil {
		return nil, err
	}
	rec.Policy = &recordpb.PolicyCommit{}
	if j.policy.Interval != nil {
		rec.Policy.Due = stamp(j.now.Add(j.policy.Interval.AsDuration()))
		err = tx.s.dues.Put(tx.Txn, dueKey(rec), &recordpb.CommitDue{At: rec.Policy.Due})
	}
	if err == nil {
		err = tx.setPut(rec, applied, layers)
	}
	if err == nil {
		err = tx.endSet()
	}
	if err != nil {
		return nil, &halfDoneError{err}
	}
	j.known = append(j.known, applied.New...)
	j.open = rec
	return rec, nil
}

// putInto puts layers on top of an open policy commit, and returns those that were
// added to etcd. It changes nothing if files could not stand together then, which
// invalid says.
func (tx *Txn) putInto(rec *recordpb.CommitRecord, layers, known []*fileset.Layer) (made []*fileset.Layer, invalid, err error) {
	applied, err := tx.s.files.Apply(tx.Context(), rec.Layers, rec.Policy.SizeBytes, layers, known...)
	if err != nil {
		return nil, nil, err
	}
	if applied.Invalid != nil {
		return nil, applied.Invalid, nil
	}
	applied.New = withRecords(applied.New)
	if err := tx.setPut(rec, applied, layers); err != nil {
		return nil, nil, &halfDoneError{err}
	}
	return applied.New, nil, nil
}

// setPut stores a policy commit with the content that Apply found.
func (tx *Txn) setPut(rec *recordpb.CommitRecord, a *fileset.Applied, layers []*fileset.Layer) error {
	bytes, files := measure(layers)
	rec.Layers = a.Stack
	rec.Policy.Bytes += bytes
	rec.Policy.Files += files
	rec.Policy.SizeBytes, rec.Info.SizeBytesUpperBound = a.Size, a.Size
	if err := tx.putLayers(a.New); err != nil {
		return err
	}
	return tx.putCommit(rec)
}

// putExplicit puts layers into a policy commit that a client names by its id, and
// returns those that were added to etcd. Those without a record are in etcd already,
// and so are the layers of the commit but for known. Unless an error is a
// *halfDoneError, nothing has changed.
func (tx *Txn) putExplicit(rec *recordpb.CommitRecord, layers, known []*fileset.Layer) ([]*fileset.Layer, error) {
	if err := tx.rely(layers); err != nil {
		return nil, err
	}
	made, invalid, err := tx.putInto(rec, layers, known)
	if err != nil || invalid != nil {
		return nil, cmp.Or(err, invalid)
	}
	policy, _, err := tx.s.policies.Get(tx.Txn, repoKey(rec.Info.Commit.Repo))
	if err == nil && policy != nil && full(policy, rec.Policy.Bytes, rec.Policy.Files) {
		err = tx.finish(rec, "", "")
	}
	if err != nil {
		return nil, &halfDoneError{err}
	}
	return made, nil
}
