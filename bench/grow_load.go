package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// growClients is how many clients commit at a time: those on one branch share transactions.
const growClients = 96

// commitSmall makes a one-shot commit of a file of 100 bytes, instead of what it was:
// without the deletion they would be put at its end.
func (d *daemon) commitSmall(ctx context.Context, name, path string) error {
	return d.modify(ctx, name, func(send func(*pfspb.ModifyFileRequest) error) error {
		if err := send(&pfspb.ModifyFileRequest{Body: &pfspb.ModifyFileRequest_DeleteFile{DeleteFile: &pfspb.DeleteFile{Path: path}}}); err != nil {
			return err
		}
		return send(addFile(path, make([]byte, 100)))
	})
}

// concurrently runs op for from to below to, by as many clients as growClients says. What
// etcd does not answer in time, on a machine that is busy with others, is done again.
func concurrently(ctx context.Context, from, to int, op func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for w := range growClients {
		g.Go(func() error {
			for i := from + w; i < to; i += growClients {
				err := op(ctx, i)
				for status.Code(err) == codes.Unavailable && ctx.Err() == nil {
					err = op(ctx, i)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// manyCommits grows the history of one branch. Its content stays the same: 96 files.
type manyCommits struct {
	d    *daemon
	made int
}

func (m *manyCommits) path(i int) string { return fmt.Sprintf("/dir/%02d", i%96) }

func (m *manyCommits) subject(i int) subject { return subject{"r0", "/dir/", m.path(i)} }

func (m *manyCommits) growTo(ctx context.Context, n int) error {
	err := concurrently(ctx, m.made, n, func(ctx context.Context, i int) error { return m.d.commitSmall(ctx, "r0", m.path(i)) })
	m.made = n
	return err
}

// manyFiles has one commit of many files, in one directory of a repo for each size.
type manyFiles struct {
	d *daemon
	n int
}

func (m *manyFiles) repo() string { return fmt.Sprintf("files-%d", m.n) }

func (m *manyFiles) subject(i int) subject {
	return subject{m.repo(), "/dir/", fmt.Sprintf("/dir/%08d", i*7919%m.n)}
}

func (m *manyFiles) growTo(ctx context.Context, n int) error {
	m.n = n
	if err := m.d.createRepo(ctx, m.repo()); err != nil {
		return err
	}
	if err := m.d.commitSmall(ctx, m.repo(), "/first"); err != nil {
		return err
	}
	data := make([]byte, 100)
	err := m.d.modify(ctx, m.repo(), func(send func(*pfspb.ModifyFileRequest) error) error {
		for i := range n {
			binary.LittleEndian.PutUint64(data, uint64(i)) // no two alike
			if err := send(addFile(fmt.Sprintf("/dir/%08d", i), data)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	_, err = m.d.pfs.InspectCommit(ctx, &pfspb.InspectCommitRequest{Commit: head(m.repo()), Wait: pfspb.CommitState_FINISHED})
	return err
}

// manyRepos has repos of two commits each.
type manyRepos struct {
	d    *daemon
	made int
}

func (m *manyRepos) subject(i int) subject {
	return subject{fmt.Sprintf("n%d", i*7919%m.made), "/dir/", "/dir/1"}
}

func (m *manyRepos) growTo(ctx context.Context, n int) error {
	err := concurrently(ctx, m.made, n, func(ctx context.Context, i int) error {
		name := fmt.Sprintf("n%d", i)
		if err := m.d.createRepo(ctx, name); err != nil {
			return err
		}
		if err := m.d.commitSmall(ctx, name, "/dir/0"); err != nil {
			return err
		}
		return m.d.commitSmall(ctx, name, "/dir/1")
	})
	m.made = n
	return err
}

// manySpouts runs spouts whose workers commit by themselves, over REST, for little cost.
type manySpouts struct {
	d    *daemon
	made int
}

func (m *manySpouts) name(i int) string { return fmt.Sprintf("spout%04d", i) }

// subject is the output of one of the spouts, which commits meanwhile.
func (m *manySpouts) subject(i int) subject {
	return subject{m.name(i * 7919 % m.made), "/dir/", "/dir/1"}
}

// spoutScript makes a commit every 10 s, beginning somewhere in the first 10 s, over a
// connection that it keeps. It starts no other program. Standard input has the body.
const spoutScript = `
body=$(cat)
rest=$((RANDOM % 10)).$((RANDOM % 9 + 1)) # not 0, which would not wait
while true; do
  exec 3<>/dev/tcp/$PACHD_SERVICE_HOST/$PACHD_SERVICE_PORT || exit 1
  while true; do
    line=
    IFS= read -r -t "$rest" line <&3 # nothing comes: it is a pause
    [ $? -gt 128 ] || break # the connection has ended
    rest=10
    printf 'POST /api/pfs_v2.API/ModifyFile HTTP/1.1\r\nHost: pachd\r\nauthn-token: %s\r\nContent-Length: %d\r\n\r\n%s' "$PACH_TOKEN" ${#body} "$body" >&3
    IFS= read -r status <&3 || break
    case $status in *' 200 '*) ;; *) echo "$status"; exit 1;; esac
    length=0
    while IFS= read -r line <&3; line=${line%$'\r'}; [ -n "$line" ]; do
      case $line in [Cc]ontent-[Ll]ength:*) length=${line##* };; esac
    done
    IFS= read -r -N "$length" line <&3
  done
  exec 3>&-
done
`

func (m *manySpouts) growTo(ctx context.Context, n int) error {
	first := m.made
	err := concurrently(ctx, first, n, func(ctx context.Context, i int) error {
		var body []byte
		for _, r := range []*pfspb.ModifyFileRequest{
			{Body: &pfspb.ModifyFileRequest_SetCommit{SetCommit: head(m.name(i))}},
			{Body: &pfspb.ModifyFileRequest_DeleteFile{DeleteFile: &pfspb.DeleteFile{Path: "/dir/0"}}},
			addFile("/dir/0", make([]byte, 100)),
		} {
			line, err := protojson.Marshal(r)
			if err != nil {
				return err
			}
			body = append(append(body, line...), '\n')
		}
		spec, err := json.Marshal(map[string]any{
			"pipeline": map[string]any{"name": m.name(i)}, "spout": map[string]any{},
			"transform": map[string]any{"cmd": []string{"bash", "-c", spoutScript}, "stdin": []string{string(body)}},
		})
		if err != nil {
			return err
		}
		if _, err := m.d.spouts.pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: string(spec)}); err != nil {
			return err
		}
		for range 2 {
			if err := m.d.commitSmall(ctx, m.name(i), "/dir/1"); err != nil {
				return err
			}
		}
		return nil
	})
	m.made = n
	if err != nil {
		return err
	}
	for i := first; i < n; i++ { // all of them commit
		for {
			_, err := m.d.pfs.InspectFile(ctx, &pfspb.InspectFileRequest{File: &pfspb.File{Commit: head(m.name(i)), Path: "/dir/0"}})
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return nil
}
