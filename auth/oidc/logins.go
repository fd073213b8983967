package oidc

import (
	"crypto/x509"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// Keys of this package in etcd, below the store's prefix.
const (
	configPrefix = "auth/config/"
	configKey    = "oidc"
	loginPrefix  = "auth/login/" // and the hash of the state in the URL
)

// Clock tells when logins and ID tokens have run out.
type Clock interface {
	Now() time.Time
	// Timer fires once on the channel at time t, at once if that is past.
	// stop frees it; nothing is sent afterwards.
	Timer(t time.Time) (fires <-chan time.Time, stop func())
}

// Config is what Logins work with.
type Config struct {
	Store *store.Store
	// Logger tells who logged in and which logins failed, never a secret; nil
	// discards it.
	Logger *zap.Logger
	Clock  Clock
	// RootCAs verify issuers; nil means those of the system.
	RootCAs *x509.CertPool
}

// User is somebody who has logged in.
type User struct {
	Email string
	// Groups are those that the issuer knows of, nil if it did not say.
	Groups []string
	// Expires is when the issuer's word runs out.
	Expires time.Time
}

// Logins are how users log in. The methods may be called concurrently.
type Logins struct {
	store  *store.Store
	log    *zap.Logger
	clock  Clock
	roots  *x509.CertPool
	config store.Collection[*authpb.OIDCConfig]
	logins store.Collection[*recordpb.LoginRecord]

	discovering singleflight.Group

	mu      sync.Mutex
	current *issuer   // of the configuration that was used last
	swept   time.Time // when logins that ran out were last removed
}

// New returns the logins. It starts nothing.
func New(cfg Config) *Logins {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	return &Logins{
		store:  cfg.Store,
		log:    cfg.Logger,
		clock:  cfg.Clock,
		roots:  cfg.RootCAs,
		config: store.NewCollection[*authpb.OIDCConfig](configPrefix),
		logins: store.NewCollection[*recordpb.LoginRecord](loginPrefix),
	}
}

// Clear removes the configuration and every login that has begun.
func (l *Logins) Clear(tx *store.Txn) {
	l.config.Delete(tx, configKey)
	l.logins.DeletePrefix(tx, "")
}
