package pps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/minipachd/minipachd/auth"
	"github.com/minipachd/minipachd/pfs"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// scope is what defaults are for: the cluster or, with a name, a project.
type scope struct{ project string }

func (s scope) key() string {
	if s.project == "" {
		return "cluster"
	}
	return "project/" + s.project
}

func (s scope) String() string {
	if s.project == "" {
		return "cluster"
	}
	return "project"
}

func (s scope) descriptor() protoreflect.MessageDescriptor {
	if s.project == "" {
		return (&ppspb.ClusterDefaults{}).ProtoReflect().Descriptor()
	}
	return (&ppspb.ProjectDefaults{}).ProtoReflect().Descriptor()
}

// layer returns the part of a defaults text that goes into effective specs.
func (s scope) layer(text string) ([]byte, error) {
	canonical, err := canonicalJSON([]byte(text), s.descriptor())
	if err != nil {
		return nil, err
	}
	var d struct {
		Request json.RawMessage `json:"createPipelineRequest"`
	}
	if err := json.Unmarshal(canonical, &d); err != nil {
		return nil, err
	}
	if string(d.Request) == "null" {
		return nil, nil
	}
	if len(d.Request) > 0 && d.Request[0] != '{' {
		return nil, errors.New("create_pipeline_request must be a JSON object")
	}
	return d.Request, nil
}

// storedLayer returns the layer of the defaults that are set, nil if none are.
func (s *Service) storedLayer(tx *pfs.Txn, sc scope) ([]byte, error) {
	d, ok, err := s.defaults.Get(tx.Txn, sc.key())
	if err != nil || !ok {
		return nil, err
	}
	layer, err := sc.layer(d.GetProjectDefaultsJson())
	if err != nil {
		return nil, fmt.Errorf("read %s defaults: %w", sc, err)
	}
	return layer, nil
}

// defaultLayers returns the cluster's and the project's defaults, in this order.
func (s *Service) defaultLayers(tx *pfs.Txn, project string) ([][]byte, error) {
	cluster, err := s.storedLayer(tx, scope{})
	if err != nil {
		return nil, err
	}
	own, err := s.storedLayer(tx, scope{project: project})
	return [][]byte{cluster, own}, err
}

// GetClusterDefaults implements pps_v2.API.
func (s *Service) GetClusterDefaults(ctx context.Context, _ *ppspb.GetClusterDefaultsRequest) (*ppspb.GetClusterDefaultsResponse, error) {
	d, err := s.getDefaults(ctx, scope{})
	if err != nil {
		return nil, err
	}
	return &ppspb.GetClusterDefaultsResponse{ClusterDefaultsJson: d.ProjectDefaultsJson}, nil
}

// GetProjectDefaults implements pps_v2.API.
func (s *Service) GetProjectDefaults(ctx context.Context, req *ppspb.GetProjectDefaultsRequest) (*ppspb.GetProjectDefaultsResponse, error) {
	return s.getDefaults(ctx, scope{project: projectName(req.GetProject())})
}

func (s *Service) getDefaults(ctx context.Context, sc scope) (*ppspb.GetProjectDefaultsResponse, error) {
	var d *ppspb.GetProjectDefaultsResponse
	err := s.pfs.View(ctx, func(tx *pfs.Txn) error {
		if sc.project != "" {
			if _, err := tx.InspectProject(sc.project); err != nil {
				return err
			}
		}
		stored, ok, err := s.defaults.Get(tx.Txn, sc.key())
		if !ok {
			stored = &ppspb.GetProjectDefaultsResponse{ProjectDefaultsJson: "{}"}
		}
		d = stored
		return err
	})
	return d, err
}

// SetClusterDefaults implements pps_v2.API.
func (s *Service) SetClusterDefaults(ctx context.Context, req *ppspb.SetClusterDefaultsRequest) (*ppspb.SetClusterDefaultsResponse, error) {
	affected, err := s.setDefaults(ctx, scope{}, req.GetClusterDefaultsJson(), setOptions{req.GetRegenerate(), req.GetReprocess(), req.GetDryRun()})
	if err != nil {
		return nil, err
	}
	return &ppspb.SetClusterDefaultsResponse{AffectedPipelines: affected}, nil
}

// SetProjectDefaults implements pps_v2.API.
func (s *Service) SetProjectDefaults(ctx context.Context, req *ppspb.SetProjectDefaultsRequest) (*ppspb.SetProjectDefaultsResponse, error) {
	sc := scope{project: projectName(req.GetProject())}
	affected, err := s.setDefaults(ctx, sc, req.GetProjectDefaultsJson(), setOptions{req.GetRegenerate(), req.GetReprocess(), req.GetDryRun()})
	if err != nil {
		return nil, err
	}
	return &ppspb.SetProjectDefaultsResponse{AffectedPipelines: affected}, nil
}

type setOptions struct{ regenerate, reprocess, dryRun bool }

// setDefaults stores defaults and, to regenerate, makes a new version of every
// pipeline whose effective spec they change, all in one transaction.
func (s *Service) setDefaults(ctx context.Context, sc scope, text string, opt setOptions) ([]*ppspb.Pipeline, error) {
	if len(text) > maxSpecBytes {
		return nil, invalid("invalid %s defaults JSON: it has %d bytes, more than %d", sc, len(text), maxSpecBytes)
	}
	if text == "" {
		text = "{}"
	}
	layer, err := sc.layer(text)
	if err != nil {
		return nil, invalid("invalid %s defaults JSON: %v", sc, err)
	}
	if _, err := (userSpec{canonical: []byte("{}")}).effective(layer); err != nil {
		return nil, invalid("could not merge %s defaults into the built-in ones: %v", sc, errors.Unwrap(err))
	}
	run := s.pfs.Update
	if opt.dryRun {
		run = s.pfs.View
	}
	var affected []*ppspb.Pipeline
	err = run(ctx, func(tx *pfs.Txn) error {
		if sc.project != "" {
			if err := s.auth.Check(ctx, tx.Txn, auth.Project(sc.project), authpb.Permission_PROJECT_SET_DEFAULTS); err != nil {
				return err
			}
			if _, err := tx.InspectProject(sc.project); err != nil {
				return err
			}
		}
		affected = nil
		if opt.regenerate {
			var err error
			if affected, err = s.regenerate(ctx, tx, sc, layer, opt); err != nil {
				return err
			}
		}
		if opt.dryRun {
			return nil
		}
		return s.defaults.Put(tx.Txn, sc.key(), &ppspb.GetProjectDefaultsResponse{ProjectDefaultsJson: text, CreatedAt: timestamppb.New(tx.Now()), CreatedBy: s.auth.Subject(ctx)})
	})
	return affected, err
}

// regenerate finds the pipelines that a new layer of defaults changes and, unless
// it is a dry run, writes their new versions.
func (s *Service) regenerate(ctx context.Context, tx *pfs.Txn, sc scope, layer []byte, opt setOptions) ([]*ppspb.Pipeline, error) {
	var affected []*ppspb.Pipeline
	prefix := ""
	if sc.project != "" {
		prefix = sc.project + "/"
	}
	var records []*recordpb.PipelineRecord
	for item, err := range s.pipelines.Scan(tx.Txn, prefix, store.ScanOptions{Check: true}) {
		if err != nil {
			return nil, err
		}
		records = append(records, item.Value)
	}
	for _, rec := range records {
		layers, err := s.defaultLayers(tx, rec.Info.Pipeline.Project.Name)
		if err != nil {
			return nil, err
		}
		if sc.project == "" {
			layers[0] = layer
		} else {
			layers[1] = layer
		}
		user, err := parseUserSpec(rec.Info.UserSpecJson)
		if err != nil {
			return nil, fmt.Errorf("regenerate pipeline %q: %w", key(rec.Info.Pipeline), err)
		}
		spec, err := user.effective(layers...)
		if err != nil {
			return nil, fmt.Errorf("regenerate pipeline %q: %w", key(rec.Info.Pipeline), err)
		}
		if sameSpec(spec.json, rec.Info.EffectiveSpecJson) {
			continue
		}
		for _, check := range []func(*ppspb.CreatePipelineRequest) error{validate, supported} {
			if err := check(spec.request); err != nil {
				return nil, fmt.Errorf("regenerate pipeline %q: %w", key(rec.Info.Pipeline), err)
			}
		}
		if err := s.secrets.Check(tx.Txn, spec.request.GetTransform().GetSecrets()); err != nil {
			return nil, fmt.Errorf("regenerate pipeline %q: %w", key(rec.Info.Pipeline), err)
		}
		if err := s.checkPort(tx, spec.request); err != nil {
			return nil, err
		}
		affected = append(affected, &ppspb.Pipeline{Project: &pfspb.Project{Name: rec.Info.Pipeline.Project.Name}, Name: rec.Info.Pipeline.Name})
		if opt.dryRun {
			continue
		}
		if err := s.write(ctx, tx, rec, spec, opt.reprocess); err != nil {
			return nil, err
		}
	}
	return affected, nil
}
