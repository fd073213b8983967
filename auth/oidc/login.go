package oidc

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

const (
	// lifetime is how long a user may take to log in, and then the client to fetch
	// the result.
	lifetime = 5 * time.Minute
	// maxLogins bounds the logins that have begun: anybody may begin one.
	maxLogins = 1000
	// maxWaiting bounds the clients that wait at one daemon: anybody may.
	maxWaiting = 1000
	// sweepPause is how often logins that have run out are looked for.
	sweepPause = 10 * time.Second
)

// Errors of a login that whoever waits for it sees.
var (
	errUnknownLogin = status.Error(codes.Unauthenticated, "the login is not known, has been used or has run out: begin a new one")
	errLoginRanOut  = status.Errorf(codes.DeadlineExceeded, "nobody has logged in within %s: begin a new login", lifetime)
)

// random gives 256 random bits as text.
func random() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// urlState is the state in the URL of the login that whoever began it knows as
// state. The URL is seen by the issuer, by the browser's history and by proxies, so
// it must not be enough to fetch the user's token.
func urlState(state string) string {
	sum := sha256.Sum256([]byte("login url\x00" + state))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// loginKey is where the login is kept that has this state in its URL.
func loginKey(urlState string) string {
	sum := sha256.Sum256([]byte(urlState))
	return hex.EncodeToString(sum[:])
}

// isState tells what random and urlState make.
func isState(s string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil && len(b) == sha256.Size && len(s) == base64.RawURLEncoding.EncodedLen(sha256.Size)
}

// Begin gives the URL at which the user logs in, and the state with which Redeem
// fetches the result.
func (l *Logins) Begin(ctx context.Context) (loginURL, state string, err error) {
	config, err := l.configured(ctx)
	if err != nil {
		return "", "", err
	}
	i, err := l.issuer(ctx, config)
	if err != nil {
		return "", "", err
	}
	if err := l.sweep(ctx); err != nil {
		return "", "", fmt.Errorf("remove logins that ran out: %w", err)
	}
	state = random()
	inURL := urlState(state)
	login := &recordpb.LoginRecord{
		Expires:  timestamppb.New(l.clock.Now().Add(lifetime)),
		Nonce:    random(),
		Verifier: oauth2.GenerateVerifier(),
	}
	_, err = l.store.Update(ctx, func(tx *store.Txn) error {
		if err := l.unchanged(tx, config); err != nil {
			return err
		}
		n := 0
		for _, err := range l.logins.Scan(tx, "", store.ScanOptions{KeysOnly: true, Limit: maxLogins}) {
			if err != nil {
				return err
			}
			n++
		}
		if n >= maxLogins {
			return status.Errorf(codes.ResourceExhausted, "%d logins have begun and not ended: try again in %s", maxLogins, lifetime)
		}
		return l.logins.Put(tx, loginKey(inURL), login)
	})
	if err != nil {
		return "", "", fmt.Errorf("begin login: %w", err)
	}
	loginURL = i.oauth.AuthCodeURL(inURL, gooidc.Nonce(login.GetNonce()), oauth2.S256ChallengeOption(login.GetVerifier()))
	return loginURL, state, nil
}

// unchanged refuses what was prepared for a configuration that is no more.
func (l *Logins) unchanged(tx *store.Txn, config *authpb.OIDCConfig) error {
	now, err := l.Configuration(tx)
	if err == nil && !proto.Equal(now, config) {
		err = status.Error(codes.Aborted, "the OIDC configuration has changed meanwhile: try again")
	}
	return err
}

// sweep removes logins that have run out, now and then.
func (l *Logins) sweep(ctx context.Context) error {
	now := l.clock.Now()
	l.mu.Lock()
	due := now.Sub(l.swept) >= sweepPause
	if due {
		l.swept = now
	}
	l.mu.Unlock()
	if !due {
		return nil
	}
	var over []string
	err := l.store.View(ctx, func(tx *store.Txn) error {
		for item, err := range l.logins.Scan(tx, "", store.ScanOptions{}) {
			if err != nil {
				return err
			}
			if !now.Before(item.Value.GetExpires().AsTime()) {
				over = append(over, item.Key)
			}
		}
		return nil
	})
	if err != nil || len(over) == 0 {
		return err
	}
	_, err = l.store.Update(ctx, func(tx *store.Txn) error {
		for _, key := range over {
			l.logins.Delete(tx, key)
		}
		return nil
	})
	return err
}

// Redeem waits until the login that Begin gave state for has ended, and calls grant
// with its user in the transaction that uses it up: it does so once, whoever asks
// and at whichever daemon. It returns the revision of etcd afterwards, or the error
// of grant, or why nobody has logged in.
func (l *Logins) Redeem(ctx context.Context, state string, grant func(tx *store.Txn, u User) error) (int64, error) {
	if !isState(state) {
		return 0, errUnknownLogin
	}
	key := loginKey(urlState(state))
	login, err := l.login(ctx, key)
	if err != nil {
		return 0, err
	}
	if err := l.await(ctx, key, login.GetExpires().AsTime()); err != nil {
		return 0, err
	}
	var failure string
	rev, err := l.store.Update(ctx, func(tx *store.Txn) error {
		login, ok, err := l.logins.Get(tx, key)
		if err != nil {
			return err
		}
		if !ok {
			return errUnknownLogin
		}
		l.logins.Delete(tx, key)
		if failure = login.GetFailure(); failure != "" {
			return nil
		}
		return grant(tx, User{
			Email:   login.GetUser().GetEmail(),
			Groups:  groupsOf(login.GetUser()),
			Expires: login.GetUser().GetExpires().AsTime(),
		})
	})
	if err == nil && failure != "" {
		err = status.Error(codes.Unauthenticated, "logging in: "+failure)
	}
	return rev, err
}

// groupsOf tells no groups from nothing said of groups.
func groupsOf(u *recordpb.LoginUser) []string {
	if !u.GetHasGroups() {
		return nil
	}
	return append([]string{}, u.GetGroups()...)
}

// login gives a login that has not run out.
func (l *Logins) login(ctx context.Context, key string) (*recordpb.LoginRecord, error) {
	var login *recordpb.LoginRecord
	err := l.store.View(ctx, func(tx *store.Txn) error {
		var ok bool
		var err error
		if login, ok, err = l.logins.Get(tx, key); err == nil && !ok {
			err = errUnknownLogin
		}
		return err
	})
	if err == nil && !l.clock.Now().Before(login.GetExpires().AsTime()) {
		err = errLoginRanOut
	}
	return login, err
}

// await returns nil once the login has ended in whichever way.
func (l *Logins) await(ctx context.Context, key string, until time.Time) error {
	defer l.waiting.Add(-1)
	if l.waiting.Add(1) > maxWaiting {
		return status.Errorf(codes.ResourceExhausted, "%d clients are waiting for a login: try again in a moment", maxWaiting)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	fires, stop := l.clock.Timer(until)
	defer stop()
	done := make(chan struct{})
	defer func() { <-done }()
	defer cancel(nil) // before the wait for what it ends
	go func() {
		defer close(done)
		select {
		case <-fires:
			cancel(errLoginRanOut)
		case <-ctx.Done():
		}
	}()
	errEnded := errors.New("the login has ended")
	seen := false
	err := l.logins.Watch(ctx, l.store, key, func(e store.Event[*recordpb.LoginRecord]) error {
		switch {
		case e.Deleted, e.Synced && !seen:
			return errUnknownLogin
		case e.Synced:
			return nil
		}
		seen = true
		if e.Value.GetUser() != nil || e.Value.GetFailure() != "" {
			return errEnded
		}
		return nil
	})
	if errors.Is(err, errEnded) {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
