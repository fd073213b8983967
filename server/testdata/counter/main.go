// Counter is a spout that counts: each commit holds the next number in /n and
// adds a line with it to /log. What pachd has acknowledged it adds to the file ACKS.
package main

import (
	"bytes"
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/minipachd/minipachd/client"
)

func main() {
	log.SetFlags(0)
	if err := count(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func count(ctx context.Context) error {
	c, err := client.NewFromEnv()
	if err != nil {
		return err
	}
	defer c.Close()
	acks, err := os.OpenFile(os.Getenv("ACKS"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	head := c.Commit(os.Getenv("PPS_PIPELINE_NAME"), "master")
	n := 0
	var last bytes.Buffer
	if _, err := c.GetFile(ctx, head, "/n", 0, &last); err == nil {
		if n, err = strconv.Atoi(strings.TrimSpace(last.String())); err != nil {
			return err
		}
	} else if !strings.Contains(err.Error(), "not found") {
		return err
	}
	for {
		n++
		err := c.ModifyFile(ctx, head, func(m *client.Modifier) error {
			if err := m.PutFile("/n", strings.NewReader(strconv.Itoa(n))); err != nil {
				return err
			}
			return m.PutFile("/log", strings.NewReader(fmt.Sprintln(n)), client.Append())
		})
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(acks, n); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}
