package client_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/minipachd/minipachd/client"
	"github.com/minipachd/minipachd/client/internal/fakepachd"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

func TestToken_SentAlsoWhenEmpty(t *testing.T) {
	ctx := deadline(t)
	s := fakepachd.Start(t)
	for _, tc := range []struct {
		config, env string
		want        []string
	}{
		{`{}`, "", nil},
		{`{"session_token":""}`, "", []string{""}},
		{`{"session_token":"t"}`, "", []string{"t"}},
		{`{"session_token":""}`, "e", []string{"e"}},
		{`{"session_token":"t"}`, "e", []string{"t"}},
		{`{}`, "e", []string{"e"}},
	} {
		clearEnv(t, filepath.Join(t.TempDir(), "none"))
		t.Setenv("PACHD_ADDRESS", s.Addr())
		if tc.env != "" {
			t.Setenv("PACH_TOKEN", tc.env)
		}
		cfg, err := client.LoadConfig("")
		if err != nil {
			t.Fatal(err)
		}
		cfg.ActiveContext = "a"
		if cfg.Contexts["a"], err = client.ParseContext([]byte(tc.config)); err != nil {
			t.Fatal(err)
		}
		c, err := client.NewFromConfig(cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = client.Collect(c.ListCommit(ctx, c.Repo("none"))) // a stream
		got := s.Last(ctx, t, "pfs_v2.API/ListCommit").Metadata.Get("authn-token")
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("stream, %s, PACH_TOKEN=%s (-want +got):\n%s", tc.config, tc.env, diff)
		}
		_, _ = c.InspectRepo(ctx, c.Repo("none"))
		got = s.Last(ctx, t, "pfs_v2.API/InspectRepo").Metadata.Get("authn-token")
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("unary, %s, PACH_TOKEN=%s (-want +got):\n%s", tc.config, tc.env, diff)
		}
		c.Close()
	}
}

func TestErrors_Kinds(t *testing.T) {
	ctx := deadline(t)
	_, c := start(t)
	if err := c.CreateRepo(ctx, c.Repo("r"), ""); err != nil {
		t.Fatal(err)
	}
	commit, err := c.StartCommit(ctx, c.Branch("r", "open"), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		err  func() error
		kind error
		code codes.Code
		text string
	}{
		{"repo exists", func() error { return c.CreateRepo(ctx, c.Repo("r"), "") }, client.ErrAlreadyExists, codes.AlreadyExists, "repo default/r already exists"},
		{"bad name", func() error { return c.CreateRepo(ctx, c.Repo("r r"), "") }, client.ErrInvalidName, codes.Unknown, "name (r r) invalid: only alphanumeric characters, underscores, and dashes are allowed"},
		{"no repo", func() error { _, err := c.InspectRepo(ctx, c.Repo("x")); return err }, client.ErrNotFound, codes.NotFound, "repo default/x not found"},
		{"no repo, stream", func() error { _, err := client.Collect(c.ListCommit(ctx, c.Repo("x"))); return err }, client.ErrNotFound, codes.NotFound, "repo default/x not found"},
		{"parent open", func() error { _, err := c.StartCommit(ctx, c.Branch("r", "open"), ""); return err }, client.ErrNotFinished, codes.Unknown, "parent commit default/r@" + commit.Id + " has not been finished"},
		{"finished twice", func() error {
			return errors.Join(c.FinishCommit(ctx, commit, ""), c.FinishCommit(ctx, commit, ""))
		}, client.ErrAlreadyFinished, codes.Unknown, "commit default/r@" + commit.Id + " has already finished"},
		{"no file", func() error { _, err := c.GetFileReader(ctx, commit, "/x", 0); return err }, client.ErrNotFound, codes.NotFound, "file /x not found in repo default/r at commit " + commit.Id},
		{"auth off", func() error { _, err := c.WhoAmI(ctx); return err }, client.ErrAuthOff, codes.Unimplemented, "the auth service is not activated"},
		{"put to no repo", func() error { return c.PutFile(ctx, c.Commit("x", "master"), "/a", strings.NewReader("")) }, client.ErrNotFound, codes.NotFound, "repo default/x not found"},
	} {
		err := tc.err()
		if !errors.Is(err, tc.kind) || err.Error() != tc.text {
			t.Errorf("%s: got %q, kind %v: %t", tc.name, err, tc.kind, errors.Is(err, tc.kind))
		}
		var e *client.Error
		if !errors.As(err, &e) || e.GRPCStatus().Code() != tc.code {
			t.Errorf("%s: code %v, want %v", tc.name, e.GRPCStatus().Code(), tc.code)
		}
		if errors.Is(err, client.ErrUnavailable) {
			t.Errorf("%s: is not a question of availability", tc.name)
		}
	}
}

func TestErrors_NobodyListens(t *testing.T) {
	ctx := deadline(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	c := connect(t, addr)
	_, err = c.InspectCluster(ctx)
	if !errors.Is(err, client.ErrNotConnected) || !errors.Is(err, client.ErrUnavailable) || status.Code(err) != codes.Unavailable {
		t.Errorf("kinds of %v", err)
	}
	want := "cannot connect to pachd at grpc://" + addr + ": connection refused; start it there with `pachd`, or say where it is with PACHD_ADDRESS or `pachctl connect`"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if _, err := client.Collect(c.ListProject(ctx)); !errors.Is(err, client.ErrNotConnected) {
		t.Errorf("stream: %v", err)
	}
}

func TestErrors_ContextEnds(t *testing.T) {
	s, c := start(t)
	s.AddFiles("default", "r", "master", nil)
	ctx, cancel := context.WithCancel(deadline(t))
	n := 0
	var last error
	for _, err := range c.SubscribeCommit(ctx, c.Repo("r"), "master", nil, pfspb.CommitState_STARTED) {
		n++
		last = err
		cancel()
	}
	if n != 2 || !errors.Is(last, context.Canceled) || status.Code(last) != codes.Canceled {
		t.Errorf("%d elements, then %v", n, last)
	}
	cancel()
}

func TestIterator_LeavingTheLoopEndsTheCall(t *testing.T) {
	ctx := deadline(t)
	s, c := start(t)
	s.AddFiles("default", "r", "master", nil)
	for _, err := range c.SubscribeCommit(ctx, c.Repo("r"), "master", nil, pfspb.CommitState_STARTED) {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	if call := s.Last(ctx, t, "pfs_v2.API/SubscribeCommit"); !errors.Is(call.Err, context.Canceled) {
		t.Errorf("the server saw %v", call.Err)
	}
}

// adds gives the sizes of the payloads that the last ModifyFile added.
func adds(ctx context.Context, t *testing.T, s *fakepachd.Server) (sizes []int, deletes int) {
	for _, m := range s.Last(ctx, t, "pfs_v2.API/ModifyFile").Requests {
		req := m.(*pfspb.ModifyFileRequest)
		if a := req.GetAddFile(); a != nil {
			if a.GetSource() == nil {
				sizes = append(sizes, -1)
			} else {
				sizes = append(sizes, len(a.GetRaw().GetValue()))
			}
		}
		if req.GetDeleteFile() != nil {
			deletes++
		}
	}
	return sizes, deletes
}

func TestPutFile_Chunks(t *testing.T) {
	ctx := deadline(t)
	s, c := start(t)
	if err := c.CreateRepo(ctx, c.Repo("r"), ""); err != nil {
		t.Fatal(err)
	}
	const mib = 1 << 20
	content := make([]byte, 5*mib)
	_, _ = rand.Read(content)
	for _, tc := range []struct {
		size int
		want []int
	}{
		{0, []int{-1}},
		{1, []int{1}},
		{2*mib - 1, []int{2*mib - 1}},
		{2 * mib, []int{2 * mib}},
		{2*mib + 1, []int{2 * mib, 1}},
		{5 * mib, []int{2 * mib, 2 * mib, mib}},
	} {
		r := io.Reader(bytes.NewReader(content[:tc.size]))
		if tc.size < 100 {
			r = iotest.OneByteReader(r)
		}
		if err := c.PutFile(ctx, c.Commit("r", "master"), "/f", r); err != nil {
			t.Fatal(err)
		}
		sizes, deletes := adds(ctx, t, s)
		if diff := cmp.Diff(tc.want, sizes); diff != "" || deletes != 1 {
			t.Errorf("%d bytes: %d deletes, messages (-want +got):\n%s", tc.size, deletes, diff)
		}
		var got bytes.Buffer
		if n, err := c.GetFile(ctx, c.Commit("r", "master"), "/f", 0, &got); err != nil || int(n) != tc.size || !bytes.Equal(got.Bytes(), content[:tc.size]) {
			t.Errorf("%d bytes: read back %d, %v", tc.size, n, err)
		}
	}
	if err := c.PutFile(ctx, c.Commit("r", "master"), "/f", strings.NewReader("more"), client.Append(), client.Compressed()); err != nil {
		t.Fatal(err)
	}
	if _, deletes := adds(ctx, t, s); deletes != 0 {
		t.Error("appending has deleted")
	}
	r, err := c.GetFileReader(ctx, c.Commit("r", "master"), "/f", 5*mib-1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(iotest.OneByteReader(r)); err != nil || !bytes.Equal(got, append(content[5*mib-1:], "more"...)) {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestModifyFile_FailedCallbackCommitsNothing(t *testing.T) {
	ctx := deadline(t)
	s, c := start(t)
	s.AddFiles("default", "r", "master", map[string]string{"/old": "x"})
	boom := errors.New("boom")
	for name, fn := range map[string]func(m *client.Modifier) error{
		"callback fails": func(m *client.Modifier) error {
			if err := m.PutFile("/new", strings.NewReader("y")); err != nil {
				return err
			}
			s.Received(ctx, t, "pfs_v2.API/ModifyFile", 3)
			return boom
		},
		"reader fails, error swallowed": func(m *client.Modifier) error {
			_ = m.PutFile("/new", io.MultiReader(strings.NewReader("y"), iotest.ErrReader(boom)))
			_ = m.DeleteFile("/old")
			s.Received(ctx, t, "pfs_v2.API/ModifyFile", 2)
			return nil
		},
	} {
		s.Forget()
		if err := c.ModifyFile(ctx, c.Commit("r", "master"), fn); !errors.Is(err, boom) {
			t.Errorf("%s: got %v", name, err)
		}
		if call := s.Last(ctx, t, "pfs_v2.API/ModifyFile"); status.Code(call.Err) != codes.Canceled {
			t.Errorf("%s: the server saw %v, not a cancelled call", name, call.Err)
		}
		files, err := client.Collect(c.ListFile(ctx, c.Commit("r", "master"), "/"))
		if err != nil || len(files) != 1 || files[0].File.Path != "/old" {
			t.Errorf("%s: the branch now has %v, %v", name, files, err)
		}
	}
}

func TestModifyFile_ServerRefusesMidway(t *testing.T) {
	ctx := deadline(t)
	s, c := start(t)
	s.AddFiles("default", "r", "master", nil)
	err := c.ModifyFile(ctx, c.Commit("r", "master"), func(m *client.Modifier) error {
		var err error
		for err == nil { // it refuses the first message, which is noticed later
			err = m.PutFile("/a*", strings.NewReader("x"))
		}
		return err
	})
	if err == nil || err.Error() != "path (/a*) invalid: globbing character not allowed" {
		t.Errorf("got %v", err)
	}
}

func TestModifyFile_SeveralOperations(t *testing.T) {
	ctx := deadline(t)
	s, c := start(t)
	s.AddFiles("default", "r", "master", map[string]string{"/a": "1", "/d/x": "2"})
	err := c.ModifyFile(ctx, c.Commit("r", "master"), func(m *client.Modifier) error {
		return errors.Join(m.PutFile("/b", strings.NewReader("3")), m.DeleteFile("/d/"), m.PutFile("/a", strings.NewReader("4"), client.Append()))
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.GetFileReader(ctx, c.Commit("r", "master"), "/a", 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "14" {
		t.Errorf("/a holds %q, %v", got, err)
	}
	r.Close()
	if _, err := c.InspectFile(ctx, c.Commit("r", "master"), "/d"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("/d: %v", err)
	}
	commits, err := client.Collect(c.ListCommit(ctx, c.Repo("r")))
	if err != nil || len(commits) != 2 {
		t.Errorf("%d commits, %v", len(commits), err)
	}
}

func TestTLS_ServerCAs(t *testing.T) {
	ctx := deadline(t)
	cert, ca := selfSigned(t)
	s := fakepachd.Start(t, grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
	c := connect(t, "grpcs://"+s.Addr(), client.WithServerCAs(ca))
	if v, err := c.ServerVersion(ctx); err != nil || v.Minor != 12 {
		t.Errorf("got %v, %v", v, err)
	}
	stranger := connect(t, "grpcs://"+s.Addr())
	if _, err := stranger.InspectCluster(ctx); !errors.Is(err, client.ErrNotConnected) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without the CA: %v", err)
	}
}

func selfSigned(t *testing.T) (tls.Certificate, []byte) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
