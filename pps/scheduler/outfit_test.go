package scheduler

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/minipachd/minipachd/pps/logs"
	"github.com/minipachd/minipachd/pps/runtime"
	"github.com/minipachd/minipachd/pps/secrets"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

// shell makes a spout's program a script.
func shell(script string) func(*recordpb.PipelineRecord) {
	return func(r *recordpb.PipelineRecord) {
		r.Info.Details.Transform.Cmd = []string{"sh", "-c", script}
	}
}

// line waits for a line of the pipeline's log with this beginning, and returns the rest.
func (d *daemon) line(beginning string) string {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), limit)
	defer cancel()
	var rest string
	var seen []string
	err := d.logs.Read(ctx, logs.Query{Project: "p", Pipeline: "s", Follow: true}, func(m *ppspb.LogMessage) error {
		seen = append(seen, m.Message)
		var ok bool
		if rest, ok = strings.CutPrefix(m.Message, beginning); ok {
			return errSeen
		}
		return nil
	})
	if !errors.Is(err, errSeen) {
		d.t.Fatalf("%v; no line begins with %q: %q", err, beginning, seen)
	}
	return rest
}

// withSecrets gives a daemon a store of secrets.
func withSecrets(t *testing.T) (*secrets.Store, func(*Config)) {
	t.Helper()
	key, err := secrets.LoadOrCreateKey(filepath.Join(t.TempDir(), "secret.key"))
	if err != nil {
		t.Fatal(err)
	}
	s := secrets.New(key)
	return s, func(c *Config) { c.Secrets = s }
}

func putSecret(t *testing.T, etcd *store.Store, s *secrets.Store, name, value string) {
	t.Helper()
	secret, err := secrets.Parse(fmt.Appendf(nil, `{"metadata":{"name":%q},"stringData":{"k":%q}}`, name, value))
	if err != nil {
		t.Fatal(err)
	}
	sealed := s.Seal(secret)
	_, err = etcd.Update(t.Context(), func(tx *store.Txn) error {
		if err := s.Delete(tx, name); err != nil {
			var missing *secrets.NotFoundError
			if !errors.As(err, &missing) {
				return err
			}
		}
		return s.Create(tx, sealed)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Missing, there, and changed: each start sees the secret as it is then.
func TestSecrets_AreThoseOfTheMomentOfTheStart(t *testing.T) {
	etcd := newStore(t)
	kept, use := withSecrets(t)
	d := start(t, etcd, use)
	d.put(d.spout(1, shell(`echo "PW=$PW file=$(cat $PPS_SECRETS_DIR/etc/s/k) name=$PPS_PIPELINE_NAME"; exit 1`), func(r *recordpb.PipelineRecord) {
		r.Info.Details.Transform.Env["PW"] = "from env"
		r.Info.Details.Transform.Secrets = []*ppspb.SecretMount{
			{Name: "s", EnvVar: "PW", Key: "k"},
			{Name: "s", EnvVar: "PPS_PIPELINE_NAME", Key: "k"},
			{Name: "s", MountPath: "/etc/s"},
		}
	}))
	d.status(stCrashing, 0, "missing Kubernetes secret s; next start at ")
	putSecret(t, etcd, kept, "s", "first")
	d.clock.Advance(limit)
	if got := d.line("PW="); got != "first file=first name=s" {
		t.Errorf("%q", got)
	}
	d.status(stCrashing, 0, "exit status 1")
	putSecret(t, etcd, kept, "s", "second")
	d.clock.Advance(limit)
	if got := d.line("PW=second"); got != " file=second name=s" {
		t.Errorf("%q", got)
	}
}

func TestResources_WarningsAndLackOfMemoryAreReported(t *testing.T) {
	d := start(t, newStore(t))
	d.put(d.spout(1, shell(`tail /dev/zero`), func(r *recordpb.PipelineRecord) {
		r.Info.Details.ResourceLimits = &ppspb.ResourceSpec{Memory: "32Mi", Gpu: &ppspb.GPUSpec{Type: "x", Number: 1}}
	}))
	st := d.status(stStarting, 0, "killed: out of memory (limit 32 MiB) after ")
	want := "gpu means nothing to the process runtime: workers see the devices of this machine"
	if !slices.Contains(st.Warnings, want) || !strings.HasSuffix(st.Reason, "; "+want) {
		t.Errorf("warnings %q, reason %q", st.Warnings, st.Reason)
	}
	if !strings.HasPrefix(st.RecentError, "killed: out of memory (limit 32 MiB)") {
		t.Errorf("recent error %q", st.RecentError)
	}
	d.line(want)
	d.line("errored running user code after ")
}

func TestWording_QuotesTheLastLines(t *testing.T) {
	end := runtime.Exit{Code: 3, StderrTail: "one\ntwo\n\nthree\n  four\n" + strings.Repeat("ü", 300) + "\n\n"}
	why, long := wording(end)
	want := `exit status 3 after 0s: "three\n  four\n` + strings.Repeat("ü", 150) + `…"`
	if why != want || !strings.HasPrefix(long, "exit status 3 after 0s: one\ntwo\n") {
		t.Errorf("%s\n%s", why, long)
	}
}

func TestResources_DiskLimitIsReported(t *testing.T) {
	d := start(t, newStore(t))
	d.put(d.spout(1, shell(`head -c 3000000 /dev/zero > $TMPDIR/x; exec sleep 1000`), func(r *recordpb.PipelineRecord) {
		r.Info.Details.ResourceLimits = &ppspb.ResourceSpec{Disk: "1M"}
	}))
	st := d.status(stStarting, 0, "killed: its files take more disk than allowed (limit 976.6 KiB) after ")
	if len(st.Warnings) > 0 {
		t.Errorf("warnings %q", st.Warnings)
	}
}

// Two workers want one port; both are told a port that they can have, and serve in turn.
func TestService_WorkersThatWantOnePort(t *testing.T) {
	d := start(t, newStore(t))
	external, internal := freePort(t), freePort(t)
	d.put(d.spout(1, func(r *recordpb.PipelineRecord) {
		r.Info.Parallelism = 2
		r.Info.Details.Spout.Service = &ppspb.Service{InternalPort: int32(internal), ExternalPort: int32(external)}
		r.Info.Details.Transform.Env["TEST_SERVE"] = "1"
	}))
	d.crew.next()
	d.crew.next()
	pods := map[string]string{}
	for len(pods) < 2 {
		conn := connect(t, external)
		line, err := bufio.NewReader(conn).ReadString('\n')
		conn.Close()
		if err != nil {
			t.Fatal(err)
		}
		pod, port, _ := strings.Cut(strings.TrimSpace(line), " ")
		pods[pod] = port
	}
	if a, b := pods["p.s-v1-0"], pods["p.s-v1-1"]; a == b || (a != fmt.Sprint(internal)) == (b != fmt.Sprint(internal)) {
		t.Errorf("%v, want one to have %d and the other another port", pods, internal)
	}
}

func TestPorts_ClaimIsExclusive(t *testing.T) {
	var p ports
	want := freePort(t)
	first, err := p.claim(want)
	if err != nil || first != want {
		t.Fatal(first, err)
	}
	second, err := p.claim(want)
	if err != nil || second == want || second == 0 {
		t.Fatal(second, err)
	}
	third, err := p.claim(0)
	if err != nil || third == 0 || third == second || third == first {
		t.Fatal(third, err)
	}
	p.release(first)
	if again, err := p.claim(want); err != nil || again != want {
		t.Error(again, err)
	}
	// Somebody else listens there.
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	taken := other.Addr().(*net.TCPAddr).Port
	if got, err := p.claim(taken); err != nil || got == taken {
		t.Error(got, err)
	}
}
