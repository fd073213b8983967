package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// maxToken bounds an ID token, in bytes.
	maxToken = 64 << 10
	// maxSkew is how far in the future a token may have been issued.
	maxSkew = 5 * time.Minute
	// maxGroups and maxGroup bound what of an ID token's groups is kept.
	maxGroups = 1000
	maxGroup  = 256
	// maxEmail is the longest address of RFC 5321.
	maxEmail = 254
)

// Verify gives the user whose ID token it is. What the issuer did not sign for this
// client, or is over, is Unauthenticated.
func (l *Logins) Verify(ctx context.Context, token string) (User, error) {
	config, err := l.configured(ctx)
	if err != nil {
		return User{}, err
	}
	if len(token) > maxToken {
		return User{}, status.Errorf(codes.InvalidArgument, "the ID token has %d bytes, more than %d", len(token), maxToken)
	}
	i, err := l.issuer(ctx, config)
	if err != nil {
		return User{}, err
	}
	return l.verify(ctx, i, token, "")
}

// verify checks an ID token; a nonce, if not empty, must be the token's.
func (l *Logins) verify(ctx context.Context, i *issuer, raw, nonce string) (User, error) {
	if strings.Count(raw, ".") != 2 || strings.HasPrefix(raw, "{") {
		return User{}, unaccepted("it is not a signed token of three parts")
	}
	var failed error
	token, err := i.verifier.Verify(context.WithValue(ctx, keyFailure{}, &failed), raw)
	var expired *gooidc.TokenExpiredError
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return User{}, ctx.Err()
	case unreachable(failed) != nil:
		return User{}, i.unavailable(failed)
	case failed != nil:
		return User{}, i.refuse("its keys cannot be read")
	case errors.As(err, &expired):
		return User{}, unaccepted("it expired at " + expired.Expiry.UTC().Format(time.RFC3339))
	default:
		why := strings.TrimPrefix(err.Error(), "oidc: ")
		return User{}, unaccepted(strings.ToValidUTF8(why[:min(len(why), 300)], ""))
	}
	var claims struct {
		Email         string         `json:"email"`
		EmailVerified boolOrString   `json:"email_verified"`
		Groups        *oneOrMoreText `json:"groups"`
		For           string         `json:"azp"`
	}
	if err := token.Claims(&claims); err != nil {
		return User{}, unaccepted("one of email, email_verified, groups and azp is of the wrong type")
	}
	now := l.clock.Now()
	switch {
	case token.IssuedAt.After(now.Add(maxSkew)):
		return User{}, unaccepted("it was issued in the future: compare the clocks of issuer and server")
	case nonce != "" && token.Nonce != nonce:
		return User{}, unaccepted("it was made for another login")
	// OpenID Connect Core, section 3.1.3.7, of tokens for more than one client.
	case len(token.Audience) > 1 && claims.For == "":
		return User{}, unaccepted("it is for several clients, and azp does not say which one of them asked for it")
	case nonce != "" && claims.For != "" && claims.For != i.config.GetClientId():
		return User{}, unaccepted("another client asked for it")
	case claims.Email == "":
		return User{}, unaccepted(`it has no email: ask for the scope "email"`)
	case !isEmail(claims.Email):
		return User{}, unaccepted("its email is not an address")
	case i.config.GetRequireEmailVerified() && !bool(claims.EmailVerified):
		return User{}, unaccepted("the issuer has not verified the email")
	}
	u := User{Email: claims.Email, Expires: token.Expiry}
	if claims.Groups != nil {
		u.Groups = l.groups(u.Email, *claims.Groups)
	}
	return u, nil
}

func unaccepted(why string) error {
	return status.Error(codes.Unauthenticated, "the ID token is not accepted: "+why)
}

// groups leaves out names that cannot be groups, and what is too much.
func (l *Logins) groups(email string, all []string) []string {
	kept := []string{} // not nil: the issuer has spoken
	for _, g := range all {
		if g != "" && len(g) <= maxGroup && printable(g) && len(kept) < maxGroups {
			kept = append(kept, g)
		}
	}
	if len(kept) < len(all) {
		l.log.Warn("groups of an ID token are left out: too long, too many, or not printable",
			zap.String("email", email), zap.Int("left_out", len(all)-len(kept)))
	}
	slices.Sort(kept)
	return slices.Compact(kept)
}

// isEmail tells what may stand behind user: in a subject. Whether somebody reads
// mail there is the issuer's business.
func isEmail(s string) bool {
	at := strings.LastIndexByte(s, '@')
	return at > 0 && at < len(s)-1 && len(s) <= maxEmail && utf8.ValidString(s) &&
		!strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f })
}

// boolOrString is email_verified: some issuers write it as a string.
type boolOrString bool

// UnmarshalJSON implements json.Unmarshaler.
func (b *boolOrString) UnmarshalJSON(data []byte) error {
	switch string(data) {
	case `true`, `"true"`:
		*b = true
	case `false`, `"false"`, `null`:
		*b = false
	default:
		return errors.New("neither true nor false")
	}
	return nil
}

// oneOrMoreText is groups: some issuers write a single one without brackets.
type oneOrMoreText []string

// UnmarshalJSON implements json.Unmarshaler.
func (t *oneOrMoreText) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*t = []string{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(t))
}
