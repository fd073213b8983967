package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/minipachd/minipachd/client"
)

// faults is what may happen after each commit, as long as there is no file CALM.
type faults struct {
	pause time.Duration // PAUSE, within each commit
	hang  float64       // HANG, how likely it commits no more
	crash float64       // CRASH, how likely it ends, half the time with half a commit left open
}

func readFaults() (faults, error) {
	f := faults{pause: 5 * time.Millisecond}
	var errs []error
	if text := os.Getenv("PAUSE"); text != "" {
		pause, err := time.ParseDuration(text)
		f.pause = pause
		errs = append(errs, err)
	}
	for name, p := range map[string]*float64{"HANG": &f.hang, "CRASH": &f.crash} {
		if text := os.Getenv(name); text != "" {
			value, err := strconv.ParseFloat(text, 64)
			*p = value
			errs = append(errs, err)
		}
	}
	return f, errors.Join(errs...)
}

func (f *faults) maybe(ctx context.Context, c *client.Client) error {
	hang, crash := rand.Float64() < f.hang, rand.Float64() < f.crash
	if !hang && !crash {
		return nil
	}
	if _, err := os.Stat(os.Getenv("CALM")); err == nil {
		return nil
	}
	if hang {
		time.Sleep(1000 * time.Hour)
	}
	if rand.IntN(2) == 0 {
		pipeline := os.Getenv("PPS_PIPELINE_NAME")
		open, err := c.StartCommit(ctx, c.Branch(pipeline, "master"), "")
		if err != nil {
			return err
		}
		for _, path := range []string{"/n", "/log"} {
			if err := c.PutFile(ctx, open, path, strings.NewReader("half\n")); err != nil {
				return err
			}
		}
	}
	return errors.New("a crash that was asked for")
}
