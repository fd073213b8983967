package pps

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/minipachd/minipachd/pps/secrets"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	"github.com/minipachd/minipachd/store"
)

// CreateSecret implements pps_v2.API. The file is the JSON of a Kubernetes Secret.
func (s *Service) CreateSecret(ctx context.Context, req *ppspb.CreateSecretRequest) (*emptypb.Empty, error) {
	secret, err := secrets.Parse(req.GetFile())
	if err != nil {
		return nil, err
	}
	sealed := s.secrets.Seal(secret)
	_, err = s.store.Update(ctx, func(tx *store.Txn) error { return s.secrets.Create(tx, sealed) })
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// InspectSecret implements pps_v2.API. Values are never returned.
func (s *Service) InspectSecret(ctx context.Context, req *ppspb.InspectSecretRequest) (*ppspb.SecretInfo, error) {
	name, err := secretName(req.GetSecret())
	if err != nil {
		return nil, err
	}
	var info *ppspb.SecretInfo
	err = s.store.View(ctx, func(tx *store.Txn) error {
		info, err = s.secrets.Inspect(tx, name)
		return err
	})
	return info, err
}

// ListSecret implements pps_v2.API.
func (s *Service) ListSecret(ctx context.Context, _ *emptypb.Empty) (*ppspb.SecretInfos, error) {
	res := &ppspb.SecretInfos{}
	err := s.store.View(ctx, func(tx *store.Txn) error {
		var err error
		res.SecretInfo, err = s.secrets.List(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// DeleteSecret implements pps_v2.API. A secret in use may go: to change one is to
// delete it and to create it again.
func (s *Service) DeleteSecret(ctx context.Context, req *ppspb.DeleteSecretRequest) (*emptypb.Empty, error) {
	name, err := secretName(req.GetSecret())
	if err != nil {
		return nil, err
	}
	_, err = s.store.Update(ctx, func(tx *store.Txn) error { return s.secrets.Delete(tx, name) })
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func secretName(secret *ppspb.Secret) (string, error) {
	if secret.GetName() == "" {
		return "", invalid("validate request: the secret must have a name")
	}
	return secret.GetName(), nil
}
