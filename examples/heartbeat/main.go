// Heartbeat is a spout: at every INTERVAL (default 1s) it samples the machine it
// runs on and appends one JSON line to /<date>.jsonl of its output repo, each in
// a commit of its own. Run by pachd, it finds the daemon by itself.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/load"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/shirou/gopsutil/v4/net"

	"github.com/minipachd/minipachd/client"
)

// sample is one line of the output.
type sample struct {
	Time       time.Time `json:"time"`
	Load1      float64   `json:"load1"`
	Load5      float64   `json:"load5"`
	CPUBusy    float64   `json:"cpu_busy_seconds"` // of all cores together, since boot
	CPUIdle    float64   `json:"cpu_idle_seconds"`
	MemTotal   uint64    `json:"mem_total_bytes"`
	MemUsed    uint64    `json:"mem_used_bytes"`
	NetRecv    uint64    `json:"net_received_bytes"` // of all interfaces, since boot
	NetSent    uint64    `json:"net_sent_bytes"`
	NetPackets uint64    `json:"net_packets"`
}

func main() {
	log.SetFlags(0)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	interval := time.Second
	if s := os.Getenv("INTERVAL"); s != "" {
		var err error
		if interval, err = time.ParseDuration(s); err != nil || interval <= 0 {
			return fmt.Errorf("INTERVAL %q: want a duration like 1s", s)
		}
	}
	pipeline := os.Getenv("PPS_PIPELINE_NAME")
	if pipeline == "" {
		return errors.New("PPS_PIPELINE_NAME is not set: this program is run by pachd")
	}
	c, err := client.NewFromEnv()
	if err != nil {
		return err
	}
	defer c.Close()
	head := c.Commit(pipeline, "master")
	log.Printf("sampling every %v into %s", interval, client.CommitName(head))

	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for n := 1; ; n++ {
		s, err := take(ctx)
		if err != nil {
			return err
		}
		line, err := json.Marshal(s)
		if err != nil {
			return err
		}
		path := s.Time.Format("/2006-01-02.jsonl")
		if err := c.PutFile(ctx, head, path, bytes.NewReader(append(line, '\n')), client.Append()); err != nil {
			return err
		}
		if n == 1 || n%60 == 0 {
			log.Printf("%d samples committed; load %.2f, memory %d of %d MiB", n, s.Load1, s.MemUsed>>20, s.MemTotal>>20)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// take reads the counters of the machine.
func take(ctx context.Context) (*sample, error) {
	l, err := load.AvgWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	m, err := mem.VirtualMemoryWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	cpus, err := cpu.TimesWithContext(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("cpu: %w", err)
	}
	nets, err := net.IOCountersWithContext(ctx, false)
	if err != nil {
		return nil, fmt.Errorf("network: %w", err)
	}
	if len(cpus) == 0 || len(nets) == 0 {
		return nil, errors.New("the system counts neither CPU time nor network traffic")
	}
	idle := cpus[0].Idle + cpus[0].Iowait
	busy := cpus[0].User + cpus[0].Nice + cpus[0].System + cpus[0].Irq + cpus[0].Softirq + cpus[0].Steal
	return &sample{
		Time: time.Now().UTC(), Load1: l.Load1, Load5: l.Load5,
		CPUBusy: busy, CPUIdle: idle,
		MemTotal: m.Total, MemUsed: m.Used,
		NetRecv: nets[0].BytesRecv, NetSent: nets[0].BytesSent,
		NetPackets: nets[0].PacketsRecv + nets[0].PacketsSent,
	}, nil
}
