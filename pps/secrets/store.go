package secrets

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

const secretPrefix = "pps/secret/" // by name

// ExistsError reports that a secret to be created is there already.
type ExistsError struct{ Name string }

func (e *ExistsError) Error() string {
	return fmt.Sprintf("failed to create secret: secrets %q already exists", e.Name)
}

// GRPCStatus makes it AlreadyExists.
func (e *ExistsError) GRPCStatus() *status.Status {
	return status.New(codes.AlreadyExists, e.Error())
}

// NotFoundError reports a secret that is not there.
type NotFoundError struct{ Verb, Name string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("failed to %s secret: secrets %q not found", e.Verb, e.Name)
}

// GRPCStatus makes it NotFound.
func (e *NotFoundError) GRPCStatus() *status.Status { return status.New(codes.NotFound, e.Error()) }

// WrongKeyError reports a secret that was encrypted with another key.
type WrongKeyError struct{ Name, Has, Want string }

func (e *WrongKeyError) Error() string {
	return fmt.Sprintf("secret %q is encrypted with key %s, but this pachd has key %s: start it with the key file of then (--secret-key-file), or delete the secret and create it again", e.Name, e.Has, e.Want)
}

// GRPCStatus makes it FailedPrecondition.
func (e *WrongKeyError) GRPCStatus() *status.Status {
	return status.New(codes.FailedPrecondition, e.Error())
}

// Store holds all secrets. Its methods may be called concurrently.
type Store struct {
	key     *Key
	records store.Collection[*recordpb.SecretRecord]
}

// New returns a store that encrypts with key.
func New(key *Key) *Store {
	return &Store{key: key, records: store.NewCollection[*recordpb.SecretRecord](secretPrefix)}
}

// Seal encrypts a secret for Create.
func (s *Store) Seal(secret *Secret) *recordpb.SecretRecord {
	rec := &recordpb.SecretRecord{
		Info:   &ppspb.SecretInfo{Secret: &ppspb.Secret{Name: secret.Name}, Type: secret.Type},
		KeyId:  s.key.id,
		Values: map[string][]byte{},
	}
	for k, v := range secret.values {
		rec.Values[k] = s.key.seal(secret.Name, k, v)
	}
	return rec
}

// Create stores a sealed secret; *ExistsError if there is one of its name.
func (s *Store) Create(tx *store.Txn, rec *recordpb.SecretRecord) error {
	name := rec.GetInfo().GetSecret().GetName()
	if _, ok, err := s.records.Get(tx, name); err != nil || ok {
		if err == nil {
			err = &ExistsError{Name: name}
		}
		return err
	}
	rec.Info.CreationTimestamp = timestamppb.New(tx.Now())
	return s.records.Put(tx, name, rec)
}

// Inspect describes a secret without its values, or returns *NotFoundError.
func (s *Store) Inspect(tx *store.Txn, name string) (*ppspb.SecretInfo, error) {
	rec, ok, err := s.records.Get(tx, name)
	if err == nil && !ok {
		err = &NotFoundError{Verb: "get", Name: name}
	}
	return rec.GetInfo(), err
}

// List describes all secrets, sorted by name.
func (s *Store) List(tx *store.Txn) ([]*ppspb.SecretInfo, error) {
	var infos []*ppspb.SecretInfo
	for item, err := range s.records.Scan(tx, "", store.ScanOptions{}) {
		if err != nil {
			return nil, err
		}
		infos = append(infos, item.Value.GetInfo())
	}
	return infos, nil
}

// Delete removes a secret, or returns *NotFoundError. Workers keep what they
// were given; those that start later miss it.
func (s *Store) Delete(tx *store.Txn, name string) error {
	if _, ok, err := s.records.Get(tx, name); err != nil || !ok {
		if err == nil {
			err = &NotFoundError{Verb: "delete", Name: name}
		}
		return err
	}
	s.records.Delete(tx, name)
	return nil
}

// DeleteAll removes all secrets.
func (s *Store) DeleteAll(tx *store.Txn) { s.records.DeletePrefix(tx, "") }
