// Package metadata serves metadata.API: edits of the maps of strings that users
// attach to projects, repos, branches, commits, pipelines and the cluster. It
// keeps that of the cluster itself; the others are part of their objects, in
// packages pfs and pps.
package metadata

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/auth"
	"github.com/minipachd/minipachd/pfs"
	adminpb "github.com/minipachd/minipachd/proto/admin_v2"
	metadatapb "github.com/minipachd/minipachd/proto/metadata"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	"github.com/minipachd/minipachd/store"
)

// MaxBytes is how large all keys and values of one object may be together.
// Branches are written with each commit, so theirs should be small.
const MaxBytes = 64 << 10

// The metadata of the cluster is that of the only member of a collection.
const (
	clusterPrefix = "cluster/"
	clusterKey    = "info"
)

// Pipelines edits the metadata of a pipeline as part of tx, if the caller may. edit gets the present
// map, which it may change, and gives the new one.
type Pipelines interface {
	EditPipelineMetadata(ctx context.Context, tx *pfs.Txn, p *ppspb.PipelinePicker, edit func(map[string]string) (map[string]string, error)) error
}

// Service implements metadata.API. Its methods may be called concurrently.
type Service struct {
	metadatapb.UnimplementedAPIServer

	pfs       *pfs.Service
	pipelines Pipelines
	auth      *auth.Service
	cluster   store.Collection[*adminpb.ClusterInfo] // only metadata is set
}

// New returns the service. With a nil access everybody may edit everything.
func New(files *pfs.Service, pipelines Pipelines, access *auth.Service) *Service {
	return &Service{pfs: files, pipelines: pipelines, auth: access, cluster: store.NewCollection[*adminpb.ClusterInfo](clusterPrefix)}
}

// Register adds the service to a gRPC server.
func (s *Service) Register(r grpc.ServiceRegistrar) { metadatapb.RegisterAPIServer(r, s) }

// Cluster returns the metadata of the cluster, nil if it has none.
func (s *Service) Cluster(ctx context.Context) (map[string]string, error) {
	var info *adminpb.ClusterInfo
	err := s.pfs.View(ctx, func(tx *pfs.Txn) error {
		var err error
		info, _, err = s.cluster.Get(tx.Txn, clusterKey)
		return err
	})
	return info.GetMetadata(), err
}

// EditMetadata implements metadata.API. All edits are one transaction: each sees
// those before it, and if one fails none takes effect. The error names every edit
// that fails by its number, and has the code of the first.
func (s *Service) EditMetadata(ctx context.Context, req *metadatapb.EditMetadataRequest) (*metadatapb.EditMetadataResponse, error) {
	err := s.pfs.Update(ctx, func(tx *pfs.Txn) error {
		var failed editErrors
		for i, e := range req.GetEdits() {
			err := s.edit(ctx, tx, e)
			if err != nil && ctx.Err() != nil {
				return err
			}
			if err != nil {
				failed = append(failed, &EditError{Number: i + 1, Err: err})
			}
		}
		if len(failed) > 0 {
			return failed
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &metadatapb.EditMetadataResponse{}, nil
}

// edit does one edit, if the caller may.
func (s *Service) edit(ctx context.Context, tx *pfs.Txn, e *metadatapb.Edit) error {
	if err := s.permit(ctx, tx, e); err != nil {
		return err
	}
	change := func(m map[string]string) (map[string]string, error) { return apply(m, e) }
	switch t := e.GetTarget().(type) {
	case *metadatapb.Edit_Project:
		return tx.EditProjectMetadata(t.Project, change)
	case *metadatapb.Edit_Repo:
		return tx.EditRepoMetadata(t.Repo, change)
	case *metadatapb.Edit_Branch:
		return tx.EditBranchMetadata(t.Branch, change)
	case *metadatapb.Edit_Commit:
		return tx.EditCommitMetadata(t.Commit, change)
	case *metadatapb.Edit_Pipeline:
		return s.pipelines.EditPipelineMetadata(ctx, tx, t.Pipeline, change)
	case *metadatapb.Edit_Cluster:
		info, ok, err := s.cluster.Get(tx.Txn, clusterKey)
		if err != nil {
			return err
		}
		if !ok {
			info = &adminpb.ClusterInfo{}
		}
		if info.Metadata, err = change(info.Metadata); err != nil {
			return err
		}
		return s.cluster.Put(tx.Txn, clusterKey, info)
	}
	return errNoTarget
}

// apply gives what an edit makes of a map, which it may change.
func apply(m map[string]string, e *metadatapb.Edit) (map[string]string, error) {
	if m == nil {
		m = map[string]string{}
	}
	switch op := e.GetOp().(type) {
	case *metadatapb.Edit_Replace_:
		m = op.Replace.GetReplacement()
	case *metadatapb.Edit_AddKey_:
		if _, ok := m[op.AddKey.GetKey()]; ok {
			return nil, &KeyExistsError{Key: op.AddKey.GetKey()}
		}
		m[op.AddKey.GetKey()] = op.AddKey.GetValue()
	case *metadatapb.Edit_EditKey_:
		m[op.EditKey.GetKey()] = op.EditKey.GetValue()
	case *metadatapb.Edit_DeleteKey_:
		delete(m, op.DeleteKey.GetKey())
	default:
		return nil, errNoOp
	}
	if _, ok := m[""]; ok {
		return nil, errNoKey
	}
	size := 0
	for k, v := range m {
		size += len(k) + len(v)
	}
	if size > MaxBytes {
		return nil, &TooLargeError{Bytes: size}
	}
	return m, nil
}

// Edits that say too little.
const (
	errNoTarget incompleteError = "the edit must have a target: a project, repo, branch, commit, pipeline or the cluster"
	errNoOp     incompleteError = "the edit must replace all, or add, edit or delete a key"
	errNoKey    incompleteError = "a key must not be empty"
)

// incompleteError says what an edit lacks.
type incompleteError string

func (e incompleteError) Error() string { return "validate request: " + string(e) }

// GRPCStatus makes it InvalidArgument.
func (e incompleteError) GRPCStatus() *status.Status {
	return status.New(codes.InvalidArgument, e.Error())
}

// KeyExistsError reports a key that was to be added and is there already.
type KeyExistsError struct{ Key string }

func (e *KeyExistsError) Error() string {
	return fmt.Sprintf("key %q already exists: edit it instead of adding it", e.Key)
}

// GRPCStatus makes it AlreadyExists.
func (e *KeyExistsError) GRPCStatus() *status.Status {
	return status.New(codes.AlreadyExists, e.Error())
}

// TooLargeError reports metadata beyond MaxBytes.
type TooLargeError struct{ Bytes int }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the metadata would have %d bytes of keys and values, and at most %d are possible", e.Bytes, MaxBytes)
}

// GRPCStatus makes it InvalidArgument.
func (e *TooLargeError) GRPCStatus() *status.Status {
	return status.New(codes.InvalidArgument, e.Error())
}

// EditError says which edit of a call fails.
type EditError struct {
	Number int // from 1
	Err    error
}

func (e *EditError) Error() string {
	return fmt.Sprintf("edit %d: %s", e.Number, status.Convert(e.Err).Message())
}

// Unwrap gives what was wrong.
func (e *EditError) Unwrap() error { return e.Err }

// editErrors are those of one call, at least one.
type editErrors []*EditError

func (l editErrors) Error() string {
	lines := make([]string, len(l))
	for i, e := range l {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

func (l editErrors) Unwrap() []error {
	errs := make([]error, len(l))
	for i, e := range l {
		errs[i] = e
	}
	return errs
}

// GRPCStatus has the code of the first error.
func (l editErrors) GRPCStatus() *status.Status {
	code := codes.Unknown
	var coded interface{ GRPCStatus() *status.Status }
	if errors.As(l[0].Err, &coded) {
		code = coded.GRPCStatus().Code()
	}
	return status.New(code, l.Error())
}
