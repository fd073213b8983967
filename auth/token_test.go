package auth

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	identitypb "github.com/minipachd/minipachd/proto/identity_v2"
	"github.com/minipachd/minipachd/store"
)

const badToken = "provided auth token is corrupted or has expired (try logging in again)"

// TestToken_OnlyHashesAreKept makes tokens in every way, uses, restores, rotates and
// revokes them, and then reads all that etcd has ever written: none of them is there.
func TestToken_OnlyHashesAreKept(t *testing.T) {
	e, root, first := activated(t, func(c *Config) { c.Sealer = &caesar{} })
	tokens := []string{first, e.robot("a", 0), e.robot("b", time.Hour)}
	rotated, err := e.RotateRootToken(root, &authpb.RotateRootTokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	const chosen = "chosen-by-hand-and-long-enough"
	if _, err := e.RotateRootToken(root, &authpb.RotateRootTokenRequest{RootToken: chosen}); err != nil {
		t.Fatal(err)
	}
	tokens = append(tokens, rotated.GetRootToken(), chosen)
	for _, token := range tokens {
		e.whose(token)
		if _, err := e.RevokeAuthToken(e.as("robot:b"), &authpb.RevokeAuthTokenRequest{Token: token[:len(token)-1]}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.RevokeAuthToken(root, &authpb.RevokeAuthTokenRequest{Token: tokens[1]}); err != nil {
		t.Fatal(err)
	}
	client, err := newIdentityServer(e.Service).CreateOIDCClient(root, &identitypb.CreateOIDCClientRequest{Client: &identitypb.OIDCClient{Id: "console"}})
	if err != nil || len(client.GetClient().GetSecret()) < 26 {
		t.Fatalf("client %v, %v", client, err)
	}
	tokens = append(tokens, client.GetClient().GetSecret())
	for _, token := range tokens[:4] {
		if raw, err := hex.DecodeString(token); err != nil || len(raw) != 32 {
			t.Errorf("token %s is not of 256 bits: %v", token, err)
		}
	}
	all := e.onDisk()
	if !strings.Contains(all, hashOf(tokens[1])) {
		t.Error("the hash of a token that was revoked is not there either: the test looks in the wrong place")
	}
	for _, token := range tokens {
		if strings.Contains(all, token) {
			t.Errorf("etcd's files hold the token %s", token)
		}
	}
}

// caesar is a Sealer that a test can look through.
type caesar struct{}

func (caesar) SealText(name, text string) string {
	return "sealed " + name + "|" + strings.Map(func(r rune) rune { return r + 1 }, text)
}

func (caesar) OpenText(name, sealed string) (string, bool, error) {
	text, ok := strings.CutPrefix(sealed, "sealed "+name+"|")
	if !ok {
		return sealed, false, nil
	}
	return strings.Map(func(r rune) rune { return r - 1 }, text), true, nil
}

// TestToken_Expires is good until the very moment, however it is looked up, and then
// removed by one sweep.
func TestToken_Expires(t *testing.T) {
	e, root, _ := activated(t)
	start := e.clock.Now()
	sweepsAt := func(at time.Time) {
		t.Helper()
		select {
		case next := <-e.waits:
			if !next.Equal(at) {
				t.Fatalf("the sweeper waits for %v, want %v", next, at)
			}
		case <-time.After(time.Minute):
			t.Fatal("the sweeper does not wait")
		}
	}
	sweepsAt(start.Add(5 * time.Minute))
	short, long, never := e.robot("r", time.Minute), e.robot("r", 2*time.Minute), e.robot("r", -time.Minute)
	e.reach()
	is := func(short1, long1 string) {
		t.Helper()
		if a, b, c := e.whose(short), e.whose(long), e.whose(never); a != short1 || b != long1 || c != "robot:r" {
			t.Errorf("at %v the tokens are those of %q, %q, %q", e.clock.Now(), a, b, c)
		}
	}
	e.clock.Advance(time.Minute - time.Nanosecond)
	is("robot:r", "robot:r")
	e.clock.Advance(time.Nanosecond)
	is("", "robot:r")
	extracted, err := e.ExtractAuthTokens(root, &authpb.ExtractAuthTokensRequest{})
	if err != nil || len(extracted.GetTokens()) != 2 {
		t.Errorf("extracted %v, %v; want those that have not expired", extracted, err)
	}
	if n := e.kept(); n != 4 {
		t.Errorf("%d tokens are kept, want 4", n)
	}
	// The sweeper runs every 5 minutes: by then both have expired.
	e.clock.Advance(4*time.Minute - time.Nanosecond)
	if n := e.kept(); n != 4 {
		t.Errorf("%d tokens are kept before the sweep, want 4", n)
	}
	e.clock.Advance(time.Nanosecond)
	sweepsAt(start.Add(10 * time.Minute)) // it has done its work
	if n := e.kept(); n != 2 {
		t.Errorf("%d tokens are kept after the sweep, want those of root and one robot", n)
	}
	is("", "")
	// By hand too.
	e.robot("r", time.Second)
	e.clock.Advance(time.Second)
	if _, err := e.DeleteExpiredAuthTokens(root, &authpb.DeleteExpiredAuthTokensRequest{}); err != nil || e.kept() != 2 {
		t.Errorf("%d tokens are kept, %v", e.kept(), err)
	}
}

// kept counts the tokens in etcd.
func (e *env) kept() (n int) {
	e.t.Helper()
	err := e.store.View(e.ctx, func(tx *store.Txn) error {
		n = 0
		for _, err := range e.records.Scan(tx, tokenPrefix, store.ScanOptions{}) {
			if err != nil {
				return err
			}
			n++
		}
		return nil
	})
	if err != nil {
		e.t.Fatal(err)
	}
	return n
}

// TestSweeper_OneOfSeveral lets a daemon sweep only while no other is at it.
func TestSweeper_OneOfSeveral(t *testing.T) {
	e, _, _ := activated(t)
	e.robot("r", time.Second)
	e.clock.Advance(2 * time.Second)
	other, err := e.store.NewLease(t.Context(), sweeperTTL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.store.Update(t.Context(), func(tx *store.Txn) error {
		tx.PutLease(sweeperKey, nil, other.ID())
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := e.sweepTokens(t.Context()); err != nil || e.kept() != 2 {
		t.Errorf("swept beside another daemon: %d tokens are kept, %v", e.kept(), err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.sweepTokens(t.Context()); err != nil || e.kept() != 1 {
		t.Errorf("%d tokens are kept, %v", e.kept(), err)
	}
}

// TestToken_RevokedElsewhere revokes a token on one daemon: another one of the same
// etcd ends what goes on with it, and takes it no more.
func TestToken_RevokedElsewhere(t *testing.T) {
	e, root, _ := activated(t)
	other := newDaemon(t, e.store)
	other.reach()
	if !other.Active() {
		t.Fatal("the other daemon has not heard that auth is on")
	}
	for name, revoke := range map[string]func(token string) error{
		"by who has it": func(token string) error {
			_, err := e.RevokeAuthToken(e.as("robot:x"), &authpb.RevokeAuthTokenRequest{Token: token})
			return err
		},
		"by who may": func(string) error {
			a, err := e.RevokeAuthTokensForUser(root, &authpb.RevokeAuthTokensForUserRequest{Username: "robot:x"})
			if err == nil && a.GetNumber() != 1 {
				err = fmt.Errorf("%d tokens were revoked", a.GetNumber())
			}
			return err
		},
	} {
		token := e.robot("x", 0)
		other.reach()
		id, err := other.Service.Authenticate(t.Context(), token)
		if err != nil || id.Subject != "robot:x" {
			t.Fatalf("%s: %v, %v", name, id, err)
		}
		ended := make(chan error, 1)
		watched := make(chan struct{})
		var once sync.Once
		go func() {
			ended <- other.Watch(t.Context(), id, func() error {
				defer once.Do(func() { close(watched) })
				_, err := other.Service.Authenticate(t.Context(), token)
				return err
			})
		}()
		<-watched
		if err := revoke(token); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if e.whose(token) != "" {
			t.Errorf("%s: the daemon that revoked it takes it", name)
		}
		select {
		case err := <-ended:
			wants(t, name, err, codes.Unauthenticated, badToken)
		case <-time.After(time.Minute):
			t.Fatalf("%s: what went on with the token goes on", name)
		}
		t.Logf("%s: the other daemon knew %v after", name, time.Since(start))
		if other.whose(token) != "" {
			t.Errorf("%s: the other daemon takes it", name)
		}
	}
}

func TestRevokeAuthTokensForUser(t *testing.T) {
	e, root, _ := activated(t)
	var mine []string
	for range 3 {
		mine = append(mine, e.robot("a", 0))
	}
	other := e.robot("ab", 0)
	revoke := func(name string) (int64, error) {
		a, err := e.RevokeAuthTokensForUser(root, &authpb.RevokeAuthTokensForUserRequest{Username: name})
		return a.GetNumber(), err
	}
	if n, err := revoke("robot:a"); n != 3 || err != nil {
		t.Errorf("revoked %d, %v; want 3", n, err)
	}
	for _, token := range mine {
		if e.whose(token) != "" {
			t.Errorf("%s is still good", token)
		}
	}
	if e.whose(other) != "robot:ab" {
		t.Error("the token of somebody else is gone")
	}
	if n, err := revoke("robot:a"); n != 0 || err != nil {
		t.Errorf("revoked %d, %v; want none", n, err)
	}
	_, err := revoke("pach:root")
	wants(t, "root", err, codes.InvalidArgument, "validate request: the root token is not revoked but replaced, with RotateRootToken")
}

// TestExtractAndRestore moves tokens to another cluster: they work there.
func TestExtractAndRestore(t *testing.T) {
	e, root, _ := activated(t)
	tokens := map[string]string{e.robot("a", 0): "robot:a", e.robot("b", time.Hour): "robot:b"}
	extracted, err := e.ExtractAuthTokens(root, &authpb.ExtractAuthTokensRequest{})
	if err != nil || len(extracted.GetTokens()) != 2 {
		t.Fatalf("extracted %v, %v; want those of both robots and not that of root", extracted, err)
	}
	to, root, _ := activated(t)
	for _, token := range extracted.GetTokens() {
		if _, err := to.RestoreAuthToken(root, &authpb.RestoreAuthTokenRequest{Token: token}); err != nil {
			t.Fatal(err)
		}
		_, err := to.RestoreAuthToken(root, &authpb.RestoreAuthTokenRequest{Token: token})
		wants(t, "a second time", err, codes.AlreadyExists, "a token with this hash exists already")
	}
	for token, who := range tokens {
		if got := to.whose(token); got != who {
			t.Errorf("restored as that of %q, want %q", got, who)
		}
	}
	again, err := to.ExtractAuthTokens(root, &authpb.ExtractAuthTokensRequest{})
	if diff := cmp.Diff(extracted, again, protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("%v %s", err, diff)
	}
}

// TestRootToken_Preset is chosen by whoever runs the daemon, and by nobody else.
func TestRootToken_Preset(t *testing.T) {
	preset := func(token string) func(*Config) { return func(c *Config) { c.RootToken = token } }
	e := newEnv(t, preset("preset"))
	const text = "validate request: the root token is preset by whoever runs pachd: give none, or that one"
	for _, guess := range []string{"x", "preset ", "presett", "prese"} {
		_, err := e.Activate(t.Context(), &authpb.ActivateRequest{RootToken: guess})
		wants(t, guess, err, codes.InvalidArgument, text)
	}
	on, err := e.Activate(t.Context(), &authpb.ActivateRequest{})
	if err != nil || on.GetPachToken() != "preset" {
		t.Fatalf("%v, %v", on, err)
	}
	e.reach()
	const kept = "the root token is preset by whoever runs pachd: change it there, and start pachd again"
	_, err = e.RotateRootToken(e.as(RootUser), &authpb.RotateRootTokenRequest{RootToken: "other"})
	wants(t, "rotate", err, codes.FailedPrecondition, kept)
	_, err = e.RevokeAuthToken(e.as("robot:x"), &authpb.RevokeAuthTokenRequest{Token: "preset"})
	wants(t, "revoke", err, codes.FailedPrecondition, kept)

	// The next start may preset another one: the one before is good no more.
	e.stop()
	next := newDaemon(t, e.store, preset("next"))
	next.reach()
	if a, b := next.whose("preset"), next.whose("next"); a != "" || b != RootUser {
		t.Errorf("the tokens are those of %q and %q", a, b)
	}
	bad := New(Config{Store: e.store, RootToken: "a b"})
	if err := bad.Init(t.Context()); err == nil || !strings.Contains(err.Error(), "printable ASCII") {
		t.Errorf("a root token that cannot be sent: %v", err)
	}
}

func TestRotateRootToken(t *testing.T) {
	e, root, first := activated(t)
	robot := e.robot("r", 0)
	rotate := func(token string) (string, error) {
		a, err := e.RotateRootToken(root, &authpb.RotateRootTokenRequest{RootToken: token})
		return a.GetRootToken(), err
	}
	_, err := rotate(robot)
	wants(t, "to the token of a robot", err, codes.InvalidArgument, "validate request: the root token must not be the token of somebody else")
	_, err = rotate("a\nb")
	wants(t, "to what cannot be sent", err, codes.InvalidArgument, "validate request: a root token consists of printable ASCII characters without spaces")
	if e.whose(first) != RootUser {
		t.Fatal("the first token is gone although nothing was rotated")
	}
	second, err := rotate("")
	if err != nil || second == first || e.whose(first) != "" || e.whose(second) != RootUser {
		t.Errorf("after rotation: %v", err)
	}
	third, err := rotate("mine")
	if err != nil || third != "mine" || e.whose(second) != "" || e.whose("mine") != RootUser {
		t.Errorf("after rotation to a chosen one: %v", err)
	}
	if e.kept() != 2 {
		t.Errorf("%d tokens are kept, want those of root and the robot", e.kept())
	}
	if again, err := rotate("mine"); err != nil || again != "mine" || e.whose("mine") != RootUser {
		t.Errorf("rotation to itself: %v", err)
	}
}

// TestDeactivate_ForgetsWhoMayDoWhat has nothing of before come back when auth is
// turned on again.
func TestDeactivate_ForgetsWhoMayDoWhat(t *testing.T) {
	e, root, first := activated(t)
	robot := e.robot("r", 0)
	if _, err := e.SetGroupsForUser(root, &authpb.SetGroupsForUserRequest{Username: "robot:r", Groups: []string{"g"}}); err != nil {
		t.Fatal(err)
	}
	e.bind(Repo("default", "x"), "group:g", RoleRepoOwner)
	if _, err := e.Deactivate(e.as("robot:r"), &authpb.DeactivateRequest{}); err == nil {
		t.Fatal("anybody turns auth off")
	}
	if _, err := e.Deactivate(root, &authpb.DeactivateRequest{}); err != nil || e.Active() {
		t.Fatalf("auth is on after it was turned off: %v", err)
	}
	if err := e.Check(t.Context(), nil, Cluster(), authpb.Permission_CLUSTER_DELETE_ALL); err != nil {
		t.Errorf("while auth is off: %v", err)
	}
	e.bind(Repo("default", "x"), "robot:r", RoleRepoOwner) // does nothing now
	if _, err := e.Activate(t.Context(), &authpb.ActivateRequest{}); err != nil {
		t.Fatal(err)
	}
	e.reach()
	if a, b := e.whose(first), e.whose(robot); a != "" || b != "" {
		t.Errorf("tokens of before are those of %q and %q", a, b)
	}
	err := e.Check(e.as("robot:r"), nil, Repo("default", "x"), authpb.Permission_REPO_READ)
	wants(t, "a binding of before", err, codes.Unknown, "no role binding exists for REPO default/x")
	g, err := e.GetGroupsForPrincipal(root, &authpb.GetGroupsForPrincipalRequest{Principal: "robot:r"})
	if err != nil || len(g.GetGroups()) != 0 {
		t.Errorf("groups of before: %v, %v", g, err)
	}
}

// TestTokens_BadRequests holds code and text of what is refused, and that nothing was
// made of it.
func TestTokens_BadRequests(t *testing.T) {
	e, root, _ := activated(t)
	before := e.kept()
	hash := strings.Repeat("0", 64)
	restore := func(token *authpb.TokenInfo) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := e.RestoreAuthToken(ctx, &authpb.RestoreAuthTokenRequest{Token: token})
			return err
		}
	}
	robot := func(name string, ttl int64) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := e.GetRobotToken(ctx, &authpb.GetRobotTokenRequest{Robot: name, Ttl: ttl})
			return err
		}
	}
	whoami := func(ctx context.Context) error {
		_, err := e.WhoAmI(ctx, &authpb.WhoAmIRequest{})
		return err
	}
	for _, tc := range []struct {
		name string
		ctx  context.Context
		call func(context.Context) error
		code codes.Code
		text string
	}{
		{"no token", WithIdentity(t.Context(), Identity{}, nil), whoami, codes.Unauthenticated, "no authentication token (try logging in)"},
		{"no metadata", t.Context(), whoami, codes.Internal, "no authentication metadata (try logging in)"},
		{"bad token", WithIdentity(t.Context(), Identity{}, ErrBadToken), whoami, codes.Unauthenticated, badToken},
		{"several tokens", WithIdentity(t.Context(), Identity{}, ErrManyTokens), whoami, codes.Unknown, "multiple authentication token keys found in context"},
		{"denied", e.as("robot:x"), robot("y", 0), codes.PermissionDenied, "robot:x is not authorized to perform this operation - needs permissions [CLUSTER_AUTH_GET_ROBOT_TOKEN] on CLUSTER. Run `pachctl auth roles-for-permission` to find roles that grant a given permission."},
		{"colon", root, robot("a:b", 0), codes.InvalidArgument, "robot names cannot contain colons (':')"},
		{"no name", root, robot("", 0), codes.InvalidArgument, `validate request: subject "robot:" has no name after its prefix`},
		{"no name but the prefix", root, robot("robot:", 0), codes.InvalidArgument, `validate request: subject "robot:" has no name after its prefix`},
		{"long name", root, robot(strings.Repeat("x", 2000), 0), codes.InvalidArgument, "validate request: a subject of 2006 bytes is too long, at most 1024 are possible"},
		{"long life", root, robot("a", 1<<62), codes.InvalidArgument, "validate request: a ttl of 4611686018427387904 seconds is too long"},
		{"nothing to restore", root, restore(nil), codes.InvalidArgument, "validate request: a token must be given"},
		{"restored expired", root, restore(&authpb.TokenInfo{Subject: "robot:a", HashedToken: hash, Expiration: timestamppb.New(e.clock.Now())}), codes.Internal, "token expiration is in the past"},
		{"restored root", root, restore(&authpb.TokenInfo{Subject: "pach:root", HashedToken: hash}), codes.InvalidArgument, "validate request: the root token is not restored but replaced"},
		{"restored as the server", root, restore(&authpb.TokenInfo{Subject: "internal:pfs", HashedToken: hash}), codes.InvalidArgument, `validate request: "internal:pfs" is the server itself`},
		{"restored as all", root, restore(&authpb.TokenInfo{Subject: "allClusterUsers", HashedToken: hash}), codes.InvalidArgument, "validate request: allClusterUsers stands for all subjects"},
		{"restored as a group", root, restore(&authpb.TokenInfo{Subject: "group:g", HashedToken: hash}), codes.InvalidArgument, `validate request: "group:g" is a group`},
		{"no hash", root, restore(&authpb.TokenInfo{Subject: "robot:a", HashedToken: strings.ToUpper(strings.Repeat("a", 64))}), codes.InvalidArgument, "validate request: hashed_token must be a SHA-256"},
		{"no time", root, restore(&authpb.TokenInfo{Subject: "robot:a", HashedToken: hash, Expiration: &timestamppb.Timestamp{Nanos: -1}}), codes.InvalidArgument, "validate request: the token's expiration is not a valid time"},
		{"no prefix", root, restore(&authpb.TokenInfo{Subject: "a", HashedToken: hash}), codes.Unknown, "subject has no prefix, must be of the form <type>:<name>"},
		{"another prefix", root, restore(&authpb.TokenInfo{Subject: "x:a", HashedToken: hash}), codes.Unknown, "subject has unrecognized prefix: x:"},
		{"already on", root, func(ctx context.Context) error {
			_, err := e.Activate(ctx, &authpb.ActivateRequest{})
			return err
		}, codes.Unimplemented, "the auth service is already activated"},
	} {
		wants(t, tc.name, tc.call(tc.ctx), tc.code, tc.text)
	}
	if n := e.kept(); n != before {
		t.Errorf("%d tokens are kept, %d before", n, before)
	}
	// Revoking what is not known is none.
	if a, err := e.RevokeAuthToken(root, &authpb.RevokeAuthTokenRequest{Token: "unheard of"}); err != nil || a.GetNumber() != 0 {
		t.Errorf("%v, %v", a, err)
	}
	off := newEnv(t)
	wants(t, "off", whoamiOf(off), codes.Unimplemented, "the auth service is not activated")
}

func whoamiOf(e *env) error {
	_, err := e.WhoAmI(e.as("robot:x"), &authpb.WhoAmIRequest{})
	return err
}
