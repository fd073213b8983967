package pfs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/minipachd/minipachd/clock/clocktest"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// policyCommit is a commit of the model of a branch under a policy.
type policyCommit struct {
	id           string
	files        map[string]string
	open         bool
	explicit     bool // a client opened it
	due          time.Time
	bytes, count int64
}

func (c *policyCommit) String() string {
	if len(c.files) == 0 {
		return nothing
	}
	var text []string
	for _, path := range slices.Sorted(maps.Keys(c.files)) {
		text = append(text, path+"="+c.files[path])
	}
	if c.open {
		text = append(text, "open")
	}
	return strings.Join(append([]string{"/"}, text...), " ")
}

// nothing is a commit without files: there is no / to be read in it.
const nothing = "nothing"

// policyRun is one run of that model against a service that is started again now and then.
type policyRun struct {
	*rapid.T
	m       *metaServer
	clock   *clocktest.Clock
	restart func() *metaServer
	name    string // repo@branch
	policy  CommitPolicy
	line    []*policyCommit // oldest first
	keys    []policyPut     // puts with a key
}

type policyPut struct {
	key, id string
	ops     []op
}

// TestPolicy_Model has one client put, repeat itself, open and finish commits, and wait,
// at random, and kills the time between, while the service is started again now and
// then. Each put that was acknowledged is in the branch, once, and the commits are cut
// where the policy says.
func TestPolicy_Model(t *testing.T) {
	dir, clock := t.TempDir(), clocktest.New(time.Now())
	m, stop := startMeta(t, dir, withClock(clock))
	restart := func() *metaServer {
		stop()
		m, stop = startMeta(t, dir, withClock(clock))
		return m
	}
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		r := &policyRun{T: rt, m: m, clock: clock, restart: restart, name: fmt.Sprintf("p%d@master", run)}
		for r.policy == (CommitPolicy{}) {
			if rapid.Bool().Draw(rt, "interval") {
				r.policy.Interval = time.Minute
			}
			if rapid.Bool().Draw(rt, "files") {
				r.policy.Files = 5
			}
			if rapid.Bool().Draw(rt, "bytes") || r.policy == (CommitPolicy{}) {
				r.policy.Bytes = 20
			}
		}
		m.repo(fmt.Sprintf("p%d", run))
		m.policy(fmt.Sprintf("p%d", run), &r.policy)
		with := func(fn func()) func(*rapid.T) {
			return func(rt *rapid.T) {
				r.T = rt
				fn()
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"put": with(r.put), "put again": with(r.put), "put more": with(r.put), "put once": with(r.putOnce), "repeat": with(r.repeat),
			"wait": with(r.wait), "start": with(r.start), "finish": with(r.finish), "read": with(r.read),
			"restart": with(func() {
				if rapid.IntRange(0, 9).Draw(r.T, "really") == 0 {
					r.m = r.restart()
				}
			}),
		})
		r.read()
	})
	m.sound()
}

func (r *policyRun) do(_ any, err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *policyRun) head() *policyCommit {
	if len(r.line) == 0 {
		return nil
	}
	return r.line[len(r.line)-1]
}

// draw gives the operations of a put, which adds to one or two files.
func (r *policyRun) draw() (ops []op) {
	for _, path := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"/a", "/b", "/c", "/d"}), 1, 2, rapid.ID).Draw(r.T, "paths") {
		ops = append(ops, add(path, rapid.StringMatching("[a-z]{0,9}").Draw(r.T, "data")))
	}
	return ops
}

// target is the commit of the model that a put goes into now.
func (r *policyRun) target() *policyCommit {
	now := r.clock.Now()
	head := r.head()
	if head != nil && head.open && !head.explicit && !head.due.IsZero() && !head.due.After(now) {
		head.open = false
	}
	if head != nil && head.open {
		return head
	}
	c := &policyCommit{open: true, files: map[string]string{}}
	if head != nil {
		c.files = maps.Clone(head.files)
	}
	if r.policy.Interval > 0 {
		c.due = now.Add(r.policy.Interval)
	}
	r.line = append(r.line, c)
	return c
}

// took lets a put take its effect in the model; id is the service's head after it.
func (r *policyRun) took(ops []op) {
	c := r.target()
	for _, o := range ops {
		a := o.GetAddFile()
		c.files[a.Path] += string(a.GetRaw().GetValue())
		c.bytes += int64(len(a.GetRaw().GetValue()))
		c.count++
	}
	if !c.explicit && (r.policy.Bytes > 0 && c.bytes >= r.policy.Bytes || r.policy.Files > 0 && c.count >= r.policy.Files) {
		c.open = false
	}
	id := r.m.head(r.name).Id
	if c.id != "" && c.id != id {
		r.Fatalf("the put is in another commit, %s, than those before it, %s", id, c.id)
	}
	c.id = id
}

func (r *policyRun) put() {
	ops := r.draw()
	r.do(nil, r.m.modify(commitOf(r.name), ops...))
	r.took(ops)
}

// putOnce has a key, which calls for a branch without a commit that a client opened.
func (r *policyRun) putOnce() {
	if head := r.head(); head != nil && head.open && head.explicit {
		return
	}
	p := policyPut{key: fmt.Sprint("k", len(r.keys)), ops: r.draw()}
	var err error
	p.id, err = r.m.modifyOnce(commitOf(r.name), p.key, p.ops...)
	r.do(nil, err)
	r.took(p.ops)
	if c := r.head(); c.id != p.id {
		r.Fatalf("the put was said to be in %s, it is in %s", p.id, c.id)
	}
	r.keys = append(r.keys, p)
}

func (r *policyRun) repeat() {
	if len(r.keys) == 0 {
		return
	}
	if head := r.head(); head.open && head.explicit {
		return
	}
	p := rapid.SampledFrom(r.keys).Draw(r.T, "again")
	id, err := r.m.modifyOnce(commitOf(r.name), p.key, p.ops...)
	r.do(nil, err)
	if id != p.id {
		r.Fatalf("repeated, the put is in %s, it was in %s", id, p.id)
	}
}

// wait lets time pass; what is due by then is finished without anybody's doing.
func (r *policyRun) wait() {
	r.clock.Advance(time.Duration(rapid.SampledFrom([]int{1, 29, 30, 59, 60}).Draw(r.T, "seconds")) * time.Second)
	head := r.head()
	if head == nil || !head.open || head.explicit || head.due.IsZero() || head.due.After(r.clock.Now()) {
		return
	}
	head.open = false
	r.do(r.m.InspectCommit(limit(r.m.t), &pfspb.InspectCommitRequest{Commit: r.commit(head), Wait: pfspb.CommitState_FINISHED}))
}

func (r *policyRun) commit(c *policyCommit) *pfspb.Commit {
	return &pfspb.Commit{Repo: branchOf(r.name).Repo, Id: c.id}
}

func (r *policyRun) start() {
	head := r.head()
	c, err := r.m.StartCommit(limit(r.m.t), &pfspb.StartCommitRequest{Branch: branchOf(r.name)})
	if head != nil && head.open && head.explicit {
		if err == nil {
			r.Fatal("a commit was started on an open one")
		}
		return
	}
	r.do(c, err)
	made := &policyCommit{id: c.Id, open: true, explicit: true, files: map[string]string{}}
	if head != nil {
		head.open = false
		made.files = maps.Clone(head.files)
	}
	r.line = append(r.line, made)
}

// finish finishes the head by its id, whoever opened it.
func (r *policyRun) finish() {
	head := r.head()
	if head == nil || !head.open {
		return
	}
	r.do(r.m.FinishCommit(limit(r.m.t), &pfspb.FinishCommitRequest{Commit: r.commit(head)}))
	r.do(r.m.InspectCommit(limit(r.m.t), &pfspb.InspectCommitRequest{Commit: r.commit(head), Wait: pfspb.CommitState_FINISHED}))
	head.open = false
}

// read compares the whole line.
func (r *policyRun) read() {
	var want []string
	for _, c := range slices.Backward(r.line) {
		want = append(want, c.String())
	}
	if len(want) == 0 {
		return // there is no branch
	}
	got := r.m.line(r.name)
	for i := range got {
		if strings.Contains(got[i], "file / not found") {
			got[i] = nothing
		}
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		r.Fatalf("%s under %+v (-want +got):\n%s", r.name, r.policy, diff)
	}
}
