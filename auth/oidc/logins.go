package oidc

import (
	"crypto/x509"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"

	"github.com/minipachd/minipachd/clock"
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

// Config is what Logins work with.
type Config struct {
	Store *store.Store
	// Logger tells who logged in and which logins failed, never a secret; nil
	// discards it.
	Logger *zap.Logger
	// Sealer keeps the client's secret from whoever reads etcd; nil leaves it as it is.
	Sealer Sealer
	// Clock is the system's by default.
	Clock clock.Clock
	// RootCAs verify issuers; nil means those of the system.
	RootCAs *x509.CertPool
	// Timeout bounds one request to the issuer, default 10 s.
	Timeout time.Duration
}

// Sealer encrypts texts. Its methods may be called concurrently.
type Sealer interface {
	// SealText gives the text encrypted, for the same name only.
	SealText(name, text string) string
	// OpenText gives the text that SealText was given; sealed is false for one that did
	// not come from there, which it gives back as it is.
	OpenText(name, sealedText string) (text string, sealed bool, err error)
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
	store   *store.Store
	log     *zap.Logger
	clock   clock.Clock
	sealer  Sealer
	roots   *x509.CertPool
	timeout time.Duration
	config  store.Collection[*authpb.OIDCConfig]
	logins  store.Collection[*recordpb.LoginRecord]

	discovering singleflight.Group
	waiting     atomic.Int32 // clients in await

	mu      sync.Mutex
	current *issuer   // of the configuration that was used last
	swept   time.Time // when logins that ran out were last removed
}

// New returns the logins. It starts nothing.
func New(cfg Config) *Logins {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	return &Logins{
		store:   cfg.Store,
		log:     cfg.Logger,
		clock:   cfg.Clock,
		sealer:  cfg.Sealer,
		roots:   cfg.RootCAs,
		timeout: cfg.Timeout,
		config:  store.NewCollection[*authpb.OIDCConfig](configPrefix),
		logins:  store.NewCollection[*recordpb.LoginRecord](loginPrefix),
	}
}

// Clear removes the configuration and every login that has begun.
func (l *Logins) Clear(tx *store.Txn) {
	l.config.Delete(tx, configKey)
	l.logins.DeletePrefix(tx, "")
}
