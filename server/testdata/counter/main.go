// Counter is a spout that counts: each commit holds the next number in /n and
// adds a line with it, and with who made it, to /log. What pachd has acknowledged it
// adds to the file ACKS, with the time. Worker i of several, the first apart, has
// files of its own: /n1, /log1 and ACKS1. If told so it misbehaves (see faults), or
// is STUBBORN: it tries again where others end.
package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minipachd/minipachd/client"
	pfspb "github.com/minipachd/minipachd/proto/pfs_v2"
)

func main() {
	log.SetFlags(0)
	if err := count(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func count(ctx context.Context) error {
	if dir := os.Getenv("WITNESS"); dir != "" {
		alive, err := testify(dir)
		if err != nil {
			return err
		}
		defer alive.Close()
	}
	c, err := client.NewFromEnv()
	if err != nil {
		return err
	}
	defer c.Close()
	self := ""
	if ordinal := os.Getenv("PPS_WORKER_ORDINAL"); ordinal != "0" {
		self = ordinal
	}
	acks, err := os.OpenFile(os.Getenv("ACKS")+self, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	faults, err := readFaults()
	if err != nil {
		return err
	}
	stubborn := os.Getenv("STUBBORN") != ""
	var shown atomic.Int64
	if port := os.Getenv("PPS_SERVICE_PORT"); port != "" {
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			return err
		}
		go serve(l, &shown)
	}
	head := c.Commit(os.Getenv("PPS_PIPELINE_NAME"), "master")
	n := 0
	var last bytes.Buffer
	if _, err := c.GetFile(ctx, head, "/n"+self, 0, &last); err == nil {
		if n, err = strconv.Atoi(strings.TrimSpace(last.String())); err != nil {
			return err
		}
	} else if !strings.Contains(err.Error(), "not found") {
		return err
	}
	for {
		n++
		commit := func(m *client.Modifier) error {
			if err := m.PutFile("/n"+self, strings.NewReader(strconv.Itoa(n))); err != nil {
				return err
			}
			time.Sleep(faults.pause) // so that most attacks meet a stream that is open
			return m.PutFile("/log"+self, strings.NewReader(fmt.Sprintln(n, name())), client.Append())
		}
		var err error
		if stubborn {
			err = insist(ctx, c, head, n, faults.pause, commit)
		} else {
			err = c.ModifyFile(ctx, head, commit)
		}
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(acks, n, name(), time.Now().UnixNano()); err != nil {
			return err
		}
		shown.Store(int64(n))
		if err := faults.maybe(ctx, c); err != nil {
			return err
		}
	}
}

// insist tries a commit again until it is acknowledged. The key makes sure that the
// number is there once, whatever has become of the attempts before.
func insist(ctx context.Context, c *client.Client, head *pfspb.Commit, n int, pause time.Duration, commit func(*client.Modifier) error) error {
	key := fmt.Sprint(name(), "/", n)
	for {
		_, err := c.ModifyFileOnce(ctx, head, key, commit)
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(pause) // and no word, which would end it once pachd reads no more
	}
}

// name is this process among all that ever count.
func name() string {
	return fmt.Sprintf("%s.%d", os.Getenv("PACHD_WORKER_INCARNATION"), os.Getpid())
}

// serve answers every connection with the number that was acknowledged last.
func serve(l net.Listener, shown *atomic.Int64) {
	for {
		conn, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Fprintln(conn, shown.Load())
		conn.Close()
	}
}
