package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// Names of the floors that other lines refer to.
const (
	floorTxn   = "raw etcd txn, 1 client"
	floorTxn8  = "raw etcd txn, 8 clients"
	floorIn    = "raw gRPC stream in"
	floorOut   = "raw gRPC stream out"
	floorWrite = "raw disk write + fsync"
	floorList  = "raw gRPC stream of as many FileInfos"
	floorFiles = "raw gRPC stream in of as many files"
)

// pieceSize is the payload of one message of a stream, as the Go client sends it.
const pieceSize = 2 << 20

// floors are the yardsticks: an etcd of its own and a gRPC server that throws
// away what it gets and makes up what it sends.
type floors struct {
	cfg    config
	dir    string
	etcd   *embed.Etcd
	client *clientv3.Client
	server *grpc.Server
	conn   *grpc.ClientConn
	piece  []byte
}

func startFloors(_ context.Context, dir string, cfg config) (*floors, error) {
	f := &floors{cfg: cfg, dir: dir, piece: make([]byte, pieceSize)}
	if _, err := rand.Read(f.piece); err != nil {
		return nil, err
	}
	c := embed.NewConfig()
	c.Dir = filepath.Join(dir, "etcd")
	c.LogLevel = "fatal" // it calls its own end an error
	var urls []url.URL
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		urls = append(urls, url.URL{Scheme: "http", Host: l.Addr().String()})
		l.Close()
	}
	c.ListenClientUrls, c.AdvertiseClientUrls = urls[:1], urls[:1]
	c.ListenPeerUrls, c.AdvertisePeerUrls = urls[1:], urls[1:]
	c.InitialCluster = c.Name + "=" + urls[1].String()
	var err error
	if f.etcd, err = embed.StartEtcd(c); err != nil {
		return nil, fmt.Errorf("floor etcd: %w", err)
	}
	<-f.etcd.Server.ReadyNotify()
	if f.client, err = clientv3.New(clientv3.Config{Endpoints: []string{urls[0].Host}, DialTimeout: 5 * time.Second}); err != nil {
		return nil, fmt.Errorf("floor etcd: %w", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f.server = grpc.NewServer(grpc.MaxRecvMsgSize(20<<20), grpc.InitialWindowSize(4<<20), grpc.InitialConnWindowSize(8<<20))
	pfspb.RegisterAPIServer(f.server, &sink{piece: f.piece, size: cfg.bulk, files: cfg.files})
	go func() { _ = f.server.Serve(l) }()
	f.conn, err = grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(20<<20)),
		grpc.WithInitialWindowSize(4<<20), grpc.WithInitialConnWindowSize(8<<20))
	return f, err
}

func (f *floors) close() {
	f.conn.Close()
	f.server.Stop()
	f.client.Close()
	f.etcd.Close()
}

func (f *floors) measurements() []measurement {
	return []measurement{
		{name: floorTxn, unit: "txn/s", run: f.txns(1)},
		{name: floorTxn8, unit: "txn/s", run: f.txns(8)},
		{name: floorIn, unit: "MB/s", run: f.streamIn},
		{name: floorOut, unit: "MB/s", run: f.streamOut},
		{name: floorList, unit: "ms", run: f.infosOut},
		{name: floorFiles, unit: "files/s", run: f.filesIn},
		{name: floorWrite, unit: "MB/s", run: f.diskWrite},
	}
}

// txns counts transactions of two puts of 500 bytes each.
func (f *floors) txns(clients int) func(context.Context) (float64, error) {
	value := string(f.piece[:500])
	return func(ctx context.Context) (float64, error) {
		return perSecond(ctx, clients, f.cfg.short, func(ctx context.Context, worker, i int) error {
			_, err := f.client.Txn(ctx).Then(
				clientv3.OpPut(fmt.Sprintf("a/%d/%d", worker, i), value),
				clientv3.OpPut(fmt.Sprintf("b/%d", worker), value)).Commit()
			return err
		})
	}
}

func (f *floors) streamIn(ctx context.Context) (float64, error) {
	start := time.Now()
	err := f.sendIn(ctx, int((f.cfg.bulk+pieceSize-1)/pieceSize), func(int) (string, []byte) { return "/bulk", f.piece })
	return megabytes(f.cfg.bulk, start), err
}

// filesIn counts messages with a file of 1 KiB each, into the sink.
func (f *floors) filesIn(ctx context.Context) (float64, error) {
	start := time.Now()
	err := f.sendIn(ctx, f.cfg.files, func(i int) (string, []byte) { return fmt.Sprintf("/dir/%07d", i), f.piece[:1024] })
	return float64(f.cfg.files) / time.Since(start).Seconds(), err
}

// sendIn sends n messages with the path and the data of each into the sink.
func (f *floors) sendIn(ctx context.Context, n int, file func(i int) (string, []byte)) error {
	stream, err := pfspb.NewAPIClient(f.conn).ModifyFile(ctx)
	if err != nil {
		return err
	}
	for i := range n {
		if err := stream.Send(addFile(file(i))); err != nil {
			return err
		}
	}
	_, err = stream.CloseAndRecv()
	return err
}

func (f *floors) streamOut(ctx context.Context) (float64, error) {
	start := time.Now()
	stream, err := pfspb.NewAPIClient(f.conn).GetFile(ctx, &pfspb.GetFileRequest{})
	if err != nil {
		return 0, err
	}
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return megabytes(f.cfg.bulk, start), nil
		} else if err != nil {
			return 0, err
		}
	}
}

func (f *floors) infosOut(ctx context.Context) (float64, error) {
	start := time.Now()
	_, err := drain(pfspb.NewAPIClient(f.conn).ListFile(ctx, &pfspb.ListFileRequest{File: &pfspb.File{Commit: head("r"), Path: "/"}}))
	return milliseconds(start), err
}

func (f *floors) diskWrite(context.Context) (float64, error) {
	start := time.Now()
	file, err := os.Create(filepath.Join(f.dir, "raw"))
	if err != nil {
		return 0, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	for sent := int64(0); sent < f.cfg.bulk; sent += pieceSize {
		if _, err := file.Write(f.piece); err != nil {
			return 0, err
		}
	}
	err = file.Sync()
	return megabytes(f.cfg.bulk, start), err
}

// sink is the smallest server of the two streams.
type sink struct {
	pfspb.UnimplementedAPIServer
	piece []byte
	size  int64
	files int
}

// info is a FileInfo of the usual size.
func (s *sink) info(r *pfspb.Repo) *pfspb.FileInfo {
	return &pfspb.FileInfo{
		File:      &pfspb.File{Commit: &pfspb.Commit{Repo: r, Id: "0123456789abcdef0123456789abcdef"}, Path: "/dir/0000000", Datum: "default"},
		FileType:  pfspb.FileType_FILE,
		Committed: timestamppb.Now(),
		SizeBytes: 1024,
		Hash:      s.piece[:32],
	}
}

// InspectFile answers at once.
func (s *sink) InspectFile(_ context.Context, req *pfspb.InspectFileRequest) (*pfspb.FileInfo, error) {
	return s.info(req.File.Commit.Repo), nil
}

// ListFile answers with one message again and again.
func (s *sink) ListFile(req *pfspb.ListFileRequest, stream grpc.ServerStreamingServer[pfspb.FileInfo]) error {
	info := s.info(req.File.Commit.Repo)
	for range s.files {
		if err := stream.Send(info); err != nil {
			return err
		}
	}
	return nil
}

func (s *sink) ModifyFile(stream grpc.ClientStreamingServer[pfspb.ModifyFileRequest, emptypb.Empty]) error {
	for {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return stream.SendAndClose(&emptypb.Empty{})
		} else if err != nil {
			return err
		}
	}
}

func (s *sink) GetFile(_ *pfspb.GetFileRequest, stream grpc.ServerStreamingServer[wrapperspb.BytesValue]) error {
	for sent := int64(0); sent < s.size; sent += pieceSize {
		if err := stream.Send(wrapperspb.Bytes(s.piece)); err != nil {
			return err
		}
	}
	return nil
}

func addFile(path string, data []byte) *pfspb.ModifyFileRequest {
	return &pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_AddFile{AddFile: &pfspb.AddFile{
		Path: path, Source: &pfspb.AddFile_Raw{Raw: wrapperspb.Bytes(data)},
	}}}
}
