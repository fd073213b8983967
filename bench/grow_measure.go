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

// sample is an operation whose time counts, the i-th. A floor is taken of no daemon.
type sample struct {
	name, floor string
	run         func(ctx context.Context, of subjects, i int) error
}

// measure takes every figure. Samples of the figures, of both daemons, and of their
// floors take turns, so that a slow moment of the machine touches all alike.
func (g *grower) measure(ctx context.Context) ([]figure, error) {
	value := string(g.floors.piece[:500])
	raw := pfspb.NewAPIClient(g.floors.conn)
	call := sample{floorCall, "", func(ctx context.Context, _ subjects, _ int) error {
		_, err := raw.InspectFile(ctx, &pfspb.InspectFileRequest{File: &pfspb.File{Commit: head("r"), Path: "/"}})
		return err
	}}
	reads := []sample{
		call,
		{"read a file of the head", floorCall, func(ctx context.Context, of subjects, i int) error { return of.read(ctx, of.subject(i)) }},
		{"list files, first page", floorCall, func(ctx context.Context, of subjects, i int) error { return of.listPage(ctx, of.subject(i), "") }},
		{"list files, page from the middle", floorCall, func(ctx context.Context, of subjects, i int) error {
			s := of.subject(i)
			return of.listPage(ctx, s, s.path)
		}},
		{"inspect file", floorCall, func(ctx context.Context, of subjects, i int) error {
			s := of.subject(i)
			_, err := of.pfs.InspectFile(ctx, &pfspb.InspectFileRequest{File: &pfspb.File{Commit: head(s.repo), Path: s.path}})
			return err
		}},
	}
	// Apart from the others: a daemon notices only after a while that nobody listens any more.
	subscriptions := []sample{
		call,
		{"subscribe, until the first of all commits", floorCall, func(ctx context.Context, of subjects, i int) error {
			return of.firstCommit(ctx, of.subject(i).repo, nil)
		}},
		{"subscribe, until the newest commit", floorCall, func(ctx context.Context, of subjects, i int) error {
			name := of.subject(i).repo
			before := head(name) // what came after the commit before the head
			before.Id = "^"
			return of.firstCommit(ctx, name, before)
		}},
	}
	writes := []sample{
		{floorPuts, "", func(ctx context.Context, _ subjects, i int) error {
			_, err := g.floors.client.Txn(ctx).Then(clientv3.OpPut(fmt.Sprintf("a/%d", i), value), clientv3.OpPut("b", value)).Commit()
			return err
		}},
		{"one-shot commit of 100 bytes", floorPuts, func(ctx context.Context, of subjects, i int) error {
			s := of.subject(i)
			return of.commitSmall(ctx, s.repo, s.path)
		}},
	}
	var all []figure
	for _, group := range [][]sample{reads, subscriptions, writes} {
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
	took := map[string][2][]float64{} // of the large and the small daemon
	for i := -growSamples / 10; i < growSamples; i++ {
		for _, s := range group {
			times := took[s.name]
			for n := range 2 {
				k := (n + i&1) % 2 // none always follows the other
				of := []subjects{g.large, g.small}[k]
				start := time.Now()
				if err := s.run(ctx, of, i+growSamples); err != nil {
					return nil, fmt.Errorf("%s: %w", s.name, err)
				}
				if i >= 0 {
					times[k] = append(times[k], milliseconds(start))
				}
			}
			took[s.name] = times
		}
	}
	for _, times := range took {
		slices.Sort(times[0])
		slices.Sort(times[1])
	}
	var figures []figure
	for _, s := range group {
		if s.floor == "" {
			continue
		}
		large, small, floor := took[s.name][0], took[s.name][1], took[s.floor][0]
		f := figure{
			Name: s.name, P50: large[growSamples/2], P99: large[growSamples*99/100], SmallP50: small[growSamples/2],
			Floor: s.floor, FloorP50: floor[growSamples/2],
		}
		f.Growth, f.Ratio = f.P50/f.SmallP50, f.P50/f.FloorP50
		figures = append(figures, f)
	}
	return figures, nil
}

func (d *daemon) read(ctx context.Context, s subject) error {
	stream, err := d.pfs.GetFile(ctx, &pfspb.GetFileRequest{File: &pfspb.File{Commit: head(s.repo), Path: s.path}})
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
func (d *daemon) listPage(ctx context.Context, s subject, after string) error {
	req := &pfspb.ListFileRequest{File: &pfspb.File{Commit: head(s.repo), Path: s.dir}, Number: firstPage}
	if after != "" {
		req.PaginationMarker = &pfspb.File{Commit: head(s.repo), Path: after}
	}
	n, err := drain(d.pfs.ListFile(ctx, req))
	if err == nil && n == 0 && after == "" {
		err = fmt.Errorf("%s has no files", s.dir)
	}
	return err
}

// firstCommit takes a subscription until its first commit.
func (d *daemon) firstCommit(ctx context.Context, name string, from *pfspb.Commit) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := d.pfs.SubscribeCommit(ctx, &pfspb.SubscribeCommitRequest{
		Repo: repo(name), Branch: "master", From: from, State: pfspb.CommitState_FINISHED,
	})
	if err != nil {
		return err
	}
	_, err = stream.Recv()
	return err
}
