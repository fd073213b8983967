package pps

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/minipachd/minipachd/pfs"
	"github.com/minipachd/minipachd/pps/jq"
	"github.com/minipachd/minipachd/pps/scheduler"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// InspectPipeline implements pps_v2.API. The name may end in ^, ^^, ^2, ~ or ~2
// to mean an older version. Who may not read the output repo gets the outline.
func (s *Service) InspectPipeline(ctx context.Context, req *ppspb.InspectPipelineRequest) (*ppspb.PipelineInfo, error) {
	p, err := target(req.GetPipeline())
	if err != nil {
		return nil, err
	}
	name, back, err := parseAncestry(p.GetName())
	if err != nil {
		return nil, err
	}
	p.Name = name
	var info *ppspb.PipelineInfo
	reads := false
	err = s.pfs.View(ctx, func(tx *pfs.Txn) error {
		rec, err := s.record(tx, p)
		if err != nil {
			return err
		}
		if reads, err = s.allowed(ctx, tx, p, authpb.Permission_REPO_READ); err != nil {
			return err
		}
		if back == 0 {
			observed, _, err := s.statuses.Get(tx.Txn, key(p))
			if err != nil {
				return err
			}
			holder, held, err := s.claims.Get(tx.Txn, key(p))
			if err != nil {
				return err
			}
			if !held {
				observed = unattended(observed)
			}
			mergeStatus(rec, observed)
			locateService(rec.Info, holder)
			info = rec.Info
			return lastCommits(tx, []*recordpb.PipelineRecord{rec})
		}
		if back >= rec.Info.Version {
			return fmt.Errorf("pipeline %q has only %d versions, not enough to find ancestor %d", name, rec.Info.Version, back)
		}
		info, err = s.version(tx, p, rec.Info.Version-back)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !reads {
		info = outline(info)
	}
	if !req.GetDetails() {
		info.Details = nil
	}
	return info, nil
}

func (s *Service) version(tx *pfs.Txn, p *ppspb.Pipeline, version uint64) (*ppspb.PipelineInfo, error) {
	info, ok, err := s.versions.Get(tx.Txn, versionKey(p, version))
	if err == nil && !ok {
		err = fmt.Errorf("pipeline %q: version %d not found", key(p), version)
	}
	return info, err
}

var ancestry = regexp.MustCompile(`^([^~^]*)(\^+|~+|[~^][0-9]+)?$`)

// parseAncestry splits "name^^", "name~2" and so on into name and distance.
func parseAncestry(text string) (name string, back uint64, err error) {
	m := ancestry.FindStringSubmatch(text)
	if m == nil || m[1] == "" {
		return "", 0, invalid("invalid ancestry syntax %q: use name^, name^^ or name~N", text)
	}
	suffix := m[2]
	digits := strings.TrimLeft(suffix, "^~")
	if digits == "" {
		return m[1], uint64(len(suffix)), nil
	}
	back, err = strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return "", 0, invalid("invalid ancestry syntax %q: %v", text, err)
	}
	return m[1], back, nil
}

// mergeStatus puts into a record's info what the scheduler observed, unless that
// is from before the last change of the record. observed may be nil.
func mergeStatus(rec *recordpb.PipelineRecord, observed *recordpb.PipelineStatus) {
	info := rec.Info
	info.AuthToken = ""
	if info.Details == nil {
		info.Details = &ppspb.PipelineInfo_Details{}
	}
	info.Details.WorkersRequested = int64(info.Parallelism)
	info.Details.WorkersAvailable = observed.GetWorkersAvailable() // also those of a version that is ending
	if observed == nil || observed.Generation != rec.Generation {
		return
	}
	info.State, info.Reason = observed.State, observed.Reason
	info.Details.Reason = observed.Reason
	info.Details.RecentError = observed.RecentError
	info.Details.WorkersStartedAt = observed.WorkersStartedAt
	info.Details.Warnings = observed.Warnings
	info.Details.Restarts = observed.Restarts
	info.Details.LastExit = observed.LastExit
	info.Details.NextStart = observed.NextStart
}

// locateService tells where the service port of a spout is open: on the host of the
// daemon that has the pipeline, nil if none has. It is no matter of the spec.
func locateService(info *ppspb.PipelineInfo, holder *recordpb.DaemonRecord) {
	service := info.GetDetails().GetSpout().GetService()
	if service == nil || info.Stopped || service.Ip != "" {
		return
	}
	if host, _, err := net.SplitHostPort(holder.GetAddress()); err == nil {
		service.Ip = host
	}
}

// unattended is what a status means when no daemon has the pipeline any more; nil if
// nobody had it yet.
func unattended(observed *recordpb.PipelineStatus) *recordpb.PipelineStatus {
	return scheduler.Abandoned(observed, "the pachd that ran it is gone; waiting for one that takes over")
}

// listQuery selects pipelines; its zero value means all of them.
type listQuery struct {
	projects map[string]bool // nil: all
	pipeline *ppspb.Pipeline // nil: all
}

// load returns the newest version of each pipeline as of one moment, with its
// status, the newest-created pipeline first.
func (s *Service) load(ctx context.Context, q listQuery) ([]*recordpb.PipelineRecord, error) {
	var records []*recordpb.PipelineRecord
	err := s.pfs.View(ctx, func(tx *pfs.Txn) error {
		records = nil
		statuses := map[string]*recordpb.PipelineStatus{}
		for item, err := range s.statuses.Scan(tx.Txn, "", store.ScanOptions{}) {
			if err != nil {
				return err
			}
			statuses[item.Key] = item.Value
		}
		held := map[string]*recordpb.DaemonRecord{}
		for item, err := range s.claims.Scan(tx.Txn, "", store.ScanOptions{}) {
			if err != nil {
				return err
			}
			held[item.Key] = item.Value
		}
		for item, err := range s.pipelines.Scan(tx.Txn, "", store.ScanOptions{}) {
			if err != nil {
				return err
			}
			rec := item.Value
			k := key(rec.Info.Pipeline)
			if (q.projects != nil && !q.projects[rec.Info.Pipeline.Project.Name]) || (q.pipeline != nil && key(q.pipeline) != k) {
				continue
			}
			observed := statuses[k]
			if held[k] == nil {
				observed = unattended(observed)
			}
			mergeStatus(rec, observed)
			locateService(rec.Info, held[k])
			records = append(records, rec)
		}
		return lastCommits(tx, records)
	})
	slices.SortStableFunc(records, func(a, b *recordpb.PipelineRecord) int {
		x, y := a.Info.Details.GetCreatedAt().AsTime(), b.Info.Details.GetCreatedAt().AsTime()
		return cmp.Or(y.Compare(x), cmp.Compare(key(a.Info.Pipeline), key(b.Info.Pipeline)))
	})
	return records, err
}

// projectSet returns the names of projects, nil if there are none.
func projectSet(projects []*pfspb.Project) map[string]bool {
	var set map[string]bool
	for _, p := range projects {
		if set == nil {
			set = map[string]bool{}
		}
		set[projectName(p)] = true
	}
	return set
}

// ListPipeline implements pps_v2.API. Details are always there.
func (s *Service) ListPipeline(req *ppspb.ListPipelineRequest, stream ppspb.API_ListPipelineServer) error {
	ctx := stream.Context()
	filter, err := s.jq.Compile(req.GetJqFilter())
	if err != nil {
		return err
	}
	defer filter.Close()
	q := listQuery{projects: projectSet(req.GetProjects())}
	if req.GetPipeline().GetName() != "" {
		if q.pipeline, err = target(req.GetPipeline()); err != nil {
			return err
		}
		q.projects = nil
	}
	if h := req.GetHistory(); h < -1 {
		return invalid("list pipeline: history must be -1 or more, not %d", h)
	}
	records, err := s.load(ctx, q)
	if err != nil {
		return err
	}
	if records, err = s.visible(ctx, records); err != nil {
		return err
	}
	page := newPager(req.GetPage())
	for _, rec := range records {
		infos, err := s.history(ctx, rec, req)
		if err != nil {
			return err
		}
		for _, info := range infos {
			keep, err := matches(ctx, filter, info)
			if err != nil {
				return err
			}
			if !keep || !page.next() {
				continue
			}
			if err := stream.Send(info); err != nil {
				return err
			}
		}
	}
	return nil
}

// matches applies a filter to a message as JSON with the names of the .proto files.
func matches(ctx context.Context, filter *jq.Filter, m proto.Message) (bool, error) {
	if filter == nil {
		return true, nil
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return false, fmt.Errorf("apply jq filter: %w", err)
	}
	return filter.Match(ctx, text)
}

// history returns the versions of a pipeline that a list request asks for, newest
// first, as far as the caller may know them.
func (s *Service) history(ctx context.Context, rec *recordpb.PipelineRecord, req *ppspb.ListPipelineRequest) ([]*ppspb.PipelineInfo, error) {
	infos, err := s.versionsOf(ctx, rec, req)
	if err != nil {
		return nil, err
	}
	reads, err := s.auth.Allows(ctx, outputResource(rec.Info.Pipeline), authpb.Permission_REPO_READ)
	if err != nil {
		return nil, err
	}
	if !reads {
		for i := range infos {
			infos[i] = outline(infos[i])
		}
	}
	return infos, nil
}

func (s *Service) versionsOf(ctx context.Context, rec *recordpb.PipelineRecord, req *ppspb.ListPipelineRequest) ([]*ppspb.PipelineInfo, error) {
	newest := rec.Info.Version
	if id := req.GetCommitSet().GetId(); id != "" {
		v, err := s.versionAt(ctx, rec, id)
		if err != nil || v == 0 {
			return nil, err
		}
		if v == newest {
			return []*ppspb.PipelineInfo{rec.Info}, nil
		}
		var info *ppspb.PipelineInfo
		err = s.pfs.View(ctx, func(tx *pfs.Txn) error {
			info, err = s.version(tx, rec.Info.Pipeline, v)
			return err
		})
		return []*ppspb.PipelineInfo{info}, err
	}
	infos := []*ppspb.PipelineInfo{rec.Info}
	n := newest - 1
	if h := req.GetHistory(); h >= 0 {
		n = min(n, uint64(h))
	}
	if n == 0 {
		return infos, nil
	}
	err := s.pfs.View(ctx, func(tx *pfs.Txn) error {
		infos = infos[:1]
		for v := newest - 1; v >= newest-n; v-- {
			info, err := s.version(tx, rec.Info.Pipeline, v)
			if err != nil {
				return err
			}
			infos = append(infos, info)
		}
		return nil
	})
	return infos, err
}

// pager lets through the elements of one page.
type pager struct{ skip, take int64 } // take < 0: without end

func newPager(p *ppspb.PipelinePage) *pager {
	if p.GetPageSize() <= 0 {
		return &pager{take: -1}
	}
	index := max(0, p.GetPageIndex())
	if index > math.MaxInt64/p.GetPageSize() {
		return &pager{} // far beyond the end
	}
	return &pager{skip: index * p.GetPageSize(), take: p.GetPageSize()}
}

func (p *pager) next() bool {
	if p.skip > 0 {
		p.skip--
		return false
	}
	if p.take == 0 {
		return false
	}
	if p.take > 0 {
		p.take--
	}
	return true
}

// PipelinesSummary implements pps_v2.API. Without projects it covers those that have pipelines.
func (s *Service) PipelinesSummary(ctx context.Context, req *ppspb.PipelinesSummaryRequest) (*ppspb.PipelinesSummaryResponse, error) {
	var order []string
	byName := map[string]*ppspb.PipelinesSummary{}
	get := func(project string) *ppspb.PipelinesSummary {
		if byName[project] == nil {
			byName[project] = &ppspb.PipelinesSummary{Project: &pfspb.Project{Name: project}}
			order = append(order, project)
		}
		return byName[project]
	}
	for _, picker := range req.GetProjects() {
		name := cmp.Or(picker.GetName(), "default")
		if err := s.projectExists(ctx, name); err != nil {
			return nil, err
		}
		get(name)
	}
	records, err := s.load(ctx, listQuery{})
	if err != nil {
		return nil, err
	}
	if records, err = s.visible(ctx, records); err != nil {
		return nil, err
	}
	for _, rec := range records {
		project := rec.Info.Pipeline.Project.Name
		if len(req.GetProjects()) > 0 && byName[project] == nil {
			continue
		}
		switch sum := get(project); rec.Info.State {
		case ppspb.PipelineState_PIPELINE_PAUSED:
			sum.PausedPipelines++
		case ppspb.PipelineState_PIPELINE_FAILURE, ppspb.PipelineState_PIPELINE_CRASHING:
			sum.FailedPipelines++
		default:
			sum.ActivePipelines++
		}
	}
	res := &ppspb.PipelinesSummaryResponse{}
	for _, name := range order {
		res.Summaries = append(res.Summaries, proto.CloneOf(byName[name]))
	}
	return res, nil
}

func (s *Service) projectExists(ctx context.Context, name string) error {
	return s.pfs.View(ctx, func(tx *pfs.Txn) error {
		_, err := tx.InspectProject(name)
		return err
	})
}

// CheckStatus implements pps_v2.API. Alerts are about autoscaled pipelines that
// run for too long; spouts are not autoscaled, so there are none.
func (s *Service) CheckStatus(req *ppspb.CheckStatusRequest, stream ppspb.API_CheckStatusServer) error {
	if p, ok := req.GetContext().(*ppspb.CheckStatusRequest_Project); ok {
		return s.projectExists(stream.Context(), projectName(p.Project))
	}
	return nil
}

// versionAt returns the number of the pipeline's version that a commit set comes
// from, 0 if it has nothing to do with the pipeline.
func (s *Service) versionAt(ctx context.Context, rec *recordpb.PipelineRecord, set string) (uint64, error) {
	if !pfs.IsCommitID(set) {
		return 0, invalid("list pipeline: %q is not the id of a commit set", set)
	}
	// A commit set stands, in a repo without a commit in it, for what it was made from.
	commit := &pfspb.Commit{Repo: specRepo(rec.Info.Pipeline), Id: set}
	info, err := s.pfs.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: commit})
	if status.Code(err) == codes.NotFound {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return uint64(slices.Index(rec.SpecCommits, info.GetCommit().GetId()) + 1), nil
}
