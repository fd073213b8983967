package auth

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/minipachd/minipachd/auth/oidc"
	"github.com/minipachd/minipachd/clock"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	enterprisepb "github.com/minipachd/minipachd/proto/enterprise_v2"
	identitypb "github.com/minipachd/minipachd/proto/identity_v2"
	licensepb "github.com/minipachd/minipachd/proto/license_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// Config is what a Service works with. Store is required.
type Config struct {
	Store *store.Store
	// Logger gets what background work has to say; nil discards it.
	Logger *zap.Logger
	// RootToken, if not empty, is the only token of pach:root, chosen by whoever runs
	// the daemon.
	RootToken string
	// Resolve knows tokens that are kept elsewhere, such as those of workers. ok is
	// false for a token that is not of their form; err, such as ErrBadToken, refuses
	// one that is. It may be nil.
	Resolve func(ctx context.Context, token string) (id Identity, ok bool, err error)
	// Logins are how users log in; by default they go by the system's certificates.
	Logins *oidc.Logins
	// Sealer encrypts the secrets of OIDC clients; nil leaves them as they are.
	Sealer oidc.Sealer
	// SweepInterval is the time between two removals of expired tokens, default 5 min.
	SweepInterval time.Duration
	// Clock is the system's by default.
	Clock clock.Clock
}

// Service is the auth domain. A nil *Service is one with auth off. Its methods may
// be called concurrently. It works from etcd alone until Run feeds its memory.
type Service struct {
	store   *store.Store
	log     *zap.Logger
	clock   clock.Clock
	sweep   time.Duration
	preset  string
	resolve func(ctx context.Context, token string) (Identity, bool, error)

	records records
	logins  *oidc.Logins
	sealer  oidc.Sealer
	roles   roles
	cache   *cache

	mu       sync.Mutex
	sessions map[string]map[*session]struct{} // by key of their identity
}

// New returns the service. It starts nothing.
func New(cfg Config) *Service {
	s := &Service{
		store: cfg.Store, log: cfg.Logger, clock: cfg.Clock, sweep: cfg.SweepInterval,
		preset: cfg.RootToken, resolve: cfg.Resolve, sealer: cfg.Sealer,
		records:  newRecords(),
		roles:    newRoles(),
		sessions: map[string]map[*session]struct{}{},
	}
	s.cache = newCache(s.roles)
	s.logins = cfg.Logins
	if s.logins == nil {
		s.logins = oidc.New(oidc.Config{Store: cfg.Store, Logger: cfg.Logger, Clock: cfg.Clock, Sealer: cfg.Sealer})
	}
	if s.log == nil {
		s.log = zap.NewNop()
	}
	if s.clock == nil {
		s.clock = clock.System{}
	}
	if s.sweep == 0 {
		s.sweep = 5 * time.Minute
	}
	if s.resolve == nil {
		s.resolve = func(context.Context, string) (Identity, bool, error) { return Identity{}, false, nil }
	}
	return s
}

// Register adds the auth, identity, enterprise and license services to r.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	authpb.RegisterAPIServer(r, &authServer{Service: s})
	identitypb.RegisterAPIServer(r, newIdentityServer(s))
	enterprisepb.RegisterAPIServer(r, &enterpriseServer{})
	licensepb.RegisterAPIServer(r, &licenseServer{})
}

// Init finds out whether auth is on, makes a root token that Config presets the only
// one, and encrypts secrets that an earlier daemon did not. It is called before
// requests are served.
func (s *Service) Init(ctx context.Context) error {
	if s.preset != "" {
		if err := checkToken(s.preset); err != nil {
			return fmt.Errorf("preset root token: %w", err)
		}
	}
	active := false
	_, err := s.store.Update(ctx, func(tx *store.Txn) error {
		if err := errors.Join(s.logins.SealConfiguration(tx), s.sealClients(tx)); err != nil {
			return err
		}
		a, err := s.records.activation(tx)
		active = a != nil
		if err != nil || a == nil || s.preset == "" || a.GetRootHash() == hashOf(s.preset) {
			return err
		}
		return s.putRoot(tx, a, s.preset)
	})
	if err != nil {
		return fmt.Errorf("auth: %w", err)
	}
	if active {
		s.cache.state.Store(on)
	} else {
		s.cache.state.Store(off)
	}
	return nil
}

// Run keeps what is remembered current and removes expired tokens, until ctx ends,
// whose error it returns.
func (s *Service) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return s.records.Watch(ctx, s.store, "", func(e store.Event[*recordpb.AccessRecord]) error {
			changed, all := s.cache.apply(e)
			if changed != "" {
				s.Changed(changed)
			}
			if all {
				s.changedAll()
			}
			return nil
		})
	})
	g.Go(func() error { return s.runSweeper(ctx) })
	return g.Wait()
}

// Active tells whether auth is on. Until that is known it says yes.
func (s *Service) Active() bool { return s != nil && s.cache.state.Load() != off }

// Authenticate tells whose token it is, or ErrBadToken.
func (s *Service) Authenticate(ctx context.Context, token string) (Identity, error) {
	hash := hashOf(token)
	if t := s.cache.token(hash); t != nil {
		return s.identity(t, hash)
	}
	if id, ok, err := s.resolve(ctx, token); ok || err != nil {
		return id, err
	}
	// It may have been made a moment ago.
	var t *authpb.TokenInfo
	err := s.store.View(ctx, func(tx *store.Txn) (err error) {
		t, err = s.records.token(tx, hash)
		return err
	})
	if err != nil {
		return Identity{}, err
	}
	return s.identity(t, hash)
}

// identity is that of a token which has not expired.
func (s *Service) identity(t *authpb.TokenInfo, hash string) (Identity, error) {
	id := Identity{Subject: t.GetSubject(), Key: tokenPrefix + hash}
	if e := t.GetExpiration(); e != nil {
		id.Expiration = e.AsTime()
	}
	switch {
	case t == nil, subtle.ConstantTimeCompare([]byte(t.GetHashedToken()), []byte(hash)) != 1,
		id.Subject == "", strings.HasPrefix(id.Subject, internalPrefix), s.expired(t):
		return Identity{}, ErrBadToken
	}
	return id, nil
}

func (s *Service) expired(t *authpb.TokenInfo) bool {
	e := t.GetExpiration()
	return e != nil && !s.clock.Now().Before(e.AsTime())
}

// Check answers nil when auth is off, or when the caller of ctx has all of perms on
// res; otherwise with the error that its client is to see. What the daemon
// remembers may be a moment old, so a denial is only given after the state in
// etcd, as tx sees it, has said the same; tx may be nil.
func (s *Service) Check(ctx context.Context, tx *store.Txn, res Resource, perms ...authpb.Permission) error {
	if !s.Active() {
		return nil
	}
	return s.check(ctx, tx, res, perms)
}

// check is Check without asking the memory whether auth is on.
func (s *Service) check(ctx context.Context, tx *store.Txn, res Resource, perms []authpb.Permission) error {
	k, _ := ctx.Value(callerKey{}).(*known)
	if k != nil && (k.internal() || k.Subject != "" && s.cache.allowed(k.Subject, res, perms)) {
		return nil
	}
	if tx == nil {
		return s.store.View(ctx, func(tx *store.Txn) error { return s.verify(ctx, tx, res, perms) })
	}
	return s.verify(ctx, tx, res, perms)
}

// verify asks etcd.
func (s *Service) verify(ctx context.Context, tx *store.Txn, res Resource, perms []authpb.Permission) error {
	if err := s.records.on(tx); err != nil {
		if errors.Is(err, ErrNotActivated) {
			return nil
		}
		return err
	}
	k, err := authenticated(ctx)
	if err != nil {
		return err
	}
	g, err := s.roles.evaluate(snapshot{s.records, tx}, k.Subject, res)
	switch {
	case err != nil:
		return err
	case g.hasAll(perms):
		return nil
	case g.missing:
		return &NoBindingError{Resource: res.record()}
	}
	return &DeniedError{Subject: k.Subject, Resource: res, Permissions: perms}
}

// Allows is Check for listings: it answers false instead of a denial, from memory
// alone. It fails for a caller that is not known.
func (s *Service) Allows(ctx context.Context, res Resource, perms ...authpb.Permission) (bool, error) {
	if !s.Active() {
		return true, nil
	}
	k, err := authenticated(ctx)
	if err != nil {
		return false, err
	}
	return k.internal() || s.cache.allowed(k.Subject, res, perms), nil
}

// Bind gives a principal roles on res in addition to those that it has, and makes
// the record of res if there is none. Without a principal it only does the latter.
// Once the transaction has committed, this daemon knows of it before Update returns.
// While auth is off it does nothing.
func (s *Service) Bind(_ context.Context, tx *store.Txn, res Resource, principal string, roles ...string) error {
	if s == nil {
		return nil
	}
	if a, err := s.records.activation(tx); err != nil || a == nil {
		return err
	}
	b, err := s.records.binding(tx, res.record())
	if err != nil {
		return err
	}
	if b == nil {
		b = &authpb.RoleBinding{}
	}
	if principal != "" && len(roles) > 0 {
		if err := checkPrincipal(principal); err != nil {
			return err
		}
		all := b.GetEntries()[principal].GetRoles()
		if all == nil {
			all = map[string]bool{}
		}
		for _, name := range roles {
			if err := s.bindable(name, res.record()); err != nil {
				return err
			}
			all[name] = true
		}
		setRoles(b, principal, all)
	}
	tx.DeferAt(func(rev int64) { s.cache.await(tx.Context().Done(), rev) })
	return s.records.putBinding(tx, res.record(), b)
}

// setRoles replaces the roles of a principal.
func setRoles(b *authpb.RoleBinding, principal string, all map[string]bool) {
	if b.Entries == nil {
		b.Entries = map[string]*authpb.Roles{}
	}
	b.Entries[principal] = &authpb.Roles{Roles: all}
	if len(all) == 0 {
		delete(b.Entries, principal)
	}
}

// Unbind removes the record of res. While auth is off it does nothing.
func (s *Service) Unbind(tx *store.Txn, res Resource) error {
	if s == nil {
		return nil
	}
	a, err := s.records.activation(tx)
	if err == nil && a != nil {
		s.records.Delete(tx, bindingKey(res.record()))
	}
	return err
}

// maxForgotten bounds what one transaction takes from a principal: more bindings than
// that are left, so that nobody can keep a pipeline from being deleted by granting it
// things.
const maxForgotten = 1000

// Forget takes from a principal that is no more all its roles, wherever they are, and
// its groups: the next one of its name starts with nothing. Where the roles are it
// knows from memory, so one that is granted at the same time may stay. While auth is
// off it does nothing.
func (s *Service) Forget(tx *store.Txn, principal string) error {
	if s == nil {
		return nil
	}
	if a, err := s.records.activation(tx); err != nil || a == nil {
		return err
	}
	keys := s.cache.boundTo(principal)
	if len(keys) > maxForgotten {
		s.log.Warn("roles of somebody who is no more are left: there are too many", zap.String("principal", principal), zap.Int("bindings", len(keys)))
		keys = keys[:maxForgotten]
	}
	for _, key := range keys {
		rec, _, err := s.records.Get(tx, key)
		if err != nil {
			return err
		}
		b := rec.GetBinding()
		if b.GetEntries()[principal] == nil {
			continue
		}
		setRoles(b, principal, nil)
		if err := s.records.Put(tx, key, rec); err != nil {
			return err
		}
	}
	return s.records.putGroups(tx, principal, nil)
}
