package server_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
)

// bridge is a spout's program as somebody would write it who knows nothing of
// this daemon: it gets data from HOST and PORT and commits it with pachctl.
const bridge = `package main

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
)

func main() {
	resp, err := http.Get("http://" + os.Getenv("HOST") + ":" + os.Getenv("PORT") + "/" + os.Getenv("TOPIC"))
	if err != nil {
		panic(err)
	}
	b, _ := io.ReadAll(resp.Body)
	cmd := exec.Command("pachctl", "put", "file", os.Getenv("PPS_PIPELINE_NAME")+"@master:/messages")
	cmd.Stdin, cmd.Stderr = strings.NewReader(string(b)), os.Stderr
	if err := cmd.Run(); err != nil {
		panic(err)
	}
	select {}
}
`

// greeter is a spout's program with a port of its own.
const greeter = `package main

import (
	"fmt"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello from ", os.Getenv("PPS_PIPELINE_NAME")) })
	panic(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
`

// program writes main.go into a directory of its own.
func program(t *testing.T, source string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// freePort is a port that nobody listened on a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// waitForFile returns a file's content once a commit on master has it.
func waitForFile(ctx context.Context, t *testing.T, pfs pfspb.APIClient, name, path string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pfs.SubscribeCommit(ctx, &pfspb.SubscribeCommitRequest{Repo: repo(name), Branch: "master", State: pfspb.CommitState_FINISHED})
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		if got, err := get(ctx, pfs, name, path); err == nil {
			return string(got)
		}
	}
}

// TestSpout_SpecRunsAsItStands runs the program of a spec whose image is not
// there, with its environment and in its working directory.
func TestSpout_SpecRunsAsItStands(t *testing.T) {
	source := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "messages of %s", r.URL.Path)
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = source.Serve(l) }()
	defer source.Close()
	p := startPachd(t, t.TempDir())
	ctx := within(t)
	pfs, pps, _ := dial(t, p.addr)
	spec := fmt.Sprintf(`{"pipeline": {"name": "my-spout"}, "spout": {},
	  "transform": {"cmd": ["go", "run", "./main.go"], "image": "myaccount/myimage:0.1", "working_dir": %q,
	                "env": {"HOST": "127.0.0.1", "TOPIC": "mytopic", "PORT": "%d"}}}`,
		program(t, bridge), l.Addr().(*net.TCPAddr).Port)
	if _, err := pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: spec}); err != nil {
		t.Fatal(err)
	}
	if got := waitForFile(ctx, t, pfs, "my-spout", "/messages"); got != "messages of /mytopic" {
		t.Errorf("the spout committed %q", got)
	}
	if said := strings.Count(p.log.String(), "myaccount/myimage:0.1"); said != 1 {
		t.Errorf("the log mentions the image %d times, want once:\n%s", said, p.log.String())
	}
}

// TestSpout_ServiceIsReachable asks a spout's program through its external port,
// with the spec in camel case.
func TestSpout_ServiceIsReachable(t *testing.T) {
	p := startPachd(t, t.TempDir())
	ctx := within(t)
	_, pps, _ := dial(t, p.addr)
	internal, external := freePort(t), freePort(t)
	spec := fmt.Sprintf(`{"pipeline": {"name": "listener"}, "spout": {"service": {"internalPort": %d, "externalPort": %d}},
	  "transform": {"cmd": ["go", "run", "./main.go"], "workingDir": %q, "env": {"PORT": "%d"}}}`,
		internal, external, program(t, greeter), internal)
	if _, err := pps.CreatePipelineV2(ctx, &ppspb.CreatePipelineV2Request{CreatePipelineRequestJson: spec}); err != nil {
		t.Fatal(err)
	}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", external), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if ctx.Err() != nil {
			t.Fatalf("the service never answered: %v\n%s", err, p.log.String())
		}
		if err != nil {
			continue // the port opens when the scheduler has seen the pipeline
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil && string(body) == "hello from listener" {
			return
		}
	}
}
