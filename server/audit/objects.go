package audit

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/minipachd/minipachd/pfs/frame"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	metadatapb "github.com/minipachd/minipachd/proto/metadata"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
)

// maxObjects bounds how many objects one entry names, and how many of a list its
// details show; what is beyond is counted.
const maxObjects = 16

// Objects names what one call is about, from its request messages: "repo
// default/r", "branch default/r@master", "commit default/r@<id>", "file /a",
// "pipeline default/p", "project x", "secret s". Contents, tokens and the rest of
// specs are never looked at. Its methods may be called concurrently.
type Objects struct {
	mu    sync.Mutex
	names []string
	more  int
}

// List is what has been named so far.
func (o *Objects) List() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.more > 0 {
		return append(slices.Clone(o.names), fmt.Sprintf("and %d more", o.more))
	}
	return slices.Clone(o.names)
}

func (o *Objects) add(kind, name string) {
	if name == "" {
		return
	}
	name = kind + " " + cut(name)
	if slices.Contains(o.names, name) {
		return
	}
	if len(o.names) == maxObjects {
		o.more++
		return
	}
	o.names = append(o.names, name)
}

// Add names what a request message is about.
func (o *Objects) Add(req any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.of(req)
}

func (o *Objects) of(req any) {
	switch m := req.(type) {
	case *frame.Operation:
		if m.IsAppend {
			o.add("file", m.Path)
		} else {
			o.modify(m.ModifyFileRequest)
		}
		return
	case *pfspb.ModifyFileRequest:
		o.modify(m)
		return
	case *transactionpb.BatchTransactionRequest:
		for _, r := range m.GetRequests() {
			o.transaction(r)
		}
		return
	case *ppspb.CreatePipelineV2Request:
		o.spec(m.GetCreatePipelineRequestJson())
		return
	case *ppspb.CreatePipelineTransaction:
		o.pipeline(m.GetCreatePipelineRequest().GetPipeline())
		o.spec(m.GetUserJson())
		return
	case *ppspb.CreateSecretRequest:
		o.secret(m.GetFile())
		return
	case *metadatapb.EditMetadataRequest:
		for _, e := range m.GetEdits() {
			o.edit(e)
		}
		return
	case *pfspb.CreateBranchRequest:
		o.branch(m.GetBranch())
		return
	}
	if m, ok := req.(interface{ GetRepo() *pfspb.Repo }); ok {
		o.repo(m.GetRepo())
	}
	if m, ok := req.(interface{ GetBranch() *pfspb.Branch }); ok {
		o.branch(m.GetBranch())
	}
	if m, ok := req.(interface{ GetCommit() *pfspb.Commit }); ok {
		o.commit(m.GetCommit())
	}
	if m, ok := req.(interface{ GetCommitSet() *pfspb.CommitSet }); ok {
		o.add("commit set", m.GetCommitSet().GetId())
	}
	if m, ok := req.(interface{ GetFile() *pfspb.File }); ok {
		o.file(m.GetFile())
	}
	if m, ok := req.(interface{ GetProject() *pfspb.Project }); ok {
		o.add("project", m.GetProject().GetName())
	}
	if m, ok := req.(interface{ GetProjects() []*pfspb.Project }); ok {
		for _, p := range m.GetProjects() {
			o.add("project", p.GetName())
		}
	}
	if m, ok := req.(interface{ GetPipeline() *ppspb.Pipeline }); ok {
		o.pipeline(m.GetPipeline())
	}
	if m, ok := req.(interface{ GetJob() *ppspb.Job }); ok && m.GetJob() != nil {
		o.pipeline(m.GetJob().GetPipeline())
		o.add("job", m.GetJob().GetId())
	}
	if m, ok := req.(interface{ GetSecret() *ppspb.Secret }); ok {
		o.add("secret", m.GetSecret().GetName())
	}
	if m, ok := req.(interface {
		GetTransaction() *transactionpb.Transaction
	}); ok {
		o.add("transaction", m.GetTransaction().GetId())
	}
	if m, ok := req.(interface{ GetResource() *authpb.Resource }); ok && m.GetResource() != nil {
		o.add("bindings of", strings.TrimSpace(m.GetResource().GetType().String()+" "+m.GetResource().GetName()))
	}
}

func (o *Objects) modify(m *pfspb.ModifyFileRequest) {
	switch b := m.GetBody().(type) {
	case *pfspb.ModifyFileRequest_SetCommit:
		o.commit(b.SetCommit)
	case *pfspb.ModifyFileRequest_AddFile:
		o.add("file", b.AddFile.GetPath())
	case *pfspb.ModifyFileRequest_DeleteFile:
		o.add("file", b.DeleteFile.GetPath())
	case *pfspb.ModifyFileRequest_CopyFile:
		o.add("file", b.CopyFile.GetDst())
		o.file(b.CopyFile.GetSrc())
	}
}

func (o *Objects) transaction(r *transactionpb.TransactionRequest) {
	for _, m := range []any{
		r.GetCreateRepo(), r.GetDeleteRepo(), r.GetStartCommit(), r.GetFinishCommit(), r.GetSquashCommitSet(),
		r.GetCreateBranch(), r.GetDeleteBranch(), r.GetUpdateJobState(), r.GetStopJob(), r.GetCreatePipelineV2(),
	} {
		o.of(m) // getters of a nil message give nothing
	}
}

// spec names the pipeline of a spec in JSON, if it has one.
func (o *Objects) spec(text string) {
	var spec struct {
		Pipeline struct {
			Name    string
			Project struct{ Name string }
		}
	}
	if json.Unmarshal([]byte(text), &spec) == nil {
		o.pipeline(&ppspb.Pipeline{Name: spec.Pipeline.Name, Project: &pfspb.Project{Name: spec.Pipeline.Project.Name}})
	}
}

// secret names the secret of a Kubernetes secret in JSON, if it has a name.
func (o *Objects) secret(file []byte) {
	var s struct{ Metadata struct{ Name string } }
	if json.Unmarshal(file, &s) == nil {
		o.add("secret", s.Metadata.Name)
	}
}

// edit names what an edit of metadata is about.
func (o *Objects) edit(e *metadatapb.Edit) {
	switch t := e.GetTarget().(type) {
	case *metadatapb.Edit_Project:
		o.add("project", t.Project.GetName())
	case *metadatapb.Edit_Repo:
		o.repo(picked(t.Repo))
	case *metadatapb.Edit_Branch:
		o.branch(&pfspb.Branch{Repo: picked(t.Branch.GetName().GetRepo()), Name: t.Branch.GetName().GetName()})
	case *metadatapb.Edit_Commit:
		c := t.Commit
		for c.GetAncestor() != nil {
			c = c.GetAncestor().GetStart()
		}
		if id := c.GetId(); id != nil {
			o.commit(&pfspb.Commit{Repo: picked(id.GetRepo()), Id: id.GetId()})
			return
		}
		b := c.GetBranchHead()
		if b == nil {
			b = c.GetBranchRoot().GetBranch()
		}
		o.commit(&pfspb.Commit{Branch: &pfspb.Branch{Repo: picked(b.GetName().GetRepo()), Name: b.GetName().GetName()}})
	case *metadatapb.Edit_Pipeline:
		o.pipeline(&ppspb.Pipeline{Name: t.Pipeline.GetName().GetName(), Project: &pfspb.Project{Name: t.Pipeline.GetName().GetProject().GetName()}})
	case *metadatapb.Edit_Cluster:
		o.add("metadata of", "CLUSTER")
	}
}

func picked(p *pfspb.RepoPicker) *pfspb.Repo {
	n := p.GetName()
	return &pfspb.Repo{Name: n.GetName(), Type: n.GetType(), Project: &pfspb.Project{Name: n.GetProject().GetName()}}
}

func projectName(p *pfspb.Project) string {
	if p.GetName() == "" {
		return "default"
	}
	return p.GetName()
}

func repoName(r *pfspb.Repo) string {
	name := projectName(r.GetProject()) + "/" + r.GetName()
	if t := r.GetType(); t != "" && t != userType {
		name += "." + t
	}
	return name
}

// userType is the type of the repos that users see.
const userType = "user"

func (o *Objects) repo(r *pfspb.Repo) {
	if r.GetName() != "" {
		o.add("repo", repoName(r))
	}
}

func (o *Objects) branch(b *pfspb.Branch) {
	if b.GetRepo().GetName() != "" {
		o.add("branch", repoName(b.GetRepo())+"@"+b.GetName())
	}
}

func (o *Objects) commit(c *pfspb.Commit) {
	repo := c.GetRepo()
	if repo.GetName() == "" {
		repo = c.GetBranch().GetRepo()
	}
	if repo.GetName() == "" {
		return
	}
	at := c.GetId()
	if b := c.GetBranch().GetName(); b != "" && at != "" {
		at = b + "=" + at
	} else if b != "" {
		at = b
	}
	o.add("commit", repoName(repo)+"@"+at)
}

func (o *Objects) file(f *pfspb.File) {
	if f != nil {
		o.commit(f.GetCommit())
		o.add("file", f.GetPath())
	}
}

func (o *Objects) pipeline(p *ppspb.Pipeline) {
	if p.GetName() != "" {
		o.add("pipeline", projectName(p.GetProject())+"/"+p.GetName())
	}
}

// Details are the other words of a request that say what was done: whose roles
// became which, whose tokens were revoked. Tokens are never among them.
func Details(req any) []string {
	switch m := req.(type) {
	case *authpb.ModifyRoleBindingRequest:
		return []string{"principal " + cut(m.GetPrincipal()), "roles " + list(m.GetRoles())}
	case *authpb.GetRobotTokenRequest:
		return []string{"robot " + cut(m.GetRobot()), fmt.Sprintf("ttl %ds", m.GetTtl())}
	case *authpb.RevokeAuthTokensForUserRequest:
		return []string{"user " + cut(m.GetUsername())}
	case *authpb.SetGroupsForUserRequest:
		return []string{"user " + cut(m.GetUsername()), "groups " + list(m.GetGroups())}
	case *authpb.ModifyMembersRequest:
		return []string{"group " + cut(m.GetGroup()), "add " + list(m.GetAdd()), "remove " + list(m.GetRemove())}
	case *authpb.RestoreAuthTokenRequest:
		return []string{"subject " + cut(m.GetToken().GetSubject())}
	}
	return nil
}

// list shows the first few of names.
func list(names []string) string {
	var shown []string
	for _, name := range names[:min(len(names), maxObjects)] {
		shown = append(shown, cut(name))
	}
	if more := len(names) - len(shown); more > 0 {
		shown = append(shown, fmt.Sprintf("and %d more", more))
	}
	return fmt.Sprint(shown)
}
