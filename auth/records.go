package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// Keys of this package in etcd, below the store's prefix. All that decides who may
// do what lies under one prefix, with one type, so that one watch tells of it in
// order and one operation removes it.
const (
	accessPrefix = "auth/access/"

	activationKey = "activation"
	bindingPrefix = "binding/" // and <type>/<name>
	groupsPrefix  = "groups/"  // and <principal>
	tokenPrefix   = "token/"   // and <hash>

	sweeperKey = "auth/sweeper"
)

func bindingKey(r Resource) string { return bindingPrefix + r.Type.String() + "/" + r.Name }

// hashOf is all that is stored of a token. It is 256 bits of which nobody can
// choose any, so a lookup by it tells nothing of others.
func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// records reads and writes the access records.
type records struct {
	store.Collection[*recordpb.AccessRecord]
}

func newRecords() records {
	return records{store.NewCollection[*recordpb.AccessRecord](accessPrefix)}
}

// activation gives nil while auth is off.
func (r records) activation(tx *store.Txn) (*recordpb.AuthActivation, error) {
	rec, _, err := r.Get(tx, activationKey)
	return rec.GetActivation(), err
}

// on refuses what makes no sense while auth is off.
func (r records) on(tx *store.Txn) error {
	a, err := r.activation(tx)
	if err == nil && a == nil {
		err = ErrNotActivated
	}
	return err
}

func (r records) token(tx *store.Txn, hash string) (*authpb.TokenInfo, error) {
	rec, _, err := r.Get(tx, tokenPrefix+hash)
	return rec.GetToken(), err
}

func (r records) putToken(tx *store.Txn, t *authpb.TokenInfo) error {
	return r.Put(tx, tokenPrefix+t.GetHashedToken(), &recordpb.AccessRecord{Kind: &recordpb.AccessRecord_Token{Token: t}})
}

// binding gives nil if res has no record.
func (r records) binding(tx *store.Txn, res Resource) (*authpb.RoleBinding, error) {
	rec, _, err := r.Get(tx, bindingKey(res))
	return rec.GetBinding(), err
}

func (r records) putBinding(tx *store.Txn, res Resource, b *authpb.RoleBinding) error {
	return r.Put(tx, bindingKey(res), &recordpb.AccessRecord{Kind: &recordpb.AccessRecord_Binding{Binding: b}})
}

// groups gives the groups of a subject, nil if it has none.
func (r records) groups(tx *store.Txn, subject string) (*authpb.Groups, error) {
	rec, _, err := r.Get(tx, groupsPrefix+subject)
	return rec.GetGroups(), err
}

func (r records) putGroups(tx *store.Txn, subject string, g *authpb.Groups) error {
	if len(g.GetGroups()) == 0 {
		old, err := r.groups(tx, subject)
		if err == nil && old != nil {
			r.Delete(tx, groupsPrefix+subject)
		}
		return err
	}
	return r.Put(tx, groupsPrefix+subject, &recordpb.AccessRecord{Kind: &recordpb.AccessRecord_Groups{Groups: g}})
}

// isHash tells a SHA-256 in lower-case hexadecimal digits.
func isHash(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}
