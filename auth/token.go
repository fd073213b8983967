package auth

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	"github.com/minipachd/minipachd/store"
)

const (
	// maxTTL is the longest life of a token that ends, in seconds: about 1000 years.
	maxTTL = 1000 * 366 * 24 * 60 * 60
	// revokeBatch is how many tokens one transaction removes.
	revokeBatch = 1000
)

// newToken makes a token, 256 random bits.
func newToken() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// checkToken refuses a token that somebody chose and that could not be sent.
func checkToken(token string) error {
	switch {
	case token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return invalid("a root token consists of printable ASCII characters without spaces")
	case len(token) > maxName:
		return invalid("a root token of %d bytes is too long, at most %d are possible", len(token), maxName)
	}
	return nil
}

// GetRobotToken makes a token for a robot, which need not have been heard of before.
func (s *authServer) GetRobotToken(ctx context.Context, req *authpb.GetRobotTokenRequest) (*authpb.GetRobotTokenResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	token := newToken()
	err := s.update(ctx, Cluster(), authpb.Permission_CLUSTER_AUTH_GET_ROBOT_TOKEN, func(tx *store.Txn) error {
		name := strings.TrimPrefix(req.GetRobot(), robotPrefix)
		switch {
		case strings.Contains(name, ":"):
			return errRobotColon
		case req.GetTtl() > maxTTL:
			return invalid("a ttl of %d seconds is too long: at most %d are possible, and 0 is without end", req.GetTtl(), int64(maxTTL))
		}
		if err := checkSubject(robotPrefix + name); err != nil {
			return err
		}
		t := &authpb.TokenInfo{Subject: robotPrefix + name, HashedToken: hashOf(token)}
		if req.GetTtl() > 0 {
			// Not a Duration: that ends after 292 years.
			now := s.clock.Now()
			t.Expiration = &timestamppb.Timestamp{Seconds: now.Unix() + req.GetTtl(), Nanos: int32(now.Nanosecond())}
		}
		return s.records.putToken(tx, t)
	})
	if err != nil {
		return nil, err
	}
	return &authpb.GetRobotTokenResponse{Token: token}, nil
}

// RevokeAuthToken ends a token; whoever has it may do so. One that is unknown is no
// error.
func (s *authServer) RevokeAuthToken(ctx context.Context, req *authpb.RevokeAuthTokenRequest) (*authpb.RevokeAuthTokenResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	answer := &authpb.RevokeAuthTokenResponse{}
	err := s.update(ctx, Cluster(), 0, func(tx *store.Txn) error {
		hash := hashOf(req.GetToken())
		t, err := s.records.token(tx, hash)
		answer.Number = 0
		if err != nil || t == nil {
			return err
		}
		if t.GetSubject() == RootUser && s.preset != "" {
			return errPresetRotation
		}
		answer.Number = 1
		s.records.Delete(tx, tokenPrefix+hash)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// RevokeAuthTokensForUser ends all tokens of a subject.
func (s *authServer) RevokeAuthTokensForUser(ctx context.Context, req *authpb.RevokeAuthTokensForUserRequest) (*authpb.RevokeAuthTokensForUserResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	if err := s.view(ctx, Cluster(), authpb.Permission_CLUSTER_AUTH_REVOKE_USER_TOKENS, func(*store.Txn) error { return nil }); err != nil {
		return nil, err
	}
	name := req.GetUsername()
	if err := checkSubject(name); err != nil {
		return nil, err
	}
	if strings.HasPrefix(name, pachPrefix) {
		return nil, invalid("the root token is not revoked but replaced, with RotateRootToken")
	}
	n, err := s.removeTokens(ctx, nil, func(t *authpb.TokenInfo) bool { return t.GetSubject() == name })
	if err != nil {
		return nil, err
	}
	return &authpb.RevokeAuthTokensForUserResponse{Number: n}, nil
}

// removeTokens removes the tokens that are chosen, some in each transaction, and
// counts them. Fence, if not nil, takes part in each.
func (s *Service) removeTokens(ctx context.Context, fence func(tx *store.Txn), chosen func(*authpb.TokenInfo) bool) (n int64, err error) {
	var hashes []string
	err = s.store.View(ctx, func(tx *store.Txn) error {
		for item, err := range s.records.Scan(tx, tokenPrefix, store.ScanOptions{}) {
			if err != nil {
				return err
			}
			if chosen(item.Value.GetToken()) {
				hashes = append(hashes, item.Value.GetToken().GetHashedToken())
			}
		}
		return nil
	})
	for len(hashes) > 0 && err == nil {
		some := hashes[:min(len(hashes), revokeBatch)]
		hashes = hashes[len(some):]
		removed := int64(0)
		var rev int64
		rev, err = s.store.Update(ctx, func(tx *store.Txn) error {
			removed = 0
			if fence != nil {
				fence(tx)
			}
			for _, hash := range some {
				t, err := s.records.token(tx, hash)
				if err != nil {
					return err
				}
				if t != nil && chosen(t) {
					removed++
					s.records.Delete(tx, tokenPrefix+hash)
				}
			}
			return nil
		})
		if err == nil {
			n += removed
			s.cache.await(ctx.Done(), rev)
		}
	}
	return n, err
}

// ExtractAuthTokens gives what is stored of the tokens of robots that have not
// expired: of the tokens themselves, hashes.
func (s *authServer) ExtractAuthTokens(ctx context.Context, _ *authpb.ExtractAuthTokensRequest) (*authpb.ExtractAuthTokensResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	answer := &authpb.ExtractAuthTokensResponse{}
	err := s.view(ctx, Cluster(), authpb.Permission_CLUSTER_AUTH_EXTRACT_TOKENS, func(tx *store.Txn) error {
		for item, err := range s.records.Scan(tx, tokenPrefix, store.ScanOptions{}) {
			if err != nil {
				return err
			}
			if t := item.Value.GetToken(); strings.HasPrefix(t.GetSubject(), robotPrefix) && !s.expired(t) {
				answer.Tokens = append(answer.Tokens, t)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// RestoreAuthToken keeps a token that was extracted elsewhere.
func (s *authServer) RestoreAuthToken(ctx context.Context, req *authpb.RestoreAuthTokenRequest) (*authpb.RestoreAuthTokenResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	err := s.update(ctx, Cluster(), authpb.Permission_CLUSTER_AUTH_RESTORE_TOKEN, func(tx *store.Txn) error {
		t := req.GetToken()
		if t == nil {
			return invalid("a token must be given")
		}
		if err := checkSubject(t.GetSubject()); err != nil {
			return err
		}
		switch e := t.GetExpiration(); {
		case strings.HasPrefix(t.GetSubject(), pachPrefix):
			return invalid("the root token is not restored but replaced, with RotateRootToken")
		case !isHash(t.GetHashedToken()):
			return invalid("hashed_token must be a SHA-256 in 64 lower-case hexadecimal digits")
		case e != nil && !e.IsValid():
			return invalid("the token's expiration is not a valid time")
		case s.expired(t):
			return errPast
		}
		other, err := s.records.token(tx, t.GetHashedToken())
		if err != nil {
			return err
		}
		if other != nil {
			return status.Error(codes.AlreadyExists, "a token with this hash exists already")
		}
		return s.records.putToken(tx, &authpb.TokenInfo{Subject: t.GetSubject(), Expiration: t.GetExpiration(), HashedToken: t.GetHashedToken()})
	})
	if err != nil {
		return nil, err
	}
	return &authpb.RestoreAuthTokenResponse{}, nil
}

// DeleteExpiredAuthTokens forgets tokens that are good for nothing any more.
func (s *authServer) DeleteExpiredAuthTokens(ctx context.Context, _ *authpb.DeleteExpiredAuthTokensRequest) (*authpb.DeleteExpiredAuthTokensResponse, error) {
	if err := s.active(); err != nil {
		return nil, err
	}
	if err := s.view(ctx, Cluster(), authpb.Permission_CLUSTER_AUTH_DELETE_EXPIRED_TOKENS, func(*store.Txn) error { return nil }); err != nil {
		return nil, err
	}
	if _, err := s.removeTokens(ctx, nil, s.expired); err != nil {
		return nil, err
	}
	return &authpb.DeleteExpiredAuthTokensResponse{}, nil
}
