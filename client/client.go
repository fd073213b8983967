package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	adminpb "github.com/minipachd/minipachd/proto/admin_v2"
	authpb "github.com/minipachd/minipachd/proto/auth_v2"
	enterprisepb "github.com/minipachd/minipachd/proto/enterprise_v2"
	identitypb "github.com/minipachd/minipachd/proto/identity_v2"
	metadatapb "github.com/minipachd/minipachd/proto/metadata"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	transactionpb "github.com/minipachd/minipachd/proto/transaction_v2"
	versionpb "github.com/minipachd/minipachd/proto/versionpb_v2"
)

// Limits and intervals of a connection.
const (
	MaxMessageSize = 20 << 20 // bytes of one message, either way
	MaxPayload     = 2 << 20  // bytes of file content in one message that we send
	keepaliveEvery = 20 * time.Second
	// Windows large enough that a stream is not held up by its latency.
	streamWindow = 4 << 20
	connWindow   = 16 << 20
	bufferSize   = 128 << 10
)

// DefaultProject is the project of clients and requests that name none.
const DefaultProject = "default"

// Client talks to one pachd. The stubs in its fields carry the same token,
// limits and errors as its methods.
type Client struct {
	PFS         pfspb.APIClient
	PPS         ppspb.APIClient
	Admin       adminpb.APIClient
	Auth        authpb.APIClient
	Enterprise  enterprisepb.APIClient
	Identity    identitypb.APIClient
	Metadata    metadatapb.APIClient
	Transaction transactionpb.APIClient
	Version     versionpb.APIClient

	conn    *grpc.ClientConn
	addr    Address
	project string
}

// Option changes what New makes.
type Option func(*settings) error

type settings struct {
	project  string
	metadata map[string]string // sent with every call
	tls      *tls.Config
	roots    *x509.CertPool
	dial     []grpc.DialOption
}

// WithToken sends token as the caller's session with every call; an empty one
// is sent too.
func WithToken(token string) Option { return WithMetadata("authn-token", token) }

// WithTransaction makes the calls that can be part of a transaction part of
// transaction id.
func WithTransaction(id string) Option { return WithMetadata("pach-transaction", id) }

// WithMetadata sends key: value with every call; given again, it replaces the
// value of the key.
func WithMetadata(key, value string) Option {
	return func(s *settings) error {
		s.metadata[key] = value
		return nil
	}
}

// WithProject sets the project of names that have none (empty: "default").
func WithProject(name string) Option {
	return func(s *settings) error {
		s.project = NewProject(name).Name
		return nil
	}
}

// WithServerCAs trusts the certificates of pem, and only those, at a grpcs
// address.
func WithServerCAs(pem []byte) Option {
	return func(s *settings) error {
		s.roots = x509.NewCertPool()
		if !s.roots.AppendCertsFromPEM(pem) {
			return errors.New("server CAs: no certificate in the PEM text")
		}
		return nil
	}
}

// WithTLS replaces the TLS configuration of a grpcs address. It is not changed.
func WithTLS(cfg *tls.Config) Option {
	return func(s *settings) error {
		s.tls = cfg
		return nil
	}
}

// WithDialOptions adds gRPC options, which win over those of this package.
func WithDialOptions(opts ...grpc.DialOption) Option {
	return func(s *settings) error {
		s.dial = append(s.dial, opts...)
		return nil
	}
}

// New makes a client of the pachd at address (see ParseAddress; empty is
// DefaultAddress). It does no I/O: a server that cannot be reached is reported
// by the first call, as ErrNotConnected.
func New(address string, opts ...Option) (*Client, error) {
	if address == "" {
		address = DefaultAddress
	}
	addr, err := ParseAddress(address)
	if err != nil {
		return nil, err
	}
	s := settings{project: DefaultProject, metadata: map[string]string{}}
	for _, o := range opts {
		if err := o(&s); err != nil {
			return nil, fmt.Errorf("client of %s: %w", addr, err)
		}
	}
	c := &Client{addr: addr, project: s.project}
	conn, err := grpc.NewClient(addr.target(), c.dialOptions(&s)...)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %w", addr, err)
	}
	c.conn = conn
	c.PFS = pfspb.NewAPIClient(conn)
	c.PPS = ppspb.NewAPIClient(conn)
	c.Admin = adminpb.NewAPIClient(conn)
	c.Auth = authpb.NewAPIClient(conn)
	c.Enterprise = enterprisepb.NewAPIClient(conn)
	c.Identity = identitypb.NewAPIClient(conn)
	c.Metadata = metadatapb.NewAPIClient(conn)
	c.Transaction = transactionpb.NewAPIClient(conn)
	c.Version = versionpb.NewAPIClient(conn)
	return c, nil
}

func (c *Client) dialOptions(s *settings) []grpc.DialOption {
	creds := insecure.NewCredentials()
	if c.addr.Secure {
		cfg := &tls.Config{}
		if s.tls != nil {
			cfg = s.tls.Clone()
		}
		if s.roots != nil {
			cfg.RootCAs = s.roots
		}
		creds = credentials.NewTLS(cfg)
	}
	var pairs []string
	for k, v := range s.metadata {
		pairs = append(pairs, k, v)
	}
	return append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithDisableServiceConfig(),
		grpc.WithUserAgent("minipachd-client/" + APIVersion),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveEvery, Timeout: keepaliveEvery, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessageSize), grpc.MaxCallSendMsgSize(MaxMessageSize)),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(bufferSize),
		grpc.WithWriteBufferSize(bufferSize),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			ctx = metadata.AppendToOutgoingContext(ctx, pairs...)
			return wrap(invoke(ctx, method, req, reply, cc, opts...), c.addr)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			ctx = metadata.AppendToOutgoingContext(ctx, pairs...)
			cs, err := open(ctx, desc, cc, method, opts...)
			if err != nil {
				return nil, wrap(err, c.addr)
			}
			return &stream{cs, c.addr}, nil
		}),
	}, s.dial...)
}

// stream turns the errors of a stream into *Error. io.EOF stays.
type stream struct {
	grpc.ClientStream
	addr Address
}

func (s *stream) RecvMsg(m any) error { return s.wrap(s.ClientStream.RecvMsg(m)) }
func (s *stream) SendMsg(m any) error { return s.wrap(s.ClientStream.SendMsg(m)) }

func (s *stream) wrap(err error) error {
	if errors.Is(err, io.EOF) {
		return err
	}
	return wrap(err, s.addr)
}

// Address is where the client connects to.
func (c *Client) Address() Address { return c.addr }

// Project is the project of names that have none.
func (c *Client) Project() string { return c.project }

// Conn is the connection under the stubs, for services that have none here.
func (c *Client) Conn() *grpc.ClientConn { return c.conn }

// Close ends the connection and every call on it.
func (c *Client) Close() error { return c.conn.Close() }
