package pps

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/minipachd/minipachd/auth"
	"github.com/minipachd/minipachd/pfs"
	"github.com/minipachd/minipachd/pps/jq"
	"github.com/minipachd/minipachd/pps/logs"
	"github.com/minipachd/minipachd/pps/secrets"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// Keys of this package in etcd, below the store's prefix. Pipelines are found
// under <project>/<name>, versions under <project>/<name>/<version, 8 digits>.
const (
	pipelinePrefix = "pps/pipeline/"
	versionPrefix  = "pps/version/"
	statusPrefix   = "pps/status/"           // written by the scheduler
	claimPrefix    = "pps/scheduler/claim/"  // which daemon runs a pipeline, on its lease; the scheduler's
	memberPrefix   = "pps/scheduler/member/" // the daemons that are alive; the scheduler's
	runnersPrefix  = "pps/scheduler/ran/"    // which daemons have run a pipeline; the scheduler's
	portPrefix     = "pps/port/"             // external port -> key of the pipeline that has it
	defaultsPrefix = "pps/defaults/"
)

// Config is what a Service works with. Store, PFS, Logs and Secrets are required.
type Config struct {
	Store   *store.Store
	PFS     *pfs.Service
	Logs    *logs.Store
	Secrets *secrets.Store
	Auth    *auth.Service // nil: everybody may do everything
	Port    int           // that the daemon itself serves, which no spout can have; default none
	Peers   Peers         // nil: logs of other daemons are out of reach
	Logger  *zap.Logger   // default: none
}

// Service implements pps_v2.API. Its methods may be called concurrently.
type Service struct {
	ppspb.UnimplementedAPIServer

	store   *store.Store
	pfs     *pfs.Service
	logs    *logs.Store
	secrets *secrets.Store
	auth    *auth.Service
	port    int
	peers   Peers
	log     *zap.Logger
	jq      *jq.Runner

	pipelines store.Collection[*recordpb.PipelineRecord]
	versions  store.Collection[*ppspb.PipelineInfo]
	statuses  store.Collection[*recordpb.PipelineStatus]
	claims    store.Collection[*recordpb.DaemonRecord]
	members   store.Collection[*recordpb.DaemonRecord]
	runners   store.Collection[*recordpb.Runners]
	defaults  store.Collection[*ppspb.GetProjectDefaultsResponse]
}

// New returns the service. It starts nothing in the background.
func New(cfg Config) *Service {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	return &Service{
		store:     cfg.Store,
		pfs:       cfg.PFS,
		logs:      cfg.Logs,
		secrets:   cfg.Secrets,
		auth:      cfg.Auth,
		port:      cfg.Port,
		peers:     cfg.Peers,
		log:       cfg.Logger,
		jq:        jq.NewRunner(jq.Config{}),
		pipelines: store.NewCollection[*recordpb.PipelineRecord](pipelinePrefix),
		versions:  store.NewCollection[*ppspb.PipelineInfo](versionPrefix),
		statuses:  store.NewCollection[*recordpb.PipelineStatus](statusPrefix),
		claims:    store.NewCollection[*recordpb.DaemonRecord](claimPrefix),
		members:   store.NewCollection[*recordpb.DaemonRecord](memberPrefix),
		runners:   store.NewCollection[*recordpb.Runners](runnersPrefix),
		defaults:  store.NewCollection[*ppspb.GetProjectDefaultsResponse](defaultsPrefix),
	}
}

// Register adds the service to a gRPC server.
func (s *Service) Register(r grpc.ServiceRegistrar) { ppspb.RegisterAPIServer(r, s) }

// target checks that a request names a pipeline and fills in the default project.
func target(p *ppspb.Pipeline) (*ppspb.Pipeline, error) {
	if p == nil {
		return nil, invalid("validate request: a pipeline must be given")
	}
	if p.GetName() == "" {
		return nil, invalid("validate request: the pipeline must have a name")
	}
	return &ppspb.Pipeline{Project: &pfspb.Project{Name: projectName(p.GetProject())}, Name: p.GetName()}, nil
}

func projectName(p *pfspb.Project) string {
	if name := p.GetName(); name != "" {
		return name
	}
	return "default"
}

// key is how a pipeline is stored and how texts name it: "project/name".
func key(p *ppspb.Pipeline) string { return projectName(p.GetProject()) + "/" + p.GetName() }

func versionKey(p *ppspb.Pipeline, version uint64) string {
	n := strconv.FormatUint(version, 10)
	return key(p) + "/" + strings.Repeat("0", max(0, 8-len(n))) + n
}

// Repos and branches that go with a pipeline.

func outputRepo(p *ppspb.Pipeline) *pfspb.Repo {
	return &pfspb.Repo{Project: p.GetProject(), Name: p.GetName(), Type: "user"}
}

func specRepo(p *ppspb.Pipeline) *pfspb.Repo {
	return &pfspb.Repo{Project: p.GetProject(), Name: p.GetName(), Type: "spec"}
}

func outputBranch(info *ppspb.PipelineInfo) *pfspb.Branch {
	return &pfspb.Branch{Repo: outputRepo(info.GetPipeline()), Name: info.GetDetails().GetOutputBranch()}
}

func specBranch(p *ppspb.Pipeline) *pfspb.Branch {
	return &pfspb.Branch{Repo: specRepo(p), Name: "master"}
}

// record returns a pipeline's record or *PipelineNotFoundError.
func (s *Service) record(tx *pfs.Txn, p *ppspb.Pipeline) (*recordpb.PipelineRecord, error) {
	rec, ok, err := s.pipelines.Get(tx.Txn, key(p))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, &PipelineNotFoundError{Pipeline: p}
	}
	return rec, nil
}

// exists returns *PipelineNotFoundError unless p exists.
func (s *Service) exists(ctx context.Context, p *ppspb.Pipeline) error {
	return s.pfs.View(ctx, func(tx *pfs.Txn) error {
		_, err := s.record(tx, p)
		return err
	})
}

// generation returns the number for a changed record. It exceeds every number
// that a deleted pipeline of the same name had, so a late status of that one is
// never taken for the new one's.
func generation(tx *pfs.Txn, old uint64) uint64 { return max(old, uint64(tx.Revision())) + 1 }

func isNotFound(err error) bool {
	var nf *PipelineNotFoundError
	return errors.As(err, &nf)
}
