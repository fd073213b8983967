package pps

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minipachd/minipachd/pfs"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
)

// Action is what Apply did.
type Action string

// The outcomes of Apply.
const (
	Created   Action = "created"
	Updated   Action = "updated"
	Unchanged Action = "unchanged"
)

// ApplyResult tells what Apply did to which pipeline.
type ApplyResult struct {
	Pipeline *ppspb.Pipeline
	Action   Action
	Version  uint64 // that the pipeline has now
}

// Apply makes a pipeline be as one JSON spec says: it creates it if it is
// missing, leaves it alone if its effective spec is the same already, and
// updates it otherwise. A stopped pipeline stays stopped. Errors are those of
// CreatePipelineV2.
func (s *Service) Apply(ctx context.Context, specJSON string) (ApplyResult, error) {
	user, err := parseUserSpec(specJSON)
	if err != nil {
		return ApplyResult{}, err
	}
	res, err := s.submit(ctx, user, putOptions{update: true, reprocess: user.reprocess, onlyIfChanged: true, dryRun: user.dryRun})
	if err != nil {
		return ApplyResult{}, err
	}
	return ApplyResult{Pipeline: res.spec.request.Pipeline, Action: res.action, Version: res.version}, nil
}

// CreatePipeline implements pps_v2.API. It is CreatePipelineV2 with the message as JSON.
func (s *Service) CreatePipeline(ctx context.Context, req *ppspb.CreatePipelineRequest) (*emptypb.Empty, error) {
	text, err := protojson.Marshal(req)
	if err != nil {
		return nil, &SpecError{Err: err}
	}
	_, err = s.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: string(text)})
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// CreatePipelineV2 implements pps_v2.API. The flags of the request and those in the spec add up.
func (s *Service) CreatePipelineV2(ctx context.Context, req *ppspb.CreatePipelineV2Request) (*ppspb.CreatePipelineV2Response, error) {
	user, err := parseUserSpec(req.GetCreatePipelineRequestJson())
	if err != nil {
		return nil, err
	}
	res, err := s.submit(ctx, user, putOptions{
		update:    req.GetUpdate() || user.update,
		reprocess: req.GetReprocess() || user.reprocess,
		dryRun:    req.GetDryRun() || user.dryRun,
	})
	if err != nil {
		return nil, err
	}
	return &ppspb.CreatePipelineV2Response{EffectiveCreatePipelineRequestJson: res.spec.json}, nil
}

// RerunPipeline implements pps_v2.API: an update with the stored spec.
func (s *Service) RerunPipeline(ctx context.Context, req *ppspb.RerunPipelineRequest) (*emptypb.Empty, error) {
	p, err := target(req.GetPipeline())
	if err != nil {
		return nil, err
	}
	err = s.pfs.Update(ctx, func(tx *pfs.Txn) error {
		rec, err := s.record(tx, p)
		if err != nil {
			return err
		}
		if err := s.permit(ctx, tx, p, authpb.Permission_REPO_WRITE); err != nil {
			return err
		}
		user, err := parseUserSpec(rec.GetInfo().GetEffectiveSpecJson())
		if err != nil {
			return fmt.Errorf("rerun pipeline %q: stored spec: %w", key(p), err)
		}
		spec, err := user.effective()
		if err != nil {
			return fmt.Errorf("rerun pipeline %q: stored spec: %w", key(p), err)
		}
		spec.user.json = rec.GetInfo().GetUserSpecJson()
		return s.write(ctx, tx, rec, spec, req.GetReprocess())
	})
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

type putOptions struct {
	update        bool // an existing pipeline is no error
	reprocess     bool // make a new salt
	onlyIfChanged bool // write nothing if the effective spec is what is stored
	dryRun        bool // write nothing
}

type putResult struct {
	spec    *effectiveSpec
	action  Action
	version uint64
}

// submit creates or updates a pipeline in a transaction of its own.
func (s *Service) submit(ctx context.Context, user userSpec, opt putOptions) (putResult, error) {
	run := s.pfs.Update
	if opt.dryRun {
		run = s.pfs.View
	}
	var res putResult
	err := run(ctx, func(tx *pfs.Txn) error {
		var err error
		res, err = s.put(ctx, tx, user, opt)
		return err
	})
	return res, err
}

// put checks everything and then writes the pipeline.
func (s *Service) put(ctx context.Context, tx *pfs.Txn, user userSpec, opt putOptions) (putResult, error) {
	layers, err := s.defaultLayers(tx, user.project)
	if err != nil {
		return putResult{}, err
	}
	spec, err := user.effective(layers...)
	if err != nil {
		return putResult{}, err
	}
	if err := validate(spec.request); err != nil {
		return putResult{}, err
	}
	p := spec.request.Pipeline
	rec, ok, err := s.pipelines.Get(tx.Txn, key(p))
	if err != nil {
		return putResult{}, err
	}
	if err := s.permitPut(ctx, tx, p, ok && opt.update); err != nil {
		return putResult{}, err
	}
	if err := s.secrets.Check(tx.Txn, spec.request.GetTransform().GetSecrets()); err != nil {
		return putResult{}, err
	}
	if _, err := tx.InspectProject(p.GetProject().GetName()); err != nil {
		return putResult{}, err
	}
	if ok && !opt.update {
		return putResult{}, &PipelineExistsError{Pipeline: p}
	}
	if !ok {
		taken, err := repoExists(tx, outputRepo(p))
		if err != nil {
			return putResult{}, err
		}
		if taken {
			return putResult{}, fmt.Errorf("pipeline %q cannot be created because a repo with the same name already exists", p.GetName())
		}
	}
	if err := supported(spec.request); err != nil {
		return putResult{}, err
	}
	if err := s.checkPort(tx, spec.request); err != nil {
		return putResult{}, err
	}
	res := putResult{spec: spec, action: Created, version: rec.GetInfo().GetVersion() + 1}
	if ok {
		res.action = Updated
		if opt.onlyIfChanged && !opt.reprocess && sameSpec(spec.json, rec.GetInfo().GetEffectiveSpecJson()) {
			res.action, res.version = Unchanged, rec.GetInfo().GetVersion()
			return res, nil
		}
	}
	if opt.dryRun {
		return res, nil
	}
	return res, s.write(ctx, tx, rec, spec, opt.reprocess)
}

func repoExists(tx *pfs.Txn, repo *pfspb.Repo) (bool, error) {
	_, err := tx.InspectRepo(repo)
	if err == nil {
		return true, nil
	}
	var nf *pfs.RepoNotFoundError
	if errors.As(err, &nf) {
		return false, nil
	}
	return false, err
}

// write stores the next version of a pipeline; old is nil for a new one.
func (s *Service) write(ctx context.Context, tx *pfs.Txn, old *recordpb.PipelineRecord, spec *effectiveSpec, reprocess bool) error {
	p := spec.request.Pipeline
	if old == nil {
		if err := tx.CreateRepo(outputRepo(p), "Output repo for pipeline "+key(p)+".", false); err != nil {
			return err
		}
		if err := tx.CreateRepo(specRepo(p), "Spec repo for pipeline "+key(p)+".", false); err != nil {
			return err
		}
		if err := s.bindCreator(ctx, tx, p); err != nil {
			return err
		}
	}
	specCommit, err := tx.PutSpecCommit(specRepo(p))
	if err != nil {
		return err
	}
	info := newInfo(spec)
	info.Version = old.GetInfo().GetVersion() + 1
	info.SpecCommit = specCommit
	now := timestamppb.New(tx.Now())
	d := info.Details
	d.CreatedAt, d.UpdatedAt = now, now
	d.CreatedBy = s.auth.Subject(ctx)
	if old != nil {
		d.CreatedAt, d.CreatedBy = old.Info.GetDetails().GetCreatedAt(), old.Info.GetDetails().GetCreatedBy()
		info.Stopped = old.Info.GetStopped()
		info.Metadata = old.Info.GetMetadata()
		if d.Salt == "" && !reprocess {
			d.Salt = old.Info.GetDetails().GetSalt()
		}
		if err := s.retire(tx, old); err != nil {
			return err
		}
	}
	if d.Salt == "" {
		d.Salt = tx.NewID()
	}
	info.State = wantedState(info.Stopped)
	// What is open under the policy of before is finished before the branch may move.
	if err := setPolicy(tx, info); err != nil {
		return err
	}
	if err := s.connect(tx, old.GetInfo(), info); err != nil {
		return err
	}
	movePort(tx, p, old.GetInfo().GetDetails().GetSpout(), d.GetSpout())
	rec := &recordpb.PipelineRecord{
		Info:        info,
		Generation:  generation(tx, old.GetGeneration()),
		SpecCommits: append(old.GetSpecCommits(), specCommit.GetId()),
	}
	if err := s.versions.Put(tx.Txn, versionKey(p, info.Version), info); err != nil {
		return err
	}
	return s.pipelines.Put(tx.Txn, key(p), rec)
}

// connect makes the output branch of a version, or moves it there from the
// branch of the version before. A stopped pipeline's branch has no provenance.
func (s *Service) connect(tx *pfs.Txn, old, info *ppspb.PipelineInfo) error {
	branch := outputBranch(info)
	if old.GetDetails().GetOutputBranch() == branch.Name {
		return nil
	}
	if old != nil && !info.Stopped {
		if err := disconnectBranch(tx, outputBranch(old)); err != nil {
			return err
		}
	}
	if info.Stopped {
		return tx.CreateBranch(&pfspb.CreateBranchRequest{Branch: branch})
	}
	return connectBranch(tx, info.Pipeline, branch)
}

// connectBranch makes a branch the output of the pipeline. The empty commit that
// this puts at its head is finished at once: nothing else would ever do it.
func connectBranch(tx *pfs.Txn, p *ppspb.Pipeline, branch *pfspb.Branch) error {
	if err := closeHead(tx, p, branch); err != nil {
		return err
	}
	if err := tx.CreateBranch(&pfspb.CreateBranchRequest{Branch: branch, Provenance: []*pfspb.Branch{specBranch(p)}}); err != nil {
		return err
	}
	info, err := tx.InspectBranch(branch)
	if err != nil {
		return err
	}
	if info.GetHead().GetId() != tx.SetID() {
		return nil // the provenance was as it is, so there is no new commit
	}
	return tx.FinishCommit(info.GetHead(), "close spout commit", "", false)
}

// closeHead drops a commit that a worker left open on a branch, and finishes, with an
// error, one that anybody else did. Its half-written content is not passed on; left
// open it would never be finished, nor what comes after it.
func closeHead(tx *pfs.Txn, p *ppspb.Pipeline, branch *pfspb.Branch) error {
	if err := tx.DropOpenHead(branch); err != nil {
		return err
	}
	info, err := tx.InspectBranch(branch)
	var missing *pfs.BranchNotFoundError
	if errors.As(err, &missing) {
		return nil
	}
	if err != nil {
		return err
	}
	err = tx.FinishCommit(info.GetHead(), "", "left open when pipeline "+key(p)+" was stopped", false)
	var finished *pfs.CommitFinishedError
	if errors.As(err, &finished) {
		return nil
	}
	return err
}

// setPolicy says when puts to the output repo become commits. A stopped pipeline has
// no policy: then each is a commit of its own, as with any repo, and none stays open.
func setPolicy(tx *pfs.Txn, info *ppspb.PipelineInfo) error {
	c := info.GetDetails().GetSpout().GetCommit()
	if c == nil || info.GetStopped() {
		return tx.SetCommitPolicy(outputRepo(info.Pipeline), nil)
	}
	return tx.SetCommitPolicy(outputRepo(info.Pipeline), &pfs.CommitPolicy{Interval: c.GetInterval().AsDuration(), Bytes: c.GetBytes(), Files: c.GetFiles()})
}

// disconnectBranch makes an output branch an ordinary one.
func disconnectBranch(tx *pfs.Txn, branch *pfspb.Branch) error {
	return tx.CreateBranch(&pfspb.CreateBranchRequest{Branch: branch})
}

// retire stores, with the version that is being replaced, the condition it was in.
func (s *Service) retire(tx *pfs.Txn, old *recordpb.PipelineRecord) error {
	status, _, err := s.statuses.Peek(tx.Txn, key(old.Info.Pipeline))
	if err != nil {
		return err
	}
	last := proto.CloneOf(old)
	mergeStatus(last, status)
	last.Info.Details.WorkersAvailable, last.Info.Details.WorkersStartedAt, last.Info.Details.NextStart = 0, nil, nil
	return s.versions.Put(tx.Txn, versionKey(old.Info.Pipeline, old.Info.Version), last.Info)
}

func wantedState(stopped bool) ppspb.PipelineState {
	if stopped {
		return ppspb.PipelineState_PIPELINE_PAUSED
	}
	return ppspb.PipelineState_PIPELINE_STARTING
}

// newInfo translates a spec; what a version adds to it is left out.
func newInfo(spec *effectiveSpec) *ppspb.PipelineInfo {
	req := spec.request
	parallelism := max(1, req.GetParallelismSpec().GetConstant())
	spout := proto.CloneOf(req.Spout)
	if svc := spout.GetService(); svc != nil && svc.Type == "" {
		svc.Type = "NodePort"
	}
	return &ppspb.PipelineInfo{
		Pipeline:          req.Pipeline,
		Type:              ppspb.PipelineInfo_PIPELINE_TYPE_SPOUT,
		Parallelism:       parallelism,
		UserSpecJson:      spec.user.json,
		EffectiveSpecJson: spec.json,
		Details: &ppspb.PipelineInfo_Details{
			Transform:               req.Transform,
			ParallelismSpec:         req.ParallelismSpec,
			Egress:                  req.Egress,
			WorkersRequested:        int64(parallelism),
			OutputBranch:            cmp.Or(req.OutputBranch, "master"),
			ResourceRequests:        req.ResourceRequests,
			ResourceLimits:          req.ResourceLimits,
			SidecarResourceRequests: req.SidecarResourceRequests,
			SidecarResourceLimits:   req.SidecarResourceLimits,
			Description:             req.Description,
			Salt:                    req.Salt,
			Spout:                   spout,
			DatumSetSpec:            req.DatumSetSpec,
			DatumTimeout:            req.DatumTimeout,
			JobTimeout:              req.JobTimeout,
			DatumTries:              req.DatumTries,
			SchedulingSpec:          req.SchedulingSpec,
			PodSpec:                 req.PodSpec,
			PodPatch:                req.PodPatch,
			S3Out:                   req.S3Out,
			Metadata:                req.Metadata,
			ReprocessSpec:           req.ReprocessSpec,
			Autoscaling:             req.Autoscaling,
			Tolerations:             req.Tolerations,
			Determined:              req.Determined,
			MaximumExpectedUptime:   req.MaximumExpectedUptime,
		},
	}
}

func portKey(port int32) string { return portPrefix + strconv.Itoa(int(port)) }

// checkPort refuses an external port that another pipeline has, stopped or not,
// or the daemon itself.
func (s *Service) checkPort(tx *pfs.Txn, req *ppspb.CreatePipelineRequest) error {
	port := req.GetSpout().GetService().GetExternalPort()
	if port == 0 {
		return nil
	}
	if int(port) == s.port {
		return &PortInUseError{Pipeline: key(req.Pipeline), Port: port}
	}
	holder, ok, err := tx.Get(portKey(port))
	if err != nil || !ok || string(holder) == key(req.Pipeline) {
		return err
	}
	return &PortInUseError{Pipeline: key(req.Pipeline), Holder: string(holder), Port: port}
}

// movePort records which external port the pipeline has, if any.
func movePort(tx *pfs.Txn, p *ppspb.Pipeline, old, spout *ppspb.Spout) {
	before, after := old.GetService().GetExternalPort(), spout.GetService().GetExternalPort()
	if before == after {
		return
	}
	if before != 0 {
		tx.Delete(portKey(before))
	}
	if after != 0 {
		tx.Put(portKey(after), []byte(key(p)))
	}
}
