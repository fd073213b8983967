package scheduler

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/minipachd/minipachd/pps/logs"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
	ppspb "github.com/minipachd/minipachd/proto/pps_v2"
	recordpb "github.com/minipachd/minipachd/proto/record_v1"
	"github.com/minipachd/minipachd/store"
)

var floodFor = flag.Duration("flood.for", 0, "how long TestFlood goes on, for measuring; 0: a few rounds")

// putAs stores a record under another name.
func (d *daemon) putAs(name string, record *recordpb.PipelineRecord) {
	d.t.Helper()
	record.Info.Pipeline = &ppspb.Pipeline{Project: &pfspb.Project{Name: "p"}, Name: name}
	_, err := d.store.Update(d.t.Context(), func(tx *store.Txn) error { return d.sched.pipelines.Put(tx, "p/"+name, record) })
	if err != nil {
		d.t.Fatal(err)
	}
}

// sees waits for a line of a pipeline.
func (d *daemon) sees(pipeline, line string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), limit)
	defer cancel()
	err := d.logs.Read(ctx, logs.Query{Project: "p", Pipeline: pipeline, Follow: true}, func(m *ppspb.LogMessage) error {
		if m.Message == line {
			return errSeen
		}
		return nil
	})
	if !errors.Is(err, errSeen) {
		d.t.Fatalf("line %q of %s: %v", line, pipeline, err)
	}
}

// One worker prints an endless line, then garbage, then as much as it can. The logs
// of another, the scheduler and the memory of the daemon do not suffer.
func TestFlood_HarmsNobodyElse(t *testing.T) {
	endless := 20 << 20
	if *floodFor > 0 {
		endless = 1 << 30
	}
	d := start(t, newStore(t))
	d.putAs("quiet", d.spout(1))
	quiet := d.crew.next()
	d.put(d.spout(1, shell(fmt.Sprintf(`head -c %d /dev/zero | tr '\0' x; head -c 1000000 /dev/urandom; exec yes "a line of a flood"`, endless))))
	d.status(stRunning, 1, "")

	var worstLine, worstStop time.Duration
	var worstHeap uint64
	began := time.Now()
	for i := 0; i < 5 || time.Since(began) < *floodFor; i++ {
		at := time.Now()
		line := fmt.Sprintf("line %d", i)
		quiet.tell(line)
		d.sees("quiet", line)
		worstLine = max(worstLine, time.Since(at))

		at = time.Now()
		d.putAs("idler", d.spout(uint64(2*i+1), shell("exec sleep 1000")))
		halt := d.spout(uint64(2*i + 2))
		halt.Info.Stopped = true
		d.putAs("idler", halt)
		d.awaitAs("idler", func(st *recordpb.PipelineStatus) bool {
			return st.GetGeneration() == uint64(2*i+2) && st.GetState() == stPaused && st.GetWorkersAvailable() == 0
		})
		worstStop = max(worstStop, time.Since(at))

		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		worstHeap = max(worstHeap, mem.HeapInuse)
	}
	var disk int64
	err := filepath.WalkDir(filepath.Join(d.dir, "logs", "p", "s"), func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && !e.IsDir() {
			disk += info.Size()
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("in %v: a line of another pipeline took at most %v, start and stop of one %v; heap %d MiB, logs %d MiB",
		time.Since(began).Round(time.Second), worstLine, worstStop, worstHeap>>20, disk>>20)
	if worstLine > 10*time.Second || worstStop > 10*time.Second {
		t.Error("others have to wait")
	}
	if worstHeap > 256<<20 || disk > 65<<20 {
		t.Error("the flood is not bounded")
	}
	at := time.Now()
	d.put(d.spout(1, stopped))
	d.status(stPaused, 0, "")
	t.Logf("stopped within %v", time.Since(at))
}
