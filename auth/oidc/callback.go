package oidc

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"go.uber.org/zap"
	"golang.org/x/oauth2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

const (
	// maxCode bounds the code that an issuer may give, in bytes.
	maxCode = 4 << 10
	// callbackTimeout bounds a callback. Discovery, the exchange of the code and
	// fetching keys take a request each, bounded by itself.
	callbackTimeout = time.Minute
)

// outcome is how a callback ended: the answer's status, and what the page and
// whoever waits are told. The texts are ours alone, or the issuer's verified ones.
type outcome struct {
	code int
	text string
	user *User
}

// ServeHTTP takes the browser back from the issuer (RFC 6749, section 4.1.2). It
// ends the login that the state names, once, and shows the user a page.
func (l *Logins) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		writePage(w, http.StatusMethodNotAllowed, "This address takes GET alone.")
		return
	}
	// A browser that goes away does not leave a login half done.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), callbackTimeout)
	defer cancel()
	o := l.callback(ctx, r.URL.RawQuery)
	if o.code == http.StatusOK {
		l.log.Info("logged in", zap.String("email", o.user.Email))
	} else {
		l.log.Warn("login failed", zap.Int("code", o.code), zap.String("reason", o.text))
	}
	writePage(w, o.code, o.text)
}

// Texts of a callback.
const (
	textMalformed = "The address is not complete: it is the one that the issuer sends a browser to, with one state, and one code or error."
	textUnknown   = "This login is not known, has been used or has run out. Begin a new one."
	textLater     = "The server cannot do this now. Begin a new login in a moment."
	textSuccess   = "You are logged in. You may close this page and go back to where you began."
)

// callback does what a callback with this query asks.
func (l *Logins) callback(ctx context.Context, rawQuery string) outcome {
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return outcome{code: http.StatusBadRequest, text: textMalformed}
	}
	// Parameters must not be repeated (RFC 6749, section 3.1).
	for _, name := range []string{"state", "code", "error", "iss"} {
		if len(query[name]) > 1 {
			return outcome{code: http.StatusBadRequest, text: textMalformed}
		}
	}
	state, code, refusal := query.Get("state"), query.Get("code"), query.Get("error")
	if !isState(state) || (code == "") == (refusal == "") || len(code) > maxCode {
		return outcome{code: http.StatusBadRequest, text: textMalformed}
	}
	key := loginKey(state)
	login, err := l.take(ctx, key)
	switch {
	case errors.Is(err, errUnknownLogin):
		return outcome{code: http.StatusBadRequest, text: textUnknown}
	case err != nil:
		l.log.Error("login", zap.Error(err))
		return outcome{code: http.StatusServiceUnavailable, text: textLater}
	}
	o := l.exchange(ctx, login, query)
	err = l.end(ctx, key, o)
	switch {
	case errors.Is(err, errUnknownLogin):
		return outcome{code: http.StatusBadRequest, text: textUnknown}
	case err != nil:
		l.log.Error("login", zap.Error(err))
		return outcome{code: http.StatusServiceUnavailable, text: textLater}
	}
	return o
}

// take gives the login to one callback: a second one with the same state finds
// nothing, whichever daemon it comes to.
func (l *Logins) take(ctx context.Context, key string) (*recordpb.LoginRecord, error) {
	var login *recordpb.LoginRecord
	_, err := l.store.Update(ctx, func(tx *store.Txn) error {
		var ok bool
		var err error
		if login, ok, err = l.logins.Get(tx, key); err != nil {
			return err
		}
		if !ok || login.GetCalledBack() || !l.clock.Now().Before(login.GetExpires().AsTime()) {
			return errUnknownLogin
		}
		login.CalledBack = true
		return l.logins.Put(tx, key, login)
	})
	return login, err
}

// end keeps the outcome for whoever waits.
func (l *Logins) end(ctx context.Context, key string, o outcome) error {
	_, err := l.store.Update(ctx, func(tx *store.Txn) error {
		login, ok, err := l.logins.Get(tx, key)
		if err != nil {
			return err
		}
		if !ok {
			return errUnknownLogin // the configuration has changed meanwhile
		}
		login.Nonce, login.Verifier = "", ""
		if o.user == nil {
			login.Failure = o.text
		} else {
			login.User = &recordpb.LoginUser{
				Email: o.user.Email, Expires: timestamppb.New(o.user.Expires),
				HasGroups: o.user.Groups != nil, Groups: o.user.Groups,
			}
		}
		return l.logins.Put(tx, key, login)
	})
	return err
}

// exchange asks the issuer whose login it was.
func (l *Logins) exchange(ctx context.Context, login *recordpb.LoginRecord, query url.Values) outcome {
	if refusal := query.Get("error"); refusal != "" {
		return outcome{code: http.StatusForbidden, text: "The issuer has refused the login: " + known(refusal) + "."}
	}
	config, err := l.configured(ctx)
	var i *issuer
	if err == nil {
		i, err = l.issuer(ctx, config)
	}
	if err != nil {
		return l.failed(err)
	}
	// An issuer that says who it is must be the one that was asked (RFC 9207).
	if iss := query.Get("iss"); query.Has("iss") && iss != config.GetIssuer() {
		return outcome{code: http.StatusForbidden, text: "The answer is that of another issuer."}
	}
	token, err := i.oauth.Exchange(gooidc.ClientContext(ctx, i.client), query.Get("code"), oauth2.VerifierOption(login.GetVerifier()))
	var refused *oauth2.RetrieveError
	switch {
	case errors.As(err, &refused):
		// What else it says might repeat the client's secret.
		return outcome{code: http.StatusForbidden, text: "The issuer has refused the code: " + known(refused.ErrorCode) + "."}
	case err != nil && unreachable(err) != nil:
		return l.failed(i.unavailable(err))
	case err != nil:
		return outcome{code: http.StatusBadGateway, text: "The issuer's answer to the code is malformed."}
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok || len(raw) > maxToken {
		return outcome{code: http.StatusBadGateway, text: `The issuer gave no ID token: ask for the scope "openid".`}
	}
	u, err := l.verify(ctx, i, raw, login.GetNonce())
	if err != nil {
		return l.failed(err)
	}
	return outcome{code: http.StatusOK, text: textSuccess, user: &u}
}

// failed tells of an error. Whoever sees the page may be anybody whom the issuer
// knows, so the details are for the log.
func (l *Logins) failed(err error) outcome {
	l.log.Warn("login failed", zap.Error(err))
	switch status.Code(err) {
	case codes.Unauthenticated:
		return outcome{code: http.StatusForbidden, text: sentence(status.Convert(err).Message())}
	case codes.Unavailable:
		return outcome{code: http.StatusBadGateway, text: "The issuer cannot be reached. Begin a new login in a moment."}
	case codes.FailedPrecondition:
		return outcome{code: http.StatusBadGateway, text: "The issuer cannot be used as it is configured: the server's log says why."}
	}
	return outcome{code: http.StatusServiceUnavailable, text: textLater}
}

// sentence makes one of an error's text.
func sentence(s string) string {
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// oauthErrors are the errors of RFC 6749, sections 4.1.2.1 and 5.2, and of OpenID
// Connect Core, section 3.1.2.6.
var oauthErrors = []string{
	"access_denied", "account_selection_required", "consent_required", "interaction_required",
	"invalid_client", "invalid_grant", "invalid_request", "invalid_request_object", "invalid_request_uri",
	"invalid_scope", "login_required", "registration_not_supported", "request_not_supported",
	"request_uri_not_supported", "server_error", "temporarily_unavailable", "unauthorized_client",
	"unsupported_grant_type", "unsupported_response_type",
}

// known gives the code of an error if it is one: nothing that anybody may write
// into a URL is repeated.
func known(code string) string {
	if slices.Contains(oauthErrors, code) {
		return code
	}
	return "for another reason"
}
