package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

// Samples of each measure at each size, and files of a first page.
const (
	growSamples = 400
	firstPage   = 50
)

// Names of the floors of the curves.
const (
	floorCall = "raw gRPC call"
	floorPuts = "raw etcd txn"
)

// sample takes the time of one operation, the i-th.
type sample struct {
	name, floor string
	run         func(ctx context.Context, i int) error
}

// measure takes every figure. Samples of the figures and of their floors take turns,
// so that a slow moment of the machine touches all alike.
func (g *grower) measure(ctx context.Context, l load) ([]figure, error) {
	value := string(g.floors.piece[:500])
	raw := pfspb.NewAPIClient(g.floors.conn)
	reads := []sample{
		{floorCall, "", func(ctx context.Context, _ int) error {
			_, err := raw.InspectFile(ctx, &pfspb.InspectFileRequest{File: &pfspb.File{Commit: head("r"), Path: "/"}})
			return err
		}},
		{"read a file of the head", floorCall, func(ctx context.Context, i int) error { return g.read(ctx, l.subject(i)) }},
		{"list files, first page", floorCall, func(ctx context.Context, i int) error { return g.listPage(ctx, l.subject(i), "") }},
		{"list files, page from the middle", floorCall, func(ctx context.Context, i int) error { s := l.subject(i); return g.listPage(ctx, s, s.path) }},
		{"inspect file", floorCall, func(ctx context.Context, i int) error {
			s := l.subject(i)
			_, err := g.daemon.pfs.InspectFile(ctx, &pfspb.InspectFileRequest{File: &pfspb.File{Commit: head(s.repo), Path: s.path}})
			return err
		}},
		{"subscribe, until the first of all commits", floorCall, func(ctx context.Context, i int) error { return g.subscribe(ctx, l.subject(i).repo, nil) }},
		{"subscribe, until the newest commit", floorCall, func(ctx context.Context, i int) error { return g.subscribeLast(ctx, l.subject(i).repo) }},
	}
	writes := []sample{
		{floorPuts, "", func(ctx context.Context, i int) error {
			_, err := g.floors.client.Txn(ctx).Then(clientv3.OpPut(fmt.Sprintf("a/%d", i), value), clientv3.OpPut("b", value)).Commit()
			return err
		}},
		{"one-shot commit of 100 bytes", floorPuts, func(ctx context.Context, i int) error {
			s := l.subject(i)
			return g.daemon.modify(ctx, s.repo, func(send func(*pfspb.ModifyFileRequest) error) error {
				return send(addFile(s.path, g.floors.piece[:100]))
			})
		}},
	}
	var all []figure
	for _, group := range [][]sample{reads, writes} {
		figures, err := g.figures(ctx, group)
		if err != nil {
			return nil, err
		}
		all = append(all, figures...)
	}
	return all, nil
}

// figures takes samples in turn. The first tenth warms up and does not count.
func (g *grower) figures(ctx context.Context, group []sample) ([]figure, error) {
	took := make([][]float64, len(group))
	for i := -growSamples / 10; i < growSamples; i++ {
		for k, s := range group {
			ms, err := timed(ctx, func(ctx context.Context) error { return s.run(ctx, i+growSamples) })
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			if i >= 0 {
				took[k] = append(took[k], ms)
			}
		}
	}
	var figures []figure
	p50 := map[string]float64{}
	for k, s := range group {
		slices.Sort(took[k])
		f := figure{Name: s.name, Floor: s.floor, P50: took[k][growSamples/2], P99: took[k][growSamples*99/100]}
		p50[s.name] = f.P50
		if floor := p50[s.floor]; floor > 0 {
			f.FloorP50, f.Ratio = floor, f.P50/floor
		}
		if s.floor != "" {
			figures = append(figures, f)
		}
	}
	return figures, nil
}

// timed gives the time of an operation in ms.
func timed(ctx context.Context, op func(context.Context) error) (float64, error) {
	start := time.Now()
	err := op(ctx)
	return milliseconds(start), err
}

func (g *grower) read(ctx context.Context, s subject) error {
	stream, err := g.daemon.pfs.GetFile(ctx, &pfspb.GetFileRequest{File: &pfspb.File{Commit: head(s.repo), Path: s.path}})
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, &bytesReader{stream: stream})
	if err == nil && n == 0 {
		err = fmt.Errorf("%s is empty", s.path)
	}
	return err
}

// listPage lists a page, of files after a path if one is given.
func (g *grower) listPage(ctx context.Context, s subject, after string) error {
	req := &pfspb.ListFileRequest{File: &pfspb.File{Commit: head(s.repo), Path: s.dir}, Number: firstPage}
	if after != "" {
		req.PaginationMarker = &pfspb.File{Commit: head(s.repo), Path: after}
	}
	n, err := drain(g.daemon.pfs.ListFile(ctx, req))
	if err == nil && n == 0 && after == "" {
		err = fmt.Errorf("%s has no files", s.dir)
	}
	return err
}

// subscribe takes a subscription until its first commit.
func (g *grower) subscribe(ctx context.Context, name string, from *pfspb.Commit) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := g.daemon.pfs.SubscribeCommit(ctx, &pfspb.SubscribeCommitRequest{
		Repo: repo(name), Branch: "master", From: from, State: pfspb.CommitState_FINISHED,
	})
	if err != nil {
		return err
	}
	_, err = stream.Recv()
	return err
}

// subscribeLast asks for what came after the commit before the head: one that is there.
func (g *grower) subscribeLast(ctx context.Context, name string) error {
	before := head(name)
	before.Id = "^"
	return g.subscribe(ctx, name, before)
}
