package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// daemon is a plain gRPC client of the pachd under test.
type daemon struct {
	cfg    config
	proc   *child
	conn   *grpc.ClientConn
	pfs    pfspb.APIClient
	spouts *spouts
	random *rand.ChaCha8
	round  int // from 1 on
	made   int // repos that the measurement of that made
	// appendedRound and filesRound are the rounds that have their repo of appending
	// commits and their repo of many files.
	appendedRound, filesRound int
}

func startDaemon(ctx context.Context, dir string, cfg config) (*daemon, error) {
	proc, err := startChild(ctx, dir)
	if err != nil {
		return nil, err
	}
	d := &daemon{cfg: cfg, proc: proc, random: rand.NewChaCha8([32]byte{1})}
	d.conn, err = grpc.NewClient(proc.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(20<<20)),
		grpc.WithInitialWindowSize(4<<20), grpc.WithInitialConnWindowSize(8<<20))
	if err != nil {
		proc.stop()
		return nil, err
	}
	d.pfs = pfspb.NewAPIClient(d.conn)
	d.spouts = &spouts{d: d, pps: ppspb.NewAPIClient(d.conn)}
	for i := range 9 {
		if err := d.createRepo(ctx, fmt.Sprintf("r%d", i)); err != nil {
			d.close()
			return nil, err
		}
	}
	return d, nil
}

func (d *daemon) close() {
	d.conn.Close()
	d.proc.stop()
}

func (d *daemon) measurements() []measurement {
	all := []measurement{
		{"one-shot commit of 100 bytes, 1 client", "commits/s", floorTxn, d.oneShot(1, func(int) string { return "r0" })},
		{"the same, 8 clients, 8 repos", "commits/s", floorTxn8, d.oneShot(8, func(w int) string { return fmt.Sprintf("r%d", w) })},
		{"the same, 8 clients, one branch", "commits/s", floorTxn8, d.oneShot(8, func(int) string { return "r8" })},
		{"start, 10 modify, finish, wait", "cycles/s", floorTxn, d.cycles(1)},
		{"the same, the 10 at once", "cycles/s", floorTxn, d.cycles(10)},
		{"put one incompressible file", "MB/s", floorIn, d.put("bulk")},
		{"put the same bytes again elsewhere", "MB/s", floorIn, d.put("again")},
		{"get it back", "MB/s", floorOut, d.get},
		{"files of 1 KiB in one commit", "files/s", floorFiles, d.manyFiles},
		{"list them", "ms", floorList, d.withFiles(d.list)},
		{"glob them", "ms", floorList, d.withFiles(d.glob)},
		{"tar of them", "files/s", "", d.withFiles(d.tar)},
		{"inspect one of them, p50", "ms", "", d.withFiles(d.inspect)},
		{"500 appending commits: list commits", "ms", "", d.listCommits},
		{"500 appending commits: read the file", "ms", "", d.readAppended},
		{"create repo", "repos/s", floorTxn, d.repos},
	}
	all = append(all, d.spouts.measurements()...)
	return append(all, measurement{"peak resident memory of the daemon", "MB", "", func(context.Context) (float64, error) { return d.proc.peak() }})
}

func repo(name string) *pfspb.Repo {
	return &pfspb.Repo{Name: name, Type: "user", Project: &pfspb.Project{Name: "default"}}
}

func head(name string) *pfspb.Commit {
	return &pfspb.Commit{Repo: repo(name), Branch: &pfspb.Branch{Repo: repo(name), Name: "master"}}
}

func (d *daemon) createRepo(ctx context.Context, name string) error {
	_, err := d.pfs.CreateRepo(ctx, &pfspb.CreateRepoRequest{Repo: repo(name)})
	return err
}

// modify sends one ModifyFile stream to the head of a repo.
func (d *daemon) modify(ctx context.Context, name string, send func(func(*pfspb.ModifyFileRequest) error) error) error {
	return d.modifyCommit(ctx, head(name), send)
}

// modifyCommit sends one ModifyFile stream whose messages send produces.
func (d *daemon) modifyCommit(ctx context.Context, c *pfspb.Commit, send func(func(*pfspb.ModifyFileRequest) error) error) error {
	stream, err := d.pfs.ModifyFile(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: c}}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := send(stream.Send); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, err = stream.CloseAndRecv() // an EOF of Send has its reason here
	return err
}

func (d *daemon) oneShot(clients int, name func(worker int) string) func(context.Context) (float64, error) {
	data := make([]byte, 100)
	return func(ctx context.Context) (float64, error) {
		return perSecond(ctx, clients, d.cfg.short, func(ctx context.Context, worker, i int) error {
			return d.modify(ctx, name(worker), func(send func(*pfspb.ModifyFileRequest) error) error {
				return send(addFile(fmt.Sprintf("/w%d/%d", worker, i%1000), data))
			})
		})
	}
}

// put streams the big file, whose bytes are new in each round.
func (d *daemon) put(path string) func(context.Context) (float64, error) {
	return func(ctx context.Context) (float64, error) {
		piece := make([]byte, pieceSize)
		source := rand.NewChaCha8([32]byte{byte(d.round), 7})
		_, _ = source.Read(piece) // never fails
		start := time.Now()
		err := d.modify(ctx, "r0", func(send func(*pfspb.ModifyFileRequest) error) error {
			name := fmt.Sprintf("/%s-%d", path, d.round)
			for sent := int64(0); sent < d.cfg.bulk; sent += pieceSize {
				stamp(piece, sent)
				if err := send(addFile(name, piece)); err != nil {
					return err
				}
			}
			return nil
		})
		return megabytes(d.cfg.bulk, start), err
	}
}

// stamp makes a piece of random bytes differ from every other one, page by page,
// at less cost than new random bytes.
func stamp(piece []byte, offset int64) {
	for page := 0; page < len(piece); page += 4096 {
		binary.LittleEndian.PutUint64(piece[page:], uint64(offset)+uint64(page))
	}
}

func (d *daemon) get(ctx context.Context) (float64, error) {
	start := time.Now()
	stream, err := d.pfs.GetFile(ctx, &pfspb.GetFileRequest{File: &pfspb.File{Commit: head("r0"), Path: fmt.Sprintf("/bulk-%d", d.round)}})
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, &bytesReader{stream: stream})
	if err != nil {
		return 0, err
	}
	if n != d.cfg.bulk {
		return 0, fmt.Errorf("got %d bytes, want %d", n, d.cfg.bulk)
	}
	return megabytes(n, start), nil
}

func (d *daemon) manyFiles(ctx context.Context) (float64, error) {
	d.filesRound = d.round
	name := d.filesRepo()
	if err := d.createRepo(ctx, name); err != nil {
		return 0, err
	}
	data := make([]byte, 1024)
	start := time.Now()
	err := d.modify(ctx, name, func(send func(*pfspb.ModifyFileRequest) error) error {
		for i := range d.cfg.files {
			_, _ = d.random.Read(data) // never fails
			if err := send(addFile(fmt.Sprintf("/dir/%07d", i), data)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	_, err = d.pfs.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: head(name), Wait: pfspb.CommitState_FINISHED})
	return float64(d.cfg.files) / time.Since(start).Seconds(), err
}

// withFiles runs a measurement of the many files, which are made before if that was
// not among the measurements.
func (d *daemon) withFiles(run func(context.Context) (float64, error)) func(context.Context) (float64, error) {
	return func(ctx context.Context) (float64, error) {
		if d.filesRound != d.round {
			if _, err := d.manyFiles(ctx); err != nil {
				return 0, err
			}
		}
		return run(ctx)
	}
}

func (d *daemon) list(ctx context.Context) (float64, error) {
	start := time.Now()
	n, err := drain(d.pfs.ListFile(ctx, &pfspb.ListFileRequest{File: &pfspb.File{Commit: head(d.filesRepo()), Path: "/dir/"}}))
	if err == nil && n != d.cfg.files {
		err = fmt.Errorf("listed %d files, want %d", n, d.cfg.files)
	}
	return milliseconds(start), err
}

func (d *daemon) repos(ctx context.Context) (float64, error) {
	return perSecond(ctx, 1, d.cfg.short, func(ctx context.Context, _, _ int) error {
		d.made++
		return d.createRepo(ctx, fmt.Sprintf("n%d", d.made))
	})
}
