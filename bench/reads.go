package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"golang.org/x/sync/errgroup"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// drain reads a server stream to its end and counts its messages.
func drain[T any](stream grpc.ServerStreamingClient[T], err error) (int, error) {
	if err != nil {
		return 0, err
	}
	for n := 0; ; n++ {
		if _, err := stream.Recv(); errors.Is(err, io.EOF) {
			return n, nil
		} else if err != nil {
			return n, err
		}
	}
}

// cycles counts commits of ten streams each, so many of them at once.
func (d *daemon) cycles(atOnce int) func(context.Context) (float64, error) {
	return func(ctx context.Context) (float64, error) {
		return perSecond(ctx, 1, d.cfg.short, func(ctx context.Context, _, i int) error { return d.cycle(ctx, i, atOnce) })
	}
}

func (d *daemon) cycle(ctx context.Context, i, atOnce int) error {
	data := make([]byte, 100)
	branch := &pfspb.Branch{Repo: repo("r1"), Name: "cycles"}
	c, err := d.pfs.StartCommit(ctx, &pfspb.StartCommitRequest{Branch: branch})
	if err != nil {
		return err
	}
	streams, streamCtx := errgroup.WithContext(ctx)
	streams.SetLimit(atOnce)
	for k := range 10 {
		streams.Go(func() error {
			return d.modifyCommit(streamCtx, c, func(send func(*pfspb.ModifyFileRequest) error) error {
				return send(addFile(fmt.Sprintf("/%d/%d", i%100, k), data))
			})
		})
	}
	if err := streams.Wait(); err != nil {
		return err
	}
	if _, err := d.pfs.FinishCommit(ctx, &pfspb.FinishCommitRequest{Commit: c}); err != nil {
		return err
	}
	_, err = d.pfs.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: c, Wait: pfspb.CommitState_FINISHED})
	return err
}

// filesRepo is the repo that manyFiles made last.
func (d *daemon) filesRepo() string { return fmt.Sprintf("files-%d", d.round) }

func (d *daemon) glob(ctx context.Context) (float64, error) {
	start := time.Now()
	n, err := drain(d.pfs.GlobFile(ctx, &pfspb.GlobFileRequest{Commit: head(d.filesRepo()), Pattern: "/dir/*"}))
	if err == nil && n != d.cfg.files {
		err = fmt.Errorf("the glob matched %d files, want %d", n, d.cfg.files)
	}
	return milliseconds(start), err
}

func (d *daemon) tar(ctx context.Context) (float64, error) {
	start := time.Now()
	stream, err := d.pfs.GetFileTAR(ctx, &pfspb.GetFileRequest{File: &pfspb.File{Commit: head(d.filesRepo()), Path: "/dir/"}})
	if err != nil {
		return 0, err
	}
	tr := tar.NewReader(&bytesReader{stream: stream})
	n := 0
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
		if h.Typeflag == tar.TypeReg {
			n++
		}
	}
	if n != d.cfg.files {
		return 0, fmt.Errorf("the tar has %d files, want %d", n, d.cfg.files)
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// bytesReader reads a stream of bytes messages.
type bytesReader struct {
	stream grpc.ServerStreamingClient[wrapperspb.BytesValue]
	rest   []byte
}

func (r *bytesReader) Read(b []byte) (int, error) {
	for len(r.rest) == 0 {
		m, err := r.stream.Recv()
		if err != nil {
			return 0, err
		}
		r.rest = m.Value
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (d *daemon) inspect(ctx context.Context) (float64, error) {
	return median(201, func(i int) error {
		_, err := d.pfs.InspectFile(ctx, &pfspb.InspectFileRequest{File: &pfspb.File{
			Commit: head(d.filesRepo()), Path: fmt.Sprintf("/dir/%07d", i*7919%d.cfg.files),
		}})
		return err
	})
}

// median runs op n times and gives the median of its time in ms.
func median(n int, op func(i int) error) (float64, error) {
	took := make([]float64, n)
	for i := range took {
		start := time.Now()
		if err := op(i); err != nil {
			return 0, err
		}
		took[i] = milliseconds(start)
	}
	slices.Sort(took)
	return took[n/2], nil
}

// appends is how many commits append to one file.
const appends = 500

// appended makes the repo of the next two measurements, once a round.
func (d *daemon) appended(ctx context.Context) (string, error) {
	name := fmt.Sprintf("appends-%d", d.round)
	if d.appendedRound == d.round {
		return name, nil
	}
	d.appendedRound = d.round
	if err := d.createRepo(ctx, name); err != nil {
		return "", err
	}
	line := make([]byte, 100)
	for range appends {
		if err := d.modify(ctx, name, func(send func(*pfspb.ModifyFileRequest) error) error { return send(addFile("/log", line)) }); err != nil {
			return "", err
		}
	}
	return name, nil
}

func (d *daemon) listCommits(ctx context.Context) (float64, error) {
	name, err := d.appended(ctx)
	if err != nil {
		return 0, err
	}
	return median(5, func(int) error {
		n, err := drain(d.pfs.ListCommit(ctx, &pfspb.ListCommitRequest{Repo: repo(name), To: head(name)}))
		if err == nil && n != appends {
			err = fmt.Errorf("listed %d commits, want %d", n, appends)
		}
		return err
	})
}

func (d *daemon) readAppended(ctx context.Context) (float64, error) {
	name, err := d.appended(ctx)
	if err != nil {
		return 0, err
	}
	return median(5, func(int) error {
		stream, err := d.pfs.GetFile(ctx, &pfspb.GetFileRequest{File: &pfspb.File{Commit: head(name), Path: "/log"}})
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, &bytesReader{stream: stream})
		if err == nil && n != 100*appends {
			err = fmt.Errorf("read %d bytes, want %d", n, 100*appends)
		}
		return err
	})
}
